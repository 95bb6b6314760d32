//! Inline commit: a task that has appended and has nothing else to do writes and syncs by itself,
//! as a sync takes about as long as waking a thread twice.

use std::sync::atomic::Ordering;

use crate::journal::{Journal, Step, Sync};

impl Journal {
    /// Returns true if a change was appended as [`Inline`](crate::journal::CommitMode::Inline) and
    /// neither [`Journal::commit_inline`] nor [`Journal::hand_over_commit`] was called for it.
    pub fn has_inline_commit(&self) -> bool {
        self.inline_commit_pending.load(Ordering::Acquire)
    }

    /// Returns true if [`Journal::commit_inline`] would commit now.
    pub fn can_commit_inline(&self) -> bool {
        self.sync() == Sync::Group && !self.writer.is_locked()
    }

    /// Writes and syncs what was appended as [`Inline`](crate::journal::CommitMode::Inline), on the
    /// calling thread, which takes as long as the disk. Returns false if the journal's thread does
    /// it or has done it.
    pub fn commit_inline(&self) -> bool {
        if !self.inline_commit_pending.swap(false, Ordering::AcqRel) {
            return false;
        }
        if self.sync() == Sync::Group
            && let Some(writer) = self.writer.try_lock()
            // A batch that waits for space is the journal's thread's, which tries again from time
            // to time.
            && writer.batch.is_none()
            && !self.signal.is_stopping()
        {
            match self.step_as(writer, false) {
                // If it has failed, those that wait were notified.
                Ok(Step::Wrote | Step::Idle) | Err(_) => return true,
                Ok(Step::NoSpace) => {}
            }
        }
        self.write_deferred();
        false
    }

    /// Waits until nobody writes.
    pub(super) fn wait_for_writer(&self) {
        drop(self.writer.lock());
    }

    /// Leaves the commit to the journal's thread.
    pub fn hand_over_commit(&self) {
        if self.inline_commit_pending.swap(false, Ordering::AcqRel) {
            self.write_deferred();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::error::Failure;
    use crate::index::Index;
    use crate::journal::{CommitMode, JournalOptions, OnDurable};
    use crate::record::Operation;
    use crate::recovery::recover;
    use crate::simulated::SimulatedDisk;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Notified(Mutex<Vec<Option<Index>>>);

    impl OnDurable for Notified {
        fn durable(&self, durable: Index) {
            self.0.lock().unwrap().push(Some(durable));
        }
        fn failed(&self, _: &Failure) {
            self.0.lock().unwrap().push(None);
        }
    }

    const OPTIONS: JournalOptions =
        JournalOptions { segment_octets: 1 << 16, sync: Sync::Group, full_at: 1 << 20, seed: 1 };

    fn journal(disk: &SimulatedDisk) -> Journal {
        recover(Arc::new(disk.clone()), OPTIONS, &mut |_| {}).unwrap().0
    }

    fn append(journal: &Journal, mode: CommitMode) -> Index {
        journal.append_all(&[Operation::Define { key: b"k", value: &[7; 100] }], mode).unwrap()
    }

    /// Appends as attended and watches the index.
    fn append_inline(journal: &Journal) -> (Index, Arc<Notified>) {
        let (index, notified) = (append(journal, CommitMode::Inline), Arc::<Notified>::default());
        let waiter: Arc<dyn OnDurable> = Arc::<Notified>::clone(&notified);
        assert_eq!(journal.watch(index, &waiter), Ok(true));
        (index, notified)
    }

    #[test]
    fn an_inline_commit_makes_durable_and_wakes_no_thread() {
        let journal = journal(&SimulatedDisk::new(1, 1 << 30));
        for _ in 0..3 {
            let (index, notified) = append_inline(&journal);
            assert!(journal.has_inline_commit() && journal.can_commit_inline() && !journal.was_woken());
            assert!(journal.commit_inline() && !journal.was_woken());
            assert!(matches!(notified.0.lock().unwrap()[..], [Some(durable)] if durable >= index));
            assert!(!journal.has_inline_commit() && !journal.commit_inline());
        }
    }

    #[test]
    fn the_thread_commits_for_several_waiters_and_after_a_hand_over() {
        let journal = journal(&SimulatedDisk::new(1, 1 << 30));
        // Others wait for the same batch.
        append(&journal, CommitMode::Inline);
        assert!(!journal.was_woken());
        append(&journal, CommitMode::Now);
        assert!(!journal.has_inline_commit() && journal.was_woken() && !journal.commit_inline());
        // Others waited before.
        append(&journal, CommitMode::Inline);
        assert!(!journal.has_inline_commit());
        assert_eq!(journal.step(false), Ok(Step::Wrote));
        // The thread is at work.
        append(&journal, CommitMode::Inline);
        let writer = journal.writer.lock();
        assert!(!journal.can_commit_inline() && !journal.commit_inline() && journal.was_woken());
        drop(writer);
        assert_eq!(journal.step(false), Ok(Step::Wrote));
        append(&journal, CommitMode::Inline);
        journal.hand_over_commit();
        assert!(!journal.has_inline_commit() && journal.was_woken());
        journal.hand_over_commit();
        assert!(!journal.was_woken());
    }

    #[test]
    fn a_sync_that_fails_is_told_and_one_without_space_is_left_to_the_thread() {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let broken = journal(&disk);
        let (_, notified) = append_inline(&broken);
        disk.fail_next_sync();
        assert!(broken.commit_inline() && broken.failure().is_some());
        assert_eq!(*notified.0.lock().unwrap(), [None]);

        let full = journal(&SimulatedDisk::new(1, 10_000));
        let (index, notified) = append_inline(&full);
        assert!(!full.commit_inline() && full.is_out_of_space() && full.was_woken());
        // The thread has it now, and everything behind it.
        append(&full, CommitMode::Inline);
        assert!(!full.commit_inline() && full.was_woken());
        assert!(full.durable() < index && notified.0.lock().unwrap().is_empty());
    }

    #[test]
    fn nobody_commits_inline_after_the_store_has_stopped() {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let (store, _) = Store::open(Arc::new(disk.clone()), OPTIONS, &mut |_| {}).unwrap();
        let journal = Arc::clone(store.journal());
        drop(store);
        append(&journal, CommitMode::Inline);
        let before = disk.calls();
        assert!(!journal.commit_inline());
        assert_eq!(disk.calls(), before);
    }
}
