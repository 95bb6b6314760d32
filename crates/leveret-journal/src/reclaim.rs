//! Reclaiming space. The journal is a ring of segments: the oldest is given up first, always, after
//! its live records were copied to the end of the journal.
//!
//! ```text
//!   Idle      the oldest segments have nothing live                -> mark "not needed below n"
//!                                                                     -> Freeing
//!             used > about 2 x live + one segment, or soon will be -> Copying the oldest
//!   Copying   its live records are appended again, in pieces       -> mark -> Freeing
//!   Salvaging the same, one by one: few are live anywhere, or it
//!             cannot be read in order                              -> mark -> Freeing
//!   Freeing   when the mark is synced: rename to spares or remove, sync names  -> Idle
//! ```
//!
//! Hazards, and what prevents them:
//!
//! * A segment is freed before the copies are safe: the mark stands behind all copies, and the
//!   files stay until the mark is synced.
//! * A segment is freed before the settlements of its messages are safe: they stand before the mark
//!   as well. So a transaction that settles and publishes is never lost by half.
//! * A message is settled while it is copied: both happen under the appender's lock. Either it is
//!   found settled, and not copied; or the settlement stands behind the copy.
//! * A settlement is lost with its segment while an older segment still has the message: the older
//!   one was given up before. A crash may bring back the names of any of the freed files: the mark
//!   says that they do not count.
//! * Definitions are copied as messages are, not written at the head of each segment: a hundred
//!   thousand bindings are a third of a segment.
//!
//! The ring costs writes: a long backlog that nobody reads is copied once each time that as much
//! else has passed by. In exchange, no record is needed of which settlements still matter.

use crate::encode::{Encoder, TooLarge};
use crate::error::{Failure, is_shortage};
use crate::index::Index;
use crate::journal::{Journal, Refused, Sync};
use crate::layout::{content, next};

use crate::position::Position;
use crate::record::{HEAD_SIZE, Operation, RecordContent, records};
use crate::recovery::SPARES_MAX;
use crate::salvage::Salvage;
use crate::segment::{Scan, ScanItem, Segment, name, spare_name};

/// Octets copied in one step.
const STEP: u64 = 256 * 1024;
/// Holds of the appender's lock in one step, each to uncharge up to 128 messages.
const FREE_STEPS: usize = 64;

/// The state of reclaiming, between steps.
#[derive(Default)]
pub struct Reclaim(ReclaimState);

#[derive(Default)]
enum ReclaimState {
    #[default]
    Idle,
    Copying(Box<(Segment, Scan)>),
    /// Few records are live, or the segment cannot be read to its end.
    Salvaging(Box<Salvage>),
    Freeing {
        below: u64,
        after: Index,
    },
}

/// The sizes, in octets, that decide whether to copy a segment.
///
/// All files together take at most twice the live octets and two segments. A new segment takes the
/// spare; another may be begun before the oldest is copied and given up. So both have to fit.
#[derive(Clone, Copy, Debug)]
struct Space {
    /// Of all segments without spares.
    used: u64,
    live: u64,
    /// Left in the last segment.
    room: u64,
    /// Live in the oldest segment.
    oldest: u64,
    /// Of one segment.
    segment: u64,
}

impl Space {
    /// Returns true if the oldest segment is to be copied.
    fn is_short(&self) -> bool {
        // A sixteenth below the bound, for messages settled until the next look.
        let most = 2 * self.live - self.live / 16 + self.segment - self.segment / 16;
        if self.used > most {
            return true;
        }
        // The next segment would be one too many, and is near. Copying has to be worth it: live
        // octets are underestimated by up to a ninth.
        let is_near = self.room <= 2 * self.oldest + self.segment / 4;
        let dead = self.used.saturating_sub(self.room + self.live);
        self.used + self.segment > most && is_near && dead >= self.segment / 2 + self.live / 8
    }

    /// Returns true if so little is live that to look for it in the live set costs less than to
    /// read the oldest segment: queues that are emptied, and their definitions.
    fn has_few_live(&self) -> bool {
        self.live <= self.segment / 8
    }
}

impl Journal {
    /// Returns the octets of all segments that are not given up, without spares.
    pub fn used(&self) -> u64 {
        self.segments.read().values().map(|segment| segment.header.capacity).sum()
    }

    /// Returns the octets of live records, approximately.
    pub fn live(&self) -> u64 {
        self.hold_appender().live.octets()
    }

    /// Does a step of the work; returns true if there may be more to do at once.
    ///
    /// # Errors
    /// The journal has failed. A file that cannot be read, renamed or removed fails it.
    pub fn reclaim(&self, work: &mut Reclaim) -> Result<bool, Failure> {
        if let Some(failure) = self.failure() {
            return Err(failure.clone());
        }
        let mut frees_more = true;
        for _ in 0..FREE_STEPS {
            frees_more = self.hold_appender().live.free_some();
            if !frees_more {
                break;
            }
        }
        let result = match std::mem::take(&mut work.0) {
            ReclaimState::Idle => self.choose(),
            ReclaimState::Copying(copying) => self.copy_piece(copying),
            ReclaimState::Salvaging(salvage) => self.salvage_piece(salvage),
            ReclaimState::Freeing { below, after } if self.synced() >= after => self.free_below(below),
            ReclaimState::Freeing { below, after } => {
                if self.options.sync != Sync::Group {
                    self.signal.notify(|reasons| reasons.sync = true);
                }
                Ok((ReclaimState::Freeing { below, after }, false))
            }
        };
        match result {
            Ok((state, more)) => {
                work.0 = state;
                Ok(more || frees_more)
            }
            Err(failure) => {
                self.poison(failure.clone());
                Err(failure)
            }
        }
    }

    fn choose(&self) -> Result<(ReclaimState, bool), Failure> {
        let (used, last) = {
            let segments = self.segments.read();
            let used: u64 = segments.values().map(|segment| segment.header.capacity).sum();
            (used, segments.last_key_value().map_or(0, |(number, _)| *number))
        };
        let segment_octets = self.options.segment_octets;
        let moves = self.moves.lock();
        let appender = self.hold_appender();
        let (current, oldest, live) = (appender.segment(), appender.live.oldest(), appender.live.octets());
        let below = (oldest..current).find(|segment| appender.live.octets_in(*segment) > 0).unwrap_or(current);
        let space = Space {
            used: used + current.saturating_sub(last) * segment_octets,
            live,
            room: appender.room(),
            oldest: appender.live.octets_in(oldest),
            segment: segment_octets,
        };
        drop(appender);
        if below > oldest {
            return self.give_up(below);
        }
        drop(moves);
        // Until a later segment is begun on the disk, the end of this one may not be written.
        if oldest < last && space.is_short() {
            let segment = self.segments.read().get(&oldest).cloned();
            let Some(segment) = segment else { return Ok((ReclaimState::Idle, false)) };
            if space.has_few_live() {
                return Ok((ReclaimState::Salvaging(Box::new(self.salvage(oldest))), true));
            }
            let scan = segment.scan(u64::MAX);
            return Ok((ReclaimState::Copying(Box::new((segment, scan))), true));
        }
        self.make_spare()?;
        Ok((ReclaimState::Idle, false))
    }

    /// Appends a mark that segments before `below` are not needed.
    fn give_up(&self, below: u64) -> Result<(ReclaimState, bool), Failure> {
        let mark = self.with_appender(|appender| appender.append_mark(below).map_err(|_| Refused::TooLarge));
        let after = mark.map_err(Failure::of("cannot append a mark that segments are not needed"))?;
        Ok((ReclaimState::Freeing { below, after }, true))
    }

    fn copy_piece(&self, mut copying: Box<(Segment, Scan)>) -> Result<(ReclaimState, bool), Failure> {
        if self.is_full() {
            return Ok((ReclaimState::Copying(copying), false));
        }
        let (segment, scan) = &mut *copying;
        let (number, salt) = (segment.header.number, segment.header.salt);
        let mut copied = 0;
        while copied < STEP {
            let (offset, record, size) = match next(scan, number) {
                Ok(ScanItem::Record { offset, record, size }) => (offset, record, size),
                // Old octets begin where the records of a closed segment end. The live set tells
                // whether that is here.
                Ok(ScanItem::End | ScanItem::Nothing(..)) | Err(_) => return self.finish(number),
            };
            copied += size;
            let Ok(content) = content(&record, number, offset) else { return self.finish(number) };
            self.copy(content, Position::new(number, offset), salt)
                .map_err(Failure::of(format_args!("cannot copy a record of segment {number}")))?;
        }
        Ok((ReclaimState::Copying(copying), true))
    }

    /// Gives up a segment that was copied as far as it can be read in order; if there are live
    /// records behind, they are read one by one.
    fn finish(&self, number: u64) -> Result<(ReclaimState, bool), Failure> {
        match self.give_up_empty(number)? {
            Some(state) => Ok((state, true)),
            None => Ok((ReclaimState::Salvaging(Box::new(self.salvage(number))), true)),
        }
    }

    fn salvage_piece(&self, mut salvage: Box<Salvage>) -> Result<(ReclaimState, bool), Failure> {
        if self.salvage_some(&mut salvage)? {
            return Ok((ReclaimState::Salvaging(salvage), !self.is_full()));
        }
        let state = self.give_up_empty(salvage.number)?;
        let state = state.ok_or_else(|| Failure {
            reason: format!("{} has live records that nobody knows", name(salvage.number)),
        })?;
        Ok((state, true))
    }

    /// Gives up a segment if nothing in it is live.
    fn give_up_empty(&self, number: u64) -> Result<Option<ReclaimState>, Failure> {
        let _moves = self.moves.lock();
        loop {
            let mut appender = self.hold_appender();
            if appender.live.octets_in(number) == 0 {
                break;
            }
            if !appender.live.free_some() {
                return Ok(None);
            }
        }
        self.give_up(number + 1).map(|(state, _)| Some(state))
    }

    fn copy(&self, content: RecordContent<'_>, position: Position, salt: u64) -> Result<(), Refused> {
        let _moves = self.moves.lock();
        match content {
            RecordContent::Operation(operation) => self.copy_operation(&operation, position),
            RecordContent::Batch(inside) => {
                for (at, record, _) in records(inside, salt) {
                    let offset = position.offset() + HEAD_SIZE as u64 + at;
                    if let Ok(RecordContent::Operation(operation)) =
                        record.map_or(Ok(RecordContent::Gap), |r| r.content())
                    {
                        self.copy_operation(&operation, Position::new(position.segment(), offset))?;
                    }
                }
                Ok(())
            }
            RecordContent::Mark(_) | RecordContent::Gap => Ok(()),
        }
    }

    fn copy_operation(&self, operation: &Operation<'_>, position: Position) -> Result<(), Refused> {
        match *operation {
            Operation::Publish(publish) => self.copy_message(&publish, position),
            Operation::Define { key, .. } => {
                let mut encoder = Encoder::default();
                encoder.prepare(operation).map_err(|TooLarge| Refused::TooLarge)?;
                self.with_appender(|appender| {
                    if appender.live.find_definition(key) == Some(position) {
                        appender.append(operation, &encoder, 0).map_err(|TooLarge| Refused::TooLarge)?;
                    }
                    Ok(())
                })
            }
            _ => Ok(()),
        }
    }

    fn free_below(&self, below: u64) -> Result<(ReclaimState, bool), Failure> {
        let freed: Vec<Segment> = {
            let mut segments = self.segments.write();
            let kept = segments.split_off(&below);
            std::mem::replace(&mut *segments, kept).into_values().collect()
        };
        let mut ready = Vec::new();
        for segment in freed {
            let name = name(segment.header.number);
            let mut spare_files = self.spare_files.lock();
            let is_kept = spare_files.ready.len() + ready.len() < SPARES_MAX
                && segment.header.capacity == self.options.segment_octets;
            let result = if is_kept {
                spare_files.next += 1;
                ready.push(spare_files.next);
                self.disk.rename(&name, &spare_name(spare_files.next))
            } else {
                self.disk.remove(&name)
            };
            result.map_err(Failure::of(format_args!("cannot free {name}")))?;
        }
        // The mark would tell them apart, but a name must never refer to another segment's
        // contents.
        self.disk.sync_directory().map_err(Failure::of("cannot sync the directory"))?;
        self.spare_files.lock().ready.extend(ready);
        Ok((ReclaimState::Idle, true))
    }

    /// Prepares a file for the next segment, so that acks are still accepted when the disk fills
    /// up.
    fn make_spare(&self) -> Result<(), Failure> {
        let number = {
            let mut spare_files = self.spare_files.lock();
            if spare_files.ready.len() >= SPARES_MAX {
                return Ok(());
            }
            spare_files.next += 1;
            spare_files.next
        };
        let name = spare_name(number);
        let made = self.disk.create(&name).and_then(|file| file.allocate(self.options.segment_octets));
        match made {
            Ok(()) => self.spare_files.lock().ready.push(number),
            Err(error) if is_shortage(&error) => {
                // No spare is better than a partly allocated one.
                let _ = self.disk.remove(&name);
            }
            Err(error) => return Err(Failure::of(format_args!("cannot make {name}"))(error)),
        }
        Ok(())
    }
}
