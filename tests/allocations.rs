//! Allocations on the way of a message: its own octets, once, and nothing else. Counted by an
//! allocator, thread by thread; `flow` has the scenarios.

mod flow;

use flow::{Blind, Exchange, Fate, Flow, HEADERS, Meter, PLAIN, Plan};
use leveret::queue::ready::Entry;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Batches before anything is counted: buffers grow, the route cache learns.
const WARM_UP: usize = 20;
const BATCHES: usize = 40;

/// Octets that an allocator may be asked for beside a message's own, each message.
const BESIDE: f64 = 2.0;
/// Allocations other than of a message's own octets, each message.
const OTHERS: f64 = 0.02;

#[derive(Clone, Copy, Default)]
struct Counts {
    is_on: bool,
    allocations: usize,
    octets: usize,
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { is_on: false, allocations: 0, octets: 0 }) };
    /// Allocations by size; the last place is that of all larger ones.
    static SIZES: [Cell<usize>; 512] = const { [const { Cell::new(0) }; 512] };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(size: usize) {
    let counts = COUNTS.get();
    if counts.is_on {
        COUNTS.set(Counts { is_on: true, allocations: counts.allocations + 1, octets: counts.octets + size });
        SIZES.with(|sizes| {
            let times = &sizes[size.min(sizes.len() - 1)];
            times.set(times.get() + 1);
        });
    }
}

// SAFETY: every call goes to the system's allocator with the same arguments. What is noted lies in
// thread-local cells that need neither allocation nor destructor.
#[expect(unsafe_code, reason = "an allocator cannot be had otherwise")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, octets: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(octets, layout, size) }
    }

    unsafe fn dealloc(&self, octets: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(octets, layout) }
    }
}

impl Meter for Counting {
    fn meter<T>(&mut self, work: impl FnOnce() -> T) -> T {
        COUNTS.set(Counts { is_on: true, ..COUNTS.get() });
        let done = work();
        COUNTS.set(Counts { is_on: false, ..COUNTS.get() });
        done
    }
}

/// Allocations of one published message.
struct Cost {
    name: &'static str,
    allocations: f64,
    /// Octets asked for, and those of the message itself.
    octets: f64,
    own: f64,
    /// Allocations by size, to find the culprit.
    sizes: String,
}

impl Cost {
    /// Meters `work` on `messages` messages of `own` octets.
    fn of(name: &'static str, messages: usize, own: usize, work: impl FnOnce()) -> Self {
        COUNTS.set(Counts::default());
        SIZES.with(|sizes| sizes.iter().for_each(|times| times.set(0)));
        work();
        let (counts, messages) = (COUNTS.get(), messages as f64);
        let sizes = SIZES.with(|sizes| {
            let used = sizes.iter().enumerate().filter(|(_, times)| times.get() > 0);
            used.map(|(size, times)| format!("{} of {size}", times.get())).collect::<Vec<_>>()
        });
        Self {
            name,
            allocations: counts.allocations as f64 / messages,
            octets: counts.octets as f64 / messages,
            own: own as f64,
            sizes: sizes.join(", "),
        }
    }

    /// Meters batches of a plan.
    fn of_plan(plan: Plan) -> Self {
        let mut flow = Flow::new(plan);
        (0..WARM_UP).for_each(|_| flow.run(&mut Blind));
        Self::of(plan.name, BATCHES * plan.batch, flow.octets, || (0..BATCHES).for_each(|_| flow.run(&mut Counting)))
    }

    /// Nothing but `allocations` and, beside the message's own, `beside` octets each message.
    #[track_caller]
    fn is(&self, allocations: f64, beside: f64) {
        let Self { name, octets, own, sizes, .. } = self;
        let others = self.allocations - allocations;
        assert!((0.0..OTHERS).contains(&others), "{name}: {} a message: {sizes}", self.allocations);
        // Allocations of messages are made in eights.
        let beyond = octets - ((own + beside) / 8.0).ceil() * 8.0;
        assert!((0.0..BESIDE).contains(&beyond), "{name}: {octets} octets a message of {own}: {sizes}");
    }
}

/// Octets in front of a kept message: the count of its holders, its account, and where its parts
/// begin.
const HEAD: f64 = 56.0;

/// Asserts that a message's own octets are all, in one piece.
#[track_caller]
fn only_its_own_octets(plan: Plan) {
    Cost::of_plan(plan).is(1.0, HEAD);
}

#[test]
fn auto_ack() {
    only_its_own_octets(PLAIN);
    // A long body lies for itself.
    Cost::of_plan(Plan { name: "1 KiB", size: 1024, batch: 56, ..PLAIN }).is(2.0, HEAD);
}

#[test]
fn acks() {
    only_its_own_octets(Plan { name: "ack each", fate: Fate::AckEach, ..PLAIN });
    only_its_own_octets(Plan { name: "ack a batch", fate: Fate::AckBatch, ..PLAIN });
}

#[test]
fn confirms() {
    only_its_own_octets(Plan { name: "confirms", confirms: true, ..PLAIN });
    only_its_own_octets(Plan { name: "confirms, ack each", confirms: true, fate: Fate::AckEach, ..PLAIN });
}

#[test]
fn fanout_once_a_publication() {
    let plan = Plan { name: "fanout to 10", exchange: Exchange::Fanout, queues: 10, batch: 300, ..PLAIN };
    only_its_own_octets(plan);
    only_its_own_octets(Plan { name: "fanout to 10, ack each", batch: 50, fate: Fate::AckEach, ..plan });
}

#[test]
fn topic_keys_that_take_turns() {
    only_its_own_octets(Plan { name: "topic, 20 keys", exchange: Exchange::Topic(20), ..PLAIN });
}

#[test]
fn a_backlog_and_its_drain() {
    let mut flow = Flow::new(Plan { name: "backlog", fate: Fate::Kept, ..PLAIN });
    let messages = BATCHES * PLAIN.batch;
    let filled = Cost::of("backlog", messages, flow.octets, || (0..BATCHES).for_each(|_| flow.run(&mut Counting)));
    let place = size_of::<Entry>() as f64;
    assert!(filled.allocations < 1.0 + OTHERS, "{} a message: {}", filled.allocations, filled.sizes);
    // A ring of places that doubles: less than four times what it holds in the end.
    assert!(filled.octets < filled.own + HEAD + 4.0 * place, "{} octets a message: {}", filled.octets, filled.sizes);
    let drained = Cost::of("drain", messages, 0, || assert_eq!(flow.drain(&mut Counting), messages));
    assert!(drained.allocations < OTHERS, "{} a message: {}", drained.allocations, drained.sizes);
}

#[test]
fn properties_that_concern_the_broker() {
    for (name, properties) in [
        ("headers", HEADERS),
        ("reply-to", &b"\x02\0\x05reply"[..]),
        ("expiration", b"\x01\0\x0560000"),
        ("user-id", b"\0\x10\x05guest"),
    ] {
        only_its_own_octets(Plan { name, properties, ..PLAIN });
    }
    // Its route is in no cache; neither the list of queues nor the headers by name takes an
    // allocation.
    only_its_own_octets(Plan { name: "headers exchange", properties: HEADERS, exchange: Exchange::Headers, ..PLAIN });
    let further = Exchange::HeadersThenFanout;
    only_its_own_octets(Plan { name: "headers, then fanout", properties: HEADERS, exchange: further, ..PLAIN });
}
