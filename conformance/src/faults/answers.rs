//! Faults of the broker's answers: names and counts, errors, closing.

use super::fault::Fault;
use super::frame::Unit;
use super::link::{Link, Side};
use crate::peer::value::Value;

const CLOSES: &str = "channel.close connection.close";

pub(super) static FAULTS: &[Fault] = &[
    Fault::answer(
        "declare-message-count-wrong",
        "queue.declare-ok counts a message too many.",
        "queue.declare-ok",
        |unit| {
            unit.add("message-count", 1);
        },
    ),
    Fault::answer("declare-message-count-0", "queue.declare-ok counts no messages.", "queue.declare-ok", |unit| {
        unit.set_number("message-count", 0);
    }),
    Fault::answer("declare-consumer-count-0", "queue.declare-ok counts no consumers.", "queue.declare-ok", |unit| {
        unit.set_number("consumer-count", 0);
    }),
    Fault::answer("declare-name-lost", "queue.declare-ok does not name the queue.", "queue.declare-ok", |unit| {
        unit.set_text("queue", "");
    }),
    Fault::each("made-up-name-repeated", "Two queues that the broker names have the same name.", name_repeated),
    Fault::answer("purge-count-0", "queue.purge-ok counts no messages.", "queue.purge-ok", |unit| {
        unit.set_number("message-count", 0);
    }),
    Fault::answer("delete-count-0", "queue.delete-ok counts no messages.", "queue.delete-ok", |unit| {
        unit.set_number("message-count", 0);
    }),
    Fault::answer("close-code-wrong", "A channel is closed with 541.", "channel.close", |unit| {
        unit.set_number("reply-code", 541);
    }),
    Fault::answer("connection-close-code-wrong", "A connection is closed with 541.", "connection.close", |unit| {
        unit.set_number("reply-code", 541);
    }),
    Fault::answer("close-class-0", "channel.close does not say the class that failed.", "channel.close", |unit| {
        unit.set_number("class-id", 0);
    }),
    Fault::answer("close-method-0", "channel.close does not say the method that failed.", "channel.close", |unit| {
        unit.set_number("method-id", 0);
    }),
    Fault::answer(
        "connection-close-method-0",
        "connection.close does not say the method that failed.",
        "connection.close",
        |unit| {
            unit.set_number("class-id", 0);
            unit.set_number("method-id", 0);
        },
    ),
    Fault::answer(
        "reply-text-empty",
        "Errors and returns have no reply text.",
        "channel.close connection.close basic.return",
        |unit| {
            unit.set_text("reply-text", "");
        },
    )
    .soft(),
    Fault::answer("reply-text-without-name", "Reply texts do not say what they are about.", CLOSES, |unit| {
        if let Some(Value::Str(text)) = unit.field("reply-text") {
            let text = String::from_utf8_lossy(text).split(" - ").next().unwrap_or("").to_owned();
            unit.set_text("reply-text", &text);
        }
    })
    .soft(),
    Fault::each(
        "channel-error-ends-connection",
        "connection.close comes where channel.close is due.",
        |link, from, mut unit| {
            if from == Side::Broker && unit.is("channel.close") {
                unit.rename("connection.close");
                unit.move_to(0);
            }
            link.pass(from, &unit);
        },
    ),
    Fault::each(
        "connection-error-ends-channel",
        "channel.close comes where connection.close is due.",
        |link, from, mut unit| {
            if from == Side::Broker && unit.is("connection.close") {
                unit.rename("channel.close");
                unit.move_to(1);
            }
            link.pass(from, &unit);
        },
    ),
    Fault::silence("error-unsaid", "A channel is closed, and the client is not told.", "channel.close"),
    Fault::silence("close-ok-lost", "channel.close is not answered.", "channel.close-ok"),
    Fault::silence("connection-close-ok-lost", "connection.close is not answered.", "connection.close-ok"),
    Fault::each("frame-after-close-ok", "A frame comes on a channel after its close-ok.", |link, from, unit| {
        link.pass(from, &unit);
        if from == Side::Broker && unit.is("channel.close-ok") {
            link.pass(from, &Unit::say(unit.channel(), "channel.flow", "active"));
        }
    }),
    Fault::each("frame-after-close", "A frame comes on a channel after channel.close.", |link, from, unit| {
        link.pass(from, &unit);
        if from == Side::Broker && unit.is("channel.close") {
            link.pass(from, &Unit::say(unit.channel(), "channel.flow", "active"));
        }
    }),
    Fault::answer("flow-ok-wrong", "channel.flow-ok says the contrary.", "channel.flow-ok", |unit| unit.flip("active")),
    Fault::pretence(
        "flow-ignored",
        "channel.flow is answered, and deliveries go on.",
        "channel.flow",
        "channel.flow-ok",
    ),
    Fault::request(
        "nowait-answered",
        "Methods with nowait are answered.",
        "queue.declare queue.bind queue.purge queue.delete exchange.declare exchange.delete exchange.bind exchange.unbind \
            basic.consume basic.cancel confirm.select",
        |unit| unit.clear("nowait"),
    ),
    Fault::each("answer-doubled", "queue.bind-ok and exchange.declare-ok come twice.", |link, from, unit| {
        if unit.is("queue.bind-ok exchange.declare-ok") {
            link.pass(from, &unit);
        }
        link.pass(from, &unit);
    }),
    Fault::each("answer-on-channel-0", "queue.declare-ok comes on channel 0.", |link, from, mut unit| {
        if unit.is("queue.declare-ok") {
            unit.move_to(0);
        }
        link.pass(from, &unit);
    }),
    Fault::each("answers-swapped", "Answers to two methods sent at once come in the wrong order.", answers_swapped),
    Fault::each("close-doubled", "channel.close comes twice.", |link, from, unit| {
        if from == Side::Broker && unit.is("channel.close") {
            link.pass(from, &unit);
        }
        link.pass(from, &unit);
    }),
];

fn name_repeated(link: &mut Link, from: Side, mut unit: Unit) {
    let channel = unit.channel();
    if unit.is("queue.declare") && unit.field("queue") == Some(&Value::str("")) {
        link.count(channel, "unnamed");
    }
    if unit.is("queue.declare-ok") && link.forget(channel, "unnamed") {
        match link.kept(channel, "name") {
            Some(first) => unit.take_fields(&first),
            None => link.keep("name", &unit),
        }
    }
    link.pass(from, &unit);
}

fn answers_swapped(link: &mut Link, from: Side, unit: Unit) {
    if from == Side::Client {
        return link.pass(from, &unit);
    }
    let is_answer = unit.is("queue.declare-ok queue.bind-ok basic.consume-ok queue.purge-ok");
    if is_answer && !link.is_holding() {
        return link.hold(unit);
    }
    link.pass(from, &unit);
    link.release();
}
