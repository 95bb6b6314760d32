//! Leveret, an AMQP 0-9-1 broker that RabbitMQ clients use unchanged.
//!
//! To run a broker inside a program or a test, take [`Broker`] and [`Config`]. Everything else is
//! open to be read and tested, not a stable interface. ARCHITECTURE.md has the ways through it.
//!
//! Layers, from the top; each imports lower ones only:
//!
//! | layer | holds |
//! |---|---|
//! | [`cli`] | arguments, log, signals, exit codes |
//! | [`server`] | listeners, sockets and tasks; the store's life |
//! | [`session`] | the protocol of one connection, without a socket |
//! | [`broker`] | virtual hosts, topology, users, alarms |
//! | [`queue`] | one queue: decisions, and their way into outboxes |
//! | [`outbox`] | octets that wait for one socket, and unacknowledged deliveries |
//! | [`routing`], [`message`] | key and headers to targets; a message and its parts |
//! | [`config`] | the configuration |
//! | [`memory`] | the account of all octets that peers make a broker keep |
//! | [`clock`], [`counters`], [`metrics`] | time, numbers |
//! | [`escaped`], [`offload`], [`sequence_map`] | text for the log, long work, a sparse map |
//! | [`limits`] | bounds with their units |
//!
//! Crates below it: `leveret_wire` (AMQP's octets) and `leveret_journal` (the durable log); beside
//! it: `leveret_perf` (a load generator for any broker).
//!
//! Invariants: locks are taken in the order topology, queue, then outbox or the journal's appender,
//! and never across an await; only `server` touches sockets; only `leveret_wire` names the protocol
//! crates; nothing that a peer sends panics or costs unbounded memory.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counters;
pub mod escaped;
pub mod limits;
pub mod memory;
pub mod message;
pub mod metrics;
pub mod offload;
pub mod outbox;
pub mod queue;
pub mod routing;
pub mod sequence_map;
pub mod server;
pub mod session;

pub use config::Config;
pub use server::Broker;
pub use server::start_error::StartError;
