//! From an exchange, routing keys and headers to queues: follows bindings, exchange-to-exchange
//! bindings and alternate exchanges. Caches nothing.

use crate::broker::exchange::BindingTarget;
use crate::broker::topology::Topology;
use crate::limits;
use crate::memory;
use crate::queue::Queue;
use crate::routing::headers::Headers;
use hashbrown::HashSet;
use leveret_wire::name::Name;
use std::sync::Arc;

/// The queues to which a message is routed.
#[derive(Debug, Default)]
pub struct Routed {
    /// The queues, each once.
    pub queues: Vec<Arc<Queue>>,
    /// The addresses of `queues`, once there are many.
    seen: HashSet<usize>,
    /// Exchanges to go on to.
    waiting: Vec<Name>,
    /// Exchanges that the message has come to, once it goes on to others.
    visited: HashSet<Name>,
    /// Another message with the same routing key may be routed elsewhere, by its headers.
    pub by_headers: bool,
    /// Number of steps that it took to find them.
    pub steps: usize,
}

impl Routed {
    /// Removes all queues, for reuse.
    pub fn clear(&mut self) {
        memory::recycle(&mut self.queues, limits::QUEUES_IN_PLACE);
        if self.queues.capacity() == 0 {
            self.seen = HashSet::new();
        }
        self.seen.clear();
        memory::recycle(&mut self.waiting, limits::KEEP_EXCHANGES);
        self.visited.clear();
        if self.visited.capacity() > limits::KEEP_EXCHANGES {
            self.visited = HashSet::new();
        }
        self.by_headers = false;
        self.steps = 0;
    }

    fn add(&mut self, queue: &Arc<Queue>) {
        // For so few a scan is cheaper than hashing.
        const FEW: usize = 16;
        let Self { queues, seen, .. } = self;
        let is_new = if queues.len() < FEW {
            !queues.iter().any(|other| Arc::ptr_eq(other, queue))
        } else {
            if seen.is_empty() {
                seen.extend(queues.iter().map(|queue| Arc::as_ptr(queue).addr()));
            }
            seen.insert(Arc::as_ptr(queue).addr())
        };
        if is_new {
            queues.push(Arc::clone(queue));
        }
    }
}

/// The way of one message through exchanges, under one hold of the names or several.
pub struct RouteWalk<'a> {
    keys: &'a [&'a [u8]],
    headers: &'a dyn Headers,
    /// The exchange that the message has come to.
    at: ExchangeStop<'a>,
    /// Index of the first key that was not looked up there.
    next_key: usize,
    /// A key has matched there.
    found: bool,
}

enum ExchangeStop<'a> {
    First(&'a [u8]),
    Further(Name),
}

impl<'a> RouteWalk<'a> {
    /// Begins at `exchange`.
    pub fn new(exchange: &'a [u8], keys: &'a [&'a [u8]], headers: &'a dyn Headers) -> Self {
        Self { keys, headers, at: ExchangeStop::First(exchange), next_key: 0, found: false }
    }

    fn exchange(&self) -> &[u8] {
        match &self.at {
            ExchangeStop::First(name) => name,
            ExchangeStop::Further(name) => name.as_octets(),
        }
    }
}

impl Topology {
    /// Adds the queues that a message with these keys and headers is routed to. A missing exchange
    /// routes to none.
    #[cfg(test)]
    pub fn route(&self, exchange: &[u8], keys: &[&[u8]], headers: &dyn Headers, routed: &mut Routed) {
        self.walk(&mut RouteWalk::new(exchange, keys, headers), usize::MAX, routed);
    }

    /// Follows bindings, those between exchanges and alternates included, with about `most` lookups
    /// of keys; returns true at the end. Each exchange is visited once, so cycles end.
    pub fn walk(&self, walk: &mut RouteWalk<'_>, most: usize, routed: &mut Routed) -> bool {
        let mut left = most;
        loop {
            let (is_done, looked_up) = self.route_one(walk, left, routed);
            left = left.saturating_sub(looked_up);
            if !is_done || !self.go_on(walk, routed) {
                return is_done;
            }
            if left == 0 {
                return false;
            }
        }
    }

    /// Goes on to the next exchange; returns false if there is none.
    fn go_on(&self, walk: &mut RouteWalk<'_>, routed: &mut Routed) -> bool {
        let Routed { waiting, visited, .. } = routed;
        if visited.is_empty() && !waiting.is_empty() {
            visited.extend(self.exchange_name(walk.exchange()));
        }
        while let Some(name) = waiting.pop() {
            // The default exchange as an alternate routes nowhere: in RabbitMQ it has no bindings.
            if self.exchange(name.as_octets()).is_some() && visited.insert(name.clone()) {
                (walk.at, walk.next_key, walk.found) = (ExchangeStop::Further(name), 0, false);
                return true;
            }
        }
        false
    }

    /// Looks up at most `most` keys in one exchange. Returns whether these were the last ones, and
    /// how many they were.
    fn route_one(&self, walk: &mut RouteWalk<'_>, most: usize, routed: &mut Routed) -> (bool, usize) {
        let RouteWalk { keys, headers, at, next_key, found } = walk;
        let name = match at {
            ExchangeStop::First(name) => name,
            ExchangeStop::Further(name) => name.as_octets(),
        };
        let exchange = self.exchange(name);
        let all = match exchange {
            Some(exchange) if exchange.routes.depends_on_key() => keys,
            Some(_) => keys.get(..1).unwrap_or_default(),
            None if name.is_empty() => keys,
            None => return (true, 0),
        };
        let rest = all.get(*next_key..).unwrap_or_default();
        let some = rest.get(..most).unwrap_or(rest);
        *next_key += some.len();
        let is_done = some.len() == rest.len();
        let Some(exchange) = exchange else {
            some.iter().filter_map(|key| self.queue(key)).for_each(|queue| routed.add(queue));
            return (is_done, some.len());
        };
        routed.by_headers |= exchange.routes.depends_on_headers();
        for key in some {
            let steps = exchange.routes.route(key, *headers, &mut |target| {
                if !self.is_live(target) {
                    return;
                }
                *found = true;
                match target {
                    BindingTarget::Queue(queue) => routed.add(queue),
                    BindingTarget::Exchange(name) => routed.waiting.push(name.clone()),
                }
            });
            routed.steps += steps;
        }
        if is_done
            && !*found
            && let Some(alternate) = &exchange.declared.alternate
        {
            routed.waiting.push(alternate.clone());
        }
        (is_done, some.len())
    }
}
