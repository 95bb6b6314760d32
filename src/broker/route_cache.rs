//! A connection's route cache: exchange and routing key to queues, valid for one version of the
//! virtual host's topology. Decides no route.

use crate::broker::vhost::{Route, Vhost};
use crate::limits;
use crate::memory::{self, Charge, Purpose};
use crate::metrics::ExchangeCounts;
use crate::queue::Queue;
use crate::routing::headers::NoHeaders;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::Arc;

/// The cached route of an exchange and routing key.
#[derive(Clone, Debug)]
pub enum CachedRoute {
    /// The exchange does not exist: 404.
    NoExchange,
    /// The exchange is internal: 403.
    Internal,
    /// The message goes to these queues, whatever its headers.
    Queues(Arc<[Arc<Queue>]>),
    /// The exchange looks at headers: each message is routed by itself.
    ByHeaders,
}

/// Routes by exchange and routing key.
#[derive(Debug, Default)]
pub struct RouteCache {
    version: u64,
    hasher: foldhash::fast::RandomState,
    entries: Vec<(Box<[u8]>, CachedRoute)>,
    /// By entry: the counters of the exchange.
    exchanges: Vec<Option<Arc<ExchangeCounts>>>,
    /// Messages of the entry found last that its exchange does not know of, and the queues that
    /// they went to.
    uncounted: (u64, u64),
    index: HashTable<usize>,
    /// Index of the entry found last: most messages go where the one before went.
    last: usize,
    octets: usize,
    charge: Option<Charge>,
    /// The caches of all connections have no room for more: what was found is for the moment.
    is_crowded: bool,
}

impl RouteCache {
    /// Returns the route of `route` (exchange and routing key as two short strings), from the cache
    /// or the virtual host.
    pub fn find(&mut self, vhost: &Vhost, route: &[u8], exchange: &[u8], key: &[u8]) -> &CachedRoute {
        let version = vhost.version();
        if version != self.version {
            self.clear();
            self.version = version;
        }
        if self.entries.get(self.last).is_none_or(|(last, _)| **last != *route) {
            self.count_in_exchange();
            let hash = self.hasher.hash_one(route);
            let entries = &self.entries;
            let found = self.index.find(hash, |at| entries.get(*at).is_some_and(|(other, _)| **other == *route));
            self.last = match found {
                Some(at) => *at,
                None => self.resolve(vhost, hash, route, exchange, key),
            };
        }
        self.entries.get(self.last).map_or(&CachedRoute::NoExchange, |(_, cached)| cached)
    }

    /// Returns the queues of the route that was found last, unless it depends on headers.
    pub fn last_queues(&self) -> &[Arc<Queue>] {
        match self.entries.get(self.last) {
            Some((_, CachedRoute::Queues(queues))) => queues,
            _ => &[],
        }
    }

    /// Counts a message with the route that was found last.
    #[inline]
    pub fn count(&mut self, queues: usize) {
        let (published, routed) = self.uncounted;
        self.uncounted = (published + 1, routed + queues as u64);
    }

    #[inline]
    fn count_in_exchange(&mut self) {
        let (published, routed) = std::mem::take(&mut self.uncounted);
        if published > 0
            && let Some(Some(exchange)) = self.exchanges.get(self.last)
        {
            exchange.add(published, routed);
        }
    }

    fn resolve(&mut self, vhost: &Vhost, hash: u64, route: &[u8], exchange: &[u8], key: &[u8]) -> usize {
        let cached = match vhost.route(exchange, &[key], &NoHeaders) {
            Route::NoExchange => CachedRoute::NoExchange,
            Route::Internal => CachedRoute::Internal,
            Route::Queues(queues) => CachedRoute::Queues(queues),
            Route::ByHeaders(_) => CachedRoute::ByHeaders,
        };
        let is_full = self.entries.len() >= limits::ROUTE_CACHE_ENTRIES || self.octets >= limits::ROUTE_CACHE_OCTETS;
        let is_crowded = !vhost.context().has_room_for_caches();
        if is_full || is_crowded {
            self.clear();
        }
        self.is_crowded = is_crowded;
        // A fanout's queues count once for each routing key.
        let queues = if let CachedRoute::Queues(queues) = &cached { size_of_val(&**queues) } else { 0 };
        self.octets += limits::ROUTE_OCTETS + route.len() + queues;
        let account = || Charge::new(vhost.context().memory(), Purpose::Caches);
        self.charge.get_or_insert_with(account).set(self.octets as u64);
        self.entries.push((route.into(), cached));
        self.exchanges.push(vhost.names().exchange_counts(exchange).cloned());
        let (at, hasher, entries) = (self.entries.len() - 1, &self.hasher, &self.entries);
        self.index.insert_unique(hash, at, |at| entries.get(*at).map_or(0, |(route, _)| hasher.hash_one(&**route)));
        at
    }

    /// Ends a read batch: routes that there is no room for are not kept.
    #[inline]
    pub fn end_batch(&mut self) {
        self.count_in_exchange();
        if self.is_crowded {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.count_in_exchange();
        memory::recycle(&mut self.exchanges, limits::ROUTE_CACHE_ENTRIES / 8);
        if std::mem::take(&mut self.is_crowded) {
            self.entries = Vec::new();
        }
        memory::recycle(&mut self.entries, limits::ROUTE_CACHE_ENTRIES / 8);
        if self.entries.capacity() == 0 {
            self.index = HashTable::new();
        }
        self.index.clear();
        self.octets = 0;
        self.last = 0;
        self.charge.iter_mut().for_each(|charge| charge.set(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::exchanges::Bind;
    use crate::broker::queues::QueueDeclare;
    use crate::queue::context::QueueContext;
    use leveret_wire::name::Name;
    use leveret_wire::table::Table;

    fn declare(vhost: &Vhost, name: &[u8]) {
        let arguments = Table::empty();
        let declare = QueueDeclare { name, durable: false, exclusive: false, auto_delete: false, arguments };
        vhost.declare_queue(declare, 1).unwrap();
    }

    fn vhost() -> Vhost {
        Vhost::new(Name::from_static("/"), Arc::new(QueueContext::default()))
    }

    fn find<'a>(routes: &'a mut RouteCache, vhost: &Vhost, exchange: &str, key: &str) -> &'a CachedRoute {
        let part = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        routes.find(vhost, &[part(exchange), part(key)].concat(), exchange.as_bytes(), key.as_bytes())
    }

    fn count(cached: &CachedRoute) -> Option<usize> {
        if let CachedRoute::Queues(queues) = cached { Some(queues.len()) } else { None }
    }

    #[test]
    fn a_cached_route_is_void_once_the_names_change() {
        let (vhost, mut routes) = (vhost(), RouteCache::default());
        assert_eq!(count(find(&mut routes, &vhost, "", "q")), Some(0));
        assert!(matches!(find(&mut routes, &vhost, "absent", "q"), CachedRoute::NoExchange));
        assert!(matches!(find(&mut routes, &vhost, "amq.rabbitmq.trace", "q"), CachedRoute::Internal));
        assert!(matches!(find(&mut routes, &vhost, "amq.headers", "q"), CachedRoute::ByHeaders));
        declare(&vhost, b"q");
        assert_eq!(count(find(&mut routes, &vhost, "", "q")), Some(1));
        assert_eq!(routes.entries.len(), 1);
    }

    #[test]
    fn to_declare_again_what_is_there_keeps_cached_routes() {
        let (vhost, mut routes) = (vhost(), RouteCache::default());
        declare(&vhost, b"q");
        find(&mut routes, &vhost, "", "q");
        declare(&vhost, b"q");
        find(&mut routes, &vhost, "", "other");
        assert_eq!(routes.entries.len(), 2);
    }

    #[test]
    fn beyond_the_bound_of_all_caches_a_route_is_kept_for_one_batch() {
        let context = QueueContext::default().caches_below(10_000 * limits::CACHES_PART);
        let vhost = Vhost::new(Name::from_static("/"), Arc::new(context));
        let (account, mut caches) = (vhost.context().memory(), [RouteCache::default(), RouteCache::default()]);
        let [first, second] = &mut caches;
        while vhost.context().has_room_for_caches() {
            let key = first.entries.len().to_string();
            assert_eq!(count(find(first, &vhost, "amq.direct", &key)), Some(0));
        }
        let used = account.used_by_caches();
        assert!(first.entries.len() > 50 && used < 10_200);
        first.end_batch();
        for key in ["a", "b"] {
            assert_eq!(count(find(second, &vhost, "amq.direct", key)), Some(0));
            assert_eq!(second.entries.len(), 1);
        }
        second.end_batch();
        assert_eq!((second.entries.capacity(), second.index.capacity(), account.used_by_caches()), (0, 0, used));
        // The first one's next route has no room either, and makes some.
        find(first, &vhost, "amq.direct", "a");
        find(second, &vhost, "amq.direct", "a");
        caches.iter_mut().for_each(RouteCache::end_batch);
        assert_eq!(caches.each_ref().map(|routes| routes.entries.len()), [0, 1]);
        drop(caches);
        assert_eq!(account.used_by_caches(), 0);
    }

    #[test]
    fn the_cache_is_bounded_in_entries_and_in_octets() {
        let (vhost, mut routes) = (vhost(), RouteCache::default());
        for n in 0..3 * limits::ROUTE_CACHE_ENTRIES {
            let key = n.to_string();
            find(&mut routes, &vhost, "amq.direct", &key);
            assert_eq!(count(find(&mut routes, &vhost, "amq.direct", &key)), Some(0));
            assert!(routes.entries.len() <= limits::ROUTE_CACHE_ENTRIES && routes.entries.len() == routes.index.len());
        }
        for n in 0..500 {
            let name = n.to_string();
            declare(&vhost, name.as_bytes());
            let (destination, key, arguments) = (name.as_bytes(), &b""[..], Table::empty());
            vhost.bind(Bind { source: b"amq.fanout", destination, to_queue: true, key, arguments }, 1).unwrap();
        }
        for n in 0..200 {
            assert_eq!(count(find(&mut routes, &vhost, "amq.fanout", &n.to_string())), Some(500));
        }
        let held: usize = routes.entries.iter().filter_map(|(_, cached)| count(cached)).sum();
        assert!(held * size_of::<Arc<Queue>>() <= limits::ROUTE_CACHE_OCTETS + 500 * size_of::<Arc<Queue>>());
    }
}
