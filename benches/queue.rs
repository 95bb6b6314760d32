//! What one message costs a queue's core, by what becomes of it: no lock, no octets. `cargo bench --bench queue`.

use divan::{Bencher, black_box};
use leveret::message::{Message, Publication};
use leveret::queue::consumers::Terms;
use leveret::queue::core::Core;
use leveret::queue::leaving::{Kept, Leaving};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

fn message() -> Message {
    Publication { route: b"\0\x06orders", properties: b"\x10\0\x01", body: &[b'x'; 16], persistent: false }.keep(1)
}

/// A core with one consumer and so many messages, handed out where the consumer has to acknowledge them.
fn core(no_ack: bool, messages: usize) -> Core {
    let mut core = Core::default();
    core.consume(Terms { no_ack, ..Terms::default() });
    for _ in 0..messages {
        core.enqueue(message(), Kept::Nowhere);
        deliver(&mut core);
    }
    core
}

/// The position of what was delivered.
fn deliver(core: &mut Core) -> u64 {
    let Some((key, entry)) = core.next_delivery() else { return u64::MAX };
    let seq = black_box(entry).seq;
    core.delivered(key, &mut Leaving::default());
    seq
}

/// The message comes from elsewhere; that it is dropped counts.
fn bench(bencher: Bencher<'_, '_>, mut work: impl FnMut(Message) -> u64) {
    bencher.with_inputs(message).bench_local_values(|message| work(black_box(message)));
}

#[divan::bench(sample_size = 1000)]
fn enqueue(bencher: Bencher<'_, '_>) {
    let mut core = core(true, 0);
    bench(bencher, |message| {
        core.enqueue(message, Kept::Nowhere);
        if core.ready() == 100_000 {
            core.purge(&mut Leaving::default());
        }
        0
    });
}

#[divan::bench(sample_size = 1000)]
fn enqueue_deliver(bencher: Bencher<'_, '_>) {
    let mut core = core(true, 0);
    bench(bencher, |message| {
        core.enqueue(message, Kept::Nowhere);
        deliver(&mut core)
    });
}

/// So many others are outstanding.
#[divan::bench(sample_size = 1000, args = [0, 1_000])]
fn enqueue_deliver_settle_behind(bencher: Bencher<'_, '_>, outstanding: u64) {
    let mut core = core(false, outstanding as usize);
    bench(bencher, |message| {
        core.enqueue(message, Kept::Nowhere);
        let seq = deliver(&mut core);
        core.settle(seq - outstanding, &mut Leaving::default());
        seq
    });
}

/// A message that came back before comes back again, and so many others that came back stand behind it.
#[divan::bench(sample_size = 1000, args = [0, 1_000])]
fn deliver_requeue_before(bencher: Bencher<'_, '_>, returned: u64) {
    let mut core = core(false, returned as usize + 1);
    (1..=returned + 1).for_each(|seq| core.requeue(seq));
    bencher.bench_local(|| {
        let seq = deliver(&mut core);
        core.requeue(seq);
        seq
    });
}
