//! Records of four octets as operations of two connections on one broker, held against a model
//! after each step.
#![no_main]

#[path = "../../tests/model/mod.rs"]
#[allow(dead_code, reason = "each target drives one part of it")]
mod model;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| model::world::run(octets.as_chunks().0.iter().copied()));
