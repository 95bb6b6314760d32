//! The steps that put octets on a socket and await single frames.

use std::time::{Duration, Instant};

use crate::peer::text::{Cursor, Fields, hex, number};
use crate::peer::value::Value;
use crate::peer::{Heard, PATIENCE, frame, header, method};
use crate::play::state::Play;
use crate::play::text::{all_fields, bytes, channel_of, is_over, octets, properties_of, publication, sent_or_closed};

impl Play<'_> {
    /// Steps that put octets on the socket. A socket that the broker has closed is heard later, not
    /// an error.
    pub(super) fn send(&mut self, verb: &str, cursor: &mut Cursor<'_>) -> Result<(), String> {
        if verb == "raw" {
            let octets = octets(cursor)?;
            return self.put(&octets);
        }
        let channel: u16 = match number(cursor.item()) {
            Ok(channel) => channel,
            Err(_) => return Err(format!("no step `{verb}`, or no channel after it")),
        };
        match verb {
            "send" | "call" | "ok" => {
                let (method, fields) = (cursor.item().to_owned(), all_fields(cursor)?);
                self.remember(&method, &fields);
                self.put(&frame(1, channel, &method::encode(&method, &fields)?))?;
                match verb {
                    "call" => self.hear(channel),
                    "ok" => self.hear_ok(channel, &method, &fields),
                    _ => Ok(()),
                }
            }
            "publish" => {
                let (method, properties, body) = publication(cursor.rest())?;
                let sent = self.peer()?.publish(channel, &method, &properties, &body);
                sent_or_closed(sent)
            }
            "header" => self.header(channel, all_fields(cursor)?),
            "body" => self.put(&frame(3, channel, &cursor.string()?)),
            "heartbeat" => self.put(&frame(8, channel, &[])),
            "frame" => self.frame(channel as u8, cursor),
            "nothing" => self.nothing(channel, cursor.rest()),
            other => Err(format!("no step `{other}`")),
        }
    }

    fn header(&mut self, channel: u16, fields: Fields) -> Result<(), String> {
        let (mut class, mut weight, mut size, mut properties) = (60, 0, 0, Fields::new());
        for (name, value) in fields {
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

    fn frame(&mut self, kind: u8, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let channel = number(cursor.item())?;
        let mut whole = frame(kind, channel, &octets(cursor)?);
        for (name, value) in all_fields(cursor)? {
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

    fn put(&mut self, octets: &[u8]) -> Result<(), String> {
        sent_or_closed(self.peer()?.send_octets(octets))
    }

    fn hear(&mut self, channel: u16) -> Result<(), String> {
        let heard = self.peer()?.recv_on(channel);
        self.record(heard);
        Ok(())
    }

    /// The answer must be the method's `-ok`, with the name that was asked for.
    fn hear_ok(&mut self, channel: u16, method: &str, fields: &Fields) -> Result<(), String> {
        let heard = self.peer()?.recv_on(channel);
        let wanted = format!("{method}-ok");
        let echoed = |(name, value): &(String, Value)| match heard.field(name) {
            Some(Value::Str(echo)) => matches!(value, Value::Str(asked) if asked.is_empty() || asked == echo),
            _ => true,
        };
        let good = heard.method() == Some(wanted.as_str()) && fields.iter().all(echoed);
        self.last = heard;
        if good { Ok(()) } else { Err(format!("{wanted} expected, heard: {}", self.last)) }
    }

    pub(super) fn recv(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let times: usize = number(cursor.item())?;
        let channel = channel_of(cursor)?;
        for _ in 0..times {
            let heard = self.next(channel)?;
            let over = is_over(&heard);
            self.record(heard);
            if over {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, times: usize) -> Result<(), String> {
        for _ in 0..times {
            self.last = self.peer()?.recv();
            if is_over(&self.last) {
                return Err(format!("{times} frames expected, heard: {}", self.last));
            }
        }
        Ok(())
    }

    pub(super) fn unordered(&mut self, times: usize) -> Result<(), String> {
        let mut groups: Vec<Vec<Heard>> = Vec::new();
        for _ in 0..times {
            let heard = self.peer()?.recv();
            match (&heard, groups.last_mut()) {
                (Heard::Header(..) | Heard::Body(..), Some(group)) => group.push(heard),
                (heard, _) => {
                    let over = is_over(heard);
                    groups.push(vec![heard.clone()]);
                    if over {
                        break;
                    }
                }
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
            let over = is_over(&heard);
            self.record(heard);
            if over {
                break;
            }
        }
        self.note(if silent { "nothing" } else { "and nothing more" });
        Ok(())
    }

    pub(super) fn eventually(&mut self, text: &str) -> Result<(), String> {
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

    pub(super) fn closed(&mut self, seconds: &str) -> Result<(), String> {
        let patience = match seconds {
            "" => PATIENCE,
            seconds => Duration::from_secs(number(seconds)?),
        };
        let deadline = Instant::now() + patience;
        loop {
            let heard = self.peer()?.read(deadline);
            let over = is_over(&heard);
            if !matches!(heard, Heard::Heartbeat(_)) {
                self.record(heard);
            }
            if over {
                return Ok(());
            }
        }
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
}
