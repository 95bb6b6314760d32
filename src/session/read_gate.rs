//! The read gate of a connection: open, or the one reason why its socket may not be read.

use crate::clock::Tick;
use leveret_journal::index::Index;

/// The permission to read a socket, or the reason why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadGate {
    /// The socket may be read.
    Open,
    /// Octets that were read already were not all processed: they come first, and may hold whole
    /// frames.
    Unprocessed,
    /// Too many replies wait to be written; the outbox notifies the connection when there are
    /// fewer.
    Outbox,
    /// Too much waits to be written to the journal; the connection is notified when this index is
    /// durable.
    Journal(Index),
    /// Nothing is processed before this tick: the peer's address has failed to log in too often.
    Rate(Tick),
    /// An alarm is raised (memory or disk) and the connection has published.
    Alarm,
}

impl ReadGate {
    /// Returns true if nothing may be read or processed until another task has made progress. The
    /// peer's silence does not count meanwhile.
    pub fn is_closed(self) -> bool {
        !matches!(self, Self::Open | Self::Unprocessed)
    }
}
