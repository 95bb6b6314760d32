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
/// Octets read from the disk at a time when the next messages stand behind it.
const READ_AHEAD: u64 = 256 * 1024;
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

impl Journal {
    /// The messages of a queue from number `from` on, in order: at most `messages` of them, and none more once they have
    /// `octets` together. One that is settled meanwhile may be missing.
    ///
    /// # Errors
    /// If what was written cannot be read back.
    pub fn read_run(&self, queue: u64, from: u64, messages: usize, octets: u64) -> Result<Vec<Stored>, StoreError> {
        let wanted = self.look_up(queue, from, messages, octets);
        let mut found = Vec::with_capacity(wanted.len());
        let mut scan: Option<(u64, Scan)> = None;
        for (at, &(seq, position)) in wanted.iter().enumerate() {
            let behind = wanted.get(at + 1..).unwrap_or_default();
            let ahead = |next: &&(u64, Position)| {
                next.1.segment() == position.segment() && next.1.offset().wrapping_sub(position.offset()) < READ_AHEAD
            };
            let window = if behind.iter().take(1).any(|next| ahead(&next)) { READ_AHEAD } else { READ_ONE };
            found.extend(self.message(queue, seq, position, window, &mut scan)?);
        }
        Ok(found)
    }

    /// As [`Journal::read_run`].
    ///
    /// # Errors
    /// As [`Journal::read_run`].
    pub fn visit_run(
        &self,
        queue: u64,
        from: u64,
        messages: usize,
        octets: u64,
        visit: &mut dyn FnMut(u64, Publish<'_>),
    ) -> Result<(), StoreError> {
        for stored in self.read_run(queue, from, messages, octets)? {
            let targets = crate::store::list::List::Given(&[]);
            let (head, body) = stored.octets.split_at(stored.body_at as usize);
            let (route, properties) = head.split_at(stored.properties_at as usize);
            let (at_ms, flags) = (stored.at_ms, stored.flags);
            visit(stored.seq, Publish { at_ms, flags, targets, route, properties, body });
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
        scan: &mut Option<(u64, Scan)>,
    ) -> Result<Option<Stored>, StoreError> {
        let stored = |content: Content<'_>| match content {
            Content::Operation(Operation::Publish(publish)) => Some(Stored::new(seq, &publish)),
            _ => None,
        };
        for _ in 0..TRIES {
            if let Some(found) = self.record(position, window, scan, stored)? {
                return Ok(Some(found));
            }
            let now = self.pen.lock().live.find(queue, seq);
            match now {
                None => return Ok(None),
                Some(now) if now == position => break,
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
        let value = |content: Content<'_>| match content {
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
            if let Some(value) = self.record(position, READ_ONE, &mut None, value)? {
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
        scan: &mut Option<(u64, Scan)>,
        take: impl Fn(Content<'_>) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let unwritten = self.unwritten(position, |octets, salt| {
            let record = read(octets, salt).ok().and_then(|(record, _)| record.content().ok());
            record.and_then(&take)
        });
        if let Some(found) = unwritten {
            return Ok(found);
        }
        let (number, offset) = (position.segment(), position.offset());
        if scan.as_ref().is_none_or(|(open, _)| *open != number) {
            let Some(segment) = self.segments.read().get(&number).cloned() else { return Ok(None) };
            *scan = Some((number, segment.scan(u64::MAX)));
        }
        let Some((_, scan)) = scan else { return Ok(None) };
        scan.skip_to(offset);
        scan.set_window(window);
        match next(scan, number)? {
            Found::Record { offset, record, .. } => Ok(take(content(&record, number, offset)?)),
            Found::Nothing(..) | Found::End => Ok(None),
        }
    }
}
