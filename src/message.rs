//! A publication as it is borrowed from a read buffer, and a message as a queue keeps it. Knows no queue, no frame, no
//! exchange: octets with three cuts.

use bytes::Bytes;

/// What a queue's bookkeeping of one message costs beside its octets; part of what a message is charged with.
const ENTRY_OCTETS: usize = 96;

/// One publication, borrowed from whatever holds its octets.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Exchange and routing key, as two AMQP short strings with their length octets.
    pub route: &'a [u8],
    /// Property flags and values as they came.
    pub properties: &'a [u8],
    /// The body, whole.
    pub body: &'a [u8],
}

impl Publication<'_> {
    /// Copies the publication into an allocation of its own, to be held by `holders` queues.
    pub fn keep(&self, holders: usize) -> Message {
        let size = self.route.len() + self.properties.len() + self.body.len();
        let mut octets = Vec::with_capacity(size);
        octets.extend_from_slice(self.route);
        octets.extend_from_slice(self.properties);
        octets.extend_from_slice(self.body);
        Message {
            properties_at: self.route.len() as u32,
            body_at: (self.route.len() + self.properties.len()) as u32,
            charge: (size / holders.max(1) + ENTRY_OCTETS) as u32,
            octets: Bytes::from(octets),
        }
    }
}

/// A message that a queue holds: one allocation, shared by all queues that hold it.
#[derive(Clone, Debug)]
pub struct Message {
    octets: Bytes,
    properties_at: u32,
    body_at: u32,
    charge: u32,
}

impl Message {
    /// Exchange and routing key, as two AMQP short strings with their length octets.
    pub fn route(&self) -> &[u8] {
        self.octets.get(..self.properties_at as usize).unwrap_or_default()
    }

    /// Property flags and values, octet for octet as published.
    pub fn properties(&self) -> &[u8] {
        self.octets.get(self.properties_at as usize..self.body_at as usize).unwrap_or_default()
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.octets.get(self.body_at as usize..).unwrap_or_default()
    }

    /// Octets of memory that one queue is charged with for holding this message: its share of the octets and its place.
    pub fn charge(&self) -> u64 {
        u64::from(self.charge)
    }

    /// The parts, borrowed.
    pub fn publication(&self) -> Publication<'_> {
        Publication { route: self.route(), properties: self.properties(), body: self.body() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_three_parts_apart() {
        let message = Publication { route: b"\x01x\x01k", properties: b"\0\0", body: b"hello" }.keep(1);
        assert_eq!(message.route(), b"\x01x\x01k");
        assert_eq!(message.properties(), b"\0\0");
        assert_eq!(message.body(), b"hello");
    }

    #[test]
    fn a_shared_message_is_charged_to_its_holders_in_parts() {
        let publication = Publication { route: b"\0\0", properties: b"\0\0", body: &[0; 10_000] };
        assert!(publication.keep(10).charge() * 10 < publication.keep(1).charge() * 2);
    }
}
