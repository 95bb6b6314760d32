//! The octets of AMQP 0-9-1: frames, methods, tables, properties, both ways. No broker, no socket, no clock.
//!
//! Everything that is parsed borrows the octets it was parsed from. This is the only floor that names `nom` or
//! `amq_protocol`.

mod arguments;
pub mod encode_content;
pub mod encode_reply;
mod erlang;
pub mod fault;
pub mod frame;
mod grammar;
pub mod method;
pub(crate) mod method_id;
pub mod name;
pub mod properties;
pub mod table;
pub mod table_builder;
