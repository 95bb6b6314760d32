//! Routing of one message: topic, headers, direct, fanout. Keys take turns, so that no cache of the
//! processor's knows the way. `cargo bench --bench routing`.

#[path = "../src/allocator.rs"]
#[expect(dead_code, reason = "the program also gives memory back")]
mod allocator;

use divan::{Bencher, black_box};
use leveret::broker::headers::{MessageHeaders, criteria};
use leveret::routing::headers::NoHeaders;
use leveret::routing::{Kind, Routes};
use leveret_wire::table::{Table, Value};
use leveret_wire::table_builder::TableBuilder;

/// The program's.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() {
    divan::main();
}

/// Ten patterns for each of these match `stock.<group>.eur.sell`, and no other group's key.
const PATTERNS: [&str; 10] = [
    "stock.G.eur.sell",
    "stock.G.*.sell",
    "stock.G.eur.*",
    "stock.G.*.*",
    "stock.G.#",
    "*.G.eur.sell",
    "*.G.*.sell",
    "*.G.eur.*",
    "*.G.*.*",
    "*.G.#",
];

/// Turns through `count` things with a stride, so that neighbours do not follow each other.
struct Turns {
    at: usize,
    count: usize,
}

impl Turns {
    fn of(count: usize) -> Self {
        Self { at: 0, count }
    }

    fn turn(&mut self) -> usize {
        self.at = (self.at + 7919) % self.count;
        self.at
    }
}

fn found(routes: &Routes<u64>, key: &[u8]) -> u64 {
    let mut sum = 0;
    routes.route(black_box(key), &NoHeaders, &mut |target| sum += target);
    sum
}

#[divan::bench(sample_size = 1000, args = [1_000, 100_000])]
fn topic_ten_of(bencher: Bencher<'_, '_>, bindings: usize) {
    let mut routes = Routes::new(Kind::Topic);
    let groups = bindings / PATTERNS.len();
    for group in 0..groups {
        for pattern in PATTERNS {
            routes.bind(pattern.replace('G', &group.to_string()).as_bytes(), None, 1);
        }
    }
    let keys: Vec<_> = (0..groups).map(|group| format!("stock.{group}.eur.sell")).collect();
    assert!(keys.iter().all(|key| found(&routes, key.as_bytes()) == 10));
    let mut turns = Turns::of(groups);
    bencher.bench_local(|| found(&routes, keys[turns.turn()].as_bytes()));
}

#[divan::bench(sample_size = 1000, args = [1_000, 100_000])]
fn direct_one_of(bencher: Bencher<'_, '_>, bindings: usize) {
    let mut routes = Routes::new(Kind::Direct);
    let keys: Vec<_> = (0..bindings).map(|n| format!("stock.{n}.eur.sell")).collect();
    keys.iter().for_each(|key| routes.bind(key.as_bytes(), None, 1));
    let mut turns = Turns::of(bindings);
    bencher.bench_local(|| found(&routes, keys[turns.turn()].as_bytes()));
}

#[divan::bench(sample_size = 1000, args = [1, 10, 100])]
fn fanout(bencher: Bencher<'_, '_>, bindings: u64) {
    let mut routes = Routes::new(Kind::Fanout);
    (0..bindings).for_each(|target| routes.bind(b"", None, target));
    bencher.bench_local(|| found(&routes, b"key"));
}

/// Two headers, `kind` and `number`, behind `x-match` where there is one.
fn headers(x_match: Option<&str>, number: usize) -> Vec<u8> {
    let mut table = TableBuilder::new();
    if let Some(x_match) = x_match {
        table.put_long_str(b"x-match", x_match.as_bytes());
    }
    table.put_long_str(b"kind", format!("order {number}").as_bytes());
    table.put(b"number", Value::I32(number as i32));
    table.into_octets()
}

/// Of so many bindings one matches.
fn headers_one_of(bencher: Bencher<'_, '_>, x_match: &str, bindings: usize) {
    let mut routes = Routes::new(Kind::Headers);
    for number in 0..bindings {
        let criteria = criteria(Kind::Headers, Table::from_checked(&headers(Some(x_match), number))).unwrap();
        routes.bind(b"", criteria.as_ref(), 1);
    }
    let messages: Vec<_> = (0..bindings).map(|number| headers(None, number)).collect();
    let found = |octets: &[u8]| {
        let mut sum = 0;
        routes.route(b"", &MessageHeaders::new(Table::from_checked(black_box(octets))), &mut |target| sum += target);
        sum
    };
    assert!(messages.iter().all(|octets| found(octets) == 1));
    let mut turns = Turns::of(bindings);
    bencher.bench_local(|| found(&messages[turns.turn()]));
}

#[divan::bench(sample_size = 100, args = [10, 1_000])]
fn headers_all_one_of(bencher: Bencher<'_, '_>, bindings: usize) {
    headers_one_of(bencher, "all", bindings);
}

#[divan::bench(sample_size = 100, args = [10, 1_000])]
fn headers_any_one_of(bencher: Bencher<'_, '_>, bindings: usize) {
    headers_one_of(bencher, "any", bindings);
}
