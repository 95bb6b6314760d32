//! Where this connection's publications went last time: a cache by exchange and routing key, valid for one version of
//! the virtual host's names. It decides no route.

use crate::broker::vhost::{Route, Vhost};
use crate::limits;
use crate::queue::Queue;
use crate::routing::headers::NoHeaders;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::Arc;

/// What is known of an exchange and key.
#[derive(Clone, Debug)]
pub enum Known {
    /// 404.
    NoExchange,
    /// 403.
    Internal,
    /// These queues, whatever the headers.
    Queues(Arc<[Arc<Queue>]>),
    /// Ask again for each message.
    ByHeaders,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Routes {
    version: u64,
    hasher: foldhash::fast::RandomState,
    entries: Vec<(Box<[u8]>, Known)>,
    index: HashTable<usize>,
    /// The entry found last: the next message mostly goes the same way.
    last: usize,
    octets: usize,
}

impl Routes {
    /// Finds where `route` (exchange and key as two short strings) leads.
    pub fn find(&mut self, vhost: &Vhost, route: &[u8], exchange: &[u8], key: &[u8]) -> &Known {
        let version = vhost.version();
        if version != self.version {
            self.clear();
            self.version = version;
        }
        if self.entries.get(self.last).is_none_or(|(last, _)| **last != *route) {
            let hash = self.hasher.hash_one(route);
            let entries = &self.entries;
            let found = self.index.find(hash, |at| entries.get(*at).is_some_and(|(other, _)| **other == *route));
            self.last = match found {
                Some(at) => *at,
                None => self.learn(vhost, hash, route, exchange, key),
            };
        }
        self.entries.get(self.last).map_or(&Known::NoExchange, |(_, known)| known)
    }

    fn learn(&mut self, vhost: &Vhost, hash: u64, route: &[u8], exchange: &[u8], key: &[u8]) -> usize {
        let known = match vhost.route(exchange, &[key], &NoHeaders) {
            Route::NoExchange => Known::NoExchange,
            Route::Internal => Known::Internal,
            Route::Queues(queues) => Known::Queues(queues),
            Route::ByHeaders(_) => Known::ByHeaders,
        };
        if self.entries.len() >= limits::ROUTE_CACHE_ENTRIES || self.octets >= limits::ROUTE_CACHE_OCTETS {
            self.clear();
        }
        // A fanout's many queues count for each key again.
        let queues = if let Known::Queues(queues) = &known { size_of_val(&**queues) } else { 0 };
        self.octets += route.len() + queues;
        self.entries.push((route.into(), known));
        let (at, hasher, entries) = (self.entries.len() - 1, &self.hasher, &self.entries);
        self.index.insert_unique(hash, at, |at| entries.get(*at).map_or(0, |(route, _)| hasher.hash_one(&**route)));
        at
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.index.clear();
        self.octets = 0;
        self.last = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::exchanges::Bind;
    use crate::broker::queues::QueueDeclare;
    use crate::queue::shared::Shared;
    use crate::wire::name::Name;
    use crate::wire::table::Table;

    fn declare(vhost: &Vhost, name: &[u8]) {
        let arguments = Table::empty();
        let declare = QueueDeclare { name, durable: false, exclusive: false, auto_delete: false, arguments };
        vhost.declare_queue(declare, 1).unwrap();
    }

    fn vhost() -> Vhost {
        Vhost::new(Name::from_static("/"), Arc::new(Shared::default()))
    }

    fn find<'a>(routes: &'a mut Routes, vhost: &Vhost, exchange: &str, key: &str) -> &'a Known {
        let part = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        routes.find(vhost, &[part(exchange), part(key)].concat(), exchange.as_bytes(), key.as_bytes())
    }

    fn count(known: &Known) -> Option<usize> {
        if let Known::Queues(queues) = known { Some(queues.len()) } else { None }
    }

    #[test]
    fn what_is_known_is_void_once_the_names_change() {
        let (vhost, mut routes) = (vhost(), Routes::default());
        assert_eq!(count(find(&mut routes, &vhost, "", "q")), Some(0));
        assert!(matches!(find(&mut routes, &vhost, "absent", "q"), Known::NoExchange));
        assert!(matches!(find(&mut routes, &vhost, "amq.rabbitmq.trace", "q"), Known::Internal));
        assert!(matches!(find(&mut routes, &vhost, "amq.headers", "q"), Known::ByHeaders));
        declare(&vhost, b"q");
        assert_eq!(count(find(&mut routes, &vhost, "", "q")), Some(1));
        assert_eq!(routes.entries.len(), 1);
    }

    #[test]
    fn to_declare_again_what_is_there_keeps_what_is_known() {
        let (vhost, mut routes) = (vhost(), Routes::default());
        declare(&vhost, b"q");
        find(&mut routes, &vhost, "", "q");
        declare(&vhost, b"q");
        find(&mut routes, &vhost, "", "other");
        assert_eq!(routes.entries.len(), 2);
    }

    #[test]
    fn the_cache_is_bounded_in_entries_and_in_octets() {
        let (vhost, mut routes) = (vhost(), Routes::default());
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
        let held: usize = routes.entries.iter().filter_map(|(_, known)| count(known)).sum();
        assert!(held * size_of::<Arc<Queue>>() <= limits::ROUTE_CACHE_OCTETS + 500 * size_of::<Arc<Queue>>());
    }
}
