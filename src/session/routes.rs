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
        self.octets += route.len();
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
