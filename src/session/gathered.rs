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
    /// Channels with confirms to come, each with whether the journal has to have something before.
    pub(super) confirming: Vec<(u16, bool)>,
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
    /// A confirm will be due on this channel; `waits`: when the journal has what was published.
    pub(super) fn confirm(&mut self, number: u16, waits: bool) {
        let is_it = |(other, _): &&mut (u16, bool)| *other == number;
        let known = match self.confirming.last_mut().filter(is_it) {
            None => self.confirming.iter_mut().find(is_it),
            last => last,
        };
        match known {
            Some((_, so_far)) => *so_far |= waits,
            None => self.confirming.push((number, waits)),
        }
    }
}
