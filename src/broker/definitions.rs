//! The journal's format of durable definitions: exchanges, queues and bindings to octets and back.
//!
//! ```text
//!   key:    kind (x, q, b) | vhost | exchange or queue          (a name: length u8 | octets)
//!                          | vhost | source | x or q | destination | binding key | arguments
//!   value:  version (1) | exchange: type u8 | flags u8 | arguments
//!                       | queue: number u64, little-endian | flags u8 | arguments
//! ```

use crate::broker::declared::{Binding, DeclaredExchange, Destination};
use crate::queue::arguments::QueueType;
use crate::queue::declared::Declared;
use crate::routing::Kind;
use leveret_wire::canonical::CanonicalTable;
use leveret_wire::name::Name;
use leveret_wire::table::{OwnedTable, Table, Value};

const VERSION: u8 = 1;
const EXCHANGE: u8 = b'x';
const QUEUE: u8 = b'q';
const BINDING: u8 = b'b';
const AUTO_DELETE: u8 = 1;
const INTERNAL: u8 = 2;
const KINDS: [Kind; 4] = [Kind::Direct, Kind::Fanout, Kind::Topic, Kind::Headers];

/// A change of the durable definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefinitionChange {
    /// Adds a definition, or replaces the one with the same key.
    Define {
        /// The definition's key.
        key: Vec<u8>,
        /// The definition's value.
        value: Vec<u8>,
    },
    /// Removes a definition.
    Undefine {
        /// The definition's key.
        key: Vec<u8>,
    },
    /// Removes the messages of the queue with this number.
    QueueGone(u64),
}

impl DefinitionChange {
    /// Returns the number of octets of key and value.
    fn octets(&self) -> usize {
        match self {
            Self::Define { key, value } => key.len() + value.len(),
            Self::Undefine { key } => key.len(),
            Self::QueueGone(_) => 0,
        }
    }
}

/// Splits changes into chunks of at most so many changes and octets; a larger change is a chunk of
/// its own.
pub fn chunks(
    mut changes: &[DefinitionChange],
    most: usize,
    most_octets: usize,
) -> impl Iterator<Item = &[DefinitionChange]> {
    std::iter::from_fn(move || {
        let mut octets = 0;
        let fits = |change: &&DefinitionChange| {
            octets += change.octets();
            octets <= most_octets
        };
        let fitting = changes.iter().take(most).take_while(fits).count();
        let (chunk, rest) = changes.split_at_checked(fitting.max(1))?;
        changes = rest;
        Some(chunk)
    })
}

/// A definition read from the journal.
#[derive(Debug)]
pub enum Declaration {
    /// An exchange.
    Exchange(Name, DeclaredExchange),
    /// A queue with its number in the journal.
    Queue(Declared, u64),
    /// A binding.
    Binding(Binding),
}

/// Returns the definition of an exchange.
pub fn exchange(vhost: &Name, name: &Name, declared: &DeclaredExchange) -> DefinitionChange {
    let kind = KINDS.iter().position(|kind| *kind == declared.kind).unwrap_or_default() as u8;
    let flags = flag(declared.auto_delete, AUTO_DELETE) | flag(declared.internal, INTERNAL);
    let value = [&[VERSION, kind, flags], declared.arguments.as_table().octets()].concat();
    DefinitionChange::Define { key: exchange_key(vhost, name), value }
}

/// Returns the key of the definition of an exchange.
pub fn exchange_key(vhost: &Name, name: &Name) -> Vec<u8> {
    key(EXCHANGE, &[vhost, name])
}

/// Returns the definition of a queue.
pub fn queue(vhost: &Name, declared: &Declared, number: u64) -> DefinitionChange {
    let flags = flag(declared.auto_delete, AUTO_DELETE);
    let arguments = declared.arguments.as_table().octets();
    let value = [&[VERSION], number.to_le_bytes().as_slice(), &[flags], arguments].concat();
    DefinitionChange::Define { key: queue_key(vhost, &declared.name), value }
}

/// Returns the key of the definition of a queue.
pub fn queue_key(vhost: &Name, name: &Name) -> Vec<u8> {
    key(QUEUE, &[vhost, name])
}

/// Returns the definition of a binding.
pub fn binding(vhost: &Name, binding: &Binding) -> DefinitionChange {
    DefinitionChange::Define { key: binding_key(vhost, binding), value: vec![VERSION] }
}

/// Returns the key of the definition of a binding.
pub fn binding_key(vhost: &Name, binding: &Binding) -> Vec<u8> {
    let mut key = key(BINDING, &[vhost, &binding.source]);
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => (QUEUE, name),
        Destination::Exchange(name) => (EXCHANGE, name),
    };
    key.push(kind);
    put(&mut key, destination);
    put(&mut key, &binding.key);
    key.extend_from_slice(binding.arguments.as_table().octets());
    key
}

fn key(kind: u8, names: &[&Name]) -> Vec<u8> {
    let mut key = vec![kind];
    names.iter().for_each(|name| put(&mut key, name));
    key
}

fn put(key: &mut Vec<u8>, name: &Name) {
    // A name has at most 255 octets.
    key.push(name.as_octets().len() as u8);
    key.extend_from_slice(name.as_octets());
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

/// The reason why the journal's definitions cannot be used. The key's octets are shown as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefinitionError {
    /// A definition of a later format.
    Version {
        /// The key.
        key: String,
        /// The version of the definition's format.
        version: u8,
    },
    /// A kind of definition that this version of the broker does not know.
    Kind {
        /// The key.
        key: String,
    },
    /// A definition that is incomplete, or has an unknown exchange or queue type.
    Malformed {
        /// The key.
        key: String,
    },
}

impl std::fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { key, version } => write!(
                f,
                "the definition {key} is of version {version}, not {VERSION}: a later version of Leveret wrote it, start that one"
            ),
            Self::Kind { key } => write!(
                f,
                "the definition {key} is of a kind that this version does not know: a later version of Leveret wrote it, start \
                 that one"
            ),
            Self::Malformed { key } => write!(f, "the definition {key} is malformed"),
        }
    }
}

impl std::error::Error for DefinitionError {}

/// Parses a definition; returns the virtual host's name and the definition.
///
/// # Errors
/// The definition is of a later version or kind, or malformed.
pub fn read(key: &[u8], value: &[u8]) -> Result<(Name, Declaration), DefinitionError> {
    let shown = || key.escape_ascii().to_string();
    if !key.first().is_some_and(|kind| [EXCHANGE, QUEUE, BINDING].contains(kind)) {
        return Err(DefinitionError::Kind { key: shown() });
    }
    let version = value.first().copied().unwrap_or_default();
    if version != VERSION {
        return Err(DefinitionError::Version { key: shown(), version });
    }
    parse(key, value.get(1..).unwrap_or_default()).ok_or_else(|| DefinitionError::Malformed { key: shown() })
}

fn parse(mut key: &[u8], mut value: &[u8]) -> Option<(Name, Declaration)> {
    let kind = take(&mut key)?;
    let vhost = take_name(&mut key)?;
    let name = take_name(&mut key)?;
    let defined = match kind {
        EXCHANGE => {
            let kind = *KINDS.get(usize::from(take(&mut value)?))?;
            let (flags, arguments) = (take(&mut value)?, Table::check(value).ok()?);
            let alternate = match arguments.get(b"alternate-exchange") {
                Some(Value::LongStr(alternate)) => Name::new(alternate),
                _ => None,
            };
            let (auto_delete, internal) = (flags & AUTO_DELETE != 0, flags & INTERNAL != 0);
            let arguments = OwnedTable::from(arguments);
            let declared = DeclaredExchange { kind, durable: true, auto_delete, internal, arguments, alternate };
            Declaration::Exchange(name, declared)
        }
        QUEUE => {
            let (number, rest) = value.split_first_chunk::<8>()?;
            value = rest;
            let (flags, arguments) = (take(&mut value)?, Table::check(value).ok()?);
            let kind = QueueType::of(arguments)?;
            let (auto_delete, arguments) = (flags & AUTO_DELETE != 0, OwnedTable::from(arguments));
            let declared = Declared { name, durable: true, owner: None, auto_delete, kind, arguments };
            Declaration::Queue(declared, u64::from_le_bytes(*number))
        }
        BINDING => {
            let kind = take(&mut key)?;
            let destination = take_name(&mut key)?;
            let destination = match kind {
                QUEUE => Destination::Queue(destination),
                EXCHANGE => Destination::Exchange(destination),
                _ => return None,
            };
            let (bound, arguments) = (take_name(&mut key)?, CanonicalTable::check(key).ok()?);
            return Some((vhost, Declaration::Binding(Binding { source: name, destination, key: bound, arguments })));
        }
        _ => return None,
    };
    key.is_empty().then_some((vhost, defined))
}

fn take(octets: &mut &[u8]) -> Option<u8> {
    let (first, rest) = octets.split_first()?;
    *octets = rest;
    Some(*first)
}

fn take_name(octets: &mut &[u8]) -> Option<Name> {
    let length = usize::from(take(octets)?);
    let (name, rest) = octets.split_at_checked(length)?;
    *octets = rest;
    Name::new(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::table_builder::TableBuilder;
    use proptest::prelude::*;

    fn table(number: i64) -> OwnedTable {
        let mut arguments = TableBuilder::new();
        arguments.put_i64(b"x-max-length", number).put_long_str(b"alternate-exchange", b"other");
        OwnedTable::from(arguments.as_table())
    }

    fn read_back(item: &DefinitionChange) -> (Name, Declaration) {
        let DefinitionChange::Define { key, value } = item else { panic!("{item:?} defines nothing") };
        read(key, value).unwrap()
    }

    proptest! {
        #[test]
        fn definitions_come_back_as_they_were(
            names in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..=255), 4),
            number: u64, flags in any::<[bool; 2]>(), kind in 0usize..4, to_queue: bool, limit: i64,
        ) {
            let [vhost, one, two, key] = [0, 1, 2, 3].map(|at| Name::new(&names[at]).unwrap());
            let [auto_delete, internal] = flags;
            let alternate = Name::new(b"other");
            let declared = DeclaredExchange {
                kind: KINDS[kind], durable: true, auto_delete, internal, arguments: table(limit), alternate,
            };
            let item = exchange(&vhost, &one, &declared);
            let (in_vhost, Declaration::Exchange(name, read)) = read_back(&item) else { panic!() };
            prop_assert_eq!((&in_vhost, &name), (&vhost, &one));
            prop_assert_eq!(exchange(&vhost, &name, &read), item);
            prop_assert_eq!(read.alternate, declared.alternate);

            let (kind, owner) = (QueueType::Classic, None);
            let declared = Declared { name: one.clone(), durable: true, owner, auto_delete, kind, arguments: table(limit) };
            let item = queue(&vhost, &declared, number);
            let (_, Declaration::Queue(read, number)) = read_back(&item) else { panic!() };
            prop_assert_eq!(queue(&vhost, &read, number), item);

            let destination = if to_queue { Destination::Queue(two) } else { Destination::Exchange(two) };
            let arguments = CanonicalTable::from(table(limit).as_table());
            let bound = Binding { source: one, destination, key, arguments };
            let (_, Declaration::Binding(read)) = read_back(&binding(&vhost, &bound)) else { panic!() };
            prop_assert_eq!(read, bound);
        }

        #[test]
        fn chunks_are_all_in_order_and_none_is_too_large(sizes in proptest::collection::vec(0usize..50, 0..40)) {
            let changes: Vec<_> = sizes.iter().map(|size| DefinitionChange::Undefine { key: vec![0; *size] }).collect();
            let chunks: Vec<_> = chunks(&changes, 7, 60).collect();
            prop_assert_eq!(chunks.concat(), changes.clone());
            for chunk in chunks {
                let octets: usize = chunk.iter().map(DefinitionChange::octets).sum();
                prop_assert!((1..=7).contains(&chunk.len()) && octets <= 60, "{} of {octets} octets", chunk.len());
            }
        }

        #[test]
        fn any_octets_are_read_or_refused(key: Vec<u8>, value: Vec<u8>) {
            let _ = read(&key, &[&[VERSION], &*value].concat());
        }
    }

    #[test]
    fn what_a_later_version_wrote_is_refused_by_name() {
        let refused = |key: &[u8], value: &[u8]| read(key, value).unwrap_err().to_string();
        let later = "a later version of Leveret wrote it, start that one";
        let text = format!("the definition q\\x01/\\x04jobs is of version 2, not 1: {later}");
        assert_eq!(refused(b"q\x01/\x04jobs", &[2]), text);
        let text = format!("the definition p\\x01/\\x03all is of a kind that this version does not know: {later}");
        assert_eq!(refused(b"p\x01/\x03all", &[1]), text);
        assert_eq!(refused(b"q\x01/", &[1]), "the definition q\\x01/ is malformed");
    }
}
