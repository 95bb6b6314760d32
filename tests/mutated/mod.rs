//! A journal's directory, changed as some octets say, and opened: it is refused, or everything that was synced before the last batch is
//! there, whole, and nothing else. Used by a test and by a fuzz target.

use leveret::store::journal::{Journal, Options, Sync};
use leveret::store::list::{List, Run, Target};
use leveret::store::record::{Operation, Publish};
use leveret::store::recovery::recover;
use leveret::store::simulated::SimulatedDisk;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

const MESSAGES: u64 = 40;
/// Those from here on are in the last batch: nobody can tell whether it was synced, so it may be cut.
const LAST_BATCH: u64 = 38;
const SETTLED: Run = Run { first: 3, last: 9 };

fn options() -> Options {
    Options { segment_octets: 8 * 1024, sync: Sync::Group, full_at: 1 << 20, seed: 1 }
}

fn body(n: u64) -> Vec<u8> {
    (0..200 + n * 13).map(|at| ((at * 7) ^ n) as u8).collect()
}

fn publish(journal: &Journal, n: u64) {
    let (body, targets) = (body(n), [Target::new(1, n), Target::new(2, n)]);
    let targets = List::Given(targets.get(..1 + n as usize % 2).unwrap_or_default());
    let message = Publish { at_ms: n, flags: 1, targets, route: b"\0\x01q", properties: b"\0\0", body: &body };
    journal.append(&Operation::Publish(message)).unwrap();
}

/// Names and octets of a directory.
fn directory() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let (journal, _) = recover(Arc::new(disk.clone()), options(), &mut |_| {}).unwrap();
        for n in 1..LAST_BATCH {
            publish(&journal, n);
            if n == 20 {
                let runs = List::Given(&[SETTLED]);
                journal.append(&Operation::Settle { queue: 1, runs }).unwrap();
            }
            journal.step(false).unwrap();
        }
        (LAST_BATCH..=MESSAGES).for_each(|n| publish(&journal, n));
        journal.step(false).unwrap();
        let name = |number: usize| format!("{number:010}.journal");
        let files: Vec<_> = (1..).map_while(|number| Some((name(number), disk.octets(&name(number))?))).collect();
        assert!(files.len() > 2, "the journal has one segment only");
        files
    })
}

/// The messages that queue 1 must have, or queue 2.
fn kept(queue: u64, below: u64) -> BTreeSet<u64> {
    let is_settled = |n: &u64| queue == 1 && (SETTLED.first..=SETTLED.last).contains(n);
    (1..below).filter(|n| (queue == 1 || n % 2 == 1) && !is_settled(n)).collect()
}

/// Changes the directory as `input` says, four octets a change, and opens it.
pub fn run(input: &[u8]) {
    let mut files = directory().to_vec();
    for change in input.as_chunks::<4>().0.iter().take(8) {
        let [file, kind, high, low] = *change;
        let at = usize::from(file) % files.len();
        let Some((_, octets)) = files.get_mut(at) else { continue };
        let at = usize::from(u16::from_be_bytes([high, low])) % octets.len().max(1);
        match kind % 4 {
            0 => octets.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= 1 << (kind >> 5)),
            1 => octets.iter_mut().skip(at).take(1).for_each(|octet| *octet = kind),
            2 => octets.iter_mut().skip(at / 512 * 512).take(512).for_each(|octet| *octet = 0),
            _ => {
                let copy: Vec<u8> = octets.iter().skip(at).take(64).copied().collect();
                let to = usize::from(kind) * 31 % octets.len().max(1);
                octets.iter_mut().skip(to).zip(copy).for_each(|(octet, copied)| *octet = copied);
            }
        }
    }
    let disk = SimulatedDisk::new(1, 1 << 30);
    files.iter().for_each(|(name, octets)| disk.put(name, octets));
    let Ok((journal, recovered)) = recover(Arc::new(disk), options(), &mut |_| {}) else { return };
    for queue in [1, 2] {
        let found = journal.read_run(queue, 0, 1000, u64::MAX).unwrap();
        let seqs: BTreeSet<u64> = found.iter().map(|message| message.seq).collect();
        assert_eq!(seqs.len(), found.len(), "a message is there twice");
        assert!(
            kept(queue, LAST_BATCH).is_subset(&seqs),
            "queue {queue} lost something: {seqs:?}, {:?}",
            recovered.report
        );
        assert!(seqs.is_subset(&kept(queue, MESSAGES + 1)), "queue {queue} has something more: {seqs:?}");
        for message in found {
            assert_eq!(message.octets.get(message.body_at as usize..), Some(&*body(message.seq)));
        }
    }
}
