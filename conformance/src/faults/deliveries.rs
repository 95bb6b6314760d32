//! Faults of basic.deliver, basic.get-ok and of what begins and ends a consumer.

use super::fault::Fault;
use super::frame::Unit;
use super::link::{Link, Side};

const MESSAGES: &str = "basic.deliver basic.get-ok";

pub(super) static FAULTS: &[Fault] = &[
    Fault::answer("redelivered-never", "What was delivered before is not marked.", MESSAGES, |unit| {
        unit.clear("redelivered");
    }),
    Fault::answer("redelivered-always", "What was never delivered is marked as redelivered.", MESSAGES, |unit| {
        unit.raise("redelivered");
    }),
    Fault::answer(
        "redelivered-flipped-in-get",
        "basic.get-ok has the bit redelivered the wrong way.",
        "basic.get-ok",
        |unit| {
            unit.flip("redelivered");
        },
    ),
    Fault::each("deliveries-swapped", "Of two deliveries in a row the second comes first.", deliveries_swapped),
    Fault::each("delivery-doubled", "Every delivery comes twice.", |link, from, unit| {
        if from == Side::Broker && unit.is("basic.deliver") {
            link.pass(from, &unit);
        }
        link.pass(from, &unit);
    }),
    Fault::each("delivery-lost", "The second delivery of a channel does not come.", delivery_lost),
    Fault::answer("delivery-exchange-wrong", "A delivery names the default exchange.", "basic.deliver", |unit| {
        unit.set_text("exchange", "");
    }),
    Fault::answer("delivery-key-wrong", "A delivery has an empty routing key.", "basic.deliver", |unit| {
        unit.set_text("routing-key", "");
    }),
    Fault::answer("get-exchange-wrong", "basic.get-ok names the default exchange.", "basic.get-ok", |unit| {
        unit.set_text("exchange", "");
    }),
    Fault::answer("get-key-wrong", "basic.get-ok has an empty routing key.", "basic.get-ok", |unit| {
        unit.set_text("routing-key", "");
    }),
    Fault::answer("delivery-tags-from-0", "Delivery tags begin with 0.", MESSAGES, |unit| unit.add("delivery-tag", -1)),
    Fault::answer("delivery-tags-skip", "Delivery tags go up by two.", MESSAGES, |unit| {
        let tag = unit.number("delivery-tag");
        unit.add("delivery-tag", tag - 1);
    }),
    Fault::answer("delivery-tags-repeat", "Delivery tags begin anew after the second.", MESSAGES, |unit| {
        let tag = unit.number("delivery-tag");
        unit.set_number("delivery-tag", (tag - 1) % 2 + 1);
    }),
    Fault::each("delivery-tags-by-consumer", "Delivery tags are counted for each consumer.", tags_by_consumer),
    Fault::answer("consumer-tag-wrong", "A delivery names another consumer.", "basic.deliver", |unit| {
        unit.set_text("consumer-tag", "nobody");
    }),
    Fault::answer("consume-ok-tag-wrong", "basic.consume-ok has no consumer tag.", "basic.consume-ok", |unit| {
        unit.set_text("consumer-tag", "");
    }),
    Fault::answer("cancel-ok-tag-wrong", "basic.cancel-ok has no consumer tag.", "basic.cancel-ok", |unit| {
        unit.set_text("consumer-tag", "");
    }),
    Fault::each("delivery-before-consume-ok", "The first delivery comes before basic.consume-ok.", before_consume_ok),
    Fault::each("delivery-after-cancel-ok", "A delivery comes after basic.cancel-ok.", after_cancel_ok),
    Fault::silence("cancel-notice-lost", "A consumer is not told that its queue is gone.", "basic.cancel"),
    Fault::pretence(
        "cancel-ignored",
        "basic.cancel is answered, and the consumer stays.",
        "basic.cancel",
        "basic.cancel-ok",
    ),
    Fault::answer("get-count-wrong", "basic.get-ok counts the message itself.", "basic.get-ok", |unit| {
        unit.add("message-count", 1);
    }),
    Fault::each("get-empty-always", "basic.get finds nothing where there is something.", |link, from, mut unit| {
        if unit.is("basic.get-ok") {
            unit = Unit::say(unit.channel(), "basic.get-empty", "");
        }
        link.pass(from, &unit);
    }),
    Fault::answer("recover-ok-wrong", "basic.recover-ok comes as basic.qos-ok.", "basic.recover-ok", |unit| {
        unit.rename("basic.qos-ok");
    }),
];

fn deliveries_swapped(link: &mut Link, from: Side, unit: Unit) {
    if from == Side::Client {
        return link.pass(from, &unit);
    }
    let is_delivery = unit.is("basic.deliver");
    if is_delivery && link.holds(unit.channel(), "basic.deliver") {
        link.pass(from, &unit);
        return link.release();
    }
    link.release();
    match is_delivery {
        true => link.hold(unit),
        false => link.pass(from, &unit),
    }
}

fn delivery_lost(link: &mut Link, from: Side, unit: Unit) {
    let is_delivery = from == Side::Broker && unit.is("basic.deliver");
    if !is_delivery || link.count(unit.channel(), "delivery") != 2 {
        link.pass(from, &unit);
    }
}

/// A tag that was given already is given again as soon as the consumer is another.
fn tags_by_consumer(link: &mut Link, from: Side, mut unit: Unit) {
    let channel = unit.channel();
    if from == Side::Broker && unit.is("basic.consume-ok") {
        link.forget(channel, "delivery");
    }
    if from == Side::Broker && unit.is("basic.deliver") {
        let tag = link.count(channel, "delivery");
        unit.set_number("delivery-tag", tag.into());
    }
    link.pass(from, &unit);
}

fn before_consume_ok(link: &mut Link, from: Side, unit: Unit) {
    match (from, unit.name()) {
        (Side::Client, _) => link.pass(from, &unit),
        (_, "basic.consume-ok") => link.hold(unit),
        (_, "basic.deliver") => {
            link.pass(from, &unit);
            link.release();
        }
        _ => {
            link.release();
            link.pass(from, &unit);
        }
    }
}

fn after_cancel_ok(link: &mut Link, from: Side, unit: Unit) {
    if from == Side::Broker && unit.is("basic.deliver") {
        link.keep("delivery", &unit);
    }
    link.pass(from, &unit);
    if from == Side::Broker
        && unit.is("basic.cancel-ok")
        && let Some(delivery) = link.kept(unit.channel(), "delivery")
    {
        link.pass(from, &delivery);
    }
}
