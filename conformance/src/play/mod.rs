//! Plays one case against a broker: does its steps, hears what comes, and says where the two part.
//! It knows no report and no other case; `FORMAT.md` describes the steps.

mod admin;
mod confirms;
mod content;
mod sums;
mod text;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::case::{Case, Step};
use crate::expect::{self, Fit};
use crate::peer::text::{Cursor, number};
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
    /// Whose behaviour is asked for.
    pub profile: Profile,
    /// Where cases meet before the broker is restarted.
    pub restarts: Arc<Restarts>,
}

/// How a case ended.
#[derive(Debug)]
pub enum Ending {
    /// All was heard as expected, reply texts apart: those are listed.
    Passed {
        /// Each as expected and as heard.
        texts: Vec<String>,
        /// The conversation.
        talk: Vec<String>,
    },
    /// Something else was heard, or a step could not be done.
    Failed(Failure),
}

/// Where and why a case failed.
#[derive(Debug)]
pub struct Failure {
    /// Line in the case's file.
    pub line: usize,
    /// That line.
    pub step: String,
    /// In few words.
    pub why: String,
    /// The conversation up to there.
    pub talk: Vec<String>,
}

/// A case with what was heard after each step, for who writes one.
pub struct Draft {
    /// A step's text and the lines heard.
    pub steps: Vec<(String, Vec<String>)>,
    /// What stopped it, if anything did.
    pub error: Option<String>,
}

/// Everything that one case holds while it runs.
struct Play<'a> {
    stage: &'a Stage,
    suffix: String,
    peers: BTreeMap<String, Peer>,
    current: String,
    lines: Vec<String>,
    last: Heard,
    answer: serde_json::Value,
    kept: Vec<(String, String)>,
    made_up: Vec<String>,
    declared: Vec<(&'static str, String)>,
    created: Vec<String>,
    mark: Instant,
    fresh_channel: u16,
    talk: Talk,
}

/// Plays a case and judges it.
pub fn play(case: &Case, stage: &Stage) -> Ending {
    let mut play = Play::new(stage);
    let ending = play.judge(case);
    play.clean_up();
    ending
}

/// Plays a case and judges nothing.
pub fn draft(case: &Case, stage: &Stage) -> Draft {
    let mut play = Play::new(stage);
    let mut draft = Draft { steps: Vec::new(), error: None };
    for step in &case.steps {
        let done = play.step(&step.text);
        draft.steps.push((step.text.clone(), std::mem::take(&mut play.lines)));
        if let Err(why) = done {
            draft.error = Some(why);
            break;
        }
    }
    play.clean_up();
    draft
}

impl<'a> Play<'a> {
    fn new(stage: &'a Stage) -> Play<'a> {
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

    fn judge(&mut self, case: &Case) -> Ending {
        let mut texts = Vec::new();
        for step in &case.steps {
            if let Err(why) = self.step(&step.text) {
                return self.failed(step, why);
            }
            if step.expected.is_empty() {
                continue;
            }
            let heard = std::mem::take(&mut self.lines);
            let expected = self.filled(&step.expected);
            match expect::fit(&expected, self.stage.profile, &heard) {
                Fit::Whole => {}
                Fit::ButTexts(more) => texts.extend(more),
                Fit::No => {
                    let expected: Vec<String> =
                        expect::allowed(&expected, self.stage.profile).map(|a| a.lines.join("\n    ")).collect();
                    let expected = expected.join("\n  or\n    ");
                    let why = format!("expected\n    {expected}\n  heard\n    {}", heard.join("\n    "));
                    return self.failed(step, why);
                }
            }
        }
        if let (Some(step), false) = (case.steps.last(), self.lines.is_empty()) {
            let why = format!("heard what the case says nothing of\n    {}", self.lines.join("\n    "));
            return self.failed(step, why);
        }
        Ending::Passed { texts, talk: self.talk.lines() }
    }

    fn failed(&self, step: &Step, why: String) -> Ending {
        let talk = self.talk.lines();
        Ending::Failed(Failure { line: step.line, step: step.text.clone(), why, talk })
    }

    /// The expectations with what the case has kept so far.
    fn filled(&self, alternatives: &[crate::case::Alternative]) -> Vec<crate::case::Alternative> {
        let vhost = format!("vhost '{}'", self.stage.target.account.vhost);
        let fill = |line: &String| self.with_kept(line).replace(&self.suffix, "~").replace("vhost '/'", &vhost);
        let mut alternatives = alternatives.to_vec();
        for alternative in &mut alternatives {
            alternative.lines = alternative.lines.iter().map(fill).collect();
        }
        alternatives
    }

    fn with_kept(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Longer names first: `$ab` is not `$a` and a b.
        let mut kept: Vec<_> = self.kept.iter().enumerate().collect();
        kept.sort_by_key(|(i, (name, _))| (std::cmp::Reverse(name.len()), std::cmp::Reverse(*i)));
        for (_, (name, value)) in kept {
            text = text.replace(&format!("${name}"), value);
        }
        text
    }

    fn step(&mut self, text: &str) -> Result<(), String> {
        if let Some(rest) = text.strip_prefix("repeat ") {
            let (times, step) = rest.split_once(' ').ok_or("`repeat N step` expected")?;
            let times: usize = number(times)?;
            return (1..=times).try_for_each(|i| self.step(&step.replace("$i", &i.to_string())));
        }
        let text = self.with_kept(&text.replace('~', &self.suffix));
        let mut cursor = Cursor::new(&text);
        match cursor.item() {
            "conn" => {
                self.current = cursor.item().to_owned();
                Ok(())
            }
            "connect" => self.connect(),
            "login" => {
                self.connect()?;
                if let Err(why) = self.peer()?.login(cursor.rest()) {
                    self.note(&why);
                }
                Ok(())
            }
            "let" => {
                let name = cursor.item().to_owned();
                let value = self.value_of(cursor.rest())?;
                self.kept.push((name, value));
                Ok(())
            }
            "patience" => {
                self.peer()?.patience = Duration::from_secs(number(cursor.item())?);
                Ok(())
            }
            "drop" => {
                self.peers.remove(&self.current);
                Ok(())
            }
            "mark" => {
                self.mark = Instant::now();
                Ok(())
            }
            "elapsed" => self.elapsed(cursor.rest()),
            "pass" => {
                // What is claimed is that nothing happens, or that something has happened, by then.
                std::thread::sleep(Duration::from_millis(number(cursor.item())?));
                Ok(())
            }
            "check" => sums::check(cursor.rest()),
            "show" => {
                self.show(&mut cursor);
                Ok(())
            }
            "closed" => self.closed(cursor.item()),
            "recv" => self.recv(&mut cursor),
            "skip" => self.skip(number(cursor.item())?),
            "unordered" => self.unordered(number(cursor.item())?),
            "msg" => self.messages(&mut cursor),
            "confirmed" => self.confirmed(&mut cursor),
            "tally" => self.tally(&mut cursor),
            "rising" => self.rising(&mut cursor),
            "get" => self.get(&mut cursor),
            "store" => self.store(cursor.rest()),
            "drained" => self.drained(cursor.rest()),
            "eventually" => self.eventually(cursor.rest()),
            "http" => self.http(cursor.rest()),
            "json" => self.json(cursor.rest()),
            "eventually-http" => self.eventually_http(cursor.rest()),
            "restart" => self.restart(),
            verb => self.send(verb, &mut cursor),
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        let target = &self.stage.target;
        let peer = Peer::connect(target.address).map_err(|error| format!("connect: {error}"))?;
        let mut peer = peer.heard_by(Box::new(self.talk.on(&self.current)));
        peer.account = target.account.clone();
        self.peers.insert(self.current.clone(), peer);
        Ok(())
    }

    /// The current connection, opened with channel 1 if it is not there.
    fn peer(&mut self) -> Result<&mut Peer, String> {
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
    fn value_of(&self, what: &str) -> Result<String, String> {
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

    /// `show PATH NAME ...`: notes entries of a table of the last frame, in whatever order it has them.
    fn show(&mut self, cursor: &mut Cursor<'_>) {
        let path = cursor.item().to_owned();
        let mut line = "show".to_owned();
        for name in cursor.rest().split_whitespace() {
            let value = self.last.at(&format!("{path}/{name}")).map_or_else(|| "none".to_owned(), Value::to_string);
            line += &format!(" {name}={value}");
        }
        self.note(&line);
    }

    /// `LOW..HIGH` milliseconds since `mark`; without HIGH, at least.
    fn elapsed(&self, range: &str) -> Result<(), String> {
        let (low, high) = range.trim().split_once("..").ok_or("`LOW..HIGH` milliseconds expected")?;
        let (low, high) = (number::<u128>(low)?, if high.is_empty() { u128::MAX } else { number(high)? });
        match self.mark.elapsed().as_millis() {
            ms if (low..=high).contains(&ms) => Ok(()),
            ms => Err(format!("took {ms} ms, expected {range} ms")),
        }
    }

    fn record(&mut self, heard: Heard) {
        self.last = heard;
        self.note(&self.last.to_string());
    }

    /// A heard line, with the run's own names replaced by those of the case.
    fn note(&mut self, line: &str) {
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
    fn clean_up(&mut self) {
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
    fn restart(&mut self) -> Result<(), String> {
        self.peers.clear();
        self.talk.note("--", "restart");
        let outcome = self.stage.restarts.restart();
        self.talk.note("--", outcome.as_ref().map_or("no restart", |()| "the broker is back"));
        outcome
    }
}

/// What `$` stands for before a case has kept anything; a size is the last octet of a length.
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
