//! What exchanges and bindings were declared as. Data: it knows no rule, and nothing that is there.

use crate::routing::Kind;
use crate::wire::name::Name;
use crate::wire::table::OwnedTable;

/// What an exchange was declared as.
#[derive(Clone, Debug)]
pub struct DeclaredExchange {
    /// Its type.
    pub kind: Kind,
    /// Survives a restart.
    pub durable: bool,
    /// Vanishes with the last binding of which it is the source.
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// All arguments, octet for octet.
    pub arguments: OwnedTable,
    /// `alternate-exchange`.
    pub alternate: Option<Name>,
}

/// What a binding leads to, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A queue.
    Queue(Name),
    /// Another exchange.
    Exchange(Name),
}

/// One binding. Two bindings are the same when all four parts are; arguments compare without regard to their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The exchange it starts from.
    pub source: Name,
    /// What it leads to.
    pub destination: Destination,
    /// The binding key.
    pub key: Name,
    /// Its arguments.
    pub arguments: OwnedTable,
}
