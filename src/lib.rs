//! Leveret, an AMQP 0-9-1 broker. This file is the map of the house; it holds no code of its own.
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counters;
pub mod limits;
pub mod message;
pub mod outbox;
pub mod queue;
pub mod routing;
pub mod server;
pub mod session;
pub mod window;
pub mod wire;

pub use config::Config;
pub use server::{Broker, StartError};
