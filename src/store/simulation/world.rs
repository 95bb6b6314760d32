//! What a store should hold: the model beside the simulation. It knows changes, not octets on a disk.

use std::collections::BTreeMap;

use crate::store::list::{List, Run, Target};
use crate::store::position::Position;
use crate::store::record::{Operation, Publish};
use crate::store::recovery::Recovered;

/// A change with its octets.
#[derive(Clone, Debug)]
pub enum Change {
    Publish { targets: Vec<Target>, body: Vec<u8> },
    Settle { queue: u64, runs: Vec<Run> },
    Purge { queue: u64, below: u64 },
    QueueGone { queue: u64 },
    HandedOut { queue: u64, upto: u64 },
    Define { key: Vec<u8>, value: Vec<u8> },
    Undefine { key: Vec<u8> },
    Batch(Vec<Self>),
}

impl Change {
    /// None for a batch.
    pub fn operation(&self) -> Option<Operation<'_>> {
        Some(match self {
            Self::Publish { targets, body } => Operation::Publish(Publish {
                at_ms: body.len() as u64,
                flags: 7,
                targets: List::Given(targets),
                route: b"\x01x\x01k",
                properties: b"\0\0",
                body,
            }),
            Self::Settle { queue, runs } => Operation::Settle { queue: *queue, runs: List::Given(runs) },
            Self::Purge { queue, below } => Operation::Purge { queue: *queue, below: *below },
            Self::QueueGone { queue } => Operation::QueueGone { queue: *queue },
            Self::HandedOut { queue, upto } => Operation::HandedOut { queue: *queue, upto: *upto },
            Self::Define { key, value } => Operation::Define { key, value },
            Self::Undefine { key } => Operation::Undefine { key },
            Self::Batch(_) => return None,
        })
    }
}

/// What is live.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub queues: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    pub handed_out: BTreeMap<u64, u64>,
    pub definitions: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What of it can be seen: per queue each message with its redelivered mark, and the definitions.
pub type View = (BTreeMap<u64, BTreeMap<u64, (Vec<u8>, bool)>>, BTreeMap<Vec<u8>, Vec<u8>>);

impl State {
    pub fn apply(&mut self, change: &Change, with_transient: bool) {
        match change {
            Change::Publish { targets, body } => {
                for target in targets.iter().filter(|target| with_transient || !target.transient) {
                    self.queues.entry(target.queue).or_default().insert(target.seq, body.clone());
                }
            }
            Change::Settle { queue, runs } => {
                let settled = |seq: &u64| runs.iter().any(|run| (run.first..=run.last).contains(seq));
                self.queues.entry(*queue).or_default().retain(|seq, _| !settled(seq));
            }
            Change::Purge { queue, below } => self.queues.entry(*queue).or_default().retain(|seq, _| seq >= below),
            Change::QueueGone { queue } => {
                self.queues.remove(queue);
                self.handed_out.remove(queue);
            }
            Change::HandedOut { queue, upto } => {
                let mark = self.handed_out.entry(*queue).or_default();
                *mark = (*mark).max(*upto);
            }
            Change::Define { key, value } => {
                self.definitions.insert(key.clone(), value.clone());
            }
            Change::Undefine { key } => {
                self.definitions.remove(key);
            }
            Change::Batch(changes) => changes.iter().for_each(|change| self.apply(change, with_transient)),
        }
    }

    pub fn view(&self) -> View {
        let mut queues = BTreeMap::new();
        for (queue, messages) in self.queues.iter().filter(|(_, messages)| !messages.is_empty()) {
            let upto = self.handed_out.get(queue).copied().unwrap_or(0);
            let seen = messages.iter().map(|(seq, body)| (*seq, (body.clone(), *seq <= upto)));
            queues.insert(*queue, seen.collect());
        }
        (queues, self.definitions.clone())
    }
}

/// What is known to have been done, and what was done since then.
#[derive(Debug, Default)]
pub struct World {
    base: State,
    changes: Vec<(Position, Change)>,
    /// Everything, with what does not outlive the process.
    pub now: State,
    pub next_seq: BTreeMap<u64, u64>,
}

impl World {
    pub fn did(&mut self, position: Position, change: Change) {
        self.now.apply(&change, true);
        self.changes.push((position, change));
    }

    /// Whether what was recovered, with its bodies, is what was there after some change, at the earliest the last one that
    /// `safe` covers. If so it is the new truth.
    pub fn recovered(&mut self, safe: Position, recovered: &Recovered, state: State) -> Result<(), String> {
        let found = state.view();
        let mut expected = self.base.clone();
        let count = self.changes.iter().take_while(|(position, _)| *position <= safe).count();
        let mut at = 0;
        loop {
            if at >= count && expected.view() == found {
                break;
            }
            let Some((_, change)) = self.changes.get(at) else {
                let least = self.changes.iter().take(count).fold(self.base.clone(), |mut state, (_, change)| {
                    state.apply(change, false);
                    state
                });
                return Err(format!(
                    "{count} of {} changes are safe\nfound {found:?}\nleast {:?}\n most {:?}\n{:?}",
                    self.changes.len(),
                    least.view(),
                    expected.view(),
                    recovered.report
                ));
            };
            expected.apply(change, false);
            at += 1;
        }
        self.changes.clear();
        self.next_seq = recovered.queues.iter().map(|queue| (queue.queue, queue.next_seq.max(1))).collect();
        for (queue, messages) in &state.queues {
            let last = messages.keys().last().copied().unwrap_or(0);
            if self.next_seq.get(queue).is_none_or(|next| *next <= last) {
                return Err(format!("queue {queue} has message {last} and goes on with {:?}", self.next_seq));
            }
        }
        self.base = state.clone();
        self.now = state;
        Ok(())
    }
}
