//! Faults of content headers and bodies on their way to the client.

use super::fault::Fault;
use super::frame::Unit;
use crate::peer::value::Value;

const CONTENTS: &str = "basic.deliver basic.get-ok";
const ALL: &str = "basic.deliver basic.get-ok basic.return";
/// Larger than any frame that is agreed on.
const ENDLESS: usize = 1 << 24;

pub(super) static FAULTS: &[Fault] = &[
    Fault::answer("body-octet-wrong", "The last octet of a body is another.", CONTENTS, |unit| {
        let mut body = unit.body();
        if let Some(last) = body.last_mut() {
            *last ^= 1;
            unit.set_body(&body, 4096);
        }
    }),
    Fault::answer("body-stray-octet", "A body has an octet more, and its header says so.", CONTENTS, |unit| {
        let mut body = unit.body();
        body.push(0);
        unit.header(|head| head.size += 1);
        unit.set_body(&body, 4096);
    }),
    Fault::answer("body-cut", "A body lacks its last octet, and its header says so.", CONTENTS, |unit| {
        let mut body = unit.body();
        if body.pop().is_some() {
            unit.header(|head| head.size -= 1);
            unit.set_body(&body, 4096);
        }
    }),
    Fault::answer("body-parts-swapped", "The frames of a long body come in another order.", CONTENTS, |unit| {
        let body = unit.body();
        if let Some((first, rest)) = body.split_at_checked(4088).filter(|(_, rest)| !rest.is_empty()) {
            let parts = [rest, first].concat();
            unit.set_body(&parts, 4088);
        }
    }),
    Fault::answer("header-size-short", "A header says one octet less than the body has.", ALL, |unit| {
        unit.header(|head| head.size = head.size.saturating_sub(1));
    }),
    Fault::answer("header-size-long", "A header says one octet more than the body has.", ALL, |unit| {
        unit.header(|head| head.size += 1);
    }),
    Fault::answer("header-class-wrong", "A content header is of class 0.", ALL, |unit| {
        unit.header(|head| head.class = 0)
    }),
    Fault::answer("header-weight-wrong", "The weight of a content header is not 0.", ALL, |unit| {
        unit.header(|head| head.weight = 1);
    }),
    Fault::answer("frames-too-large", "A body comes in one frame, however small frames were agreed on.", ALL, |unit| {
        let body = unit.body();
        unit.set_body(&body, ENDLESS);
    }),
    Fault::answer("empty-body-framed", "An empty body comes as an empty frame.", ALL, |unit| {
        if unit.body().is_empty() {
            unit.push_body(b"");
        }
    }),
    Fault::answer("empty-frame-follows", "An empty body frame comes behind each body.", ALL, |unit| {
        if !unit.body().is_empty() {
            unit.push_body(b"");
        }
    }),
    Fault::answer("properties-lost", "A message has lost all its properties.", CONTENTS, |unit| {
        unit.header(|head| head.properties.clear());
    }),
    Fault::answer("property-lost", "A message has lost the last of its properties.", CONTENTS, |unit| {
        unit.header(|head| drop(head.properties.pop()));
    }),
    Fault::answer("property-added", "A message has an application id that nobody gave it.", CONTENTS, |unit| {
        unit.header(|head| {
            if head.properties.iter().all(|(name, _)| name != "app-id") {
                head.properties.push(("app-id".to_owned(), Value::str("proxy")));
            }
        });
    }),
    Fault::answer("content-type-lowered", "The content type is changed to lower case.", CONTENTS, |unit| {
        unit.property("content-type", |value| {
            if let Value::Str(text) = value {
                text.make_ascii_lowercase();
            }
        });
    }),
    Fault::answer("timestamp-wrong", "A timestamp is a second late.", CONTENTS, |unit| add(unit, "timestamp", 1)),
    Fault::answer("priority-changed", "A priority is one more than it was.", CONTENTS, |unit| add(unit, "priority", 1)),
    Fault::answer("delivery-mode-lost", "A message has no delivery mode.", CONTENTS, |unit| {
        unit.without("delivery-mode")
    }),
    Fault::answer("correlation-id-lost", "A message has no correlation id.", CONTENTS, |unit| {
        unit.without("correlation-id")
    }),
    Fault::answer("reply-to-lost", "A message has no reply-to.", CONTENTS, |unit| unit.without("reply-to")),
    Fault::answer("message-id-lost", "A message has no message id.", CONTENTS, |unit| unit.without("message-id")),
    Fault::answer("header-lost", "The last header of a message is gone.", CONTENTS, |unit| {
        unit.headers(|pairs| pairs.truncate(pairs.len().saturating_sub(1)));
    }),
    Fault::answer("header-retyped", "A header of four octets comes as one of eight.", CONTENTS, |unit| {
        unit.headers(|pairs| pairs.iter_mut().for_each(|(_, value)| widen(value)));
    }),
    Fault::answer("header-text-as-octets", "A header that is a text comes as octets.", CONTENTS, |unit| {
        unit.headers(|pairs| {
            for (_, value) in pairs {
                if let Value::Str(text) = value {
                    *value = Value::Bytes(std::mem::take(text));
                }
            }
        });
    }),
    Fault::answer("header-nested-emptied", "Tables and arrays within headers are empty.", CONTENTS, |unit| {
        unit.headers(|pairs| {
            for (_, value) in pairs {
                match value {
                    Value::Table(inner) => inner.clear(),
                    Value::Array(items) => items.clear(),
                    _ => {}
                }
            }
        });
    }),
];

fn add(unit: &mut Unit, property: &str, n: i128) {
    unit.property(property, |value| {
        if let Value::Number(known) = value {
            *known += n;
        }
    });
}

fn widen(value: &mut Value) {
    match value {
        Value::I32(n) => *value = Value::I64(i64::from(*n)),
        Value::Table(pairs) => pairs.iter_mut().for_each(|(_, inner)| widen(inner)),
        Value::Array(items) => items.iter_mut().for_each(widen),
        _ => {}
    }
}
