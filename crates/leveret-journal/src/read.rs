//! Reading messages and definitions back, a run of a queue at a time.
//!
//! No lock is held while the disk is read: a message that was looked up may have been settled, or
//! copied and its old file reused. Then the salt does not match, and it is looked up again. A
//! message that is still at its position and cannot be read is lost: it is reported with its
//! position, and the messages behind it are read all the same.

use crate::damage::Damage;
use crate::error::StoreError;
use crate::journal::Journal;
use crate::layout::{content, damaged, next};
use crate::position::{IndexEntry, Position};
use crate::record::{Operation, PublishRecord, RecordContent, read};
use crate::segment::{Scan, ScanItem, name};

/// Octets read from the disk at a time for a single message.
pub(crate) const READ_ONE: u64 = 4 * 1024;
/// Most octets read from the disk at a time for messages that follow each other.
const READ_AHEAD: u64 = 256 * 1024;
/// Most octets between two messages that are read together.
const READ_GAP: u64 = 16 * 1024;
/// Most times that a message is looked up again because it has moved.
const TRIES: usize = 8;

/// A live message whose record cannot be read: it is damaged, or the disk returns an error.
#[derive(Debug)]
pub struct Unreadable {
    /// The message's number in the queue.
    pub seq: u64,
    /// The name of the record's file.
    pub file: String,
    /// The offset of the record, in octets.
    pub offset: u64,
    /// The error.
    pub error: StoreError,
}

/// The reader's place: the segment read last.
#[derive(Default)]
pub(crate) struct RecordReader {
    /// The segment read last, by number.
    scan: Option<(u64, Scan)>,
    /// A copy of a record that is not written yet.
    unwritten: Vec<u8>,
}

impl RecordReader {
    /// Returns the scan of a segment; none if it does not exist any more.
    fn scan(&mut self, journal: &Journal, number: u64) -> Option<&mut Scan> {
        if self.scan.as_ref().is_none_or(|(open, _)| *open != number) {
            let segment = journal.segments.read().get(&number).cloned()?;
            let before = self.scan.take().map(|(_, scan)| scan);
            self.scan = Some((number, segment.scan_after(before, u64::MAX)));
        }
        self.scan.as_mut().map(|(_, scan)| scan)
    }
}

impl Journal {
    /// Calls `visit` with the messages of a queue from number `from` on, in order: at most
    /// `messages` of them, and none more once they have `octets` together. Messages settled
    /// meanwhile may be missing. No lock is held while `visit` runs.
    ///
    /// Returns the messages that cannot be read back, in order; `visit` was not called with them,
    /// and each stays live until it is settled.
    #[must_use = "a message that cannot be read back is lost, and somebody has to say so"]
    pub fn visit_run(
        &self,
        queue: u64,
        from: u64,
        messages: usize,
        octets: u64,
        visit: &mut dyn FnMut(u64, PublishRecord<'_>),
    ) -> Vec<Unreadable> {
        let wanted = self.look_up(queue, from, messages, octets);
        let (mut reader, mut unreadable) = (RecordReader::default(), Vec::new());
        // The last of the messages that are worth reading with this one.
        let mut last = 0;
        for (at, &(seq, entry)) in wanted.iter().enumerate() {
            let position = entry.position();
            last = last.max(at);
            while let (Some(one), Some(next)) = (wanted.get(last), wanted.get(last + 1))
                && is_near(one.1.position(), next.1.position())
            {
                last += 1;
            }
            let stretch = wanted.get(last).map_or(0, |(_, last)| last.position().offset() - position.offset());
            let window = (stretch + READ_ONE).min(READ_AHEAD);
            if let Err((position, error)) = self.message(queue, seq, position, window, &mut reader, visit) {
                let (file, offset) = (name(position.segment()), position.offset());
                let what = "a message cannot be read back";
                self.damages.remember(&Damage { file: file.clone(), offset, octets: entry.size(), what });
                unreadable.push(Unreadable { seq, file, offset, error });
            }
        }
        unreadable
    }

    fn look_up(&self, queue: u64, from: u64, messages: usize, octets: u64) -> Vec<(u64, IndexEntry)> {
        let appender = self.hold_appender();
        let Some(queue) = appender.live.queue(queue) else { return Vec::new() };
        let mut sum = 0;
        let entries = queue.messages.iter_from(from);
        let within = entries.take(messages).take_while(|(_, entry)| {
            let before = sum;
            sum += entry.size();
            before < octets
        });
        within.collect()
    }

    /// Calls `visit` with one message that was at `position`, unless it was settled meanwhile.
    ///
    /// # Errors
    /// The message cannot be read where it is now.
    pub(crate) fn message(
        &self,
        queue: u64,
        seq: u64,
        mut position: Position,
        window: u64,
        reader: &mut RecordReader,
        visit: &mut dyn FnMut(u64, PublishRecord<'_>),
    ) -> Result<(), (Position, StoreError)> {
        let mut show = |content: RecordContent<'_>| match content {
            // The crc shows that it is a record of this segment, not that it is the one written
            // here.
            RecordContent::Operation(Operation::Publish(publish))
                if publish.targets.iter().any(|target| (target.queue, target.seq) == (queue, seq)) =>
            {
                visit(seq, publish);
                Some(())
            }
            _ => None,
        };
        let mut refused = None;
        for tries in 0..TRIES {
            let is_fresh = reader.scan.is_none();
            // A sector that cannot be read behind the record is not the record's fault: the second
            // try reads no further.
            let window = if tries == 0 { window } else { 0 };
            refused = match self.record(position, window, reader, &mut show) {
                Ok(Some(())) => return Ok(()),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            // Octets read ahead may be older than the record.
            reader.scan = None;
            let now = self.hold_appender().live.find(queue, seq);
            match now {
                None => return Ok(()),
                Some(now) if now == position && is_fresh && tries > 0 => break,
                Some(now) => position = now,
            }
        }
        Err((position, refused.unwrap_or_else(|| damaged(position.segment(), position.offset()))))
    }

    /// Returns the value of a definition.
    ///
    /// # Errors
    /// The definition's record cannot be read back.
    pub fn read_definition(&self, key: &[u8]) -> Result<Option<Box<[u8]>>, StoreError> {
        let mut value = |content: RecordContent<'_>| match content {
            RecordContent::Operation(Operation::Define { value, .. }) => Some(Box::from(value)),
            _ => None,
        };
        let mut position = Position::ZERO;
        for _ in 0..TRIES {
            let now = self.hold_appender().live.find_definition(key);
            match now {
                None => return Ok(None),
                Some(now) if now == position => break,
                Some(now) => position = now,
            }
            if let Some(value) = self.record(position, READ_ONE, &mut RecordReader::default(), &mut value)? {
                return Ok(Some(value));
            }
        }
        Err(damaged(position.segment(), position.offset()))
    }

    /// Returns the result of `take` for the record at a position; `None` if there is none, or
    /// another one.
    fn record<T>(
        &self,
        position: Position,
        window: u64,
        reader: &mut RecordReader,
        take: &mut dyn FnMut(RecordContent<'_>) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        if let Some(salt) = self.copy_unwritten(position, &mut reader.unwritten) {
            let record = read(&reader.unwritten, salt).ok().and_then(|(record, _)| record.content().ok());
            return Ok(record.and_then(take));
        }
        let (number, offset) = (position.segment(), position.offset());
        let Some(scan) = reader.scan(self, number) else { return Ok(None) };
        scan.skip_to(offset);
        scan.set_window(window);
        match next(scan, number)? {
            ScanItem::Record { offset, record, .. } => Ok(take(content(&record, number, offset)?)),
            ScanItem::Nothing(..) | ScanItem::End => Ok(None),
        }
    }
}

/// Returns true if `next` is read together with the octets between.
fn is_near(one: Position, next: Position) -> bool {
    let gap = next.offset().checked_sub(one.offset()).filter(|_| next.segment() == one.segment());
    gap.is_some_and(|gap| gap <= READ_GAP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, DiskFile};
    use crate::journal::{JournalOptions, Step, Sync};
    use crate::list::{List, Target};
    use crate::recovery::recover;
    use crate::simulated::SimulatedDisk;
    use std::io;
    use std::sync::{Arc, Mutex};

    type Then = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

    /// A disk that calls a closure right after a read.
    struct Interrupted<T> {
        inner: T,
        then: Then,
    }

    impl Disk for Interrupted<SimulatedDisk> {
        fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(Interrupted { inner: self.inner.create(name)?, then: Arc::clone(&self.then) }))
        }
        fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(Interrupted { inner: self.inner.open(name)?, then: Arc::clone(&self.then) }))
        }
        fn list(&self) -> io::Result<Vec<String>> {
            self.inner.list()
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.inner.rename(from, to)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.inner.remove(name)
        }
        fn sync_directory(&self) -> io::Result<()> {
            self.inner.sync_directory()
        }
        fn free_space(&self) -> io::Result<u64> {
            self.inner.free_space()
        }
    }

    impl DiskFile for Interrupted<Arc<dyn DiskFile>> {
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
            let read = self.inner.read_at(offset, into);
            let then = self.then.lock().unwrap().take();
            then.into_iter().for_each(|then| then());
            read
        }
        fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
            self.inner.write_at(offset, octets)
        }
        fn size(&self) -> io::Result<u64> {
            self.inner.size()
        }
        fn allocate(&self, size: u64) -> io::Result<()> {
            self.inner.allocate(size)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.inner.sync_data()
        }
    }

    #[test]
    fn a_message_written_after_it_was_read_ahead_is_found() {
        let then = Then::default();
        let disk = Interrupted { inner: SimulatedDisk::new(3, 1 << 20), then: Arc::clone(&then) };
        let options = JournalOptions { segment_octets: 64 * 1024, sync: Sync::Group, full_at: 1 << 20, seed: 3 };
        let (journal, _) = recover(Arc::new(disk), options, &mut |_| {}).unwrap();
        let journal = Arc::new(journal);
        let publish = |seq: u64| {
            let targets = [Target::new(1, seq)];
            let targets = List::Given(&targets);
            let message = PublishRecord {
                at_ms: 0,
                expires_at: None,
                flags: 0,
                targets,
                route: b"r",
                properties: b"p",
                body: &[seq as u8; 100],
            };
            journal.append(&Operation::Publish(message)).unwrap();
        };
        publish(1);
        journal.step(true).unwrap();
        publish(2);
        let writer = Arc::clone(&journal);
        *then.lock().unwrap() = Some(Box::new(move || assert_eq!(writer.step(true).unwrap(), Step::Wrote)));
        let found = journal.read_run(1, 0, 10, u64::MAX).unwrap();
        assert!(then.lock().unwrap().is_none());
        assert_eq!(found.iter().map(|stored| stored.seq).collect::<Vec<_>>(), [1, 2]);
    }
}
