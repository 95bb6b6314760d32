//! Positions of messages that are done with and that the journal has, gathered to runs. It knows no journal.

use crate::store::list::Run;

/// Where a message is kept beside the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nowhere.
    Nowhere,
    /// In the journal, until the process ends.
    ForNow,
    /// In the journal, for good.
    ForGood,
}

/// Messages that leave a queue.
#[derive(Debug, Default)]
pub struct Leaving {
    /// Those that the journal has for good, and whatever lies between.
    pub for_good: Vec<Run>,
    /// Those that it has until the process ends.
    pub for_now: Vec<Run>,
}

impl Leaving {
    /// One more. Runs are longest when positions rise.
    pub fn add(&mut self, seq: u64, kept: Kept) {
        match kept {
            Kept::Nowhere => {}
            Kept::ForNow => extend(&mut self.for_now, seq),
            Kept::ForGood => extend(&mut self.for_good, seq),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.for_good.is_empty() && self.for_now.is_empty()
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.for_good.clear();
        self.for_now.clear();
    }
}

fn extend(runs: &mut Vec<Run>, seq: u64) {
    match runs.last_mut() {
        Some(run) if run.last + 1 == seq => run.last = seq,
        _ => runs.push(Run { first: seq, last: seq }),
    }
}
