//! Somebody who has appended and has nothing else to do writes and syncs by themselves: a sync takes about as long as waking a
//! thread twice. Knows no queue, no connection and no runtime.

use std::sync::atomic::Ordering;

use crate::store::journal::{Journal, Step, Sync};

impl Journal {
    /// Whether something was appended as [`Attended`](crate::store::journal::Haste::Attended) and waits for somebody to attend to
    /// it.
    pub fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Acquire)
    }

    /// Whether [`Journal::attend`] would do something now.
    pub fn attends(&self) -> bool {
        self.sync() == Sync::Group && !self.writer.is_locked()
    }

    /// Writes and syncs what was appended as [`Attended`](crate::store::journal::Haste::Attended), here and now, unless the thread
    /// is at work: then it does that too. Takes as long as the disk. False: the thread does it, or has done it.
    pub fn attend(&self) -> bool {
        if !self.owed.swap(false, Ordering::AcqRel) {
            return false;
        }
        if self.sync() == Sync::Group
            && let Some(writer) = self.writer.try_lock()
            // One that waits for space is the thread's, which looks for some from time to time.
            && writer.batch.is_none()
            && !self.is_stopping()
        {
            match self.step_as(writer, false) {
                // If it has failed, who waits was told.
                Ok(Step::Wrote | Step::Idle) | Err(_) => return true,
                Ok(Step::NoSpace) => {}
            }
        }
        self.hurry();
        false
    }

    /// Waits until nobody writes.
    pub(super) fn wait_for_writer(&self) {
        drop(self.writer.lock());
    }

    /// Has the thread do that.
    pub fn leave(&self) {
        if self.owed.swap(false, Ordering::AcqRel) {
            self.hurry();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::error::Failure;
    use crate::store::journal::{Haste, OnDurable, Options};
    use crate::store::position::Position;
    use crate::store::record::Operation;
    use crate::store::recovery::recover;
    use crate::store::simulated::SimulatedDisk;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Heard(Mutex<Vec<Option<Position>>>);

    impl OnDurable for Heard {
        fn durable(&self, durable: Position) {
            self.0.lock().unwrap().push(Some(durable));
        }
        fn failed(&self, _: &Failure) {
            self.0.lock().unwrap().push(None);
        }
    }

    const OPTIONS: Options = Options { segment_octets: 1 << 16, sync: Sync::Group, full_at: 1 << 20, seed: 1 };

    fn journal(disk: &SimulatedDisk) -> Journal {
        recover(Arc::new(disk.clone()), OPTIONS, &mut |_| {}).unwrap().0
    }

    fn append(journal: &Journal, haste: Haste) -> Position {
        journal.append_all(&[Operation::Define { key: b"k", value: &[7; 100] }], haste).unwrap()
    }

    /// Appended as attended, and waited for.
    fn attended(journal: &Journal) -> (Position, Arc<Heard>) {
        let (position, heard) = (append(journal, Haste::Attended), Arc::<Heard>::default());
        let waiter: Arc<dyn OnDurable> = Arc::<Heard>::clone(&heard);
        assert_eq!(journal.watch(position, &waiter), Ok(true));
        (position, heard)
    }

    #[test]
    fn who_attends_makes_it_durable_and_rings_nobody() {
        let journal = journal(&SimulatedDisk::new(1, 1 << 30));
        for _ in 0..3 {
            let (position, heard) = attended(&journal);
            assert!(journal.is_owed() && journal.attends() && !journal.rang());
            assert!(journal.attend() && !journal.rang());
            assert!(matches!(heard.0.lock().unwrap()[..], [Some(durable)] if durable >= position));
            assert!(!journal.is_owed() && !journal.attend());
        }
    }

    #[test]
    fn the_thread_is_rung_in_company_and_when_nobody_attends() {
        let journal = journal(&SimulatedDisk::new(1, 1 << 30));
        // Others wait for the same batch.
        append(&journal, Haste::Attended);
        assert!(!journal.rang());
        append(&journal, Haste::Now);
        assert!(!journal.is_owed() && journal.rang() && !journal.attend());
        // They were there before.
        append(&journal, Haste::Attended);
        assert!(!journal.is_owed());
        assert_eq!(journal.step(false), Ok(Step::Wrote));
        // The thread is at work.
        append(&journal, Haste::Attended);
        let writer = journal.writer.lock();
        assert!(!journal.attends() && !journal.attend() && journal.rang());
        drop(writer);
        assert_eq!(journal.step(false), Ok(Step::Wrote));
        append(&journal, Haste::Attended);
        journal.leave();
        assert!(!journal.is_owed() && journal.rang());
        journal.leave();
        assert!(!journal.rang());
    }

    #[test]
    fn a_sync_that_fails_is_told_and_one_without_space_is_left_to_the_thread() {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let broken = journal(&disk);
        let (_, heard) = attended(&broken);
        disk.fail_next_sync();
        assert!(broken.attend() && broken.failure().is_some());
        assert_eq!(*heard.0.lock().unwrap(), [None]);

        let full = journal(&SimulatedDisk::new(1, 1_000));
        let (position, heard) = attended(&full);
        assert!(!full.attend() && full.is_out_of_space() && full.rang());
        // It is the thread's now, and so is what comes behind it.
        append(&full, Haste::Attended);
        assert!(!full.attend() && full.rang());
        assert!(full.durable() < position && heard.0.lock().unwrap().is_empty());
    }

    #[test]
    fn nobody_attends_to_a_store_that_has_stopped() {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let (store, _) = Store::open(Arc::new(disk.clone()), OPTIONS, &mut |_| {}).unwrap();
        let journal = Arc::clone(store.journal());
        drop(store);
        append(&journal, Haste::Attended);
        let before = disk.calls();
        assert!(!journal.attend());
        assert_eq!(disk.calls(), before);
    }
}
