//! Plays one case against a broker and returns what was heard, line by line. It judges nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::peer::text::{Cursor, Fields, fields, hex, number};
use crate::peer::value::Value;
use crate::peer::{CLIENT_PROPERTIES, Heard, PATIENCE, Peer, frame, header};
use crate::script::Case;

/// Names that brokers make up, by their beginning.
const MADE_UP: [&str; 3] = ["amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to."];
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Everything that one case holds while it runs.
struct Run {
    address: SocketAddr,
    suffix: String,
    peers: BTreeMap<String, Peer>,
    current: String,
    lines: Vec<String>,
    last: Heard,
    kept: Vec<(String, String)>,
    forgotten: Vec<String>,
    made_up: Vec<String>,
    declared: Vec<(&'static str, String)>,
    fresh_channel: u16,
}

/// Plays a case. An error names the line and is a mistake in the script, or a broker that cannot be reached.
pub fn run(case: &Case, address: SocketAddr) -> Result<Vec<String>, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = now.map_or(0, |now| now.as_nanos() as u32) ^ std::process::id() << 20;
    let suffix = seed.wrapping_add(RUNS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9));
    let mut run = Run {
        address,
        suffix: format!("-{suffix:08x}"),
        peers: BTreeMap::new(),
        current: "a".to_owned(),
        lines: Vec::new(),
        last: Heard::Timeout,
        kept: vec![("client".to_owned(), CLIENT_PROPERTIES.to_owned())],
        forgotten: Vec::new(),
        made_up: Vec::new(),
        declared: Vec::new(),
        fresh_channel: 1000,
    };
    for step in &case.steps {
        run.step(&step.text).map_err(|error| format!("{} (line {}): {error}", case.id, step.line))?;
    }
    run.clean_up();
    Ok(run.lines)
}

impl Run {
    fn step(&mut self, text: &str) -> Result<(), String> {
        let mut text = text.replace('~', &self.suffix);
        for (name, value) in self.kept.iter().rev() {
            text = text.replace(&format!("${name}"), value);
        }
        let mut cursor = Cursor::new(&text);
        let verb = cursor.item();
        match verb {
            "repeat" => {
                let times = number(cursor.item())?;
                (0..times).try_for_each(|_| self.step(cursor.rest()))
            }
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
                let value = self.last.field(cursor.item());
                let value = value.ok_or_else(|| format!("no such field in {}", self.last))?;
                let value = match value {
                    Value::Str(text) => String::from_utf8_lossy(text).into_owned(),
                    other => other.to_string(),
                };
                self.kept.push((name, value));
                Ok(())
            }
            "patience" => {
                self.peer()?.patience = Duration::from_secs(number(cursor.item())?);
                Ok(())
            }
            "forget" => {
                self.forgotten.push(cursor.item().to_owned());
                Ok(())
            }
            "drop" => {
                self.peers.remove(&self.current);
                Ok(())
            }
            "closed" => self.closed(cursor.item()),
            "recv" => self.recv(&mut cursor),
            "skip" => {
                let times: usize = number(cursor.item())?;
                for _ in 0..times {
                    self.last = self.peer()?.recv();
                }
                Ok(())
            }
            "unordered" => self.unordered(number(cursor.item())?),
            "store" => self.store(cursor.rest()),
            "eventually" => self.eventually(cursor.rest()),
            _ => self.send(verb, &mut cursor),
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        let peer = Peer::connect(self.address).map_err(|error| error.to_string())?;
        self.peers.insert(self.current.clone(), peer);
        Ok(())
    }

    fn peer(&mut self) -> Result<&mut Peer, String> {
        if !self.peers.contains_key(&self.current) {
            let mut peer = Peer::open(self.address)?;
            let opened = peer.call(1, "channel.open", "")?;
            if opened.method() != Some("channel.open-ok") {
                return Err(format!("channel.open-ok expected, heard: {opened}"));
            }
            self.peers.insert(self.current.clone(), peer);
        }
        self.peers.get_mut(&self.current).ok_or_else(|| "no connection".to_owned())
    }

    /// Steps that put octets on the socket. A socket that the broker has closed is noted, not an error.
    fn send(&mut self, verb: &str, cursor: &mut Cursor<'_>) -> Result<(), String> {
        if verb == "raw" {
            let octets = octets(cursor)?;
            return self.put(&octets);
        }
        let channel: u16 = number(cursor.item())?;
        match verb {
            "send" | "call" => {
                let (method, fields) = (cursor.item().to_owned(), fields(cursor.rest())?);
                self.remember(&method, &fields);
                self.put(&frame(1, channel, &crate::peer::method::encode(&method, &fields)?))?;
                if verb == "call" {
                    self.hear(channel)?;
                }
                Ok(())
            }
            "publish" => {
                let (method, properties, body) = publication(cursor.rest())?;
                let sent = self.peer()?.publish(channel, &method, &properties, &body);
                self.sent(sent)
            }
            "header" => {
                let (mut class, mut weight, mut size, mut properties) = (60, 0, 0, Fields::new());
                for (name, value) in fields(cursor.rest())? {
                    match (name.as_str(), value) {
                        ("props", value) => properties = properties_of(value)?,
                        ("class", Value::Number(n)) => class = n as u16,
                        ("weight", Value::Number(n)) => weight = n as u16,
                        ("size", Value::Number(n)) => size = n as u64,
                        _ => return Err(format!("header has no `{name}`")),
                    }
                }
                self.put(&header(channel, class, weight, size, &properties)?)
            }
            "body" => self.put(&frame(3, channel, &cursor.string()?)),
            "heartbeat" => self.put(&frame(8, channel, &[])),
            "frame" => {
                let kind = channel as u8;
                let channel = number(cursor.item())?;
                let mut whole = frame(kind, channel, &octets(cursor)?);
                for (name, value) in fields(cursor.rest())? {
                    match name.as_str() {
                        "end" => {
                            whole.pop();
                            whole.extend(hex(&String::from_utf8_lossy(&bytes(&value)))?);
                        }
                        "size" => {
                            let size: u32 = number(&value.to_string())?;
                            whole.splice(3..7, size.to_be_bytes());
                        }
                        _ => return Err(format!("frame has no `{name}`")),
                    }
                }
                self.put(&whole)
            }
            "nothing" => self.nothing(channel, cursor.rest()),
            other => Err(format!("no step `{other}`")),
        }
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), String> {
        let sent = self.peer()?.send_octets(octets);
        self.sent(sent)
    }

    /// A write to a socket that was closed says so only at the second write, or never: it is not recorded.
    fn sent(&mut self, sent: Result<(), String>) -> Result<(), String> {
        match sent {
            Err(why) if !why.starts_with("write:") => Err(why),
            _ => Ok(()),
        }
    }

    fn hear(&mut self, channel: u16) -> Result<(), String> {
        let heard = self.peer()?.recv_on(channel);
        self.record(heard);
        Ok(())
    }

    fn recv(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let times: usize = number(cursor.item())?;
        let channel = match cursor.item() {
            "on" => Some(number(cursor.item())?),
            _ => None,
        };
        for _ in 0..times {
            let peer = self.peer()?;
            let heard = match channel {
                Some(channel) => peer.recv_on(channel),
                None => peer.recv(),
            };
            let over = matches!(heard, Heard::Closed | Heard::Timeout);
            self.record(heard);
            if over {
                break;
            }
        }
        Ok(())
    }

    fn unordered(&mut self, times: usize) -> Result<(), String> {
        let mut groups: Vec<Vec<Heard>> = Vec::new();
        for _ in 0..times {
            let heard = self.peer()?.recv();
            match (&heard, groups.last_mut()) {
                (Heard::Header(..) | Heard::Body(..), Some(group)) => group.push(heard),
                (Heard::Closed | Heard::Timeout, _) => {
                    groups.push(vec![heard]);
                    break;
                }
                _ => groups.push(vec![heard]),
            }
        }
        let rendered = |group: &Vec<Heard>| group.iter().map(Heard::to_string).collect::<String>();
        groups.sort_by_cached_key(rendered);
        groups.into_iter().flatten().for_each(|heard| self.record(heard));
        Ok(())
    }

    fn nothing(&mut self, channel: u16, text: &str) -> Result<(), String> {
        let (method, text, answer) = match text {
            "" => ("channel.flow", "active".to_owned(), "channel.flow-ok"),
            queue => ("queue.declare", format!("{queue} passive"), "queue.declare-ok"),
        };
        self.peer()?.send(channel, method, &text)?;
        let mut silent = true;
        loop {
            let heard = self.peer()?.recv_on(channel);
            if heard.method() == Some(answer) {
                break;
            }
            silent = false;
            let over = matches!(heard, Heard::Closed | Heard::Timeout);
            self.record(heard);
            if over {
                break;
            }
        }
        self.note(if silent { "nothing" } else { "and nothing more" });
        Ok(())
    }

    /// Publishes on a connection of its own and awaits the confirm, so that the message is where it goes.
    fn store(&mut self, text: &str) -> Result<(), String> {
        let (method, properties, body) = publication(text)?;
        let current = std::mem::replace(&mut self.current, "store".to_owned());
        if !self.peers.contains_key("store") {
            self.peer()?.call(1, "confirm.select", "")?;
        }
        let sent = self.peer()?.publish(1, &method, &properties, &body);
        self.sent(sent)?;
        loop {
            let heard = self.peer()?.recv();
            if heard.method() == Some("basic.ack") {
                break;
            }
            let over = matches!(heard, Heard::Closed | Heard::Timeout);
            self.record(heard);
            if over {
                break;
            }
        }
        self.current = current;
        Ok(())
    }

    fn eventually(&mut self, text: &str) -> Result<(), String> {
        let (wanted, question) = text.split_once(": ").ok_or("`METHOD: method ...` expected")?;
        let (wanted, holding) = wanted.split_once(' ').unwrap_or((wanted, ""));
        let mut cursor = Cursor::new(question);
        let (method, question) = (cursor.item(), cursor.rest());
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.fresh_channel += 1;
            let channel = self.fresh_channel;
            let peer = self.peer()?;
            peer.call(channel, "channel.open", "")?;
            let mut heard = peer.call(channel, method, question)?;
            let found = heard.method() == Some(wanted) && heard.to_string().contains(holding);
            if found || Instant::now() > deadline || heard.channel().is_none() {
                if let Heard::Method(channel, ..) = &mut heard {
                    *channel = 1000;
                }
                self.record(heard);
                return Ok(());
            }
            match heard.method() {
                Some("channel.close") => peer.send(channel, "channel.close-ok", "")?,
                _ => drop(peer.call(channel, "channel.close", "")?),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn closed(&mut self, seconds: &str) -> Result<(), String> {
        let patience = match seconds {
            "" => PATIENCE,
            seconds => Duration::from_secs(number(seconds)?),
        };
        let deadline = Instant::now() + patience;
        loop {
            let heard = self.peer()?.read(deadline);
            let over = matches!(heard, Heard::Closed | Heard::Timeout);
            if !matches!(heard, Heard::Heartbeat(_)) {
                self.record(heard);
            }
            if over {
                return Ok(());
            }
        }
    }

    fn record(&mut self, mut heard: Heard) {
        self.last = heard.clone();
        if let Heard::Method(_, _, fields) | Heard::Header(_, _, _, fields) = &mut heard {
            for path in &self.forgotten {
                forget(fields, path);
            }
        }
        self.note(&heard.to_string());
    }

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
            if name.len() > 15 {
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

    fn remember(&mut self, method: &str, fields: &Fields) {
        let kind = match method {
            "queue.declare" => "queue",
            "exchange.declare" => "exchange",
            _ => return,
        };
        if let Some((_, Value::Str(name))) = fields.iter().find(|(name, _)| name == kind)
            && let Ok(name) = String::from_utf8(name.clone())
            && name.contains(&self.suffix)
        {
            self.declared.push((kind, name));
        }
    }

    /// Deletes what the case declared. Failures do not matter: most of it is gone by then.
    fn clean_up(&mut self) {
        self.peers.clear();
        if self.declared.is_empty() {
            return;
        }
        let Ok(mut peer) = Peer::open(self.address) else {
            return;
        };
        for (i, (kind, name)) in self.declared.iter().enumerate() {
            let (channel, method) = (i as u16 + 1, format!("{kind}.delete"));
            let fields = vec![((*kind).to_owned(), Value::str(name))];
            let sent = peer.call(channel, "channel.open", "").and_then(|_| peer.send_fields(channel, &method, &fields));
            if sent.is_ok() {
                peer.recv_on(channel);
            }
        }
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Str(text) => text.clone(),
        other => other.to_string().into_bytes(),
    }
}

/// Octets as hexadecimal words and quoted strings, up to the first `name=value`.
fn octets(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while !cursor.is_done() {
        if cursor.rest().starts_with('"') {
            out.extend(cursor.string()?);
        } else if cursor.rest().starts_with("end=") || cursor.rest().starts_with("size=") {
            break;
        } else {
            out.extend(hex(cursor.word())?);
        }
        cursor.item_end();
    }
    Ok(out)
}

/// `exchange=e key=k props={..} body=".."` as fields of the method, properties and body.
fn publication(text: &str) -> Result<(Fields, Fields, Vec<u8>), String> {
    let (mut method, mut properties, mut body) = (Fields::new(), Fields::new(), Vec::new());
    for (name, value) in fields(text)? {
        match (name.as_str(), value) {
            ("props", value) => properties = properties_of(value)?,
            ("body", Value::Str(text)) => body = text,
            ("body", other) => body = other.to_string().into_bytes(),
            ("key", value) => method.push(("routing-key".to_owned(), value)),
            (_, value) => method.push((name, value)),
        }
    }
    Ok((method, properties, body))
}

fn properties_of(value: Value) -> Result<Fields, String> {
    match value {
        Value::Table(pairs) => {
            Ok(pairs.into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value)).collect())
        }
        _ => Err("props={..} expected".to_owned()),
    }
}

/// Replaces the value at `field/key/key`.
fn forget(fields: &mut Fields, path: &str) {
    let mut parts = path.split('/');
    let first = parts.next().unwrap_or("");
    let mut found = fields.iter_mut().find(|(name, _)| name == first).map(|(_, v)| v);
    for part in parts {
        found = match found {
            Some(Value::Table(pairs)) => pairs.iter_mut().find(|(name, _)| name == part.as_bytes()).map(|(_, v)| v),
            _ => None,
        };
    }
    if let Some(value) = found {
        *value = Value::str("...");
    }
}
