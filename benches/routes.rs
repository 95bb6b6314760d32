//! How a connection finds the queues of a key: in its cache, or by asking the virtual host.
//! `cargo bench --bench routes`.

#[path = "../src/allocator.rs"]
#[expect(dead_code, reason = "the program also gives memory back")]
mod allocator;

use divan::{Bencher, black_box};
use leveret::broker::exchanges::Bind;
use leveret::broker::queues::QueueDeclare;
use leveret::broker::route_cache::{CachedRoute, RouteCache};
use leveret::broker::vhost::Vhost;
use leveret::queue::context::QueueContext;
use leveret_wire::name::Name;
use leveret_wire::table::Table;
use std::sync::Arc;

/// The program's.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() {
    divan::main();
}

/// One queue, bound to `amq.topic`.
fn vhost() -> Vhost {
    let vhost = Vhost::new(Name::from_static("/"), Arc::new(QueueContext::default()));
    let arguments = Table::empty();
    let declare = QueueDeclare { name: b"q", durable: false, exclusive: false, auto_delete: false, arguments };
    assert!(vhost.declare_queue(declare, 1).is_ok());
    let bind = Bind { source: b"amq.topic", destination: b"q", to_queue: true, key: b"orders.*.new", arguments };
    assert!(vhost.bind(bind, 1).is_ok());
    vhost
}

/// Keys take turns. Above `limits::ROUTE_CACHE_ENTRIES` of them the cache is of no use: each is a
/// miss.
#[divan::bench(sample_size = 1000, args = [1, 100, 1_000, 10_000])]
fn keys_in_turn(bencher: Bencher<'_, '_>, keys: usize) {
    let (vhost, mut routes, exchange) = (vhost(), RouteCache::default(), b"amq.topic");
    let route = |n: usize| {
        let key = format!("orders.{n}.new");
        [&[exchange.len() as u8], &exchange[..], &[key.len() as u8], key.as_bytes()].concat()
    };
    let all: Vec<_> = (0..keys).map(route).collect();
    let mut find = |route: &[u8]| {
        let known = routes.find(&vhost, route, &route[1..=exchange.len()], &route[exchange.len() + 2..]);
        matches!(known, CachedRoute::Queues(queues) if queues.len() == 1)
    };
    assert!(all.iter().all(|route| find(route)));
    let mut at = 0;
    bencher.bench_local(|| {
        at = if at + 1 == keys { 0 } else { at + 1 };
        find(black_box(&all[at]))
    });
}
