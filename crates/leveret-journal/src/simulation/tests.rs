//! Simulated runs: a store on a simulated disk, driven call by call without threads, so that equal
//! seeds give equal runs.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::world::{Change, StoreContents, World};
use crate::disk::create_directories;
use crate::error::StoreError;
use crate::index::Index;
use crate::journal::{CommitMode, Journal, JournalOptions, Refused, Step, Sync};
use crate::list::{Run, Target};
use crate::random::Random;
use crate::reclaim::Reclaim;
use crate::recovery::{Definition, Recovered, recover};
use crate::simulated::{Crash, DIRECTORY, SimulatedDisk};

const QUEUES: u64 = 3;

/// One process with the store.
struct Life {
    journal: Journal,
    reclaim: Reclaim,
}

struct Simulation {
    random: Random,
    disk: SimulatedDisk,
    options: JournalOptions,
    world: World,
    /// The indexes that survive the end of the process, and a power loss.
    durable: Index,
    synced: Index,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let sync = match random.below(4) {
            0 => Sync::Os,
            1 => Sync::Interval { ms: 1 },
            _ => Sync::Group,
        };
        let segment_octets = [1024, 2048, 4096][random.below(3) as usize];
        let options = JournalOptions { segment_octets, sync, full_at: 4096, seed: random.draw() };
        let disk = SimulatedDisk::without_directory(random.draw(), 1 << 20);
        let (durable, synced) = (Index::ZERO, Index::ZERO);
        Self { random, disk, options, world: World::default(), durable, synced }
    }

    /// Opens the store, as often as the disk stops meanwhile, and compares the result with the
    /// model.
    fn start(&mut self, mut power_was_lost: bool, crashes: bool) -> Result<Life, String> {
        loop {
            if crashes && self.random.one_in(3) {
                self.disk.stop_at(self.disk.calls() + 1 + self.random.below(20));
            }
            self.options.seed = self.random.draw();
            let opened = create_directories(&self.disk, Path::new(DIRECTORY)).map_err(StoreError::io("no directory"));
            match opened.and_then(|()| recover(Arc::new(self.disk.clone()), self.options.clone(), &mut |_| {})) {
                Ok((journal, recovered)) => {
                    let safe = if power_was_lost { self.synced } else { self.durable };
                    match read_back(&journal, &recovered) {
                        Ok(state) => self.world.recovered(safe, &recovered, state)?,
                        Err(_) if self.disk.is_stopped() => {
                            power_was_lost |= self.crash();
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    (self.durable, self.synced) = (journal.durable(), journal.synced());
                    return Ok(Life { journal, reclaim: Reclaim::default() });
                }
                Err(error) if !self.disk.is_stopped() => return Err(format!("cannot start: {error}")),
                Err(_) => power_was_lost |= self.crash(),
            }
        }
    }

    /// Crashes; returns true if power was lost.
    fn crash(&mut self) -> bool {
        let crash = if self.random.one_in(3) { Crash::Kill } else { Crash::PowerLoss };
        self.disk.restart(crash);
        crash == Crash::PowerLoss
    }

    /// Does one thing; returns true if the process still runs.
    fn act(&mut self, life: &mut Life) -> Result<bool, String> {
        match self.random.below(20) {
            0..=10 => {
                let change = self.change(4);
                if !self.append(life, change)? {
                    return Ok(false);
                }
            }
            11..=13 => {
                let sync = self.random.one_in(4);
                // By the task that appended last, or else by the journal's thread.
                let is_done = life.journal.commit_inline();
                if life.journal.failure().is_some() || !is_done && life.journal.step(sync).is_err() {
                    return Ok(false);
                }
            }
            14..=17 => {
                if let Err(failure) = life.journal.reclaim(&mut life.reclaim) {
                    // The disk may fail; it never returns other octets than were written.
                    return if failure.reason.contains("is damaged") { Err(failure.reason) } else { Ok(false) };
                }
            }
            18 => return self.read(life),
            _ => return self.forget(life),
        }
        (self.durable, self.synced) = (life.journal.durable(), life.journal.synced());
        Ok(!self.disk.is_stopped())
    }

    fn append(&mut self, life: &Life, change: Change) -> Result<bool, String> {
        let index = match &change {
            Change::Batch(changes) => {
                let operations: Vec<_> = changes.iter().filter_map(Change::operation).collect();
                life.journal.append_batch(&operations)
            }
            change if self.random.one_in(2) => {
                life.journal.append_all(&[change.operation().unwrap()], CommitMode::Inline)
            }
            change => life.journal.append(&change.operation().unwrap()),
        };
        match index {
            Ok(index) => self.world.did(index, change),
            Err(Refused::Failed(_)) => return Ok(false),
            Err(Refused::TooLarge) => return Err("too large".to_owned()),
        }
        Ok(true)
    }

    fn change(&mut self, batch: u64) -> Change {
        let queue = self.random.below(QUEUES) + 1;
        let next = self.world.next_seq.get(&queue).copied().unwrap_or(1);
        match self.random.below(24) {
            0..=10 => self.publish(),
            11..=16 => Change::Settle { queue, runs: self.runs(queue) },
            17 => Change::Purge { queue, below: next - self.random.below(next.min(4)) },
            18 if self.random.one_in(3) => Change::QueueGone { queue },
            18 | 19 => Change::Delivered { queue, upto: next - 1 - self.random.below(next.min(3)) },
            20 => {
                let value = vec![b'v'; self.random.below(90) as usize];
                Change::Define { key: vec![b'k', self.random.below(3) as u8], value }
            }
            21 => Change::Undefine { key: vec![b'k', self.random.below(3) as u8] },
            _ if batch > 0 => {
                let changes = (0..=self.random.below(batch)).map(|_| {
                    let change = self.change(0);
                    // The next change of the batch is drawn for the state after this one.
                    self.world.now.apply(&change, true);
                    change
                });
                Change::Batch(changes.collect())
            }
            _ => self.publish(),
        }
    }

    fn publish(&mut self) -> Change {
        let first = self.random.below(QUEUES);
        let count = if self.random.one_in(3) { 1 + self.random.below(QUEUES) } else { 1 };
        let is_transient = self.random.one_in(6);
        let mut targets = Vec::new();
        for queue in (first..first + count).map(|queue| queue % QUEUES + 1) {
            let next = self.world.next_seq.entry(queue).or_insert(1);
            let transient = is_transient || self.random.one_in(10);
            targets.push(Target { queue, seq: *next, transient, delivered: false });
            *next += 1 + u64::from(self.random.one_in(20)) * 200;
        }
        let length = match self.random.below(40) {
            0 => 3000 + self.random.below(4000),
            1..=4 => self.random.below(900),
            _ => self.random.below(120),
        };
        let mut body = self.random.draw().to_le_bytes().to_vec();
        body.resize(8 + length as usize, b'.');
        Change::Publish { targets, body }
    }

    fn runs(&mut self, queue: u64) -> Vec<Run> {
        let live: Vec<u64> = self.world.now.queues.get(&queue).into_iter().flatten().map(|(seq, _)| *seq).collect();
        let mut runs = Vec::new();
        for _ in 0..=self.random.below(2) {
            let at = if self.random.one_in(3) { self.random.below(live.len() as u64) } else { 0 } as usize;
            if let Some(&first) = live.get(at) {
                let last = live.get(at + self.random.below(4) as usize).copied().unwrap_or(first);
                runs.push(Run { first, last });
            }
        }
        runs
    }

    fn read(&mut self, life: &mut Life) -> Result<bool, String> {
        let queue = self.random.below(QUEUES) + 1;
        let from = self.random.below(self.world.next_seq.get(&queue).copied().unwrap_or(0) + 1);
        let found = match life.journal.read_run(queue, from, 5, 1000) {
            Ok(found) => found,
            // A call that was made to fail.
            Err(StoreError::Io { .. }) => return Ok(!self.disk.is_stopped()),
            Err(error) => return Err(format!("cannot read back: {error}")),
        };
        let messages = self.world.now.queues.get(&queue).cloned().unwrap_or_default();
        let expected: Vec<(u64, Vec<u8>)> = messages.into_iter().filter(|(seq, _)| *seq >= from).take(5).collect();
        let found: Vec<(u64, Vec<u8>)> = found.into_iter().map(|stored| (stored.seq, body(&stored))).collect();
        if !expected.starts_with(&found) || (found.is_empty() && !expected.is_empty()) {
            return Err(format!("queue {queue} from {from}: read {found:?}, expected {expected:?}"));
        }
        Ok(!self.disk.is_stopped())
    }

    /// Settles transient messages, without a record.
    fn forget(&mut self, life: &mut Life) -> Result<bool, String> {
        let queue = self.random.below(QUEUES) + 1;
        let targets = life.journal.seqs(queue, 0, 3);
        for seq in targets {
            if life.journal.is_transient(queue, seq) {
                life.journal.forget(queue, Run { first: seq, last: seq });
                self.world.now.queues.entry(queue).or_default().remove(&seq);
            }
        }
        Ok(true)
    }

    /// Ends the process, by a crash or by a clean stop; returns true if power was lost.
    fn end(&mut self, mut life: Life, is_alive: bool) -> bool {
        if is_alive && self.random.one_in(2) {
            let mut stopped = life.journal.step(true) == Ok(Step::Wrote);
            while stopped && self.random.one_in(2) {
                stopped = life.journal.reclaim(&mut life.reclaim).is_ok() && life.journal.step(true).is_ok();
            }
            if stopped {
                let _ = life.journal.write_checkpoint();
            }
        }
        (self.durable, self.synced) = (life.journal.durable(), life.journal.synced());
        drop(life);
        self.crash()
    }
}

fn body(stored: &crate::inspect::Stored) -> Vec<u8> {
    let body = stored.octets[stored.body_at as usize..].to_vec();
    assert_eq!((stored.at_ms, stored.flags), (body.len() as u64, 7));
    assert_eq!(stored.octets[..stored.body_at as usize], *b"\x01x\x01k\0\0");
    body
}

/// Returns everything that was recovered, read message by message.
fn read_back(journal: &Journal, recovered: &Recovered) -> Result<StoreContents, String> {
    let mut state = StoreContents::default();
    for queue in &recovered.queues {
        let found = journal.read_run(queue.queue, 0, usize::MAX, u64::MAX).map_err(|error| error.to_string())?;
        let seqs: Vec<u64> = queue.runs.iter().flat_map(|run| run.first..=run.last).collect();
        assert_eq!(found.iter().map(|stored| stored.seq).collect::<Vec<_>>(), seqs);
        assert_eq!(queue.messages, seqs.len() as u64);
        let messages: BTreeMap<u64, Vec<u8>> = found.into_iter().map(|stored| (stored.seq, body(&stored))).collect();
        state.queues.insert(queue.queue, messages);
        state.delivered_upto.insert(queue.queue, queue.delivered_upto);
    }
    for Definition { key, value } in &recovered.definitions {
        let read = journal.read_definition(key).map_err(|error| error.to_string())?;
        assert_eq!(read.as_ref(), Some(value));
        state.definitions.insert(key.to_vec(), value.to_vec());
    }
    Ok(state)
}

/// Runs some processes one after the other, each with some work and an end, as `seed` says.
fn run(seed: u64) -> Result<(), String> {
    let mut simulation = Simulation::new(seed);
    let mut power_was_lost = false;
    for _ in 0..2 + simulation.random.below(3) {
        let mut life = simulation.start(power_was_lost, true)?;
        let calls = simulation.disk.calls();
        match simulation.random.below(8) {
            0..=3 => simulation.disk.stop_at(calls + 1 + simulation.random.below(60)),
            4 => simulation.disk.fail_at(calls + 1 + simulation.random.below(40), io::ErrorKind::Other),
            5 => simulation.disk.fail_at(calls + 1 + simulation.random.below(40), io::ErrorKind::StorageFull),
            6 => simulation.disk.set_capacity(simulation.disk.used() + simulation.random.below(4096)),
            _ => {}
        }
        let mut is_alive = !simulation.disk.is_stopped();
        for _ in 0..10 + simulation.random.below(60) {
            is_alive = is_alive && simulation.act(&mut life)?;
        }
        simulation.disk.set_capacity(1 << 20);
        power_was_lost = simulation.end(life, is_alive);
    }
    simulation.start(power_was_lost, false).map(|_| ())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Environment: `LEVERET_SEED=x` runs one seed, `LEVERET_SEEDS=n` so many.
#[test]
fn nothing_confirmed_is_lost_and_nothing_settled_returns() {
    let seeds = match number("LEVERET_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEVERET_SEEDS").unwrap_or(10_000),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("LEVERET_SEED={seed}: {error}"),
            Err(panic) => {
                eprintln!("LEVERET_SEED={seed} panicked");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Repeats a short run, stopped at each of its calls, in each way the disk can stop.
#[test]
fn a_crash_at_every_call() {
    for seed in [1, 2, 3, 4, 5, 6] {
        for call in 1.. {
            let mut simulation = Simulation::new(seed);
            let mut life = simulation.start(false, false).unwrap();
            simulation.disk.stop_at(call);
            let mut is_alive = true;
            for _ in 0..100 {
                is_alive = is_alive && simulation.act(&mut life).unwrap();
            }
            let is_whole = !simulation.disk.is_stopped();
            let power_was_lost = simulation.end(life, false);
            let result = simulation.start(power_was_lost, false);
            assert!(result.is_ok(), "seed {seed}, call {call}: {}", result.err().unwrap_or_default());
            if is_whole {
                assert!(call > 20, "the work is too short to say anything");
                break;
            }
        }
    }
}
