//! Routing: from a routing key and headers to targets. Generic in the target; names no queue,
//! exchange or wire type.
//!
//! ```text
//!                    key                headers
//! Direct   one hash lookup              -
//! Fanout   -                            -              every target
//! Topic    a walk down a trie of words  -
//! Headers  -                            each binding's criteria in turn
//! ```
//!
//! `Routes` is a multiset: a target may be bound several times under one key, with different
//! arguments, and each `unbind` removes one of the bindings.

pub mod direct;
pub mod fanout;
pub mod headers;
mod multiset;
mod octet_map;
pub mod topic;

use crate::routing::direct::Direct;
use crate::routing::fanout::Fanout;
use crate::routing::headers::{Criteria, HeaderRoutes, Headers};
use crate::routing::topic::Topic;
use std::hash::Hash;

/// The exchange type, which decides how messages are routed (AMQP 0-9-1, 3.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The routing key equals the binding key.
    Direct,
    /// Every message matches.
    Fanout,
    /// The routing key's words match the binding key's pattern.
    Topic,
    /// The message's headers match the binding's arguments.
    Headers,
}

impl Kind {
    /// Returns the type with this name in exchange.declare, case-sensitive; `None` for an unknown
    /// one.
    pub fn parse(name: &[u8]) -> Option<Kind> {
        match name {
            b"direct" => Some(Kind::Direct),
            b"fanout" => Some(Kind::Fanout),
            b"topic" => Some(Kind::Topic),
            b"headers" => Some(Kind::Headers),
            _ => None,
        }
    }

    /// Returns the name in exchange.declare.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
            Kind::Headers => "headers",
        }
    }
}

/// The bindings of one exchange, in a data structure for its type.
#[derive(Clone, Debug)]
pub enum Routes<T> {
    /// See [`Kind::Direct`].
    Direct(Direct<T>),
    /// See [`Kind::Fanout`].
    Fanout(Fanout<T>),
    /// See [`Kind::Topic`].
    Topic(Topic<T>),
    /// See [`Kind::Headers`].
    Headers(HeaderRoutes<T>),
}

impl<T: Clone + Eq + Hash> Routes<T> {
    /// Creates a set without bindings for an exchange type.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Direct => Routes::Direct(Direct::new()),
            Kind::Fanout => Routes::Fanout(Fanout::new()),
            Kind::Topic => Routes::Topic(Topic::new()),
            Kind::Headers => Routes::Headers(HeaderRoutes::new()),
        }
    }

    /// Adds a binding. `criteria` counts for [`Kind::Headers`] only, where `None` matches every
    /// message. The same binding may be added several times; it then takes as many calls of
    /// [`Routes::unbind`] to remove it.
    pub fn bind(&mut self, key: &[u8], criteria: Option<&Criteria>, target: T) {
        match self {
            Routes::Direct(routes) => routes.bind(key, target),
            Routes::Fanout(routes) => routes.bind(target),
            Routes::Topic(routes) => routes.bind(key, target),
            Routes::Headers(routes) => {
                routes.bind(criteria.cloned().unwrap_or_default(), target);
            }
        }
    }

    /// Removes a binding that was added with the same key, criteria and target, if it exists.
    pub fn unbind(&mut self, key: &[u8], criteria: Option<&Criteria>, target: T) {
        match self {
            Routes::Direct(routes) => routes.unbind(key, target),
            Routes::Fanout(routes) => routes.unbind(target),
            Routes::Topic(routes) => routes.unbind(key, target),
            Routes::Headers(routes) => match criteria {
                Some(criteria) => routes.unbind(criteria, target),
                None => routes.unbind(&Criteria::default(), target),
            },
        }
    }

    /// Returns true if two messages with the same routing key may go to different targets.
    pub fn depends_on_headers(&self) -> bool {
        matches!(self, Routes::Headers(_))
    }

    /// Returns true if two messages with the same headers may go to different targets.
    pub fn depends_on_key(&self) -> bool {
        matches!(self, Routes::Direct(_) | Routes::Topic(_))
    }

    /// Calls `each` for each target of a message; possibly several times for one target, in no
    /// defined order. Returns the number of steps that it took to find them.
    pub fn route(&self, key: &[u8], headers: &dyn Headers, each: &mut dyn FnMut(&T)) -> usize {
        match self {
            Routes::Direct(routes) => routes.route(key, each),
            Routes::Fanout(routes) => routes.route(each),
            Routes::Topic(routes) => return routes.route(key, each),
            Routes::Headers(routes) => return routes.route(headers, each),
        }
        1
    }

    /// Returns true if there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of bindings; repeated ones count each.
    pub fn len(&self) -> usize {
        match self {
            Routes::Direct(routes) => routes.len(),
            Routes::Fanout(routes) => routes.len(),
            Routes::Topic(routes) => routes.len(),
            Routes::Headers(routes) => routes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::headers::{HeaderValue, NoHeaders};
    use proptest::prelude::*;

    const KINDS: [Kind; 4] = [Kind::Direct, Kind::Fanout, Kind::Topic, Kind::Headers];

    fn found(routes: &Routes<u8>, key: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        routes.route(key, &NoHeaders, &mut |target| found.push(*target));
        found.sort_unstable();
        found
    }

    #[test]
    fn names_of_kinds_parse_back() {
        for kind in KINDS {
            assert_eq!(Kind::parse(kind.name().as_bytes()), Some(kind));
        }
        assert_eq!(Kind::parse(b"Direct"), None);
        assert_eq!(Kind::parse(b""), None);
    }

    #[test]
    fn a_target_bound_twice_stays_until_it_is_unbound_twice() {
        for kind in KINDS {
            let mut routes = Routes::new(kind);
            routes.bind(b"k", None, 1);
            routes.bind(b"k", None, 1);
            routes.unbind(b"k", None, 1);
            assert_eq!(found(&routes, b"k"), [1], "{kind:?}");
            routes.unbind(b"k", None, 1);
            assert!(routes.is_empty() && found(&routes, b"k").is_empty(), "{kind:?}");
            routes.unbind(b"k", None, 1);
            assert!(routes.is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn only_headers_depend_on_headers() {
        for kind in KINDS {
            assert_eq!(Routes::<u8>::new(kind).depends_on_headers(), kind == Kind::Headers);
        }
    }

    #[test]
    fn unbinding_names_the_criteria() {
        let one = Criteria::new([(&b"a"[..], HeaderValue::Bool(true))]).unwrap();
        let mut routes = Routes::new(Kind::Headers);
        routes.bind(b"", Some(&one), 1);
        routes.unbind(b"", None, 1);
        assert_eq!(routes.len(), 1);
        routes.unbind(b"", Some(&one), 1);
        assert!(routes.is_empty());
    }

    proptest! {
        #[test]
        fn binding_and_unbinding_agree_with_a_list(
            which in 0usize..4,
            steps in proptest::collection::vec((any::<bool>(), "[ab*#.]{0,5}", 0u8..3), 0..60),
        ) {
            let mut routes = Routes::new(KINDS[which]);
            let mut list: Vec<(String, u8)> = Vec::new();
            for (bind, key, target) in steps {
                // Only topic and direct exchanges tell bindings apart by key.
                let key = if which % 2 == 1 { String::new() } else { key };
                if bind {
                    routes.bind(key.as_bytes(), None, target);
                    list.push((key, target));
                } else {
                    routes.unbind(key.as_bytes(), None, target);
                    if let Some(at) = list.iter().position(|bound| *bound == (key.clone(), target)) {
                        list.remove(at);
                    }
                }
                prop_assert_eq!(routes.len(), list.len());
            }
            for (key, target) in list {
                prop_assert!(found(&routes, key.as_bytes()).contains(&target));
                routes.unbind(key.as_bytes(), None, target);
            }
            prop_assert!(routes.is_empty());
        }
    }
}
