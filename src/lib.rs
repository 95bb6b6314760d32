//! Leveret, an AMQP 0-9-1 broker that RabbitMQ clients use unchanged.
//!
//! [`Broker`] and [`Config`] run a broker inside a program or a test; a [`clock`] that is moved by
//! hand lets a test pass hours in no time. These, and the errors beside them, are the interface.
//! All other modules are the broker's own: they are public for the program, the tests and the
//! benches of this repository only, are hidden from the documentation, and change without notice.
//! ARCHITECTURE.md has the ways through them.
//!
//! Layers, from the top; each imports lower ones only:
//!
//! | layer | holds |
//! |---|---|
//! | `cli` | arguments, log, signals, exit codes |
//! | `server` | listeners, sockets and tasks; the store's life |
//! | `session` | the protocol of one connection, without a socket |
//! | `broker` | virtual hosts, topology, users, alarms |
//! | `queue` | one queue: decisions, and their way into outboxes |
//! | `outbox` | octets that wait for one socket, and unacknowledged deliveries |
//! | `routing`, `message` | key and headers to targets; a message and its parts |
//! | [`config`] | the configuration |
//! | `memory` | the account of all octets that peers make a broker keep |
//! | [`clock`], `counters`, `metrics` | time, numbers |
//! | `escaped`, `offload`, `sequence_map` | text for the log, long work, a sparse map |
//! | `limits` | bounds with their units |
//!
//! Crates below it: `leveret_wire` (AMQP's octets) and `leveret_journal` (the durable log); beside
//! it: `leveret_perf` (a load generator for any broker).
//!
//! Invariants: locks are taken in the order topology, queue, then outbox or the journal's appender,
//! and never across an await; only `server` touches sockets; only `leveret_wire` names the protocol
//! crates; nothing that a peer sends panics or costs unbounded memory.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod clock;
pub mod config;

#[doc(hidden)]
pub mod broker;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod counters;
#[doc(hidden)]
pub mod escaped;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod message;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod offload;
#[doc(hidden)]
pub mod outbox;
#[doc(hidden)]
pub mod queue;
#[doc(hidden)]
pub mod routing;
#[doc(hidden)]
pub mod sequence_map;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod session;

pub use config::Config;
pub use server::Broker;
pub use server::data_dir::DataDirError;
pub use server::error::{ShutdownError, StartError};
