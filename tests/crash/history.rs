//! The clients' record of their messages, kept outside the broker: published, confirmed, delivered,
//! settled, for each queue. From it follows what must, may and must not be there after a crash.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Instant;

/// A message: its publisher and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub u32, pub u32);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// Certainty of a fact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sure {
    No,
    /// Asked for, or done before nothing that is known to be on the disk.
    Maybe,
    Yes,
}

/// A message in one of its queues.
#[derive(Debug)]
pub struct Place {
    persistent: bool,
    confirmed: bool,
    /// Messages that a transaction publishes, or acknowledges.
    published_in: Option<u64>,
    acked_in: Option<u64>,
    delivered: Sure,
    /// Acknowledged, rejected, purged, or its queue deleted.
    gone: Sure,
    /// True if it is gone once delivered (no acknowledgement).
    auto: bool,
    /// Somebody has had it since the broker was started.
    seen: bool,
    /// History of the message, with times in milliseconds of the test.
    lines: Vec<(u64, &'static str)>,
}

/// A message as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub id: Id,
    pub redelivered: bool,
}

/// All of them.
#[derive(Debug)]
pub struct History {
    began: Instant,
    queues: BTreeMap<&'static str, BTreeMap<Id, Place>>,
    /// Queues that only one client uses, who notes what it takes before it takes it.
    alone: &'static [&'static str],
    /// Definitions by name.
    pub known: BTreeMap<String, Sure>,
    /// Findings that no crash explains.
    pub wrong: Vec<String>,
    /// Confirmed so far, transient ones too.
    pub confirms: u64,
    pub deliveries: u64,
    phase: Phase,
}

/// Phase of a broker's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Started: everything it has is looked at.
    Check,
    Work,
    /// Told to end: connections are closed, and what one client has not read yet another one gets.
    End,
}

impl History {
    pub fn new(alone: &'static [&'static str]) -> History {
        let (queues, known) = (BTreeMap::new(), BTreeMap::new());
        History {
            began: Instant::now(),
            queues,
            alone,
            known,
            wrong: Vec::new(),
            confirms: 0,
            deliveries: 0,
            phase: Phase::Check,
        }
    }

    fn note(&mut self, queue: &str, id: Id, what: &'static str) -> Option<&mut Place> {
        let at = self.began.elapsed().as_millis() as u64;
        let place = self.queues.get_mut(queue)?.get_mut(&id)?;
        place.lines.push((at, what));
        Some(place)
    }

    /// Before it is sent.
    pub fn publishes(&mut self, queue: &'static str, id: Id, persistent: bool, transaction: Option<u64>) {
        let place = Place {
            persistent,
            confirmed: false,
            published_in: transaction,
            acked_in: None,
            delivered: Sure::No,
            // What is in a transaction is nowhere before the commit is on its way.
            gone: if transaction.is_some() { Sure::Yes } else { Sure::No },
            auto: false,
            seen: false,
            lines: Vec::new(),
        };
        self.queues.entry(queue).or_default().insert(id, place);
        self.note(queue, id, "published");
    }

    pub fn confirmed(&mut self, queue: &str, id: Id) {
        self.confirms += 1;
        if let Some(place) = self.note(queue, id, "confirmed") {
            place.confirmed = true;
        }
    }

    /// A client has it in hand. It must not have been given up, and is marked if somebody had it
    /// before.
    pub fn delivered(&mut self, queue: &'static str, found: Found) {
        self.deliveries += 1;
        let phase = self.phase;
        let Some(place) = self.note(queue, found.id, "delivered") else {
            return self.wrong.push(format!("{queue}: {} was delivered, and never published", found.id));
        };
        if phase == Phase::Check {
            return;
        }
        place.delivered = place.delivered.max(Sure::Maybe);
        let was_seen = std::mem::replace(&mut place.seen, true);
        let gone = if std::mem::take(&mut place.auto) { Sure::No } else { place.gone };
        let what = match (gone, was_seen) {
            (Sure::No, true) if !found.redelivered && phase == Phase::Work => {
                "was delivered again without being marked"
            }
            (Sure::No, _) => return,
            _ if phase == Phase::End => return,
            _ => "was delivered after it was given up",
        };
        let line = format!("{queue}: {} {what}: {place:?}", found.id);
        self.wrong.push(line);
    }

    /// Somebody may be handed it from now on.
    pub fn is_asked_for(&mut self, queue: &str, id: Id) {
        if let Some(place) = self.note(queue, id, "asked for") {
            place.delivered = place.delivered.max(Sure::Maybe);
        }
    }

    /// Before it is asked for by who need not acknowledge it.
    pub fn may_go_when_delivered(&mut self, queue: &str, id: Id) {
        if let Some(place) = self.note(queue, id, "asked for, without ack") {
            (place.gone, place.auto) = (place.gone.max(Sure::Maybe), true);
        }
    }

    /// Whatever is ready there may be delivered from now on.
    pub fn all_are_asked_for(&mut self, queue: &str) {
        for place in self.queues.get_mut(queue).into_iter().flat_map(BTreeMap::values_mut) {
            place.delivered = place.delivered.max(Sure::Maybe);
        }
    }

    /// Before the acknowledgement is sent, or whatever else ends it.
    pub fn gives_up(&mut self, queue: &str, id: Id, how: &'static str) {
        if let Some(place) = self.note(queue, id, how) {
            place.gone = place.gone.max(Sure::Maybe);
        }
    }

    /// Records a delivery before something that is on the disk.
    pub fn surely_delivered(&mut self, queue: &str, id: Id) {
        if let Some(place) = self.note(queue, id, "surely delivered") {
            place.delivered = Sure::Yes;
        }
    }

    /// Records a settlement before something that is on the disk.
    pub fn surely_gone(&mut self, queue: &str, id: Id) {
        if let Some(place) = self.note(queue, id, "surely gone") {
            place.gone = Sure::Yes;
        }
    }

    /// Before the commit is sent.
    pub fn commits(&mut self, publishes: &[(&'static str, Id)], acks: &[(&'static str, Id)], transaction: u64) {
        for (queue, id) in publishes {
            if let Some(place) = self.note(queue, *id, "commit sent") {
                place.gone = Sure::No;
            }
        }
        for (queue, id) in acks {
            if let Some(place) = self.note(queue, *id, "commit of its ack sent") {
                (place.gone, place.acked_in) = (Sure::Maybe, Some(transaction));
            }
        }
    }

    pub fn committed(&mut self, publishes: &[(&'static str, Id)], acks: &[(&'static str, Id)]) {
        for (queue, id) in publishes {
            self.confirmed(queue, *id);
        }
        for (queue, id) in acks {
            self.surely_gone(queue, *id);
        }
    }

    /// Before a purge, or a deletion.
    pub fn all_may_go(&mut self, queue: &str, how: &'static str) {
        let ids: Vec<Id> = self.queues.get(queue).into_iter().flat_map(|places| places.keys().copied()).collect();
        ids.into_iter().for_each(|id| self.gives_up(queue, id, how));
    }

    /// The queue is deleted, and that is on the disk.
    pub fn all_are_gone(&mut self, queue: &str) {
        let ids: Vec<Id> = self.queues.get(queue).into_iter().flat_map(|places| places.keys().copied()).collect();
        ids.into_iter().for_each(|id| self.surely_gone(queue, id));
    }

    /// The definition may be there or not.
    pub fn may_be(&mut self, name: &str) {
        self.known.insert(name.to_owned(), Sure::Maybe);
    }

    pub fn is_there(&mut self, name: &str) {
        self.known.insert(name.to_owned(), Sure::Yes);
    }

    /// The names of the bindings that this queue or exchange has, or may have.
    pub fn bindings(&self, of: &str) -> Vec<String> {
        let has = |name: &&String| name.starts_with("binding ") && name.split(' ').any(|part| part == of);
        self.known.iter().filter(|(_, sure)| **sure != Sure::No).map(|(name, _)| name).filter(has).cloned().collect()
    }

    /// The broker has a new life: what comes now is to be checked as a whole.
    pub fn begins(&mut self) {
        self.phase = Phase::Check;
    }

    /// Records that the broker is told to end.
    pub fn ends(&mut self) {
        self.phase = Phase::End;
    }

    /// Holds what was found in one queue after a start against what is known. From then on that is
    /// what is there.
    pub fn check(&mut self, queue: &'static str, found: &[Found]) {
        let is_alone = self.alone.contains(&queue);
        let places = self.queues.entry(queue).or_default();
        let mut wrong = Vec::new();
        let (mut seen, mut last) = (BTreeSet::new(), HashMap::new());
        for Found { id, redelivered } in found {
            let Some(place) = places.get(id) else {
                wrong.push(format!("{queue}: {id} was never published, or was missing once"));
                continue;
            };
            let mut say = |what: &str| wrong.push(format!("{queue}: {id} {what}: {place:?}"));
            if !seen.insert(*id) {
                say("is there twice");
            }
            if !place.persistent {
                say("is not persistent and came back");
            }
            if place.gone == Sure::Yes {
                say("was given up for sure and came back");
            }
            if place.delivered == Sure::Yes && !redelivered {
                say("was delivered for sure and is not marked");
            }
            if place.delivered == Sure::No && is_alone && *redelivered {
                say("was never delivered and is marked");
            }
            if last.insert(id.0, id.1).is_some_and(|before| before > id.1) {
                say("is not in its publisher's order");
            }
        }
        for (id, place) in places.iter() {
            if place.persistent && place.confirmed && place.gone == Sure::No && !seen.contains(id) {
                wrong.push(format!("{queue}: {id} was confirmed and is lost: {place:?}"));
            }
        }
        self.wrong.extend(wrong);
    }

    /// Of each transaction all is there, or nothing.
    pub fn check_transactions(&mut self, found: &BTreeMap<&'static str, Vec<Found>>) {
        // What speaks for it, and what against it.
        let mut evidence: BTreeMap<u64, [Vec<String>; 2]> = BTreeMap::new();
        for (queue, places) in &self.queues {
            let there: BTreeSet<Id> = found.get(queue).into_iter().flatten().map(|found| found.id).collect();
            for (id, place) in places {
                let is_there = there.contains(id);
                let line = || format!("{queue}: {id} there: {is_there} {place:?}");
                if let Some(transaction) = place.published_in
                    && (is_there || place.gone == Sure::No)
                {
                    evidence.entry(transaction).or_default()[usize::from(!is_there)].push(line());
                }
                if let Some(transaction) = place.acked_in
                    && place.confirmed
                {
                    evidence.entry(transaction).or_default()[usize::from(is_there)].push(line());
                }
            }
        }
        for (transaction, [pro, con]) in evidence {
            if let (Some(pro), Some(con)) = (pro.first(), con.first()) {
                self.wrong.push(format!("transaction {transaction} is torn:\n  {pro}\n  {con}"));
            }
        }
    }

    /// Takes what a client found as the truth from now on, confirmed or not.
    pub fn settle(&mut self, found: &BTreeMap<&'static str, Vec<Found>>) {
        self.phase = Phase::Work;
        for (queue, places) in &mut self.queues {
            let there: BTreeSet<Id> = found.get(queue).into_iter().flatten().map(|found| found.id).collect();
            places.retain(|id, _| there.contains(id));
            let at = self.began.elapsed().as_millis() as u64;
            for place in places.values_mut() {
                (place.persistent, place.confirmed, place.seen) = (true, true, true);
                (place.published_in, place.acked_in) = (None, None);
                (place.delivered, place.gone) = (place.delivered.max(Sure::Maybe), Sure::No);
                place.auto = false;
                place.lines.push((at, "found"));
            }
        }
    }
}
