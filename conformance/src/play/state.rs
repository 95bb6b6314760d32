//! The state of a case while it is played, and what all steps use: connections, received lines,
//! variables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::peer::value::Value;
use crate::peer::{Account, CLIENT_PROPERTIES, Heard, Peer};
use crate::profile::Profile;
use crate::restart::Restarts;
use crate::talk::Talk;
use crate::target::Target;

/// Names that brokers make up, by their beginning.
const MADE_UP: [&str; 3] = ["amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to."];
/// A made-up name is longer than this; a shorter one is somebody's own.
const MADE_UP_LENGTH: usize = 15;
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Against what, and how, a case is played.
#[derive(Clone)]
pub struct Stage {
    /// The broker.
    pub target: Arc<Target>,
    /// Expected behaviour.
    pub profile: Profile,
    /// Where cases meet before the broker is restarted.
    pub restarts: Arc<Restarts>,
}

/// Everything that one case holds while it runs.
pub(super) struct Play<'a> {
    pub(super) stage: &'a Stage,
    pub(super) suffix: String,
    pub(super) peers: BTreeMap<String, Peer>,
    pub(super) current: String,
    pub(super) lines: Vec<String>,
    pub(super) last: Heard,
    pub(super) answer: serde_json::Value,
    pub(super) kept: Vec<(String, String)>,
    pub(super) made_up: Vec<String>,
    pub(super) declared: Vec<(&'static str, String)>,
    pub(super) created: Vec<String>,
    pub(super) mark: Instant,
    pub(super) fresh_channel: u16,
    pub(super) talk: Talk,
}

impl<'a> Play<'a> {
    pub(super) fn new(stage: &'a Stage) -> Play<'a> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = now.map_or(0, |now| now.as_nanos() as u32) ^ std::process::id() << 20;
        let suffix = seed.wrapping_add(RUNS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9));
        Play {
            stage,
            suffix: format!("-{suffix:08x}"),
            peers: BTreeMap::new(),
            current: "a".to_owned(),
            lines: Vec::new(),
            last: Heard::Timeout,
            answer: serde_json::Value::Null,
            kept: known_from_the_start(&stage.target.account),
            made_up: Vec::new(),
            declared: Vec::new(),
            created: Vec::new(),
            mark: Instant::now(),
            fresh_channel: 1000,
            talk: Talk::new(),
        }
    }

    pub(super) fn with_kept(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Longer names first: `$ab` is not `$a` and a b.
        let mut kept: Vec<_> = self.kept.iter().enumerate().collect();
        kept.sort_by_key(|(i, (name, _))| (std::cmp::Reverse(name.len()), std::cmp::Reverse(*i)));
        for (_, (name, value)) in kept {
            text = text.replace(&format!("${name}"), value);
        }
        text
    }

    pub(super) fn connect(&mut self) -> Result<(), String> {
        let target = &self.stage.target;
        let peer = Peer::connect(target.address).map_err(|error| format!("connect: {error}"))?;
        let mut peer = peer.heard_by(Box::new(self.talk.on(&self.current)));
        peer.account = target.account.clone();
        self.peers.insert(self.current.clone(), peer);
        Ok(())
    }

    /// The current connection, opened with channel 1 if it is not there.
    pub(super) fn peer(&mut self) -> Result<&mut Peer, String> {
        if !self.peers.contains_key(&self.current) {
            self.connect()?;
            let peer = self.peers.get_mut(&self.current).ok_or("no connection")?;
            peer.login("")?;
            let opened = peer.call(1, "channel.open", "")?;
            if opened.method() != Some("channel.open-ok") {
                return Err(format!("channel.open-ok expected, heard: {opened}"));
            }
        }
        self.peers.get_mut(&self.current).ok_or_else(|| "no connection".to_owned())
    }

    /// A field of the last frame, or `json /pointer` of the last answer over HTTP.
    pub(super) fn value_of(&self, what: &str) -> Result<String, String> {
        if let Some(pointer) = what.strip_prefix("json ") {
            let found = self.answer.pointer(pointer).ok_or_else(|| format!("no {pointer} in {}", self.answer))?;
            return Ok(found.as_str().map_or_else(|| found.to_string(), str::to_owned));
        }
        let value = self.last.at(what);
        match value {
            Some(Value::Str(text)) => Ok(String::from_utf8_lossy(text).into_owned()),
            Some(Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) | Value::Timestamp(_)) => {
                let shown = value.map(Value::to_string).unwrap_or_default();
                Ok(shown.rsplit(' ').next().unwrap_or("").to_owned())
            }
            Some(other) => Ok(other.to_string()),
            None => Err(format!("no `{what}` in {}", self.last)),
        }
    }

    /// The next frame, on one channel or on any.
    pub(super) fn next(&mut self, channel: Option<u16>) -> Result<Heard, String> {
        let peer = self.peer()?;
        Ok(match channel {
            Some(channel) => peer.recv_on(channel),
            None => peer.recv(),
        })
    }

    pub(super) fn record(&mut self, heard: Heard) {
        self.last = heard;
        self.note(&self.last.to_string());
    }

    /// A heard line, with the run's own names replaced by those of the case.
    pub(super) fn note(&mut self, line: &str) {
        let mut line = line.replace(&self.suffix, "~");
        for beginning in MADE_UP {
            line = self.number_names(&line, beginning);
        }
        match self.current.as_str() {
            "a" => self.lines.push(line),
            other => self.lines.push(format!("{other}| {line}")),
        }
    }

    /// `amq.gen-Xyz...` becomes `amq.gen-#1`, by order of appearance in this case.
    fn number_names(&mut self, line: &str, beginning: &str) -> String {
        let mut parts = line.split(beginning);
        let mut out = parts.next().unwrap_or("").to_owned();
        for part in parts {
            let in_name = |c: char| c.is_ascii_alphanumeric() || "-_+/=.".contains(c);
            let end = part.find(|c| !in_name(c)).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            out += beginning;
            if name.len() > MADE_UP_LENGTH {
                let known = self.made_up.iter().position(|known| known == name);
                let index = known.unwrap_or_else(|| {
                    self.made_up.push(name.to_owned());
                    self.made_up.len() - 1
                });
                out += &format!("#{}", index + 1);
            } else {
                out += name;
            }
            out += rest;
        }
        out
    }

    /// Deletes what the case declared. Failures do not matter: most of it is gone by then.
    pub(super) fn clean_up(&mut self) {
        self.peers.clear();
        for path in std::mem::take(&mut self.created).into_iter().rev() {
            let _gone = self.stage.target.http("DELETE", &path, None);
        }
        if self.declared.is_empty() {
            return;
        }
        let Ok(mut peer) = self.stage.target.login() else { return };
        for (i, (kind, name)) in self.declared.iter().enumerate() {
            let (channel, method) = (i as u16 + 1, format!("{kind}.delete"));
            let fields = vec![((*kind).to_owned(), Value::str(name))];
            let sent = peer.call(channel, "channel.open", "").and_then(|_| peer.send_fields(channel, &method, &fields));
            if sent.is_ok() {
                peer.recv_on(channel);
            }
        }
    }

    /// Restarts the broker once all cases that asked for it are here; connections are gone then.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.peers.clear();
        self.talk.note("--", "restart");
        let outcome = self.stage.restarts.restart();
        self.talk.note("--", outcome.as_ref().map_or("no restart", |()| "the broker is back"));
        outcome
    }
}

/// Variables that a case has from the start; a size is the last octet of a length.
fn known_from_the_start(account: &Account) -> Vec<(String, String)> {
    let size = |text: &str| format!("\\x{:02x}", text.len() % 256);
    let known = [
        ("client", CLIENT_PROPERTIES.to_owned()),
        ("user", account.user.clone()),
        ("user-size", size(&account.user)),
        ("password", account.password.clone()),
        ("password-size", size(&account.password)),
        ("vhost", account.vhost.clone()),
    ];
    known.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
