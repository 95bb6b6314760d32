//! Operations as records of four octets, so that a fuzzer and a property test draw from one source.

/// Octets that one operation is made from.
pub type Record = [u8; 4];

/// Operation on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Open,
    Close,
    Declare,
    Bind,
    Unbind,
    Publish,
    Consume,
    Cancel,
    Get,
    Ack,
    Nack,
    Reject,
    Recover,
    Qos,
    Confirm,
    TxSelect,
    TxCommit,
    TxRollback,
    Purge,
    Delete,
    /// Time passes.
    Tick,
    /// Send what follows in pieces of another size.
    Piece,
    /// Send what follows in one go.
    Gather,
    /// The connection ends, and another one comes.
    Hangup,
    /// A frame that is cut or has other octets: from here on only form is checked.
    Mangle,
}

use Op::*;

/// Frequent ones stand here more often.
const OPS: [Op; 40] = [
    Open, Close, Declare, Bind, Unbind, Publish, Consume, Cancel, Get, Ack, Nack, Reject, Recover, Qos, Confirm,
    TxSelect, TxCommit, TxRollback, Purge, Delete, Tick, Piece, Gather, Hangup, Publish, Publish, Publish, Publish,
    Consume, Consume, Get, Ack, Ack, Nack, Declare, Declare, Bind, TxCommit, TxRollback, Mangle,
];

const QUEUES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b""];
/// The default exchange, three that are always there, one that is not.
pub const EXCHANGES: [&[u8]; 5] = [b"", b"amq.fanout", b"amq.direct", b"amq.topic", b"none"];

/// One operation, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub op: Op,
    /// Which of two connections.
    pub end: usize,
    /// 1 or 2.
    pub channel: u16,
    flags: u8,
    names: u8,
    pub number: u8,
}

impl From<Record> for Step {
    fn from([op, flags, names, number]: Record) -> Self {
        let op = OPS[usize::from(op) % OPS.len()];
        Self { op, end: usize::from(flags >> 7), channel: 1 + u16::from(flags >> 6 & 1), flags, names, number }
    }
}

impl Step {
    /// One of six free bits.
    pub fn flag(&self, bit: u8) -> bool {
        self.flags >> bit & 1 != 0
    }

    pub fn queue(&self) -> &'static [u8] {
        QUEUES[usize::from(self.names & 15) % QUEUES.len()]
    }

    pub fn exchange(&self) -> &'static [u8] {
        EXCHANGES[usize::from(self.names >> 4) % EXCHANGES.len()]
    }

    /// A routing key, which may be a queue's name.
    pub fn key(&self) -> &'static [u8] {
        QUEUES[usize::from(self.number & 3)]
    }

    /// A consumer tag.
    pub fn tag(&self) -> &'static [u8] {
        [b"t1", b"t2", b"t3", b"t4"][usize::from(self.number & 3)]
    }

    /// How much a body is padded: mostly little, sometimes more than one frame, seldom more than an
    /// outbox takes.
    pub fn padding(&self) -> usize {
        [0, 7, 100, 5_000][usize::from(self.number >> 2 & 3)] + if self.number >= 250 { 300_000 } else { 0 }
    }
}
