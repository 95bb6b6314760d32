//! A journal's directory, changed as some octets say, and opened: it is refused, or what is found
//! is what was there at some time, and nothing that was synced is missing unless the end of the
//! journal itself was taken away. Used by a test and by a fuzz target.
//!
//! What no journal can tell: that its last files were removed, that its end was overwritten so that
//! it looks as if it had never been written, that octets of a segment were replaced by others that
//! once were written to the same segment. There it is enough that what is found was there once, and
//! in the last case that each message is one that was written.

use leveret_journal::journal::{Journal, JournalOptions, Sync};
use leveret_journal::list::{List, Run, Target};
use leveret_journal::reclaim::Reclaim;
use leveret_journal::record::{Operation, PublishRecord};
use leveret_journal::recovery::{Recovered, recover};
use leveret_journal::simulated::{Crash, SimulatedDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

const ROUNDS: u64 = 90;
/// The rounds from here on are one batch, the last: nobody can tell whether it was synced.
const LAST_BATCH: u64 = 87;
const CHANGES_MAX: usize = 4;
/// Octets of a change in the input.
const CHANGE: usize = 5;

/// Content of a journal: message numbers by queue, values by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holds {
    messages: BTreeMap<u64, BTreeSet<u64>>,
    definitions: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A directory and how it came to be.
struct Written {
    files: BTreeMap<String, Vec<u8>>,
    /// Content after each record, a batch being one; the last is the current one.
    past: Vec<Holds>,
    /// The first of those in which everything is that was synced before the last batch was written.
    safe: usize,
    /// The file that the journal ends in.
    last: String,
}

impl Written {
    /// Returns whether `found` is a known state that lacks part of the last batch only, where the
    /// damage was reported, and holds nothing that was written behind it.
    fn holds_but_what_was_hit(&self, found: &Holds, from: usize) -> bool {
        let (Some(safe), Some(last), Some(past)) = (self.past.get(self.safe), self.past.last(), self.past.get(from..))
        else {
            return true;
        };
        let among =
            |holds: &Holds, queue: &u64, n: &u64| holds.messages.get(queue).is_some_and(|held| held.contains(n));
        let all = |holds: &Holds, is: &dyn Fn(&u64, &u64) -> bool| {
            holds.messages.iter().all(|(queue, messages)| messages.iter().all(|n| is(queue, n)))
        };
        all(safe, &|queue, n| !among(last, queue, n) || among(found, queue, n))
            && all(found, &|queue, n| past.iter().any(|holds| among(holds, queue, n)))
    }
}

fn options() -> JournalOptions {
    JournalOptions { segment_octets: 2 * 1024, sync: Sync::Group, full_at: 1 << 20, seed: 1 }
}

fn body(n: u64) -> Vec<u8> {
    (0..30 + n * 37 % 300).map(|at| ((at * 7) ^ n) as u8).collect()
}

/// A journal that is written, and what it held after each record.
struct Writing {
    journal: Journal,
    past: Vec<Holds>,
}

impl Writing {
    fn write(&mut self, operations: &[Operation<'_>], change: impl FnOnce(&mut Holds)) {
        match operations {
            [operation] => self.journal.append(operation).unwrap(),
            operations => self.journal.append_batch(operations).unwrap(),
        };
        let mut holds = self.past.last().cloned().unwrap_or_default();
        change(&mut holds);
        holds.messages.retain(|_, messages| !messages.is_empty());
        self.past.push(holds);
    }

    /// A message in queue 1, now and then in queue 2 as well, now and then one that does not last;
    /// then other changes.
    fn round(&mut self, n: u64) {
        let (body, transient) = (body(n), n % 7 == 3);
        let both = [Target { transient, ..Target::new(1, n) }, Target { transient, ..Target::new(2, n) }];
        let targets = both.get(..1 + usize::from(n.is_multiple_of(3))).unwrap_or_default();
        let (route, properties) = (b"\0\x01q".as_slice(), b"\0\0".as_slice());
        let publish = PublishRecord {
            at_ms: n,
            expires_at: None,
            flags: 1,
            targets: List::Given(targets),
            route,
            properties,
            body: &body,
        };
        let publish = Operation::Publish(publish);
        let arrive = |holds: &mut Holds| {
            for target in targets.iter().filter(|target| !target.transient) {
                holds.messages.entry(target.queue).or_default().insert(n);
            }
        };
        // One in eleven stays, so that there is something to copy.
        let run = Run { first: n.saturating_sub(26) / 11 * 11 + 1, last: n.saturating_sub(20) };
        let runs = [run];
        let settle = Operation::Settle { queue: 1, runs: List::Given(&runs) };
        let leave = |holds: &mut Holds| {
            holds.messages.entry(1).or_default().retain(|n| !(run.first..=run.last).contains(n));
        };
        if n.is_multiple_of(5) {
            self.write(&[publish, settle], |holds| {
                arrive(holds);
                leave(holds);
            });
        } else {
            self.write(&[publish], arrive);
        }
        let (key, value) = ([n as u8 % 3], n.to_le_bytes());
        match n % 8 {
            0 | 4 => self.write(&[settle], leave),
            1 | 2 => self.write(&[Operation::Define { key: &key, value: &value }], |holds| {
                holds.definitions.insert(key.to_vec(), value.to_vec());
            }),
            3 => self.write(&[Operation::Delivered { queue: 1, upto: n }], |_| {}),
            5 if n > 40 => self.write(&[Operation::Purge { queue: 2, below: n - 20 }], |holds| {
                holds.messages.entry(2).or_default().retain(|seq| *seq >= n - 20);
            }),
            6 => self.write(&[Operation::Undefine { key: &key }], |holds| {
                holds.definitions.remove(key.as_slice());
            }),
            7 if n == 31 => self.write(&[Operation::QueueGone { queue: 2 }], |holds| {
                holds.messages.remove(&2);
            }),
            _ => {}
        }
    }
}

/// The directory, left by a process that was killed or by one that stopped in order.
fn written(stopped: bool) -> &'static Written {
    static WRITTEN: [OnceLock<Written>; 2] = [const { OnceLock::new() }; 2];
    WRITTEN[usize::from(stopped)].get_or_init(|| {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let (journal, _) = recover(Arc::new(disk.clone()), options(), &mut |_| {}).unwrap();
        let mut writing = Writing { journal, past: vec![Holds::default()] };
        let mut reclaim = Reclaim::default();
        for n in 1..LAST_BATCH {
            writing.round(n);
            writing.journal.step(false).unwrap();
            while writing.journal.reclaim(&mut reclaim).unwrap() {
                writing.journal.step(false).unwrap();
            }
        }
        let safe = writing.past.len() - 1;
        (LAST_BATCH..=ROUNDS).for_each(|n| writing.round(n));
        writing.journal.step(false).unwrap();
        if stopped {
            writing.journal.write_checkpoint().unwrap();
        }
        let names = leveret_journal::disk::Disk::list(&disk).unwrap();
        let files: BTreeMap<_, _> =
            names.into_iter().filter_map(|name| Some((name.clone(), disk.octets(&name)?))).collect();
        let last = files.keys().rfind(|name| name.ends_with(".journal")).unwrap().clone();
        let segments = files.keys().filter(|name| name.ends_with(".journal")).count();
        assert!(segments > 2 && !files.contains_key("0000000001.journal"), "{:?}", files.keys());
        Written { files, past: writing.past, safe, last }
    })
}

/// How much a changed directory has to hold.
enum Least {
    /// Everything.
    All,
    /// Synced before the last batch.
    Safe,
    /// Held at some time.
    Once,
    /// Messages that were written.
    Messages,
}

/// Changes the directory as `input` says; how much it has to hold now.
fn change(written: &Written, files: &mut BTreeMap<String, Vec<u8>>, input: &[u8]) -> Least {
    let mut least = Least::All;
    for change in input.as_chunks::<CHANGE>().0.iter().take(CHANGES_MAX) {
        let [kind, file, high, low, more] = *change;
        let Some(name) = files.keys().nth(usize::from(file) % files.len().max(1)).cloned() else { break };
        let other = match more % 4 {
            0 => format!("{:010}.journal", more / 4),
            1 => format!("{:010}.spare", more / 4),
            2 => "checkpoint".to_owned(),
            _ => files.keys().nth(usize::from(more / 4) % files.len()).cloned().unwrap_or_default(),
        };
        let source = files.get(&other).cloned().unwrap_or_default();
        let Some(octets) = files.get_mut(&name) else { break };
        let at = usize::from(u16::from_be_bytes([high, low])) % octets.len().max(1);
        let mut touched = vec![name.clone()];
        let put = |octets: &mut Vec<u8>, at: usize, new: &[u8]| {
            octets.iter_mut().skip(at).zip(new).for_each(|(octet, new)| *octet = *new);
        };
        match kind % 9 {
            0 | 1 => octets.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= more.max(1)),
            2 => put(octets, at / 512 * 512, &[0; 512]),
            3 => octets.truncate(at),
            4 => octets.resize(octets.len() + 16 * usize::from(more), more),
            5 => {
                files.remove(&name);
            }
            6 => {
                let moved = if (kind / 9).is_multiple_of(2) { files.remove(&name) } else { files.get(&name).cloned() };
                files.insert(other.clone(), moved.unwrap_or_default());
                touched.push(other);
            }
            7 => {
                let new: Vec<u8> = source.iter().skip(at).take(8 * usize::from(kind)).copied().collect();
                put(octets, at, &new);
            }
            _ => {
                let new: Vec<u8> = octets.iter().skip(at / 8 * 8).take(8 * usize::from(kind)).copied().collect();
                put(octets, usize::from(more) * 16, &new);
                least = Least::Messages;
            }
        }
        if touched.contains(&written.last) {
            least = match least {
                Least::All if kind % 9 < 2 => Least::Safe,
                Least::Messages => Least::Messages,
                _ => Least::Once,
            };
        }
    }
    least
}

/// Returns what was recovered, each message read back. `None` if something cannot be read: that is
/// no silent loss.
fn holds(journal: &Journal, recovered: &Recovered) -> Option<Holds> {
    let mut holds = Holds::default();
    for queue in &recovered.queues {
        let found = journal.read_run(queue.queue, 0, usize::MAX, u64::MAX).ok()?;
        assert_eq!(found.len() as u64, queue.messages, "not all messages of queue {} are shown", queue.queue);
        for message in &found {
            assert_eq!(message.octets.get(message.body_at as usize..), Some(&*body(message.seq)));
            assert_eq!((message.at_ms, message.flags), (message.seq, 1));
        }
        let seqs: BTreeSet<u64> = found.iter().map(|message| message.seq).collect();
        assert_eq!(seqs.len(), found.len(), "a message is there twice");
        if !seqs.is_empty() {
            holds.messages.insert(queue.queue, seqs);
        }
    }
    for definition in &recovered.definitions {
        holds.definitions.insert(definition.key.to_vec(), definition.value.to_vec());
    }
    Some(holds)
}

/// Changes the directory as `input` says, opens it, goes on with it and opens it again.
pub fn run(input: &[u8]) {
    let Some((&first, input)) = input.split_first() else { return };
    let written = written(first % 2 == 1);
    let mut files = written.files.clone();
    let least = change(written, &mut files, input);
    let disk = SimulatedDisk::new(1, 1 << 30);
    files.iter().for_each(|(name, octets)| disk.put(name, octets));
    let Ok((journal, recovered)) = recover(Arc::new(disk.clone()), options(), &mut |_| {}) else { return };
    let Some(found) = holds(&journal, &recovered) else { return };
    let from = match least {
        Least::All => written.past.len() - 1,
        Least::Safe => written.safe,
        Least::Once => 0,
        Least::Messages => usize::MAX,
    };
    let said = !recovered.report.torn.is_empty();
    let was_there = said && written.holds_but_what_was_hit(&found, from)
        || written.past.get(from..).is_none_or(|past| past.contains(&found));
    assert!(was_there, "never held since {from}: {found:?}, now {:?}", written.past.last());

    // What was accepted once is so for good; but a checkpoint spares the start from reading what is
    // dead.
    let may_be_refused = recovered.report.from_checkpoint;
    let mut writing = Writing { journal, past: vec![found] };
    writing.round(ROUNDS + 1);
    writing.journal.step(false).unwrap();
    disk.restart(Crash::PowerLoss);
    match recover(Arc::new(disk), options(), &mut |_| {}) {
        Ok((journal, recovered)) => assert_eq!(holds(&journal, &recovered).as_ref(), writing.past.last()),
        Err(error) => assert!(may_be_refused, "accepted before, and now: {error}"),
    }
}
