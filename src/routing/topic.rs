//! Topic routing: a trie over the words of binding keys.
//!
//! A key is split at each `.`; the empty key has no word, `.` has two empty ones. In a binding key
//! the word `*` stands for exactly one word and `#` for any number of words, also none; within a
//! word they are ordinary octets.
//!
//! ```text
//!   a.b      (root) -a-> ( ) -b-> (a.b)
//!   a.*.c              \- * -> ( ) -c-> (a.*.c)
//!   #.c            \- # -> ( ) -c-> (#.c)
//! ```
//!
//! A message costs a walk along its own words, whatever the number of bindings. With two or more
//! `#` on one path the same part of the walk could be repeated exponentially often; `Walk::hash`
//! prevents that.

use crate::routing::multiset::Multiset;
use crate::routing::octet_map::OctetMap;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::hash::Hash;
use std::ptr;

/// The bindings of a topic exchange.
#[derive(Clone, Debug)]
pub struct Topic<T> {
    root: TrieNode<T>,
    len: usize,
}

impl<T: Eq + Hash> Topic<T> {
    /// Creates a set without bindings.
    pub fn new() -> Self {
        Topic { root: TrieNode::default(), len: 0 }
    }

    /// Adds a binding. The trie becomes as deep as the key has words, and so does the stack of a
    /// later walk: a short string has at most 256.
    pub fn bind(&mut self, key: &[u8], target: T) {
        let mut node = &mut self.root;
        let mut words = Words::of(key);
        while let Some((word, rest)) = words.next() {
            node = node.child_or_new(word);
            words = rest;
        }
        node.targets.add(target);
        self.len += 1;
    }

    /// Removes a binding, if it exists, and the branch that only it needed.
    pub fn unbind(&mut self, key: &[u8], target: T) {
        if self.root.unbind(Words::of(key), target) {
            self.len -= 1;
        }
    }

    /// Calls `each` for each target whose binding key matches `key`, once for each such binding
    /// key. Returns the number of nodes visited.
    pub fn route(&self, key: &[u8], each: &mut dyn FnMut(&T)) -> usize {
        let mut walk = Walk { tried: HashMap::default(), each, visited: 0 };
        walk.node(&self.root, Words::of(key), false);
        walk.visited
    }

    /// Returns the number of bindings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Eq + Hash> Default for Topic<T> {
    fn default() -> Self {
        Topic::new()
    }
}

/// The words of a key that are still to be matched; `None` if there are none (one empty word is
/// `Some("")`).
#[derive(Clone, Copy, Debug)]
struct Words<'a>(Option<&'a [u8]>);

impl<'a> Words<'a> {
    fn of(key: &'a [u8]) -> Self {
        Words(if key.is_empty() { None } else { Some(key) })
    }

    fn next(self) -> Option<(&'a [u8], Words<'a>)> {
        let rest = self.0?;
        let mut parts = rest.splitn(2, |octet| *octet == b'.');
        let word = parts.next().unwrap_or_default();
        Some((word, Words(parts.next())))
    }

    /// Returns a number that decreases with each word; 0 if there are none.
    fn left(self) -> usize {
        self.0.map_or(0, |rest| rest.len() + 1)
    }
}

type Others<T> = OctetMap<Box<TrieNode<T>>>;

type Way<T> = (Box<[u8]>, Box<TrieNode<T>>);

/// A node of the trie. Most nodes have one child: its word is stored in the node itself, as each
/// further lookup in a large trie waits for memory.
#[derive(Clone, Debug)]
struct TrieNode<T> {
    word: Option<Way<T>>,
    /// The other children.
    others: Option<Box<Others<T>>>,
    star: Option<Box<TrieNode<T>>>,
    hash: Option<Box<TrieNode<T>>>,
    targets: Multiset<T>,
}

impl<T> Default for TrieNode<T> {
    fn default() -> Self {
        TrieNode { word: None, others: None, star: None, hash: None, targets: Multiset::default() }
    }
}

impl<T: Eq + Hash> TrieNode<T> {
    fn child(&self, word: &[u8]) -> Option<&TrieNode<T>> {
        match &self.word {
            Some((first, child)) if **first == *word => Some(child),
            _ => self.others.as_ref()?.get(word).map(Box::as_ref),
        }
    }

    fn child_or_new(&mut self, word: &[u8]) -> &mut TrieNode<T> {
        let Self { word: first, others, star, hash, .. } = self;
        let is_first = first.as_ref().map_or(others.is_none(), |(first, _)| **first == *word);
        match word {
            b"*" => star.get_or_insert_default(),
            b"#" => hash.get_or_insert_default(),
            _ if is_first => &mut first.get_or_insert_with(|| (word.into(), Box::default())).1,
            _ => others.get_or_insert_default().get_or_insert_default(word),
        }
    }

    fn child_mut(&mut self, word: &[u8]) -> Option<&mut TrieNode<T>> {
        let Self { word: first, others, star, hash, .. } = self;
        match (word, first) {
            (b"*", _) => star.as_deref_mut(),
            (b"#", _) => hash.as_deref_mut(),
            (_, Some((first, child))) if **first == *word => Some(child),
            _ => others.as_mut()?.get_mut(word).map(Box::as_mut),
        }
    }

    fn remove_child(&mut self, word: &[u8]) {
        match (word, &self.word) {
            (b"*", _) => self.star = None,
            (b"#", _) => self.hash = None,
            (_, Some((first, _))) if **first == *word => self.word = None,
            _ => {
                let Some(others) = &mut self.others else { return };
                others.remove(word);
                if others.is_empty() {
                    self.others = None;
                }
            }
        }
    }

    /// Removes a binding; returns true if it existed.
    fn unbind(&mut self, words: Words<'_>, target: T) -> bool {
        let Some((word, rest)) = words.next() else {
            return self.targets.remove(target);
        };
        let Some(child) = self.child_mut(word) else {
            return false;
        };
        let removed = child.unbind(rest, target);
        if removed && child.is_leaf() && child.targets.is_empty() {
            self.remove_child(word);
        }
        removed
    }

    fn is_leaf(&self) -> bool {
        self.word.is_none() && self.others.is_none() && self.star.is_none() && self.hash.is_none()
    }
}

/// The walk of one message's routing key down the trie.
struct Walk<'w, T> {
    /// [`Words::left`] at the first arrival, for each `#` node below another `#`.
    tried: HashMap<*const TrieNode<T>, usize, RandomState>,
    each: &'w mut dyn FnMut(&T),
    visited: usize,
}

impl<T: Eq + Hash> Walk<'_, T> {
    fn node(&mut self, node: &TrieNode<T>, words: Words<'_>, below_hash: bool) {
        self.visited += 1;
        if let Some(hash) = &node.hash {
            self.hash(hash, words, below_hash);
        }
        let Some((word, rest)) = words.next() else {
            node.targets.each(self.each);
            return;
        };
        if let Some(child) = node.child(word) {
            self.node(child, rest, below_hash);
        }
        if let Some(star) = &node.star {
            self.node(star, rest, below_hash);
        }
    }

    /// Tries the children of a `#` node at this word and at each later one.
    ///
    /// A `#` below another one is reached repeatedly. A later arrival can try nothing new, and an
    /// earlier one only the words before the first. So each pair of node and word is visited once,
    /// and the memory for it is one number a `#` node, not one a word. A `#` with no other above it
    /// is reached only once and needs no record.
    fn hash(&mut self, node: &TrieNode<T>, mut words: Words<'_>, below_hash: bool) {
        let mut tried = None;
        if below_hash {
            tried = self.tried.get(&ptr::from_ref(node)).copied();
            if tried.is_some_and(|tried| words.left() <= tried) {
                return;
            }
            self.tried.insert(ptr::from_ref(node), words.left());
        }
        if node.is_leaf() {
            if tried.is_none() {
                node.targets.each(self.each);
            }
            return;
        }
        while tried.is_none_or(|tried| words.left() > tried) {
            self.node(node, words, true);
            match words.next() {
                Some((_, rest)) => words = rest,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn topic(keys: &[&str]) -> Topic<usize> {
        let mut topic = Topic::new();
        keys.iter().enumerate().for_each(|(n, key)| topic.bind(key.as_bytes(), n));
        topic
    }

    fn found(topic: &Topic<usize>, key: &str) -> Vec<usize> {
        let mut found = Vec::new();
        topic.route(key.as_bytes(), &mut |target| found.push(*target));
        found.sort_unstable();
        found
    }

    fn split(key: &str) -> Vec<&str> {
        if key.is_empty() { Vec::new() } else { key.split('.').collect() }
    }

    /// Matches by the definition in AMQP 0-9-1, 3.1.3.3, word by word.
    fn matches(pattern: &[&str], words: &[&str]) -> bool {
        match (pattern, words) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=words.len()).any(|skip| matches(rest, &words[skip..])),
            (["*", rest @ ..], [_, words @ ..]) => matches(rest, words),
            ([literal, rest @ ..], [word, words @ ..]) => literal == word && matches(rest, words),
            _ => false,
        }
    }

    #[test]
    fn words_of_a_key() {
        let words = |key: &str| {
            let mut words = Words::of(key.as_bytes());
            std::iter::from_fn(|| {
                let (word, rest) = words.next()?;
                words = rest;
                Some(String::from_utf8_lossy(word).into_owned())
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(words(""), Vec::<String>::new());
        assert_eq!(words("."), ["", ""]);
        assert_eq!(words(".a"), ["", "a"]);
        assert_eq!(words("a."), ["a", ""]);
        assert_eq!(words("a..b"), ["a", "", "b"]);
    }

    #[test]
    fn patterns_match_as_in_rabbitmq() {
        let keys = [
            "a.b.c", "a.*.c", "a.#.b", "a.b.b.c", "#", "#.#", "*", "#.b.#", "b.b.c", "*.*", "*.*.*", "#.*.#", "#.*",
            "a.#", "*.#", "", "..", "*.", "b.b.c", "#.#.#", "#.*.#.*", "a.*.#.b",
        ];
        let topic = topic(&keys);
        for (key, expected) in [
            ("a.b.c", vec![0, 1, 4, 5, 7, 10, 11, 12, 13, 14, 19, 20]),
            ("a.b", vec![2, 4, 5, 7, 9, 11, 12, 13, 14, 19, 20]),
            ("", vec![4, 5, 15, 19]),
            (".", vec![4, 5, 9, 11, 12, 14, 17, 19, 20]),
            ("b.b.c", vec![4, 5, 7, 8, 10, 11, 12, 14, 18, 19, 20]),
        ] {
            assert_eq!(found(&topic, key), expected, "{key:?}");
        }
        assert_eq!(found(&topic, "*"), [4, 5, 6, 11, 12, 14, 19]);
    }

    #[test]
    fn many_hashes_do_not_multiply() {
        let pattern = ["#"; 64].join(".a.");
        let stars = ["#"; 64].join(".*.");
        let never = format!("{pattern}.b");
        let topic = topic(&[&pattern, &stars, &never, &["#"; 127].join(".")]);
        let start = Instant::now();
        assert_eq!(found(&topic, &["a"; 127].join(".")), [0, 1, 3]);
        assert_eq!(found(&topic, &".".repeat(255)), [1, 3]);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[test]
    fn cost_does_not_grow_with_the_bindings() {
        let mut topic = Topic::new();
        (0..100_000).for_each(|n| topic.bind(format!("{}.w{n}.*.#", n % 7).as_bytes(), n));
        let start = Instant::now();
        for n in 0..20_000 {
            assert_eq!(found(&topic, &format!("{}.w{n}.x.y.z", n % 7)), [n]);
        }
        // Trying each binding would take two thousand million comparisons.
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn unbinding_prunes_the_trie() {
        let keys = ["a.b.c", "a.*.c", "#.a.#", "", "a", "a.b", "..", "*"];
        let mut topic = topic(&keys);
        for (n, key) in keys.iter().enumerate() {
            topic.unbind(b"a.b.nowhere", n);
            topic.unbind(key.as_bytes(), usize::MAX);
            topic.unbind(key.as_bytes(), n);
        }
        assert!(topic.is_empty() && topic.root.is_leaf() && topic.root.targets.is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_rule(
            patterns in proptest::collection::vec("([ab*#]?\\.){0,5}[ab*#]?", 1..20),
            key in "([ab*#]?\\.){0,6}[ab]?",
        ) {
            let topic = topic(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            let expected: Vec<usize> = (0..patterns.len())
                .filter(|n| matches(&split(&patterns[*n]), &split(&key)))
                .collect();
            // Equal, not merely equal as sets: a binding is reported once.
            prop_assert_eq!(found(&topic, &key), expected);
        }

        #[test]
        fn agrees_with_it_when_bindings_come_and_go(
            steps in proptest::collection::vec(("([abcd*#]\\.){0,2}[abcd*#]", any::<bool>()), 1..40),
            key in "([abcd]\\.){0,2}[abcd]",
        ) {
            let (mut topic, mut bound) = (Topic::new(), Vec::new());
            for (pattern, bind) in &steps {
                if *bind {
                    topic.bind(pattern.as_bytes(), pattern.as_str());
                    bound.push(pattern.as_str());
                } else if let Some(at) = bound.iter().position(|other| other == pattern) {
                    topic.unbind(pattern.as_bytes(), bound.swap_remove(at));
                } else if let Some(gone) = bound.pop() {
                    topic.unbind(gone.as_bytes(), gone);
                }
                let mut found = Vec::new();
                topic.route(key.as_bytes(), &mut |target| found.push(*target));
                let mut expected: Vec<_> =
                    bound.iter().copied().filter(|pattern| matches(&split(pattern), &split(&key))).collect();
                found.sort_unstable();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(found, expected);
                prop_assert_eq!((topic.len(), topic.root.is_leaf()), (bound.len(), bound.is_empty()));
            }
        }
    }
}
