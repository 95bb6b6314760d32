//! The broker's work on a message, from the read of its publish to the write of its delivery,
//! without sockets: see `flow` in `tests/`. `benches/instructions` counts instructions;
//! `cargo run --release --features flow --bin flow` tells nanoseconds.

#[path = "../src/allocator.rs"]
#[expect(dead_code, reason = "the program also gives memory back")]
mod allocator;
#[path = "../tests/flow/mod.rs"]
#[expect(dead_code, reason = "the test of allocations needs the rest of it")]
mod flow;

use flow::{Blind, Exchange, Fate, Flow, HEADERS, Meter, PLAIN, Plan};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The program's.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// Messages before anything is counted.
const WARM_UP: usize = 10_000;
/// Messages that instructions are counted for.
const COUNTED: usize = 20_000;
/// Messages that are timed, so many times.
const TIMED: usize = 200_000;
const ROUNDS: usize = 7;

const PLANS: [Plan; 8] = [
    PLAIN,
    Plan { name: "ack-each", fate: Fate::AckEach, ..PLAIN },
    Plan { name: "1-KiB", size: 1024, batch: 56, ..PLAIN },
    Plan { name: "confirms", confirms: true, ..PLAIN },
    Plan { name: "fanout-10", exchange: Exchange::Fanout, queues: 10, batch: 250, ..PLAIN },
    Plan { name: "topic-20-keys", exchange: Exchange::Topic(20), ..PLAIN },
    Plan { name: "headers", properties: HEADERS, ..PLAIN },
    Plan { name: "headers-exchange", exchange: Exchange::Headers, properties: HEADERS, ..PLAIN },
];

/// Valgrind counts what happens in here, and nothing else.
struct Counted;

impl Meter for Counted {
    fn meter<T>(&mut self, work: impl FnOnce() -> T) -> T {
        counted_from_here(work)
    }
}

#[inline(never)]
fn counted_from_here<T>(work: impl FnOnce() -> T) -> T {
    // What follows keeps this a call and no jump.
    black_box(work())
}

/// Adds up how long it takes.
struct Timed(Duration);

impl Meter for Timed {
    fn meter<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = work();
        self.0 += since.elapsed();
        done
    }
}

fn run(flow: &mut Flow, plan: Plan, messages: usize, meter: &mut impl Meter) -> usize {
    let batches = messages / plan.batch;
    (0..batches).for_each(|_| flow.run(meter));
    batches * plan.batch
}

/// Without arguments: times all. `list`: names all. `count NAME`: runs one, and tells how many
/// messages valgrind saw.
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        [] => PLANS.into_iter().for_each(time),
        ["list"] => PLANS.iter().for_each(|plan| println!("{}", plan.name)),
        ["count", name] => match PLANS.into_iter().find(|plan| plan.name == name) {
            Some(plan) => {
                let mut flow = Flow::new(plan);
                run(&mut flow, plan, WARM_UP, &mut Blind);
                println!("{}", run(&mut flow, plan, COUNTED, &mut Counted));
            }
            None => return ExitCode::FAILURE,
        },
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn time(plan: Plan) {
    let mut flow = Flow::new(plan);
    run(&mut flow, plan, WARM_UP, &mut Blind);
    let round = |_| {
        let mut timed = Timed(Duration::ZERO);
        let messages = run(&mut flow, plan, TIMED, &mut timed);
        timed.0.as_nanos() as f64 / messages as f64
    };
    let mut rounds: Vec<f64> = (0..ROUNDS).map(round).collect();
    rounds.sort_by(f64::total_cmp);
    println!("{:20}{:>8.0} ns a message", plan.name, rounds[ROUNDS / 2]);
}
