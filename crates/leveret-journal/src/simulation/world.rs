//! The model of the simulation: what a store should hold. It has changes, not octets on a disk.

use std::collections::BTreeMap;

use crate::index::Index;
use crate::list::{List, Run, Target};
use crate::record::{Operation, PublishRecord};
use crate::recovery::Recovered;

/// A change that owns its octets.
#[derive(Clone, Debug)]
pub enum Change {
    Publish { targets: Vec<Target>, body: Vec<u8> },
    Settle { queue: u64, runs: Vec<Run> },
    Purge { queue: u64, below: u64 },
    QueueGone { queue: u64 },
    Delivered { queue: u64, upto: u64 },
    Define { key: Vec<u8>, value: Vec<u8> },
    Undefine { key: Vec<u8> },
    Batch(Vec<Self>),
}

impl Change {
    /// Returns the change as an operation; none for a batch.
    pub fn operation(&self) -> Option<Operation<'_>> {
        Some(match self {
            Self::Publish { targets, body } => Operation::Publish(PublishRecord {
                at_ms: body.len() as u64,
                expires_at: body.len().is_multiple_of(3).then_some(body.len() as u64 + 9),
                flags: 7,
                targets: List::Given(targets),
                route: b"\x01x\x01k",
                properties: b"\0\0",
                body,
            }),
            Self::Settle { queue, runs } => Operation::Settle { queue: *queue, runs: List::Given(runs) },
            Self::Purge { queue, below } => Operation::Purge { queue: *queue, below: *below },
            Self::QueueGone { queue } => Operation::QueueGone { queue: *queue },
            Self::Delivered { queue, upto } => Operation::Delivered { queue: *queue, upto: *upto },
            Self::Define { key, value } => Operation::Define { key, value },
            Self::Undefine { key } => Operation::Undefine { key },
            Self::Batch(_) => return None,
        })
    }

    /// Calls `show` with each change of a batch, or with the change itself.
    fn each(&self, show: &mut dyn FnMut(&Self)) {
        match self {
            Self::Batch(changes) => changes.iter().for_each(|change| change.each(show)),
            change => show(change),
        }
    }

    /// Returns true if the change publishes that message.
    fn brings(&self, queue: u64, seq: u64) -> bool {
        matches!(self, Self::Publish { targets, .. } if targets.iter().any(|place| (place.queue, place.seq) == (queue, seq)))
    }

    /// Returns true if the change removes that message.
    fn takes(&self, queue: u64, seq: u64) -> bool {
        match self {
            Self::Settle { queue: of, runs } => {
                *of == queue && runs.iter().any(|run| (run.first..=run.last).contains(&seq))
            }
            Self::Purge { queue: of, below } => *of == queue && seq < *below,
            Self::QueueGone { queue: of } => *of == queue,
            _ => false,
        }
    }
}

/// The contents of a store.
#[derive(Clone, Debug, Default)]
pub struct StoreContents {
    pub queues: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    pub delivered_upto: BTreeMap<u64, u64>,
    pub definitions: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The visible contents: each queue's messages with their redelivered marks, and the definitions.
pub type View = (BTreeMap<u64, BTreeMap<u64, (Vec<u8>, bool)>>, BTreeMap<Vec<u8>, Vec<u8>>);

impl StoreContents {
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
                self.delivered_upto.remove(queue);
            }
            Change::Delivered { queue, upto } => {
                let mark = self.delivered_upto.entry(*queue).or_default();
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
            let upto = self.delivered_upto.get(queue).copied().unwrap_or(0);
            let seen = messages.iter().map(|(seq, body)| (*seq, (body.clone(), *seq <= upto)));
            queues.insert(*queue, seen.collect());
        }
        (queues, self.definitions.clone())
    }
}

/// The changes that are safe, and those made since.
#[derive(Debug, Default)]
pub struct World {
    base: StoreContents,
    changes: Vec<(Index, Change)>,
    /// The contents after all changes, with transient messages.
    pub now: StoreContents,
    pub next_seq: BTreeMap<u64, u64>,
}

impl World {
    pub fn did(&mut self, index: Index, change: Change) {
        self.now.apply(&change, true);
        self.changes.push((index, change));
    }

    /// Checks that the recovered contents are those after some change, at the earliest the last one
    /// that `safe` covers. They become the model's contents.
    pub fn recovered(&mut self, safe: Index, recovered: &Recovered, state: StoreContents) -> Result<(), String> {
        let found = state.view();
        let mut expected = self.base.clone();
        if recovered.report.gaps > 0 || recovered.report.torn.iter().any(|torn| torn.what == "no whole record") {
            self.holed(safe, &state)?;
            return self.go_on(recovered, state);
        }
        let count = self.changes.iter().take_while(|(index, _)| *index <= safe).count();
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
        self.go_on(recovered, state)
    }

    /// Checks contents recovered from a journal with holes behind the last synced octets: of unsafe
    /// changes any choice may be there, of a batch all or nothing.
    fn holed(&self, safe: Index, found: &StoreContents) -> Result<(), String> {
        let (safe, doubtful) = self.changes.split_at(self.changes.iter().take_while(|(at, _)| *at <= safe).count());
        let (mut least, mut all, mut values) = (self.base.clone(), self.base.clone(), Vec::new());
        safe.iter().for_each(|(_, change)| least.apply(change, false));
        for (_, change) in safe.iter().chain(doubtful) {
            change.each(&mut |change| {
                if matches!(change, Change::Publish { .. }) {
                    all.apply(change, false);
                }
            });
        }
        // A safe or a possible change removes a message that would be there.
        let taken = |queue: u64, seq: u64| {
            let mut taken = (false, false);
            for (is_safe, changes) in [(true, safe), (false, doubtful)] {
                let mut look = |change: &Change| {
                    if change.brings(queue, seq) {
                        taken = (false, false);
                    }
                    if change.takes(queue, seq) {
                        taken = (taken.0 || is_safe, taken.1 || !is_safe);
                    }
                };
                changes.iter().for_each(|(_, change)| change.each(&mut look));
            }
            taken
        };
        for (queue, messages) in &found.queues {
            for (seq, body) in messages {
                if all.queues.get(queue).and_then(|all| all.get(seq)) != Some(body) || taken(*queue, *seq).0 {
                    return Err(format!("message {seq} of queue {queue} is back or never was"));
                }
            }
        }
        let is_found = |queue: u64, seq: u64| found.queues.get(&queue).is_some_and(|found| found.contains_key(&seq));
        for (queue, messages) in &least.queues {
            for seq in messages.keys() {
                if !is_found(*queue, *seq) && !taken(*queue, *seq).1 {
                    return Err(format!("message {seq} of queue {queue} is lost"));
                }
            }
        }
        for (_, change) in doubtful {
            let mut places = Vec::new();
            change.each(&mut |change| match change {
                Change::Publish { targets, .. } => {
                    places.extend(
                        targets.iter().filter(|target| !target.transient).map(|place| (place.queue, place.seq)),
                    );
                }
                Change::Define { key, value } => values.push((key.clone(), Some(value.clone()))),
                Change::Undefine { key } => values.push((key.clone(), None)),
                _ => {}
            });
            places.retain(|(queue, seq)| taken(*queue, *seq) == (false, false));
            let count = places.iter().filter(|(queue, seq)| is_found(*queue, *seq)).count();
            if count != 0 && count != places.len() {
                return Err(format!("{count} of {places:?} are there, which are all or none"));
            }
        }
        for key in found.definitions.keys().chain(least.definitions.keys()) {
            let value = found.definitions.get(key);
            let is_old = value == least.definitions.get(key);
            if !is_old && !values.iter().any(|(known, said)| known == key && said.as_ref() == value) {
                return Err(format!("definition {key:?} is {value:?}"));
            }
        }
        Ok(())
    }

    /// Makes the recovered contents those of the model.
    fn go_on(&mut self, recovered: &Recovered, state: StoreContents) -> Result<(), String> {
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
