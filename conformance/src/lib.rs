//! A conformance suite for AMQP 0-9-1 brokers. It knows brokers by their octets alone.
//!
//! Reading order: `case` (what a case is), `play` (how it is played), `expect` (how it is judged),
//! `runner`, `report`.

pub mod capabilities;
pub mod case;
pub mod cli;
pub mod expect;
pub mod faults;
pub mod glob;
pub mod known;
pub mod peer;
pub mod play;
pub mod profile;
pub mod report;
pub mod restart;
pub mod runner;
pub mod suite;
pub mod talk;
pub mod target;
