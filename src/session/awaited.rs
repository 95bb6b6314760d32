//! What a connection waits for until the journal has it. It waits for nothing itself.

use crate::store::position::Position;

/// What a connection waits for.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// Channels with confirms to come.
    pub(super) channels: Vec<u16>,
    /// The journal rings at this position.
    pub(super) watched: Option<Position>,
    /// The outbox holds replies back.
    pub(super) holds: bool,
    /// No more is read until this one is durable.
    pub(super) crowded: Option<Position>,
}

impl Awaited {
    /// Whether nothing is to be read until the journal has caught up.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.is_some()
    }
}
