//! Reads messages and definitions back, a run of a queue at a time. Knows where they are, not what they mean.
//!
//! No lock is held while the disk is read: what was looked up may have been settled, or copied elsewhere and its file used
//! again. Then the salt does not fit, and it is looked up once more.

use crate::store::error::StoreError;
use crate::store::journal::Journal;
use crate::store::layout::{content, damaged, next};
use crate::store::position::{Entry, Position};
use crate::store::record::{Content, Operation, Publish, read};
use crate::store::segment::{Found, Scan};

/// Octets read from the disk at a time when one message is wanted.
const READ_ONE: u64 = 4 * 1024;
/// Most octets read from the disk at a time when the next messages stand behind it.
const READ_AHEAD: u64 = 256 * 1024;
/// Octets from one message to the next that are read with them.
const READ_GAP: u64 = 16 * 1024;
/// How often a message that moves is looked up again.
const TRIES: usize = 8;

/// A message read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the queue.
    pub seq: u64,
    /// The wall clock when it was published, in ms since 1970.
    pub at_ms: u64,
    /// The flags it was published with.
    pub flags: u32,
    /// Route, properties and body, one behind the other.
    pub octets: Vec<u8>,
    /// Where the properties begin.
    pub properties_at: u32,
    /// Where the body begins.
    pub body_at: u32,
}

impl Stored {
    fn new(seq: u64, publish: &Publish<'_>) -> Self {
        let properties_at = publish.route.len();
        let body_at = properties_at + publish.properties.len();
        let mut octets = Vec::with_capacity(body_at + publish.body.len());
        for part in [publish.route, publish.properties, publish.body] {
            octets.extend_from_slice(part);
        }
        let (properties_at, body_at) = (properties_at as u32, body_at as u32);
        Self { seq, at_ms: publish.at_ms, flags: publish.flags, octets, properties_at, body_at }
    }
}

/// Where records are read from.
#[derive(Default)]
struct Reader {
    /// The segment of the last one.
    scan: Option<(u64, Scan)>,
    /// A copy of one that is not written yet.
    unwritten: Vec<u8>,
}

impl Reader {
    /// The scan of a segment, none if it is not there any more.
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
    /// The messages of a queue from number `from` on, as [`Journal::visit_run`] shows them.
    ///
    /// # Errors
    /// If what was written cannot be read back.
    pub fn read_run(&self, queue: u64, from: u64, messages: usize, octets: u64) -> Result<Vec<Stored>, StoreError> {
        let mut found = Vec::new();
        self.visit_run(queue, from, messages, octets, &mut |seq, publish| found.push(Stored::new(seq, &publish)))?;
        Ok(found)
    }

    /// Shows the messages of a queue from number `from` on, in order: at most `messages` of them, and none more once they
    /// have `octets` together. One that is settled meanwhile may be missing. No lock is held while `visit` runs.
    ///
    /// # Errors
    /// If what was written cannot be read back; some may have been shown then.
    pub fn visit_run(
        &self,
        queue: u64,
        from: u64,
        messages: usize,
        octets: u64,
        visit: &mut dyn FnMut(u64, Publish<'_>),
    ) -> Result<(), StoreError> {
        let wanted = self.look_up(queue, from, messages, octets);
        let mut reader = Reader::default();
        // The last of those that are worth reading with this one.
        let mut last = 0;
        for (at, &(seq, position)) in wanted.iter().enumerate() {
            last = last.max(at);
            while let (Some(one), Some(next)) = (wanted.get(last), wanted.get(last + 1))
                && is_near(one.1, next.1)
            {
                last += 1;
            }
            let stretch = wanted.get(last).map_or(0, |(_, last)| last.offset() - position.offset());
            self.message(queue, seq, position, (stretch + READ_ONE).min(READ_AHEAD), &mut reader, visit)?;
        }
        Ok(())
    }

    /// The numbers of a queue's messages from `from` on, at most so many.
    pub fn seqs(&self, queue: u64, from: u64, messages: usize) -> Vec<u64> {
        let pen = self.pen.lock();
        let Some(queue) = pen.live.queue(queue) else { return Vec::new() };
        queue.messages.iter_from(from).take(messages).map(|(seq, _)| seq).collect()
    }

    fn look_up(&self, queue: u64, from: u64, messages: usize, octets: u64) -> Vec<(u64, Position)> {
        let pen = self.pen.lock();
        let Some(queue) = pen.live.queue(queue) else { return Vec::new() };
        let mut sum = 0;
        let entries = queue.messages.iter_from(from).filter_map(|(seq, word)| Some((seq, Entry::from_number(word)?)));
        let within = entries.take(messages).take_while(|(_, entry)| {
            let before = sum;
            sum += entry.size();
            before < octets
        });
        within.map(|(seq, entry)| (seq, entry.position())).collect()
    }

    fn message(
        &self,
        queue: u64,
        seq: u64,
        mut position: Position,
        window: u64,
        reader: &mut Reader,
        visit: &mut dyn FnMut(u64, Publish<'_>),
    ) -> Result<(), StoreError> {
        let mut show = |content: Content<'_>| match content {
            // The crc says that it is a record of this segment, not that it is the one that was written here.
            Content::Operation(Operation::Publish(publish))
                if publish.targets.iter().any(|target| (target.queue, target.seq) == (queue, seq)) =>
            {
                visit(seq, publish);
                Some(())
            }
            _ => None,
        };
        for _ in 0..TRIES {
            let is_fresh = reader.scan.is_none();
            if self.record(position, window, reader, &mut show)?.is_some() {
                return Ok(());
            }
            // What was read ahead may be older than the record.
            reader.scan = None;
            let now = self.pen.lock().live.find(queue, seq);
            match now {
                None => return Ok(()),
                Some(now) if now == position && is_fresh => break,
                Some(now) => position = now,
            }
        }
        Err(damaged(position.segment(), position.offset()))
    }

    /// The value of a definition.
    ///
    /// # Errors
    /// If what was written cannot be read back.
    pub fn read_definition(&self, key: &[u8]) -> Result<Option<Box<[u8]>>, StoreError> {
        let mut value = |content: Content<'_>| match content {
            Content::Operation(Operation::Define { value, .. }) => Some(Box::from(value)),
            _ => None,
        };
        let mut position = Position::ZERO;
        for _ in 0..TRIES {
            let now = self.pen.lock().live.find_definition(key);
            match now {
                None => return Ok(None),
                Some(now) if now == position => break,
                Some(now) => position = now,
            }
            if let Some(value) = self.record(position, READ_ONE, &mut Reader::default(), &mut value)? {
                return Ok(Some(value));
            }
        }
        Err(damaged(position.segment(), position.offset()))
    }

    /// What `take` makes of the record at a position; nothing if there is none, or not that one.
    fn record<T>(
        &self,
        position: Position,
        window: u64,
        reader: &mut Reader,
        take: &mut dyn FnMut(Content<'_>) -> Option<T>,
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
            Found::Record { offset, record, .. } => Ok(take(content(&record, number, offset)?)),
            Found::Nothing(..) | Found::End => Ok(None),
        }
    }
}

/// Whether `next` is read with what stands between.
fn is_near(one: Position, next: Position) -> bool {
    let gap = next.offset().checked_sub(one.offset()).filter(|_| next.segment() == one.segment());
    gap.is_some_and(|gap| gap <= READ_GAP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{Disk, DiskFile};
    use crate::store::journal::{Options, Step, Sync};
    use crate::store::list::{List, Target};
    use crate::store::recovery::recover;
    use crate::store::simulated::SimulatedDisk;
    use std::io;
    use std::sync::{Arc, Mutex};

    type Then = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

    /// A disk on which something happens right after a read.
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
        let options = Options { segment_octets: 64 * 1024, sync: Sync::Group, full_at: 1 << 20, seed: 3 };
        let (journal, _) = recover(Arc::new(disk), options, &mut |_| {}).unwrap();
        let journal = Arc::new(journal);
        let publish = |seq: u64| {
            let targets = [Target::new(1, seq)];
            let targets = List::Given(&targets);
            let message =
                Publish { at_ms: 0, flags: 0, targets, route: b"r", properties: b"p", body: &[seq as u8; 100] };
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
