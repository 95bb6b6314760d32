//! Gives space back. The journal is a ring of segments: the oldest goes first, always. What is still live in it is copied to the
//! end of the journal before. Knows no queue but by its number.
//!
//! ```text
//!   Idle      the oldest segments have nothing live                            -> mark "not needed below n" -> Freeing
//!             used > about 2 x live + one segment, or soon will be             -> Copying the oldest
//!   Copying   each live record of it is appended again, a piece at a time      -> mark                      -> Freeing
//!   Freeing   when the mark is synced: rename to spares or remove, sync names  -> Idle
//! ```
//!
//! What could go wrong, and why it does not:
//!
//! * Freed before its copy is safe: the mark stands behind all copies, and the files stay until the mark is synced.
//! * Freed before what took its messages away is safe: the same, the settlements stand before the mark. A transaction that
//!   settles and publishes is so never lost by half.
//! * A settlement that comes while its message is copied: both happen under the pen's lock. Either it is found before, and the
//!   copy is not made; or it stands behind the copy.
//! * A settlement that is lost with its segment while an older one still has the message: the older one went first. A crash
//!   may bring back the names of files that were freed in any choice: the mark says that they do not count.
//! * The definitions are copied as messages are, not written out at the head of each segment: a hundred thousand bindings
//!   are as large as a third of a segment.
//!
//! The ring costs writes: a long backlog that nobody reads is copied once for each time that so much else has passed by it. In
//! exchange nothing has to be known about which settlements still matter.

use std::io;

use crate::store::error::Failure;
use crate::store::journal::{Journal, Refused, Sync};
use crate::store::layout::{content, damaged, next};
use crate::store::list::{List, Target};
use crate::store::position::Position;
use crate::store::record::{Content, Encoded, HEAD_SIZE, Operation, Publish, records};
use crate::store::recovery::SPARES_MAX;
use crate::store::segment::{Found, Scan, Segment, name, spare_name};

/// Octets copied in one step.
const STEP: u64 = 256 * 1024;
/// Chunks of 128 messages uncharged in one step.
const SWEEP: usize = 64;

/// Where the work stands.
#[derive(Default)]
pub struct Reclaim(State);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Copying(Box<(Segment, Scan)>),
    Freeing {
        below: u64,
        after: Position,
    },
}

/// What there is, in octets, when it is decided whether to copy.
///
/// Promised is that all files together take at most twice what is live and two segments. A segment that is begun takes the
/// spare; another one may be begun before the copies of the oldest are made and it is given up. So both have to fit.
#[derive(Clone, Copy, Debug)]
struct Space {
    /// Segments, spares not counted.
    used: u64,
    live: u64,
    /// Left in the last segment.
    room: u64,
    /// Live in the oldest segment.
    oldest: u64,
    /// Of a segment.
    segment: u64,
}

impl Space {
    /// Whether the oldest segment is to be copied.
    fn is_short(&self) -> bool {
        // A sixteenth less than promised, for what is settled until the next look.
        let most = 2 * self.live - self.live / 16 + self.segment - self.segment / 16;
        if self.used > most {
            return true;
        }
        // The next segment will be one too many, and is near. It has to be worth it: what is live counts a ninth less than it is.
        let is_near = self.room <= 2 * self.oldest + self.segment / 4;
        let dead = self.used.saturating_sub(self.room + self.live);
        self.used + self.segment > most && is_near && dead >= self.segment / 2 + self.live / 8
    }
}

impl Journal {
    /// Octets of all segments that are not given up, spares not counted.
    pub fn used(&self) -> u64 {
        self.segments.read().values().map(|segment| segment.header.capacity).sum()
    }

    /// Octets that live records take, about.
    pub fn live(&self) -> u64 {
        self.pen.lock().live.octets()
    }

    /// Does a piece of the work; whether there may be more to do at once.
    ///
    /// # Errors
    /// If the journal has failed. A file that cannot be read, renamed or removed fails it.
    pub fn reclaim(&self, work: &mut Reclaim) -> Result<bool, Failure> {
        if let Some(failure) = self.failure() {
            return Err(failure.clone());
        }
        for _ in 0..SWEEP {
            let more = self.pen.lock().live.sweep();
            if !more {
                break;
            }
        }
        let result = match std::mem::take(&mut work.0) {
            State::Idle => self.choose(),
            State::Copying(copying) => self.copy_piece(copying),
            State::Freeing { below, after } if self.synced() >= after => self.free_below(below),
            State::Freeing { below, after } => {
                if self.options.sync != Sync::Group {
                    self.request_sync();
                }
                Ok((State::Freeing { below, after }, false))
            }
        };
        match result {
            Ok((state, more)) => {
                work.0 = state;
                Ok(more)
            }
            Err(reason) => {
                let failure = Failure { reason };
                self.poison(failure.clone());
                Err(failure)
            }
        }
    }

    fn choose(&self) -> Result<(State, bool), String> {
        let (used, last) = {
            let segments = self.segments.read();
            let used: u64 = segments.values().map(|segment| segment.header.capacity).sum();
            (used, segments.last_key_value().map_or(0, |(number, _)| *number))
        };
        let segment_octets = self.options.segment_octets;
        let pen = self.pen.lock();
        let (current, oldest, live) = (pen.segment(), pen.live.oldest(), pen.live.octets());
        let below = (oldest..current).find(|segment| pen.live.octets_in(*segment) > 0).unwrap_or(current);
        let space = Space {
            used: used + current.saturating_sub(last) * segment_octets,
            live,
            room: pen.room(),
            oldest: pen.live.octets_in(oldest),
            segment: segment_octets,
        };
        drop(pen);
        if below > oldest {
            return self.give_up(below);
        }
        // While no later segment is begun on the disk, the end of this one may not be written yet.
        if oldest < last && space.is_short() {
            let segment = self.segments.read().get(&oldest).cloned();
            let Some(segment) = segment else { return Ok((State::Idle, false)) };
            let scan = segment.scan(u64::MAX);
            return Ok((State::Copying(Box::new((segment, scan))), true));
        }
        self.make_spare()?;
        Ok((State::Idle, false))
    }

    /// Says that segments before `below` are not needed.
    fn give_up(&self, below: u64) -> Result<(State, bool), String> {
        let mark = self.with_pen(|pen| pen.append_mark(below).map_err(|_| Refused::TooLarge));
        let after = mark.map_err(|refused| format!("cannot give segments up: {refused:?}"))?;
        Ok((State::Freeing { below, after }, true))
    }

    fn copy_piece(&self, mut copying: Box<(Segment, Scan)>) -> Result<(State, bool), String> {
        if self.is_full() {
            return Ok((State::Copying(copying), false));
        }
        let (segment, scan) = &mut *copying;
        let (number, salt) = (segment.header.number, segment.header.salt);
        let mut copied = 0;
        while copied < STEP {
            let (offset, record, size) = match next(scan, number).map_err(|error| error.to_string())? {
                Found::Record { offset, record, size } => (offset, record, size),
                // Where the records of a closed segment end, old octets begin. Whether that is here, the tally tells.
                Found::End => return self.finish(number, scan.offset()),
                Found::Nothing(offset, _) => return self.finish(number, offset),
            };
            copied += size;
            let content = content(&record, number, offset).map_err(|error| error.to_string())?;
            self.copy(content, Position::new(number, offset), salt).map_err(|refused| format!("{refused:?}"))?;
        }
        Ok((State::Copying(copying), true))
    }

    /// Gives a segment up that was copied up to `end`.
    fn finish(&self, number: u64, end: u64) -> Result<(State, bool), String> {
        loop {
            let mut pen = self.pen.lock();
            if pen.live.octets_in(number) == 0 {
                break;
            }
            if !pen.live.sweep() {
                // Something is live behind what can be read.
                return Err(damaged(number, end).to_string());
            }
        }
        self.give_up(number + 1)
    }

    fn copy(&self, content: Content<'_>, position: Position, salt: u64) -> Result<(), Refused> {
        match content {
            Content::Operation(operation) => self.copy_operation(&operation, position),
            Content::Batch(inside) => {
                for (at, record, _) in records(inside, salt) {
                    let offset = position.offset() + HEAD_SIZE as u64 + at;
                    if let Ok(Content::Operation(operation)) = record.map_or(Ok(Content::Gap), |r| r.content()) {
                        self.copy_operation(&operation, Position::new(position.segment(), offset))?;
                    }
                }
                Ok(())
            }
            Content::Mark(_) | Content::Gap => Ok(()),
        }
    }

    fn copy_operation(&self, operation: &Operation<'_>, position: Position) -> Result<(), Refused> {
        match *operation {
            Operation::Publish(publish) => self.copy_message(&publish, position),
            Operation::Define { key, .. } => {
                let mut encoded = Encoded::operation(operation);
                self.with_pen(|pen| {
                    if pen.live.find_definition(key) == Some(position) {
                        pen.append(operation, &mut encoded).map_err(|_| Refused::TooLarge)?;
                    }
                    Ok(())
                })
            }
            _ => Ok(()),
        }
    }

    fn copy_message(&self, publish: &Publish<'_>, position: Position) -> Result<(), Refused> {
        loop {
            let targets = self.pen.lock().live.remaining(position, publish.targets.iter());
            if targets.is_empty() || self.copy_to(&targets, publish, position)? {
                return Ok(());
            }
        }
    }

    /// Copies a message to those places, unless others are left meanwhile; whether it did.
    fn copy_to(&self, targets: &[Target], publish: &Publish<'_>, position: Position) -> Result<bool, Refused> {
        let operation = Operation::Publish(Publish { targets: List::Given(targets), ..*publish });
        // Its crc is reckoned without the lock.
        let mut encoded = Encoded::operation(&operation);
        self.with_pen(|pen| {
            if pen.live.remaining(position, publish.targets.iter()) != targets {
                return Ok(false);
            }
            pen.append(&operation, &mut encoded).map_err(|_| Refused::TooLarge)?;
            Ok(true)
        })
    }

    fn free_below(&self, below: u64) -> Result<(State, bool), String> {
        let freed: Vec<Segment> = {
            let mut segments = self.segments.write();
            let kept = segments.split_off(&below);
            std::mem::replace(&mut *segments, kept).into_values().collect()
        };
        let mut ready = Vec::new();
        for segment in freed {
            let name = name(segment.header.number);
            let mut spares = self.spares.lock();
            let is_kept =
                spares.ready.len() + ready.len() < SPARES_MAX && segment.header.capacity == self.options.segment_octets;
            let result = if is_kept {
                spares.next += 1;
                ready.push(spares.next);
                self.disk.rename(&name, &spare_name(spares.next))
            } else {
                self.disk.remove(&name)
            };
            result.map_err(|error| format!("cannot give {name} up: {error}"))?;
        }
        // The mark would tell them apart, but no name is to hold another segment than it says.
        self.disk.sync_directory().map_err(|error| format!("cannot sync the directory: {error}"))?;
        self.spares.lock().ready.extend(ready);
        Ok((State::Idle, true))
    }

    /// Has a file ready for the next segment, so that a disk that fills up still takes acks.
    fn make_spare(&self) -> Result<(), String> {
        let number = {
            let mut spares = self.spares.lock();
            if spares.ready.len() >= SPARES_MAX {
                return Ok(());
            }
            spares.next += 1;
            spares.next
        };
        let name = spare_name(number);
        let made = self.disk.create(&name).and_then(|file| file.allocate(self.options.segment_octets));
        match made {
            Ok(()) => self.spares.lock().ready.push(number),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // Better no spare than half of one.
                let _ = self.disk.remove(&name);
            }
            Err(error) => return Err(format!("cannot make {name}: {error}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::journal::Options;
    use crate::store::list::Run;
    use crate::store::recovery::recover;
    use crate::store::simulated::SimulatedDisk;

    #[test]
    fn what_is_settled_while_it_is_copied_is_not_copied() {
        let options = Options { segment_octets: 4096, sync: Sync::Group, full_at: 1 << 20, seed: 1 };
        let disk = Arc::new(SimulatedDisk::new(1, 1 << 20));
        let (journal, _) = recover(disk, options, &mut |_| {}).unwrap();
        let targets = [Target::new(1, 1), Target::new(2, 1)];
        let targets = List::Given(&targets);
        let publish = Publish { at_ms: 0, flags: 0, targets, route: b"", properties: b"", body: b"" };
        let position = journal.append(&Operation::Publish(publish)).unwrap();
        let found = journal.pen.lock().live.remaining(position, targets.iter());
        assert_eq!(found.len(), 2);
        let runs = [Run { first: 1, last: 1 }];
        journal.append(&Operation::Settle { queue: 1, runs: List::Given(&runs) }).unwrap();
        assert_eq!(journal.copy_to(&found, &publish, position), Ok(false));
        journal.append(&Operation::HandedOut { queue: 2, upto: 1 }).unwrap();
        let found = journal.pen.lock().live.remaining(position, targets.iter());
        assert_eq!(found, [Target { handed_out: true, ..Target::new(2, 1) }]);
        assert_eq!(journal.copy_to(&found, &publish, position), Ok(true));
        assert_ne!(journal.pen.lock().live.find(2, 1), Some(position));
        assert_eq!(journal.pen.lock().live.find(1, 1), None);
    }
}
