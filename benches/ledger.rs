//! What one delivery costs a channel's ledger, by how it is acknowledged. `cargo bench --bench ledger`.

use divan::{Bencher, black_box};
use leveret::outbox::ledger::{Ledger, Unsettled};

fn main() {
    divan::main();
}

/// Deliveries that one ack names where it names several; those figures are for so many.
const RUN: u64 = 100;

fn delivery(seq: u64) -> Unsettled {
    Unsettled { slot: 0, seq, fetched: false }
}

fn ledger(outstanding: u64) -> Ledger {
    let mut ledger = Ledger::default();
    for seq in 0..outstanding {
        ledger.hand_out(delivery(seq));
    }
    ledger
}

#[divan::bench(sample_size = 1000)]
fn tag_without_ack(bencher: Bencher<'_, '_>) {
    let mut ledger = Ledger::default();
    bencher.bench_local(|| black_box(&mut ledger).next_tag());
}

/// So many are outstanding: the oldest one is acknowledged.
#[divan::bench(sample_size = 1000, args = [0, 1_000, 60_000])]
fn hand_out_settle_behind(bencher: Bencher<'_, '_>, outstanding: u64) {
    let (mut ledger, mut settled) = (ledger(outstanding), Vec::new());
    bencher.bench_local(|| {
        let tag = ledger.hand_out(delivery(black_box(7)));
        settled.clear();
        ledger.settle(tag - outstanding, false, &mut settled)
    });
}

/// In pairs, the later one first.
#[divan::bench(sample_size = 1000)]
fn hand_out_settle_two_out_of_order(bencher: Bencher<'_, '_>) {
    let (mut ledger, mut settled) = (Ledger::default(), Vec::new());
    bencher.bench_local(|| {
        let first = ledger.hand_out(delivery(black_box(7)));
        let second = ledger.hand_out(delivery(8));
        settled.clear();
        ledger.settle(second, false, &mut settled).is_ok() && ledger.settle(first, false, &mut settled).is_ok()
    });
}

#[divan::bench(sample_size = 100)]
fn hand_out_100_settle_multiple(bencher: Bencher<'_, '_>) {
    let (mut ledger, mut settled) = (Ledger::default(), Vec::new());
    bencher.bench_local(|| {
        let tag = (0..RUN).map(|seq| ledger.hand_out(delivery(black_box(seq)))).fold(0, u64::max);
        settled.clear();
        ledger.settle(tag, true, &mut settled)
    });
}
