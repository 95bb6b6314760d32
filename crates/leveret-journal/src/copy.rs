//! Copying a live message to the end of the journal, so that its segment can be given up.

use crate::encode::{Encoder, TooLarge};
use crate::journal::{Journal, Refused};
use crate::list::{List, Target};
use crate::position::Position;
use crate::record::{Operation, PublishRecord};

impl Journal {
    /// Copies a message whose record is at `position`, for the queues in which it is still live.
    ///
    /// # Errors
    /// The journal has failed.
    pub(crate) fn copy_message(&self, publish: &PublishRecord<'_>, position: Position) -> Result<(), Refused> {
        loop {
            let targets = self.hold_appender().live.remaining(position, publish.targets.iter());
            if targets.is_empty() || self.copy_to(&targets, publish, position)? {
                return Ok(());
            }
        }
    }

    /// Copies a message for these targets, unless others remain meanwhile; returns true if it did.
    fn copy_to(&self, targets: &[Target], publish: &PublishRecord<'_>, position: Position) -> Result<bool, Refused> {
        let operation = Operation::Publish(PublishRecord { targets: List::Given(targets), ..*publish });
        // The crc is computed without the lock.
        let mut encoder = Encoder::default();
        encoder.prepare(&operation).map_err(|TooLarge| Refused::TooLarge)?;
        let whole = encoder.whole(0, &operation);
        self.with_appender(|appender| {
            if appender.live.remaining(position, publish.targets.iter()) != targets {
                return Ok(false);
            }
            let appended = match whole {
                Some(record) => appender.append_whole(&operation, record),
                None => appender.append(&operation, &encoder, 0),
            };
            appended.map_err(|TooLarge| Refused::TooLarge)?;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::{JournalOptions, Sync};
    use crate::list::Run;
    use crate::recovery::recover;
    use crate::simulated::SimulatedDisk;

    #[test]
    fn what_is_settled_while_it_is_copied_is_not_copied() {
        let options = JournalOptions { segment_octets: 4096, sync: Sync::Group, full_at: 1 << 20, seed: 1 };
        let disk = Arc::new(SimulatedDisk::new(1, 1 << 20));
        let (journal, _) = recover(disk, options, &mut |_| {}).unwrap();
        let targets = [Target::new(1, 1), Target::new(2, 1)];
        let targets = List::Given(&targets);
        let publish = PublishRecord { targets, ..PublishRecord::default() };
        journal.append(&Operation::Publish(publish)).unwrap();
        let position = journal.appender.lock().live.find(1, 1).unwrap();
        let found = journal.appender.lock().live.remaining(position, targets.iter());
        assert_eq!(found.len(), 2);
        let runs = [Run { first: 1, last: 1 }];
        journal.append(&Operation::Settle { queue: 1, runs: List::Given(&runs) }).unwrap();
        assert_eq!(journal.copy_to(&found, &publish, position), Ok(false));
        journal.append(&Operation::Delivered { queue: 2, upto: 1 }).unwrap();
        let found = journal.appender.lock().live.remaining(position, targets.iter());
        assert_eq!(found, [Target { delivered: true, ..Target::new(2, 1) }]);
        assert_eq!(journal.copy_to(&found, &publish, position), Ok(true));
        assert_ne!(journal.appender.lock().live.find(2, 1), Some(position));
        assert_eq!(journal.appender.lock().live.find(1, 1), None);
    }
}
