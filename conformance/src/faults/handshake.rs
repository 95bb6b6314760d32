//! Faults of the handshake, of tuning and of heartbeats.

use super::fault::Fault;
use super::frame::Unit;
use super::link::{Link, Side};
use crate::peer::value::Value;

pub(super) static FAULTS: &[Fault] = &[
    Fault::answer(
        "capability-missing",
        "The broker does not say that it tells consumers of their end.",
        "connection.start",
        |unit| {
            capabilities(unit, |pairs| pairs.retain(|(name, _)| name != b"consumer_cancel_notify"));
        },
    ),
    Fault::answer(
        "capabilities-false",
        "The broker says that it has none of its capabilities.",
        "connection.start",
        |unit| {
            capabilities(unit, |pairs| pairs.iter_mut().for_each(|(_, value)| *value = Value::Bool(false)));
        },
    ),
    Fault::answer("version-wrong", "connection.start is of version 0-8.", "connection.start", |unit| {
        unit.set_number("version-minor", 8);
    }),
    Fault::answer("mechanism-missing", "PLAIN is not among the mechanisms.", "connection.start", |unit| {
        unit.set_text("mechanisms", "AMQPLAIN");
    }),
    Fault::answer("locale-missing", "No locale is offered.", "connection.start", |unit| unit.set_text("locales", "")),
    Fault::silence("version-answer-lost", "A wrong protocol header is not answered with the right one.", "protocol"),
    Fault::each("tune-frame-max-0", "The broker offers frames of any size.", |link, from, unit| {
        endless(link, from, unit, "frame-max");
    }),
    Fault::each("tune-channel-max-0", "The broker offers any number of channels.", |link, from, unit| {
        endless(link, from, unit, "channel-max");
    }),
    Fault::answer("tune-heartbeat-0", "The broker offers no heartbeats.", "connection.tune", |unit| {
        unit.set_number("heartbeat", 0);
    }),
    Fault::request(
        "tune-ok-frame-max-ignored",
        "The frame size that the client asks for is not looked at.",
        "connection.tune-ok",
        |unit| {
            unit.set_number("frame-max", 131_072);
        },
    ),
    Fault::request(
        "tune-ok-channel-max-ignored",
        "The number of channels that the client asks for is not looked at.",
        "connection.tune-ok",
        |unit| {
            unit.set_number("channel-max", 2047);
        },
    ),
    Fault::request("password-ignored", "Any password is right.", "connection.start-ok", |unit| {
        if let Some(Value::Str(response)) = unit.field("response") {
            let user = response.split(|octet| *octet == 0).nth(1).unwrap_or_default();
            if user == b"guest" && unit.field("mechanism") == Some(&Value::str("PLAIN")) {
                unit.set_text("response", "\0guest\0guest");
            }
        }
    }),
    Fault::request("virtual-host-ignored", "Every virtual host is the default one.", "connection.open", |unit| {
        unit.set_text("virtual-host", "/");
    }),
    Fault::each("refusal-unsaid", "A login that is refused ends without connection.close.", refusal_unsaid),
    Fault::silence("heartbeats-lost", "The broker sends no heartbeats.", "heartbeat"),
    Fault::answer("heartbeat-on-channel-1", "Heartbeats come on channel 1.", "heartbeat", |unit| unit.move_to(1)),
    Fault::deafness("heartbeats-unheard", "The client's heartbeats are not heard.", "heartbeat"),
    Fault::request(
        "heartbeat-interval-ignored",
        "Heartbeats are off, whatever the client asks for.",
        "connection.tune-ok",
        |unit| {
            unit.set_number("heartbeat", 0);
        },
    ),
];

fn capabilities(unit: &mut Unit, change: impl FnOnce(&mut Vec<(Vec<u8>, Value)>)) {
    unit.table("server-properties", |pairs| {
        if let Some((_, Value::Table(inner))) = pairs.iter_mut().find(|(name, _)| name == b"capabilities") {
            change(inner);
        }
    });
}

/// The broker offers 0, which means no limit; who takes it gets what the broker has.
fn endless(link: &mut Link, from: Side, mut unit: Unit, limit: &str) {
    if from == Side::Broker && unit.is("connection.tune") {
        link.keep("tune", &unit);
        unit.set_number(limit, 0);
    }
    if from == Side::Client
        && unit.is("connection.tune-ok")
        && unit.number(limit) == 0
        && let Some(tune) = link.kept(0, "tune")
    {
        unit.set_number(limit, tune.number(limit));
    }
    link.pass(from, &unit);
}

/// Until connection.tune has come, connection.close is lost.
fn refusal_unsaid(link: &mut Link, from: Side, unit: Unit) {
    if unit.is("connection.tune") {
        link.count(0, "tuned");
    }
    let is_refusal = from == Side::Broker && unit.is("connection.close") && link.counted(0, "tuned") == 0;
    if !is_refusal {
        link.pass(from, &unit);
    }
}
