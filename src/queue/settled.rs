//! Messages that left a queue and that the journal still has, collected into runs of ids. Appends
//! nothing.

use leveret_journal::list::Run;

/// Where a message is stored besides memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Nowhere: its body has to stay in memory.
    Memory,
    /// In the journal, to save memory; not recovered after a restart.
    Spilled,
    /// In the journal until it is settled, across restarts.
    Durable,
}

/// Ids of settled messages that the journal has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettledRuns {
    /// Runs of durable messages, to be recorded as settled; ids in between may be long gone.
    pub durable: Vec<Run>,
    /// Runs of spilled messages: dropped from the journal's map without a record.
    pub spilled: Vec<Run>,
}

impl SettledRuns {
    /// Adds a message. Ascending ids give the longest runs.
    pub fn add(&mut self, id: u64, storage: Storage) {
        match storage {
            Storage::Memory => {}
            Storage::Spilled => extend(&mut self.spilled, id),
            Storage::Durable => extend(&mut self.durable, id),
        }
    }

    /// Returns true if there are no runs.
    pub fn is_empty(&self) -> bool {
        self.durable.is_empty() && self.spilled.is_empty()
    }

    /// Removes all runs, and keeps their memory for the next ones.
    pub fn clear(&mut self) {
        self.durable.clear();
        self.spilled.clear();
    }
}

fn extend(runs: &mut Vec<Run>, id: u64) {
    match runs.last_mut() {
        Some(run) if run.last + 1 == id => run.last = id,
        _ => runs.push(Run { first: id, last: id }),
    }
}
