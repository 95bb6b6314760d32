//! The steps that deal in whole messages: storing, getting, receiving, counting.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::peer::text::{Cursor, Fields, fields, number};
use crate::peer::value::{Quoted, Sum, Value};
use crate::peer::{Heard, PATIENCE, method};
use crate::play::state::Play;
use crate::play::text::{all_fields, channel_of, is_over, publication, sent_or_closed};
use crate::profile::Profile;

/// Bodies above this length are shown as a length and a sum.
const SHOWN: usize = 200;

impl Play<'_> {
    /// Publishes on a connection of its own and awaits the confirm, so that the message is where it
    /// goes. The specification has no confirms: its profile commits a transaction.
    pub(super) fn store(&mut self, text: &str) -> Result<(), String> {
        let (method, properties, body) = publication(text)?;
        let current = std::mem::replace(&mut self.current, "store".to_owned());
        let stored = self.store_here(&method, &properties, &body);
        self.current = current;
        stored
    }

    fn store_here(&mut self, method: &Fields, properties: &Fields, body: &[u8]) -> Result<(), String> {
        let (select, stored) = match self.stage.profile {
            Profile::Spec => ("tx.select", "tx.commit-ok"),
            _ => ("confirm.select", "basic.ack"),
        };
        if !self.peers.contains_key("store") {
            self.peer()?.call(1, select, "")?;
        }
        let sent = self.peer()?.publish(1, method, properties, body);
        sent_or_closed(sent)?;
        if self.stage.profile == Profile::Spec {
            sent_or_closed(self.peer()?.send(1, "tx.commit", ""))?;
        }
        loop {
            let heard = self.peer()?.recv();
            if heard.method() == Some(stored) {
                return Ok(());
            }
            let over = is_over(&heard) || matches!(heard.method(), Some("channel.close" | "connection.close"));
            let nack = heard.method() == Some("basic.nack");
            self.record(heard);
            if over {
                self.peers.remove("store");
            }
            if over || nack {
                return Ok(());
            }
        }
    }

    /// `msg N [on CH]`: N deliveries, returns or gets, each as one line.
    pub(super) fn messages(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let times: usize = number(cursor.item())?;
        let channel = channel_of(cursor)?;
        for _ in 0..times {
            let first = self.next(channel)?;
            if self.message(first)? {
                break;
            }
        }
        Ok(())
    }

    /// `get CH queue=q [no-ack]`: one basic.get, its message as one line.
    pub(super) fn get(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let channel = number(cursor.item())?;
        let fields = all_fields(cursor)?;
        let peer = self.peer()?;
        sent_or_closed(peer.send_fields(channel, "basic.get", &fields))?;
        let first = peer.recv_on(channel);
        self.message(first).map(drop)
    }

    /// Notes a frame, and if it begins a content the rest of it on the same line. Whether nothing
    /// can follow.
    fn message(&mut self, first: Heard) -> Result<bool, String> {
        let (line, properties) = match &first {
            Heard::Method(channel, "basic.deliver" | "basic.get-ok" | "basic.return", _) => {
                let (properties, body) = self.content(*channel)?;
                let shown = match body.len() > SHOWN {
                    true => Sum(&body).to_string(),
                    false => Quoted(&body).to_string(),
                };
                (format!("{first}{} {shown}", in_braces(&properties)), properties)
            }
            other => (other.to_string(), Fields::new()),
        };
        let over = is_over(&first);
        self.last = first;
        // Both the method's fields and the properties can be kept.
        if let Heard::Method(_, _, fields) = &mut self.last {
            fields.extend(properties);
        }
        self.note(&line);
        Ok(over)
    }

    /// Header and body that must come next on a channel.
    fn content(&mut self, channel: u16) -> Result<(Fields, Vec<u8>), String> {
        let peer = self.peer()?;
        let (size, properties) = match peer.recv_on(channel) {
            Heard::Header(_, 60, size, properties) => (size as usize, properties),
            other => return Err(format!("a content header expected, heard: {other}")),
        };
        let mut body = Vec::new();
        while body.len() < size {
            match peer.recv_on(channel) {
                Heard::Body(_, part) if !part.is_empty() => body.extend(part),
                other => return Err(format!("{} octets of body left, heard: {other}", size - body.len())),
            }
        }
        match body.len() {
            length if length == size => Ok((properties, body)),
            length => Err(format!("a body of {length} octets where the header says {size}")),
        }
    }

    /// `counts N FIELD [ack|requeue]`: takes N messages and counts them by a field of their method,
    /// a property or `body`.
    pub(super) fn counts(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        self.take_each(cursor, |value, _| {
            *counts.entry(value).or_default() += 1;
            Ok(())
        })?;
        let line: Vec<String> = counts.iter().map(|(value, count)| format!("{value}:{count}")).collect();
        self.kept.extend(counts.into_iter().map(|(value, count)| (format!("counts.{value}"), count.to_string())));
        self.note(&format!("counts {}", line.join(" ")));
        Ok(())
    }

    /// `rising N FIELD [ack]`: takes N messages whose bodies are numbers that rise among those of
    /// the same FIELD.
    pub(super) fn rising(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        self.take_each(cursor, |value, body| {
            let next = number(&String::from_utf8_lossy(body))?;
            rise(&mut last, value, next)
        })
    }

    /// Takes `N FIELD [ack|requeue]` messages and has each looked at: the field's value and the
    /// body.
    fn take_each(
        &mut self,
        cursor: &mut Cursor<'_>,
        mut look: impl FnMut(String, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let times: usize = number(cursor.item())?;
        let field = cursor.item().to_owned();
        let settle = match cursor.item() {
            "ack" => Some(("basic.ack", "")),
            "requeue" => Some(("basic.reject", " requeue")),
            _ => None,
        };
        for _ in 0..times {
            let first = self.next(None)?;
            let Heard::Method(channel, "basic.deliver" | "basic.return", _) = first else {
                return Err(format!("a message expected, heard: {first}"));
            };
            let (properties, body) = self.content(channel)?;
            let property = properties.iter().find(|(name, _)| *name == field).map(|(_, value)| value);
            let value = match field.as_str() {
                "body" => Quoted(&body).to_string(),
                field => first.field(field).or(property).map_or_else(|| "none".to_owned(), text_of),
            };
            look(value, &body)?;
            if let (Some((method, flags)), Some(tag)) = (settle, first.field("delivery-tag")) {
                let tag = format!("delivery-tag={tag}{flags}");
                self.peer()?.send(channel, method, &tag)?;
            }
        }
        Ok(())
    }

    /// `drained queue=q`: gets without acks until the queue is empty; each message as one line.
    pub(super) fn drained(&mut self, text: &str) -> Result<(), String> {
        let fields = fields(&format!("{text} no-ack"))?;
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            let peer = self.peer()?;
            sent_or_closed(peer.send_fields(1, "basic.get", &fields))?;
            let first = peer.recv_on(1);
            let more = first.method() == Some("basic.get-ok");
            self.message(first)?;
            if !more || Instant::now() > deadline {
                return Ok(());
            }
        }
    }
}

/// Notes the number as the last one of its kind, which must be above the one before.
fn rise(last: &mut BTreeMap<String, u64>, kind: String, next: u64) -> Result<(), String> {
    match last.insert(kind.clone(), next) {
        Some(before) if before >= next => Err(format!("{kind}: {next} came after {before}")),
        _ => Ok(()),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Str(text) => String::from_utf8_lossy(text).into_owned(),
        other => other.to_string(),
    }
}

fn in_braces(properties: &Fields) -> String {
    match properties.is_empty() {
        true => String::new(),
        false => format!(" {{{}}}", method::render(properties).trim_start()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_for_each_kind() {
        let mut last = BTreeMap::new();
        let mut step = |kind: &str, next| rise(&mut last, kind.to_owned(), next).is_ok();
        assert!(step("a", 1) && step("b", 1) && step("a", 3) && step("b", 2));
        assert!(!step("a", 3) && !step("b", 1));
    }
}
