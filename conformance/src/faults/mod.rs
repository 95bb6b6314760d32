//! Deliberate faults: a proxy between the suite and a good broker plays a bad one, so that it can be shown that the suite bites.
//! It knows no case and no broker.
//!
//! Reading order: `fault` (what one is), `frame` and `link` (what it has at hand), the lists, `proxy`, `table` (`FAULTS.md`).

mod answers;
mod confirms;
mod contents;
mod deliveries;
pub mod fault;
mod frame;
mod handshake;
mod link;
pub mod proxy;
mod requests;
pub mod table;

use fault::Fault;

/// All faults, in the order of `FAULTS.md`.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    let lists =
        [handshake::FAULTS, answers::FAULTS, requests::FAULTS, confirms::FAULTS, deliveries::FAULTS, contents::FAULTS];
    lists.into_iter().flatten()
}
