//! Giving up a segment of which little is live, or that cannot be read to its end: its live
//! messages are read one by one and copied forward; a message that cannot be read is lost, and
//! settled. A definition is not given up: whoever has its value writes it again.

use std::vec::IntoIter;

use crate::damage::Damage;
use crate::encode::{Encoder, TooLarge};
use crate::error::Failure;
use crate::journal::{Journal, Refused};
use crate::list::{List, Run};
use crate::position::Position;
use crate::read::{READ_ONE, RecordReader};
use crate::record::Operation;
use crate::segment::name;

/// Messages looked at under one hold of the appender's lock.
const LOOKS_PER_HOLD: usize = 1024;
/// Messages copied in one step.
const STEP: usize = 1024;

/// A segment whose live messages are copied one by one.
pub(crate) struct Salvage {
    /// The segment's number.
    pub number: u64,
    /// Queue and number of each message.
    messages: IntoIter<(u64, u64)>,
    definitions: IntoIter<Box<[u8]>>,
    reader: RecordReader,
}

impl Journal {
    /// Returns the salvage of a segment: what is live in it now.
    pub(crate) fn salvage(&self, number: u64) -> Salvage {
        let queues: Vec<u64> = self.hold_appender().live.queues().into_iter().map(|(queue, _)| queue).collect();
        let mut messages = Vec::new();
        for queue in queues {
            let mut from = Some(0);
            while let Some(next) = from {
                from = self.add_messages_in(number, queue, next, &mut messages);
            }
        }
        let appender = self.hold_appender();
        let definitions = appender.live.definitions().filter(|(_, entry)| entry.position().segment() == number);
        let definitions: Vec<Box<[u8]>> = definitions.map(|(key, _)| Box::from(key)).collect();
        let (messages, definitions) = (messages.into_iter(), definitions.into_iter());
        Salvage { number, messages, definitions, reader: RecordReader::default() }
    }

    /// Adds messages that lie in a segment, of those of a queue from `from` on; returns from where
    /// the rest is to be looked at.
    fn add_messages_in(&self, segment: u64, queue: u64, from: u64, into: &mut Vec<(u64, u64)>) -> Option<u64> {
        let appender = self.hold_appender();
        let (mut looks, mut last) = (0, None);
        for (seq, entry) in appender.live.queue(queue)?.messages.iter_from(from).take(LOOKS_PER_HOLD) {
            (looks, last) = (looks + 1, Some(seq));
            if entry.position().segment() == segment {
                into.push((queue, seq));
            }
        }
        last.filter(|_| looks == LOOKS_PER_HOLD).map(|last| last + 1)
    }

    /// Copies some of a segment's messages and definitions; returns false if nothing is left of
    /// them.
    ///
    /// # Errors
    /// A definition cannot be read, or the journal has failed.
    pub(crate) fn salvage_some(&self, salvage: &mut Salvage) -> Result<bool, Failure> {
        for _ in 0..STEP {
            if self.is_full() {
                return Ok(true);
            }
            if let Some((queue, seq)) = salvage.messages.next() {
                self.salvage_message(salvage.number, queue, seq, &mut salvage.reader)
                    .map_err(Failure::of(format_args!("cannot copy a message of segment {}", salvage.number)))?;
            } else if let Some(key) = salvage.definitions.next() {
                self.salvage_definition(salvage.number, &key)?;
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn salvage_message(&self, segment: u64, queue: u64, seq: u64, reader: &mut RecordReader) -> Result<(), Refused> {
        let Some(entry) = self.hold_appender().live.entry(queue, seq) else { return Ok(()) };
        let position = entry.position();
        if position.segment() != segment {
            return Ok(());
        }
        let mut copied = Ok(());
        let read = self.message(queue, seq, position, READ_ONE, reader, &mut |_, publish| {
            let _moves = self.moves.lock();
            copied = self.copy_message(&publish, position);
        });
        copied?;
        let Err((position, _)) = read else { return Ok(()) };
        if self.settle_lost(queue, seq, position)? {
            let (file, offset, octets) = (name(position.segment()), position.offset(), entry.size());
            let what = "a message cannot be read back";
            self.damages.lost(queue, seq, &Damage { file, offset, octets, what });
        }
        Ok(())
    }

    /// Settles a message that cannot be read, if it is still at `position`; returns true if it was.
    fn settle_lost(&self, queue: u64, seq: u64, position: Position) -> Result<bool, Refused> {
        let runs = [Run { first: seq, last: seq }];
        let operation = Operation::Settle { queue, runs: List::Given(&runs) };
        let mut encoder = Encoder::default();
        encoder.prepare(&operation).map_err(|TooLarge| Refused::TooLarge)?;
        self.with_appender(|appender| {
            if appender.live.find(queue, seq) != Some(position) {
                return Ok(false);
            }
            appender.append(&operation, &encoder, 0).map_err(|TooLarge| Refused::TooLarge)?;
            Ok(true)
        })
    }

    fn salvage_definition(&self, segment: u64, key: &[u8]) -> Result<(), Failure> {
        let Some(position) = self.hold_appender().live.find_definition(key) else { return Ok(()) };
        if position.segment() != segment {
            return Ok(());
        }
        let value = self.read_definition(key).map_err(|error| Failure { reason: error.to_string() })?;
        let Some(value) = value else { return Ok(()) };
        let copied = self.define_again(key, &value, position);
        copied.map(drop).map_err(Failure::of(format_args!("cannot copy a definition of segment {segment}")))
    }

    /// Writes a definition again if its record cannot be read; returns true if that was so.
    /// `value` is what it was when the record was last read.
    ///
    /// # Errors
    /// The journal has failed.
    pub fn restore_definition(&self, key: &[u8], value: &[u8]) -> Result<bool, Refused> {
        let Some(position) = self.hold_appender().live.find_definition(key) else { return Ok(false) };
        match self.read_definition(key) {
            Ok(_) => Ok(false),
            Err(_) => self.define_again(key, value, position),
        }
    }

    /// Appends a definition if its record is still at `position`; returns true if it was.
    fn define_again(&self, key: &[u8], value: &[u8], position: Position) -> Result<bool, Refused> {
        let operation = Operation::Define { key, value };
        let mut encoder = Encoder::default();
        encoder.prepare(&operation).map_err(|TooLarge| Refused::TooLarge)?;
        let _moves = self.moves.lock();
        self.with_appender(|appender| {
            if appender.live.find_definition(key) != Some(position) {
                return Ok(false);
            }
            appender.append(&operation, &encoder, 0).map_err(|TooLarge| Refused::TooLarge)?;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests;
