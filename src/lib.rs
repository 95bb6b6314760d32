//! Leveret, an AMQP 0-9-1 broker. This file is the map of the house; it holds no code of its own.

pub mod limits;
pub mod wire;
