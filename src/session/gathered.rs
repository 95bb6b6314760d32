//! What one read batch has gathered: messages for queues, acknowledgements, confirms that are due. It acts on none of it.

use crate::outbox::ledger::Unsettled;
use crate::session::runs::Runs;

/// Gathered work.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Messages on their way.
    pub(super) runs: Runs,
    /// Acknowledgements: channel, tag, multiple.
    pub(super) acks: Vec<(u16, u64, bool)>,
    /// Channels with confirms due.
    pub(super) confirming: Vec<u16>,
    /// Deliveries that were acknowledged and left the ledger; their queues do not know yet.
    pub(super) settled: Vec<(u16, u64, Unsettled)>,
    /// Acknowledged tags that name nothing; what follows one on its channel is void.
    pub(super) unknown: Vec<(u16, u64)>,
    /// Slots that a limit of their channel had stopped, and that may go on.
    pub(super) limited: Vec<(u16, u32)>,
    pub(super) taken: Vec<(u64, Unsettled)>,
    pub(super) seqs: Vec<u64>,
}

impl Batch {
    /// A confirm will be due on this channel.
    pub(super) fn confirm(&mut self, number: u16) {
        if self.confirming.last() != Some(&number) && !self.confirming.contains(&number) {
            self.confirming.push(number);
        }
    }
}
