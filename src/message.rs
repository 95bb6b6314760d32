//! A publication as it is borrowed from a read buffer, and a message as a queue keeps it. Knows no queue, no frame, no
//! exchange: octets with three cuts.

use arrayvec::ArrayVec;
use triomphe::ThinArc;

/// What a queue's bookkeeping of one message costs beside its octets; part of what a message is charged with.
const ENTRY_OCTETS: usize = 96;

/// Bodies from this size on have an allocation of their own: a body is most often a round number of octets, which an
/// allocator holds without waste, and one with a head in front of it is not.
const BODY_APART: usize = 512;

/// What is kept in one piece is put together on the stack up to this many octets.
const ON_STACK: usize = 1024;

/// One publication, borrowed from whatever holds its octets.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Exchange and routing key, as two AMQP short strings with their length octets.
    pub route: &'a [u8],
    /// Property flags and values as they came.
    pub properties: &'a [u8],
    /// The body, whole.
    pub body: &'a [u8],
    /// A durable queue keeps it across a restart.
    pub persistent: bool,
}

impl Publication<'_> {
    /// Copies the publication, to be held by `holders` queues.
    pub fn keep(&self, holders: usize) -> Message {
        let head = self.route.len() + self.properties.len();
        let apart = self.body.len() >= BODY_APART;
        let cuts = Cuts {
            body: apart.then(|| Box::from(self.body)),
            properties_at: self.route.len() as u32,
            body_at: head as u32,
            persistent: self.persistent,
            charge: ((head + self.body.len()) / holders.max(1) + ENTRY_OCTETS) as u32,
        };
        let rest = if apart { &[] } else { self.body };
        if head + rest.len() > ON_STACK {
            let octets = [self.route, self.properties, rest].concat();
            return Message(ThinArc::from_header_and_slice(cuts, &octets));
        }
        // An allocation of this kind is filled from one slice.
        let mut octets = ArrayVec::<u8, ON_STACK>::new();
        for part in [self.route, self.properties, rest] {
            // It fits, as was just seen.
            let _ = octets.try_extend_from_slice(part);
        }
        Message(ThinArc::from_header_and_slice(cuts, &octets))
    }
}

/// A message that a queue holds, shared by all queues that hold it: one pointer, and one allocation; with a
/// long body two.
#[derive(Clone, Debug)]
pub struct Message(ThinArc<Cuts, u8>);

#[derive(Debug)]
struct Cuts {
    /// None: it follows the properties.
    body: Option<Box<[u8]>>,
    properties_at: u32,
    body_at: u32,
    charge: u32,
    persistent: bool,
}

impl Message {
    /// Exchange and routing key, as two AMQP short strings with their length octets.
    pub fn route(&self) -> &[u8] {
        self.0.slice.get(..self.cuts().properties_at as usize).unwrap_or_default()
    }

    /// Property flags and values, octet for octet as published.
    pub fn properties(&self) -> &[u8] {
        let Cuts { properties_at, body_at, .. } = self.cuts();
        self.0.slice.get(*properties_at as usize..*body_at as usize).unwrap_or_default()
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        match &self.cuts().body {
            Some(body) => body,
            None => self.0.slice.get(self.cuts().body_at as usize..).unwrap_or_default(),
        }
    }

    /// Octets of memory that one queue is charged with for holding this message: its share of the octets and its place.
    pub fn charge(&self) -> u64 {
        u64::from(self.cuts().charge)
    }

    /// Whether a durable queue keeps it across a restart.
    pub fn is_persistent(&self) -> bool {
        self.cuts().persistent
    }

    /// What tells it from all other messages that are held now, though they may look the same.
    pub fn address(&self) -> usize {
        self.0.heap_ptr().addr()
    }

    /// The parts, borrowed.
    pub fn publication(&self) -> Publication<'_> {
        let persistent = self.is_persistent();
        Publication { route: self.route(), properties: self.properties(), body: self.body(), persistent }
    }

    fn cuts(&self) -> &Cuts {
        &self.0.header.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_three_parts_apart() {
        for size in [0, 1, BODY_APART - 1, BODY_APART, 100_000] {
            let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let message =
                Publication { route: b"\x01x\x01k", properties: b"\x10\0\x02", body: &body, persistent: false }.keep(1);
            assert_eq!(message.route(), b"\x01x\x01k");
            assert_eq!(message.properties(), b"\x10\0\x02");
            assert_eq!(message.body(), body);
        }
    }

    #[test]
    fn a_shared_message_is_charged_to_its_holders_in_parts() {
        let publication = Publication { route: b"\0\0", properties: b"\0\0", body: &[0; 10_000], persistent: false };
        assert!(publication.keep(10).charge() * 10 < publication.keep(1).charge() * 2);
    }
}
