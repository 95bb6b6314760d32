//! The watch over the disk of a running broker: the alarm when space runs out, and the end when the
//! journal fails. Knows no message.

use crate::broker::node::Node;
use crate::clock::Clock;
use leveret_journal::journal::{Journal, OnSpace};
use leveret_wire::fault::{Code, Fault};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use tokio::sync::{Notify, watch};

/// The disk is looked at as often as what is free could be used up by so many octets a second, but
/// within these bounds.
const FASTEST_OCTETS: u64 = 1 << 30;
const LOOK_MIN_MS: u64 = 100;
const LOOK_MAX_MS: u64 = 10_000;

/// The watch over the space on the disk, and over the journal's failure.
#[derive(Debug)]
pub struct DiskWatch {
    node: Arc<Node>,
    journal: Arc<Journal>,
    clock: Clock,
    is_low: Mutex<bool>,
    /// The journal has taken space, or found none.
    space_taken: Notify,
}

impl OnSpace for DiskWatch {
    /// Makes the watch look now: a disk can be filled in less time than lies between two looks. The
    /// journal's writer waits for neither the look nor the log.
    fn space_taken(&self) {
        self.space_taken.notify_one();
    }
}

impl DiskWatch {
    /// Looks at the disk for the first time, so that nobody publishes to a full one; then whenever
    /// the journal takes more of it.
    pub fn new(node: Arc<Node>, journal: Arc<Journal>, clock: Clock) -> Arc<Self> {
        let watch = Arc::new(Self { node, journal, clock, is_low: Mutex::new(false), space_taken: Notify::new() });
        watch.look_at_disk();
        let weak: Weak<Self> = Arc::downgrade(&watch);
        watch.journal.mind_space(weak);
        watch
    }

    /// Looks at the disk for the sake of what others write, and goes on until the journal has
    /// failed; then it closes everybody's connection.
    pub async fn run(self: Arc<Self>, mut failed: watch::Receiver<Option<String>>) {
        loop {
            // The system's clock may have been set, or the machine have slept.
            self.node.context().set_wall_ms(self.clock.now(), self.clock.wall_ms());
            let look = self.look_at_disk();
            tokio::select! {
                () = self.clock.sleep(look) => {}
                () = self.space_taken.notified() => {}
                _ = failed.wait_for(Option::is_some) => break,
            }
        }
        let reason = failed.borrow().clone().unwrap_or_default();
        tracing::error!(reason, "the store has failed");
        let fault = Fault::new(Code::InternalError, format_args!("the store has failed: {reason}"));
        self.node.close_all(&fault);
    }

    /// Raises or clears the alarm; returns how soon to look again, in ms.
    fn look_at_disk(&self) -> u64 {
        // With the next segment begun, the limit is still to be kept. Without a limit there is room
        // to acknowledge, so that what is acknowledged makes room.
        let limit = self.node.config().disk_free_limit.saturating_add(self.journal.segment_octets());
        let limit = limit.max(self.journal.reserve());
        let mut is_low = self.is_low.lock();
        let free = match self.journal.free_space() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "cannot find out how much space is left on the disk");
                return LOOK_MAX_MS;
            }
        };
        let was_low = std::mem::replace(&mut *is_low, free < limit || self.journal.is_out_of_space());
        match (was_low, *is_low) {
            (false, true) => match self.journal.shortage() {
                Some(reason) => {
                    tracing::warn!(
                        reason,
                        free,
                        limit,
                        "disk alarm: the store waits and tries again, publishers are held back"
                    );
                }
                None => tracing::warn!(free, limit, "disk alarm: publishers are held back"),
            },
            (true, false) => tracing::warn!(free, limit, "disk alarm cleared"),
            _ => {}
        }
        self.node.alarms().tell_disk(*is_low);
        if *is_low { LOOK_MIN_MS } else { look_after(free.saturating_sub(limit)) }
    }
}

/// Returns how soon to look again, in ms, when so many octets may be written until the alarm is
/// due.
fn look_after(octets: u64) -> u64 {
    (octets / (FASTEST_OCTETS / 1000)).clamp(LOOK_MIN_MS, LOOK_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use leveret_journal::disk::Disk;
    use leveret_journal::journal::{JournalOptions, Step, Sync};
    use leveret_journal::record::Operation;
    use leveret_journal::recovery::recover;
    use leveret_journal::simulated::SimulatedDisk;

    #[test]
    fn the_disk_is_looked_at_before_it_can_be_full_and_seldom_while_it_is_empty() {
        for octets in [0, 1 << 20, 1 << 30, 4 << 30] {
            let written = look_after(octets).saturating_sub(LOOK_MIN_MS) * FASTEST_OCTETS / 1000;
            assert!(written <= octets, "{octets}");
        }
        assert_eq!((look_after(0), look_after(1 << 40)), (LOOK_MIN_MS, LOOK_MAX_MS));
    }

    #[tokio::test]
    async fn the_alarm_is_raised_by_the_segment_that_takes_too_much_and_by_a_write_without_space() {
        let disk = SimulatedDisk::new(1, 1 << 20);
        let options = JournalOptions { segment_octets: 1 << 16, sync: Sync::Group, full_at: 1 << 16, seed: 1 };
        let (journal, recovered) = recover(Arc::new(disk.clone()), options, &mut |_| {}).unwrap();
        let journal = Arc::new(journal);
        let config = Config { disk_free_limit: 1 << 19, ..Config::default() };
        let node = Arc::new(Node::with_store(config, &journal, &recovered).unwrap());
        let (clock, hand) = Clock::manual();
        let watch = DiskWatch::new(Arc::clone(&node), Arc::clone(&journal), clock);
        let (_failed, is_failed) = watch::channel(None);
        let running = tokio::spawn(watch.run(is_failed));
        let write = || {
            journal.append(&Operation::Define { key: b"k", value: &[7; 10_000] }).unwrap();
            journal.step(false).unwrap()
        };
        // The clock stands still: nothing but what the journal says makes the watch look.
        tokio::task::yield_now().await;
        while !node.alarms().is_raised() {
            write();
            tokio::task::yield_now().await;
            assert!(disk.free_space().unwrap() >= 1 << 19, "nobody looks");
        }
        disk.set_capacity(1 << 30);
        hand.advance(LOOK_MIN_MS);
        tokio::task::yield_now().await;
        assert!(!node.alarms().is_raised());
        disk.set_capacity(disk.used());
        while write() != Step::NoSpace {}
        tokio::task::yield_now().await;
        assert!(node.alarms().is_raised());
        running.abort();
    }
}
