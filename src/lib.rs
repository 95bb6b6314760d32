//! Leveret, an AMQP 0-9-1 broker that RabbitMQ clients use unchanged. This file is the map of the house; it holds no
//! code of its own. ARCHITECTURE.md tells the journeys through it.
//!
//! To run a broker inside a program or a test, take [`Broker`] and [`Config`]. Everything else is open to be read and
//! tested, not a stable interface.
//!
//! Floors, from the top; each imports lower ones only:
//!
//! | floor | what it is | what it does not know |
//! |---|---|---|
//! | [`cli`] | arguments, log, signals | AMQP |
//! | [`server`] | sockets and tasks | methods, queues |
//! | [`perf`], beside it | a load generator: threads and sockets of its own | any broker |
//! | [`session`] | the protocol of one connection | sockets, tasks, the system's time |
//! | [`broker`] | names to things: virtual hosts, users, alarms | sessions |
//! | [`queue`] | one queue: decisions, and their way into outboxes | exchanges, time |
//! | [`outbox`] | what waits for one socket, and what was handed out | queues |
//! | [`store`], beside the next | one journal on disk | AMQP; queues but as numbers |
//! | [`routing`], [`message`] | key and headers to targets; octets with three cuts | wire, queues |
//! | [`wire`], [`config`] | AMQP's octets; the configuration | brokers |
//! | [`limits`], [`clock`], [`counters`], [`window`] | bounds, time, numbers, a sparse map | everything |
//!
//! Invariants: locks are taken in the order topology, queue, outbox, and never across an await; only `server` and
//! `perf` touch sockets; only they and `clock` know the time; only `wire` names the protocol crates; nothing that a peer sends
//! panics or costs unbounded memory.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counters;
pub mod limits;
pub mod message;
pub mod outbox;
pub mod perf;
pub mod queue;
pub mod routing;
pub mod server;
pub mod session;
pub mod store;
pub mod window;
pub mod wire;

pub use config::Config;
pub use server::Broker;
pub use server::start_error::StartError;
