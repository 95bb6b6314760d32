//! The octets of AMQP 0-9-1: frames, methods, tables, properties, both ways. No broker, no socket,
//! no clock.
//!
//! Everything that is parsed borrows the octets it was parsed from. This is the only layer that
//! names `nom` or `amq_protocol`.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod canonical;
pub mod encode_content;
mod erlang;
pub mod fault;
mod field;
pub mod frame;
mod grammar;
pub mod limits;
pub mod method;
pub mod method_id;
mod method_table;
pub mod name;
pub mod properties;
pub mod reply;
pub mod table;
pub mod table_builder;
