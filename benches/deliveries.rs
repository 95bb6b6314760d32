//! Cost of one delivery to a channel, by how it is acknowledged. `cargo bench --bench deliveries`.

use divan::{Bencher, black_box};
use leveret::outbox::deliveries::{UnackedDeliveries, UnackedDelivery};

fn main() {
    divan::main();
}

/// Deliveries that one ack names where it names several; those figures are for so many.
const RUN: u64 = 100;

fn delivery(seq: u64) -> UnackedDelivery {
    UnackedDelivery { slot: 0, seq, fetched: false }
}

fn unacked(outstanding: u64) -> UnackedDeliveries {
    let mut unacked = UnackedDeliveries::default();
    for seq in 0..outstanding {
        unacked.add(delivery(seq));
    }
    unacked
}

#[divan::bench(sample_size = 1000)]
fn tag_without_ack(bencher: Bencher<'_, '_>) {
    let mut unacked = UnackedDeliveries::default();
    bencher.bench_local(|| black_box(&mut unacked).next_tag());
}

/// So many are outstanding: the oldest one is acknowledged.
#[divan::bench(sample_size = 1000, args = [0, 1_000, 60_000])]
fn deliver_settle_behind(bencher: Bencher<'_, '_>, outstanding: u64) {
    let (mut unacked, mut settled) = (unacked(outstanding), Vec::new());
    bencher.bench_local(|| {
        let tag = unacked.add(delivery(black_box(7)));
        settled.clear();
        unacked.settle(tag - outstanding, false, &mut settled)
    });
}

/// In pairs, the later one first.
#[divan::bench(sample_size = 1000)]
fn deliver_settle_two_out_of_order(bencher: Bencher<'_, '_>) {
    let (mut unacked, mut settled) = (UnackedDeliveries::default(), Vec::new());
    bencher.bench_local(|| {
        let first = unacked.add(delivery(black_box(7)));
        let second = unacked.add(delivery(8));
        settled.clear();
        unacked.settle(second, false, &mut settled).is_ok() && unacked.settle(first, false, &mut settled).is_ok()
    });
}

#[divan::bench(sample_size = 100)]
fn deliver_100_settle_multiple(bencher: Bencher<'_, '_>) {
    let (mut unacked, mut settled) = (UnackedDeliveries::default(), Vec::new());
    bencher.bench_local(|| {
        let tag = (0..RUN).map(|seq| unacked.add(delivery(black_box(seq)))).fold(0, u64::max);
        settled.clear();
        unacked.settle(tag, true, &mut settled)
    });
}
