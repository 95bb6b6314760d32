//! Cost of reading a backlog of 1 KiB messages back from the system's memory, a message at a time
//! in the caller's thread. `cargo bench --bench read`. Makes a journal of 200 MiB in the directory
//! for temporary files.

#[path = "../src/allocator.rs"]
#[expect(dead_code, reason = "the program also gives memory back")]
mod allocator;

use std::path::PathBuf;
use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use leveret_journal::Store;
use leveret_journal::journal::{Journal, JournalOptions, Sync};
use leveret_journal::list::{List, Target};
use leveret_journal::real::RealDisk;
use leveret_journal::record::{Operation, PublishRecord};

/// The program's.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

const MESSAGES: u64 = 200_000;
/// The octets of messages that a queue reads back at once.
const RUN: u64 = 1024 * 1024;

/// A journal on a disk, removed in the end.
struct Backlog {
    store: Option<Store>,
    path: PathBuf,
}

impl Backlog {
    /// Messages of so many queues in turn.
    fn new(queues: u64) -> Self {
        let path = std::env::temp_dir().join(format!("leveret-bench-read-{}-{queues}", std::process::id()));
        let disk = Arc::new(RealDisk::open(&path).unwrap());
        let options = JournalOptions { segment_octets: 64 << 20, sync: Sync::Os, full_at: u64::MAX, seed: 1 };
        let (store, _) = Store::open(disk, options, &mut |_| {}).unwrap();
        let mut last = None;
        for at in 0..MESSAGES {
            let targets = [Target::new(at % queues + 1, at / queues + 1)];
            let (route, properties, body) = (b"\0\x06orders".as_slice(), b"\x10\0\x02".as_slice(), &[b'x'; 1024]);
            let targets = List::Given(&targets);
            let publish = PublishRecord { at_ms: 0, expires_at: None, flags: 0, targets, route, properties, body };
            last = store.journal().append(&Operation::Publish(publish)).ok();
            while store.journal().is_full() {
                std::thread::yield_now();
            }
        }
        while last.is_some_and(|last| store.journal().durable() < last) {
            std::thread::yield_now();
        }
        Self { store: Some(store), path }
    }

    fn journal(&self) -> &Arc<Journal> {
        self.store.as_ref().unwrap().journal()
    }

    /// Reads a queue from its first message to its last.
    fn read(&self, queue: u64) -> u64 {
        let (mut from, mut sum) = (1, 0);
        loop {
            let before = from;
            let visit = &mut |seq: u64, publish: PublishRecord<'_>| {
                sum += black_box(publish).body.len() as u64;
                from = seq + 1;
            };
            assert!(self.journal().visit_run(queue, before, usize::MAX, RUN, visit).is_empty());
            if from == before {
                return sum;
            }
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        drop(self.store.take());
        std::fs::remove_dir_all(&self.path).unwrap();
    }
}

/// One queue, or as many with their messages one in turn.
#[divan::bench(args = [1, 10, 1000], sample_count = 10, sample_size = 1)]
fn visit(bencher: Bencher<'_, '_>, queues: u64) {
    let backlog = Backlog::new(queues);
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        let sum: u64 = (1..=queues).map(|queue| backlog.read(queue)).sum();
        assert_eq!(sum, MESSAGES * 1024);
    });
}

fn main() {
    divan::main();
}
