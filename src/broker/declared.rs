//! Exchanges and bindings as declared. Plain data, without rules.

use crate::limits;
use crate::routing::Kind;
use leveret_wire::canonical::CanonicalTable;
use leveret_wire::name::Name;
use leveret_wire::table::{OwnedTable, Table};

/// The properties of an exchange as declared.
#[derive(Clone, Debug)]
pub struct DeclaredExchange {
    /// The exchange type.
    pub kind: Kind,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted with the last binding of which it is the source.
    pub auto_delete: bool,
    /// Not to be published to by clients.
    pub internal: bool,
    /// All arguments, octet for octet.
    pub arguments: OwnedTable,
    /// The argument `alternate-exchange`.
    pub alternate: Option<Name>,
}

/// The queue or exchange at the end of a binding, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A queue.
    Queue(Name),
    /// Another exchange.
    Exchange(Name),
}

/// A binding. Two bindings are the same if all four parts are equal; the order of the arguments
/// does not count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The source exchange.
    pub source: Name,
    /// The queue or exchange that gets the messages.
    pub destination: Destination,
    /// The binding key.
    pub key: Name,
    /// The arguments.
    pub arguments: CanonicalTable,
}

/// Returns the octets charged for an exchange of this name and these arguments.
pub fn exchange_octets(name: &Name, arguments: Table<'_>) -> u64 {
    limits::EXCHANGE_OCTETS + (name.as_octets().len() + arguments.octets().len()) as u64
}

impl Destination {
    /// Returns the name.
    pub fn name(&self) -> &Name {
        match self {
            Self::Queue(name) | Self::Exchange(name) => name,
        }
    }
}

impl Binding {
    /// Returns the octets charged for the binding.
    pub fn octets(&self) -> u64 {
        let names = [&self.source, self.destination.name(), &self.key].map(|name| name.as_octets().len());
        // A headers exchange keeps the arguments once more, as criteria.
        let arguments = 2 * self.arguments.as_table().octets().len();
        limits::BINDING_OCTETS + (names.into_iter().sum::<usize>() + arguments) as u64
    }
}
