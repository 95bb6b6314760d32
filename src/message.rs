//! A publication as it is borrowed from a read buffer, and a message as queues keep it: route,
//! properties and body, as octets. Names no queue, frame or exchange.

use crate::memory::MemoryAccount;
use arrayvec::ArrayVec;
use triomphe::{Arc, ThinArc};

/// Octets charged for a message beside its own: its header, and the allocator's rounding.
const MESSAGE_OVERHEAD: usize = 80;

/// Bodies of this size in octets or larger have an allocation of their own: a body is most often a
/// round number of octets, which an allocator holds without waste; with a head in front of it, it
/// is not.
const BODY_APART: usize = 512;

/// Messages of one allocation are assembled on the stack up to this many octets.
const ON_STACK: usize = 1024;

/// One publication, borrowed from the buffer that holds its octets.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Exchange and routing key, as two AMQP short strings with their length octets.
    pub route: &'a [u8],
    /// Property flags and values, octet for octet as published.
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
    /// Delivery mode 2: a durable queue keeps the message across a restart.
    pub persistent: bool,
}

impl Publication<'_> {
    /// Copies the publication into a message, which is charged to `account` until its last holder
    /// drops it.
    pub fn keep(&self, account: MemoryAccount) -> Message {
        let apart = self.body.len() >= BODY_APART;
        self.keep_with(account, apart.then(|| Box::from(self.body)))
    }

    /// Makes a message of the publication's route and properties and of `body`, which is moved, not
    /// copied. The publication's own body is ignored.
    pub fn keep_body(&self, account: MemoryAccount, body: Vec<u8>) -> Message {
        Publication { body: &[], ..*self }.keep_with(account, Some(body.into_boxed_slice()))
    }

    fn keep_with(&self, account: MemoryAccount, body: Option<Box<[u8]>>) -> Message {
        let head = self.route.len() + self.properties.len();
        let rest = if body.is_some() { &[] } else { self.body };
        let octets = head + rest.len() + body.as_ref().map_or(0, |body| body.len());
        let charge = (octets + MESSAGE_OVERHEAD).try_into().unwrap_or(u32::MAX);
        // `ThinArc` is filled from one slice.
        let mut short = ArrayVec::<u8, ON_STACK>::new();
        let long;
        let octets = if head + rest.len() > ON_STACK {
            long = [self.route, self.properties, rest].concat();
            long.as_slice()
        } else {
            for part in [self.route, self.properties, rest] {
                // The size was checked above.
                let _ = short.try_extend_from_slice(part);
            }
            short.as_slice()
        };
        let mut message = ThinArc::from_header_and_slice(MessageHeader::EMPTY, octets);
        message.with_arc_mut(|message| {
            // Nobody else has it yet. Written in place, field by field: to move the fields there
            // together is a stall, as they were only just computed.
            let Some(parts) = Arc::get_mut(message) else { return };
            let header = parts.header_mut();
            header.body = body;
            header.account = Some(account);
            header.properties_at = self.route.len() as u32;
            header.body_at = head as u32;
            header.charge = charge;
            header.persistent = self.persistent;
            account.charge(u64::from(charge));
        });
        Message(message)
    }
}

/// A message, shared by all queues, outboxes and transactions that hold it: one pointer and one
/// allocation, two with a long body.
#[derive(Clone, Debug)]
pub struct Message(ThinArc<MessageHeader, u8>);

/// The lengths of a message's parts, and its charge.
#[derive(Debug)]
struct MessageHeader {
    /// None: the body follows the properties.
    body: Option<Box<[u8]>>,
    /// None: nothing is charged yet.
    account: Option<MemoryAccount>,
    properties_at: u32,
    body_at: u32,
    charge: u32,
    persistent: bool,
}

impl MessageHeader {
    const EMPTY: Self = Self { body: None, account: None, properties_at: 0, body_at: 0, charge: 0, persistent: false };
}

impl Drop for MessageHeader {
    fn drop(&mut self) {
        if let Some(account) = self.account {
            account.refund(self.charge.into());
        }
    }
}

impl Message {
    /// Returns exchange and routing key, as two AMQP short strings with their length octets.
    pub fn route(&self) -> &[u8] {
        self.0.slice.get(..self.parts().properties_at as usize).unwrap_or_default()
    }

    /// Returns property flags and values, octet for octet as published.
    pub fn properties(&self) -> &[u8] {
        let MessageHeader { properties_at, body_at, .. } = self.parts();
        self.0.slice.get(*properties_at as usize..*body_at as usize).unwrap_or_default()
    }

    /// Returns the body.
    pub fn body(&self) -> &[u8] {
        match &self.parts().body {
            Some(body) => body,
            None => self.0.slice.get(self.parts().body_at as usize..).unwrap_or_default(),
        }
    }

    /// Returns the number of octets of route, properties and body.
    pub fn octets(&self) -> u32 {
        let body = self.parts().body.as_ref().map_or(0, |body| body.len());
        (self.0.slice.len() + body) as u32
    }

    /// Returns the octets charged for the message, once, however many hold it.
    pub fn charge(&self) -> u64 {
        u64::from(self.parts().charge)
    }

    /// Returns true if others hold it, too.
    pub fn is_shared(&self) -> bool {
        ThinArc::strong_count(&self.0) > 1
    }

    /// Returns true for delivery mode 2: a durable queue keeps the message across a restart.
    pub fn is_persistent(&self) -> bool {
        self.parts().persistent
    }

    /// Returns the address of the allocation, which tells the message from all others that exist
    /// now, also from those with the same octets.
    pub fn address(&self) -> usize {
        self.0.heap_ptr().addr()
    }

    /// Returns the message's parts, borrowed.
    pub fn publication(&self) -> Publication<'_> {
        let persistent = self.is_persistent();
        Publication { route: self.route(), properties: self.properties(), body: self.body(), persistent }
    }

    fn parts(&self) -> &MessageHeader {
        &self.0.header.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AccountLease;

    #[test]
    fn keeps_the_three_parts_apart() {
        for size in [0, 1, BODY_APART - 1, BODY_APART, 100_000] {
            let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let message =
                Publication { route: b"\x01x\x01k", properties: b"\x10\0\x02", body: &body, persistent: false }
                    .keep(MemoryAccount::default());
            assert_eq!(message.route(), b"\x01x\x01k");
            assert_eq!(message.properties(), b"\x10\0\x02");
            assert_eq!(message.body(), body);
        }
    }

    #[test]
    fn a_message_is_charged_once_until_its_last_holder_drops_it() {
        let lease = AccountLease::default();
        let account = lease.account();
        let publication = Publication { route: b"\0\0", properties: b"\0\0", body: &[1; 10_000], persistent: false };
        let ways: [&dyn Fn() -> Message; 2] =
            [&|| publication.keep(account), &|| publication.keep_body(account, vec![1; 10_000])];
        for message in ways.into_iter().map(|way| way()) {
            let holders = vec![message.clone(); 1_000];
            assert_eq!((account.used(), message.body()), (message.charge(), &[1; 10_000][..]));
            assert!((10_000..10_100).contains(&message.charge()));
            drop(message);
            assert!(account.used() > 10_000);
            drop(holders);
            assert_eq!(account.used(), 0);
        }
    }
}
