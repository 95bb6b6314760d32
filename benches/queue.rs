//! Cost of one message to a queue's core, by its fate: no lock, no octets.
//! `cargo bench --bench queue`.

#[path = "../src/allocator.rs"]
#[expect(dead_code, reason = "the program also gives memory back")]
mod allocator;

use divan::{Bencher, black_box};
use leveret::memory::MemoryAccount;
use leveret::message::{Message, Publication};
use leveret::queue::admission::Admission;
use leveret::queue::command::{Command, Disposition};
use leveret::queue::consumers::{ConsumerKey, ConsumerOptions, Consumers};
use leveret::queue::core::{Core, DeliveryMode};
use leveret::queue::effects::Effects;
use leveret::queue::ready::{Front, Purged};

/// The program's.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() {
    divan::main();
}

fn message() -> Message {
    Publication { route: b"\0\x06orders", properties: b"\x10\0\x01", body: &[b'x'; 16], persistent: false }
        .keep(MemoryAccount::default())
}

/// A core with one consumer.
struct Subject {
    core: Core,
    consumers: Consumers,
    effects: Effects,
}

impl Subject {
    /// So many messages are delivered, and outstanding where the consumer has to acknowledge them.
    fn new(no_ack: bool, messages: usize) -> Self {
        let (core, mut consumers) = (Core::default(), Consumers::default());
        let key: ConsumerKey = consumers.add_stalled(ConsumerOptions { no_ack, ..ConsumerOptions::default() });
        consumers.resume(key);
        let mut subject = Self { core, consumers, effects: Effects::default() };
        subject.apply(Command::Consume { key, exclusive: false });
        for _ in 0..messages {
            subject.enqueue(message());
            subject.deliver();
        }
        subject
    }

    fn apply(&mut self, command: Command<'_>) {
        self.core.apply(command, &mut self.effects);
        for (key, count) in self.effects.credits.drain(..) {
            self.consumers.settled(key, count);
        }
    }

    fn enqueue(&mut self, message: Message) {
        let admission = Admission::in_memory(self.core.next_id());
        let mut run = Vec::with_capacity(1);
        run.push(message);
        self.apply(Command::Enqueue { messages: &mut run, admission });
    }

    /// Returns the id of what was delivered.
    fn deliver(&mut self) -> u64 {
        let Self { core, consumers, effects } = self;
        let Front::Resident(entry) = core.front() else { return u64::MAX };
        let id = black_box(entry).id;
        let Some((key, no_ack)) = consumers.next_consumer() else { return u64::MAX };
        core.delivered(key, DeliveryMode { no_ack, unacked_octets: u64::MAX }, effects);
        consumers.delivered(key);
        id
    }

    fn settle(&mut self, id: u64, disposition: Disposition) {
        self.apply(Command::Settle { ids: &[id], disposition });
    }
}

/// The message comes from elsewhere; that it is dropped counts.
fn bench(bencher: Bencher<'_, '_>, mut work: impl FnMut(Message) -> u64) {
    bencher.with_inputs(message).bench_local_values(|message| work(black_box(message)));
}

#[divan::bench(sample_size = 1000)]
fn enqueue(bencher: Bencher<'_, '_>) {
    let mut subject = Subject::new(true, 0);
    bench(bencher, |message| {
        subject.enqueue(message);
        if subject.core.ready() == 100_000 {
            subject.apply(Command::Purge);
            subject.effects.purged = Purged::default();
        }
        0
    });
}

#[divan::bench(sample_size = 1000)]
fn enqueue_deliver(bencher: Bencher<'_, '_>) {
    let mut subject = Subject::new(true, 0);
    bench(bencher, |message| {
        subject.enqueue(message);
        subject.deliver()
    });
}

/// So many others are outstanding.
#[divan::bench(sample_size = 1000, args = [0, 1_000])]
fn enqueue_deliver_settle_behind(bencher: Bencher<'_, '_>, outstanding: u64) {
    let mut subject = Subject::new(false, outstanding as usize);
    bench(bencher, |message| {
        subject.enqueue(message);
        let id = subject.deliver();
        subject.settle(id - outstanding, Disposition::Ack);
        id
    });
}

/// A message that came back before comes back again, and so many others that came back stand behind
/// it.
#[divan::bench(sample_size = 1000, args = [0, 1_000])]
fn deliver_requeue_before(bencher: Bencher<'_, '_>, returned: u64) {
    let mut subject = Subject::new(false, returned as usize + 1);
    (1..=returned + 1).for_each(|id| subject.settle(id, Disposition::Requeue));
    bencher.bench_local(|| {
        let id = subject.deliver();
        subject.settle(id, Disposition::Requeue);
        id
    });
}
