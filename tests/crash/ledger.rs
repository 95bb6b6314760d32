//! What clients know of their messages: published, confirmed, delivered, acknowledged. It is kept outside the broker, and says what must,
//! may and must not be there after a crash.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A message: its publisher and its number there.
pub type Id = (u32, u32);

#[derive(Debug, Default)]
struct Entry {
    queues: Vec<String>,
    persistent: bool,
    confirmed: bool,
    /// Messages of one transaction stand or fall together.
    transaction: Option<u32>,
    delivered: BTreeSet<String>,
    acked: BTreeSet<String>,
    /// Delivered, or acknowledged, before something that was confirmed later on the same connection.
    surely_delivered: BTreeSet<String>,
    surely_acked: BTreeSet<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<Id, Entry>,
}

/// What was found in a queue.
pub struct Found {
    pub id: Id,
    pub redelivered: bool,
}

impl Ledger {
    pub fn publishes(&mut self, id: Id, queues: &[&str], persistent: bool, transaction: Option<u32>) {
        let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
        self.entries.insert(id, Entry { queues, persistent, transaction, ..Entry::default() });
    }

    pub fn confirmed(&mut self, id: Id) {
        self.entry(id).confirmed = true;
    }

    pub fn committed(&mut self, transaction: u32) {
        for entry in self.entries.values_mut().filter(|entry| entry.transaction == Some(transaction)) {
            entry.confirmed = true;
        }
    }

    pub fn delivered(&mut self, id: Id, queue: &str) {
        self.entry(id).delivered.insert(queue.to_owned());
    }

    pub fn acks(&mut self, id: Id, queue: &str) {
        self.entry(id).acked.insert(queue.to_owned());
    }

    /// What was delivered from this queue, or acknowledged, so far was so before something that is synced now.
    pub fn is_sure(&mut self, queue: &str, ids: &[Id]) {
        for id in ids {
            let entry = self.entry(*id);
            if entry.delivered.contains(queue) {
                entry.surely_delivered.insert(queue.to_owned());
            }
            if entry.acked.contains(queue) {
                entry.surely_acked.insert(queue.to_owned());
            }
        }
    }

    fn entry(&mut self, id: Id) -> &mut Entry {
        self.entries.get_mut(&id).unwrap_or_else(|| panic!("{id:?} was never published"))
    }

    /// Holds what was found in one queue against what is known; says what is wrong.
    pub fn check(&self, queue: &str, found: &[Found]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        let mut last: HashMap<u32, u32> = HashMap::new();
        let mut transactions = BTreeSet::new();
        for Found { id, redelivered } in found {
            let Some(entry) = self.entries.get(id) else {
                wrong.push(format!("{queue}: {id:?} was never published"));
                continue;
            };
            let mut say = |what: &str| wrong.push(format!("{queue}: {id:?} {what}: {entry:?}"));
            if !seen.insert(*id) {
                say("is there twice");
            }
            if !entry.queues.iter().any(|other| other == queue) {
                say("does not belong here");
            }
            if !entry.persistent {
                say("is not persistent and came back");
            }
            if entry.surely_acked.contains(queue) {
                say("was acknowledged for sure and came back");
            }
            if entry.surely_delivered.contains(queue) && !redelivered {
                say("was delivered for sure and is not marked redelivered");
            }
            if last.insert(id.0, id.1).is_some_and(|before| before > id.1) {
                say("is not in its publisher's order");
            }
            transactions.extend(entry.transaction);
        }
        for (id, entry) in &self.entries {
            let belongs = entry.persistent && entry.queues.iter().any(|other| other == queue);
            if !belongs || seen.contains(id) || entry.acked.contains(queue) {
                continue;
            }
            if entry.confirmed {
                wrong.push(format!("{queue}: {id:?} was confirmed and is lost: {entry:?}"));
            } else if entry.transaction.is_some_and(|transaction| transactions.contains(&transaction)) {
                wrong.push(format!("{queue}: {id:?} is missing, others of its transaction are there: {entry:?}"));
            }
        }
        wrong
    }

    /// The queues of a transaction of which any message is in `found`, by queue, must all have their messages.
    pub fn check_transactions(&self, found: &BTreeMap<String, Vec<Id>>) -> Vec<String> {
        let is_there = |id: &Id, queue: &str| found.get(queue).is_some_and(|ids| ids.contains(id));
        let mut parts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (id, entry) in &self.entries {
            let Some(transaction) = entry.transaction else { continue };
            let (there, all) = parts.entry(transaction).or_default();
            *there += entry.queues.iter().filter(|queue| is_there(id, queue)).count();
            *all += entry.queues.len();
        }
        let torn = parts.into_iter().filter(|(_, (there, all))| *there > 0 && there < all);
        torn.map(|(transaction, (there, all))| format!("transaction {transaction}: {there} of {all} are there"))
            .collect()
    }

    /// What was found is there from now on, confirmed or not; nothing else is.
    pub fn settle(&mut self, found: &BTreeMap<String, Vec<Id>>) {
        for (id, entry) in &mut self.entries {
            entry.queues.retain(|queue| found.get(queue).is_some_and(|ids| ids.contains(id)));
            entry.confirmed = true;
            entry.acked.clear();
        }
        self.entries.retain(|_, entry| !entry.queues.is_empty());
    }

    /// All queues were emptied.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    pub fn confirmed_count(&self) -> usize {
        self.entries.values().filter(|entry| entry.confirmed).count()
    }
}
