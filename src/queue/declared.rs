//! A queue as declared (AMQP 0-9-1, 1.7.2.1).

use crate::limits;
use crate::queue::arguments::QueueType;
use leveret_wire::name::Name;
use leveret_wire::table::{OwnedTable, Table};

/// The declaration of a queue, which never changes.
#[derive(Debug)]
pub struct Declared {
    /// The name.
    pub name: Name,
    /// Survives a restart.
    pub durable: bool,
    /// The connection that declared it exclusive, and with which it is deleted.
    pub owner: Option<u64>,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// The queue type.
    pub kind: QueueType,
    /// All arguments, octet for octet.
    pub arguments: OwnedTable,
}

impl Declared {
    /// Returns the octets charged for the queue's definition.
    pub fn octets(&self) -> u64 {
        definition_octets(&self.name, self.arguments.as_table())
    }
}

/// Returns the octets charged for the definition of a queue of this name and these arguments.
pub fn definition_octets(name: &Name, arguments: Table<'_>) -> u64 {
    limits::QUEUE_OCTETS + (name.as_octets().len() + arguments.octets().len()) as u64
}
