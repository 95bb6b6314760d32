//! Any octets on one connection, in pieces that the input chooses: no panic, nothing used that was
//! not there, well-formed answers, and nothing left behind.
#![no_main]

#[path = "../../tests/model/mod.rs"]
#[allow(dead_code, reason = "each target drives one part of it")]
mod model;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| model::any::run(octets));
