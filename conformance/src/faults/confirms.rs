//! Faults of confirms, returns and transactions.

use super::fault::Fault;
use super::frame::Unit;
use super::link::{Link, Side};

pub(super) static FAULTS: &[Fault] = &[
    Fault::silence("return-lost", "A message that cannot be routed is not returned.", "basic.return"),
    Fault::each("return-after-confirm", "A message comes back after its confirm.", return_after_confirm),
    Fault::answer("return-code-wrong", "A return has the code 311.", "basic.return", |unit| {
        unit.set_number("reply-code", 311);
    }),
    Fault::answer("return-exchange-wrong", "A return names the default exchange.", "basic.return", |unit| {
        unit.set_text("exchange", "");
    }),
    Fault::answer("return-key-wrong", "A return has an empty routing key.", "basic.return", |unit| {
        unit.set_text("routing-key", "");
    }),
    Fault::answer("return-properties-lost", "A return has lost its properties.", "basic.return", |unit| {
        unit.header(|head| head.properties.clear());
    }),
    Fault::each("confirm-lost", "The second confirm of a channel does not come.", confirm_lost),
    Fault::answer("confirm-tag-wrong", "A confirm is for the tag after the one that is meant.", "basic.ack", |unit| {
        unit.add("delivery-tag", 1);
    }),
    Fault::each("confirm-tags-shared", "Confirms are counted over all channels of a connection.", confirm_tags_shared),
    Fault::answer(
        "confirm-multiple-lost",
        "A confirm for several messages is for its last alone.",
        "basic.ack",
        |unit| {
            unit.clear("multiple");
        },
    ),
    Fault::answer("confirm-refuses", "basic.nack comes where basic.ack is due.", "basic.ack", |unit| {
        unit.rename("basic.nack");
    }),
    Fault::each("confirm-doubled", "Every confirm comes twice.", |link, from, unit| {
        if from == Side::Broker && unit.is("basic.ack") {
            link.pass(from, &unit);
        }
        link.pass(from, &unit);
    }),
    Fault::pretence(
        "confirm-select-ignored",
        "confirm.select is answered, and nothing is confirmed.",
        "confirm.select",
        "confirm.select-ok",
    ),
    Fault::request("mandatory-ignored", "The bit mandatory is not looked at.", "basic.publish", |unit| {
        unit.clear("mandatory");
    }),
    Fault::request("immediate-ignored", "The bit immediate is not looked at.", "basic.publish", |unit| {
        unit.clear("immediate");
    }),
    Fault::pretence(
        "tx-select-ignored",
        "tx.select is answered, and nothing waits for tx.commit.",
        "tx.select",
        "tx.select-ok",
    ),
    Fault::pretence("tx-commit-ignored", "tx.commit is answered, and nothing is done.", "tx.commit", "tx.commit-ok"),
    Fault::pretence(
        "tx-rollback-ignored",
        "tx.rollback is answered, and nothing is undone.",
        "tx.rollback",
        "tx.rollback-ok",
    ),
    Fault::each("tx-rollback-commits", "tx.rollback does what tx.commit does.", |link, from, unit| {
        swapped(link, from, unit, ("tx.rollback", "tx.commit"));
    }),
    Fault::each("tx-commit-rolls-back", "tx.commit does what tx.rollback does.", |link, from, unit| {
        swapped(link, from, unit, ("tx.commit", "tx.rollback"));
    }),
];

fn return_after_confirm(link: &mut Link, from: Side, unit: Unit) {
    match (from, unit.name()) {
        (Side::Client, _) => link.pass(from, &unit),
        (_, "basic.return") => link.hold(unit),
        (_, "basic.ack" | "basic.nack") => {
            link.pass(from, &unit);
            link.release();
        }
        _ => {
            link.release();
            link.pass(from, &unit);
        }
    }
}

fn confirm_lost(link: &mut Link, from: Side, unit: Unit) {
    let is_confirm = from == Side::Broker && unit.is("basic.ack basic.nack");
    if !is_confirm || link.count(unit.channel(), "confirm") != 2 {
        link.pass(from, &unit);
    }
}

fn confirm_tags_shared(link: &mut Link, from: Side, mut unit: Unit) {
    if from == Side::Broker && unit.is("basic.ack basic.nack") {
        let tag = link.count(0, "confirm");
        unit.set_number("delivery-tag", tag.into());
    }
    link.pass(from, &unit);
}

/// The client's method becomes the other one, and the other one's answer becomes the first one's.
fn swapped(link: &mut Link, from: Side, mut unit: Unit, (asked, done): (&str, &str)) {
    let wrong = format!("{done}-ok");
    if unit.is(asked) {
        unit.rename(done);
        link.count(unit.channel(), "swapped");
    } else if unit.is(&wrong) && link.forget(unit.channel(), "swapped") {
        unit.rename(&format!("{asked}-ok"));
    }
    link.pass(from, &unit);
}
