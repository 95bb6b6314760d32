//! Frames as the proxy passes them on, and whole contents as one unit that a fault can change. It
//! knows no socket and no fault.

use std::collections::BTreeMap;

use crate::peer::text::{Fields, fields};
use crate::peer::value::{Reader, Value};
use crate::peer::{self, Heard, method};

/// Type octet of a method frame.
const METHOD: u8 = 1;
/// Type octet of a content header.
const HEADER: u8 = 2;
/// Type octet of a content body.
const BODY: u8 = 3;
/// Type octet that stands for a protocol header, which is no frame.
pub(super) const PROTOCOL: u8 = b'A';

/// One frame, as it came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    fn octets(&self) -> Vec<u8> {
        match self.kind {
            PROTOCOL => self.payload.clone(),
            kind => peer::frame(kind, self.channel, &self.payload),
        }
    }
}

/// The unit that a fault sees: a frame; from the broker, also a method with its header and body.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    frames: Vec<Frame>,
    method: Option<(&'static str, Fields)>,
}

impl Unit {
    pub(super) fn new(first: Frame) -> Unit {
        let method = match first.kind {
            METHOD => method::decode(&first.payload).ok(),
            _ => None,
        };
        Unit { frames: vec![first], method }
    }

    /// A method that nobody sent.
    pub(super) fn say(channel: u16, name: &str, text: &str) -> Unit {
        let payload = fields(text).and_then(|fields| method::encode(name, &fields)).unwrap_or_default();
        Unit::new(Frame { kind: METHOD, channel, payload })
    }

    pub(super) fn octets(&self) -> Vec<u8> {
        self.frames.iter().flat_map(Frame::octets).collect()
    }

    pub(super) fn channel(&self) -> u16 {
        self.frames.first().map_or(0, |frame| frame.channel)
    }

    /// The method's name, or what else it is.
    pub(super) fn name(&self) -> &'static str {
        match (&self.method, self.frames.first().map_or(0, |frame| frame.kind)) {
            (Some((name, _)), _) => name,
            (None, HEADER) => "header",
            (None, BODY) => "body",
            (None, 8) => "heartbeat",
            (None, PROTOCOL) => "protocol",
            _ => "unknown",
        }
    }

    /// Returns true if it is one of these names, which have spaces between them.
    pub(super) fn is(&self, names: &str) -> bool {
        names.split(' ').any(|name| name == self.name())
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        let (_, fields) = self.method.as_ref()?;
        fields.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn has(&self, bit: &str) -> bool {
        self.field(bit) == Some(&Value::Bool(true))
    }

    pub(super) fn number(&self, field: &str) -> i128 {
        match self.field(field) {
            Some(Value::Number(n)) => *n,
            _ => 0,
        }
    }

    /// Sets a field that the method has.
    pub(super) fn set(&mut self, field: &str, to: Value) {
        if let Some((_, fields)) = &mut self.method
            && let Some((_, value)) = fields.iter_mut().find(|(name, _)| name == field)
        {
            *value = to;
            self.encode();
        }
    }

    pub(super) fn set_text(&mut self, field: &str, text: &str) {
        self.set(field, Value::str(text));
    }

    pub(super) fn set_number(&mut self, field: &str, n: i128) {
        self.set(field, Value::Number(n));
    }

    pub(super) fn add(&mut self, field: &str, n: i128) {
        self.set_number(field, (self.number(field) + n).max(0));
    }

    pub(super) fn clear(&mut self, bit: &str) {
        self.set(bit, Value::Bool(false));
    }

    pub(super) fn raise(&mut self, bit: &str) {
        self.set(bit, Value::Bool(true));
    }

    pub(super) fn flip(&mut self, bit: &str) {
        self.set(bit, Value::Bool(!self.has(bit)));
    }

    /// Changes the pairs of a field table.
    pub(super) fn table(&mut self, field: &str, change: impl FnOnce(&mut Vec<(Vec<u8>, Value)>)) {
        if let Some(Value::Table(pairs)) = self.field(field) {
            let mut pairs = pairs.clone();
            change(&mut pairs);
            self.set(field, Value::Table(pairs));
        }
    }

    /// Another method in its place; fields that both have stay.
    pub(super) fn rename(&mut self, name: &str) {
        let mut other = Unit::say(self.channel(), name, "");
        other.take_fields(self);
        if let (Some(first), Some(renamed)) = (self.frames.first_mut(), other.frames.pop()) {
            *first = renamed;
            self.method = other.method;
        }
    }

    /// Takes what the other has of the fields that this one has.
    pub(super) fn take_fields(&mut self, other: &Unit) {
        for (name, value) in other.method.iter().flat_map(|(_, fields)| fields) {
            self.set(name, value.clone());
        }
    }

    pub(super) fn move_to(&mut self, channel: u16) {
        self.frames.iter_mut().for_each(|frame| frame.channel = channel);
    }

    fn encode(&mut self) {
        if let (Some((name, fields)), Some(first)) = (&self.method, self.frames.first_mut())
            && let Ok(payload) = method::encode(name, fields)
        {
            first.payload = payload;
        }
    }

    /// Changes class, weight, size and properties of its content header, if it has one.
    pub(super) fn header(&mut self, change: impl FnOnce(&mut Head)) {
        let Some(frame) = self.frames.iter_mut().find(|frame| frame.kind == HEADER) else { return };
        let Some(mut head) = Head::of(&frame.payload) else { return };
        change(&mut head);
        if let Ok(octets) = peer::header(frame.channel, head.class, head.weight, head.size, &head.properties) {
            frame.payload = octets.get(7..octets.len() - 1).unwrap_or(&[]).to_vec();
        }
    }

    /// Changes one property, if it is there.
    pub(super) fn property(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        self.header(|head| {
            if let Some((_, value)) = head.properties.iter_mut().find(|(known, _)| known == name) {
                change(value);
            }
        });
    }

    /// Takes a property away.
    pub(super) fn without(&mut self, property: &str) {
        self.header(|head| head.properties.retain(|(name, _)| name != property));
    }

    /// Changes the table `headers`, if it is there.
    pub(super) fn headers(&mut self, change: impl FnOnce(&mut Vec<(Vec<u8>, Value)>)) {
        self.property("headers", |value| {
            if let Value::Table(pairs) = value {
                change(pairs);
            }
        });
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let parts = self.frames.iter().filter(|frame| frame.kind == BODY);
        parts.flat_map(|frame| frame.payload.iter().copied()).collect()
    }

    /// These octets as its body, in frames of at most so many.
    pub(super) fn set_body(&mut self, octets: &[u8], most: usize) {
        self.frames.retain(|frame| frame.kind != BODY);
        octets.chunks(most.max(1)).for_each(|part| self.push_body(part));
    }

    pub(super) fn push_body(&mut self, octets: &[u8]) {
        self.frames.push(Frame { kind: BODY, channel: self.channel(), payload: octets.to_vec() });
    }

    /// Octets of body that the header promises, if there is a header.
    fn promised(&self) -> Option<u64> {
        let header = self.frames.iter().find(|frame| frame.kind == HEADER)?;
        Head::of(&header.payload).map(|head| head.size)
    }

    fn is_whole(&self) -> bool {
        self.promised().is_some_and(|size| self.body().len() as u64 >= size)
    }
}

/// Fields of a content header.
pub(super) struct Head {
    pub(super) class: u16,
    pub(super) weight: u16,
    pub(super) size: u64,
    pub(super) properties: Fields,
}

impl Head {
    fn of(payload: &[u8]) -> Option<Head> {
        let Ok(Heard::Header(_, class, size, properties)) = Heard::parse(HEADER, 0, payload) else { return None };
        let weight = Reader(payload.get(2..)?).number(2).ok()? as u16;
        Some(Head { class, weight, size, properties })
    }
}

/// Contents that are not whole yet, by channel.
#[derive(Default)]
pub(super) struct Contents(BTreeMap<u16, Unit>);

impl Contents {
    /// Takes a frame of the broker and returns what is whole by it.
    pub(super) fn take(&mut self, frame: Frame) -> Vec<Unit> {
        let channel = frame.channel;
        if !matches!(frame.kind, HEADER | BODY) {
            let unit = Unit::new(frame);
            let broken = self.0.remove(&channel);
            if unit.is("basic.deliver basic.get-ok basic.return") {
                self.0.insert(channel, unit);
                return broken.into_iter().collect();
            }
            return broken.into_iter().chain([unit]).collect();
        }
        match self.0.remove(&channel) {
            None => vec![Unit::new(frame)],
            Some(mut unit) => {
                unit.frames.push(frame);
                if unit.is_whole() {
                    return vec![unit];
                }
                self.0.insert(channel, unit);
                Vec::new()
            }
        }
    }

    /// Returns the octets that will never be a whole unit.
    pub(super) fn rest(&mut self) -> Vec<Unit> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(body: &[u8]) -> Vec<Frame> {
        let method = Unit::say(1, "basic.deliver", "delivery-tag=1 redelivered routing-key=q").frames.remove(0);
        let props = fields("priority=3").unwrap();
        let whole = peer::header(1, 60, 0, body.len() as u64, &props).unwrap();
        let header = Frame { kind: HEADER, channel: 1, payload: whole[7..whole.len() - 1].to_vec() };
        let body = body.chunks(2).map(|part| Frame { kind: BODY, channel: 1, payload: part.to_vec() });
        [method, header].into_iter().chain(body).collect()
    }

    #[test]
    fn a_content_is_one_unit_and_stays_what_it_was() {
        let frames = delivery(b"abc");
        let octets: Vec<u8> = frames.iter().flat_map(Frame::octets).collect();
        let mut contents = Contents::default();
        let mut units: Vec<Unit> = frames.into_iter().flat_map(|frame| contents.take(frame)).collect();
        assert_eq!(units.len(), 1);
        let unit = &mut units[0];
        assert_eq!((unit.name(), unit.body(), unit.octets()), ("basic.deliver", b"abc".to_vec(), octets.clone()));
        unit.clear("redelivered");
        unit.raise("redelivered");
        unit.header(|head| head.size += 1);
        unit.header(|head| head.size -= 1);
        unit.set_body(b"abc", 2);
        assert_eq!(unit.octets(), octets);
        unit.without("priority");
        assert_ne!(unit.octets(), octets);
    }

    #[test]
    fn an_empty_body_needs_no_frame_and_a_broken_content_is_passed_on() {
        let mut contents = Contents::default();
        let mut frames = delivery(b"").into_iter();
        assert!(contents.take(frames.next().unwrap()).is_empty());
        assert_eq!(contents.take(frames.next().unwrap()).len(), 1);
        contents.take(delivery(b"x").remove(0));
        let close = Unit::say(1, "channel.close", "reply-code=404").frames.remove(0);
        let names: Vec<_> = contents.take(close).iter().map(Unit::name).collect();
        assert_eq!(names, ["basic.deliver", "channel.close"]);
    }

    #[test]
    fn a_method_becomes_another() {
        let mut ack = Unit::say(3, "basic.ack", "delivery-tag=7 multiple");
        ack.rename("basic.nack");
        assert_eq!((ack.name(), ack.channel(), ack.number("delivery-tag")), ("basic.nack", 3, 7));
        assert!(ack.has("multiple") && !ack.has("requeue"));
    }
}
