//! A journal's directory, changed at will: opening it refuses it or finds what was synced, never
//! anything else.
#![no_main]

#[path = "../../tests/mutated/mod.rs"]
mod mutated;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| mutated::run(input));
