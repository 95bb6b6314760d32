//! The effective options of a queue, derived from its declaration. A change replaces them as a
//! whole ([`Command::Configure`](crate::queue::command::Command::Configure)). Arguments without an
//! effect are not here.

use crate::queue::declared::Declared;
use std::sync::Arc;

/// The effective options of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Persistent messages survive a restart.
    pub durable: bool,
    /// The queue is deleted with its last consumer.
    pub auto_delete: bool,
    /// The most ready messages: a publication beyond is rejected, unless a consumer takes a message
    /// first. `None`: no limit.
    pub max_length: Option<usize>,
}

impl Options {
    /// Derives the options from a declaration.
    pub fn derive(declared: &Declared) -> Arc<Self> {
        Arc::new(Self { durable: declared.durable, auto_delete: declared.auto_delete, max_length: None })
    }
}
