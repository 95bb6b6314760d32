//! Deliberate faults: a proxy between the suite and a good broker plays a bad one, so that it can
//! be shown that the suite bites.
//!
//! Reading order: `fault` (what one is), `frame` and `link` (what it has at hand), the lists,
//! `proxy`, `table` (`FAULTS.md`).

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn each_has_a_name_of_its_own_and_a_sentence() {
        let mut names = BTreeSet::new();
        for fault in super::all() {
            assert!(names.insert(fault.name), "{} is there twice", fault.name);
            assert!(
                fault.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                fault.name
            );
            assert!(fault.does.ends_with('.') && !fault.does.contains('|'), "{}", fault.does);
        }
        assert!(names.len() >= 50);
    }

    #[test]
    fn each_waits_for_what_there_is() {
        for fault in super::all() {
            for name in fault.names().into_iter().filter(|name| name.contains('.')) {
                assert!(super::frame::Unit::say(1, name, "").is(name), "{}: no method {name}", fault.name);
            }
        }
    }
}
