//! Faults of a broker that does not do what it is asked: requests changed or lost on their way to
//! it.

use super::fault::Fault;
use super::frame::Unit;
use crate::peer::value::Value;

pub(super) static FAULTS: &[Fault] = &[
    Fault::request("prefetch-ignored", "Every prefetch count is taken as none.", "basic.qos", |unit| {
        unit.set_number("prefetch-count", 0);
    }),
    Fault::request("prefetch-one-more", "A prefetch count lets one delivery too many out.", "basic.qos", |unit| {
        if unit.number("prefetch-count") > 0 {
            unit.add("prefetch-count", 1);
        }
    }),
    Fault::request(
        "prefetch-scope-wrong",
        "A prefetch for a consumer is one for the channel, and the other way round.",
        "basic.qos",
        |unit| {
            unit.flip("global");
        },
    ),
    Fault::request("prefetch-size-ignored", "A prefetch in octets is taken and not kept.", "basic.qos", |unit| {
        unit.set_number("prefetch-size", 0);
    }),
    Fault::request("queue-exclusive-ignored", "Exclusive queues are for everybody.", "queue.declare", |unit| {
        unit.clear("exclusive");
    }),
    Fault::request("queue-auto-delete-ignored", "Queues outlive their last consumer.", "queue.declare", |unit| {
        unit.clear("auto-delete");
    }),
    Fault::request("queue-durable-ignored", "All queues are transient.", "queue.declare", |unit| unit.clear("durable")),
    Fault::request("queue-passive-ignored", "A passive declare declares.", "queue.declare", |unit| {
        unit.clear("passive")
    }),
    Fault::request("queue-arguments-ignored", "Arguments of queues are not looked at.", "queue.declare", no_arguments),
    Fault::request(
        "exchange-auto-delete-ignored",
        "Exchanges outlive their last binding.",
        "exchange.declare",
        |unit| {
            unit.clear("auto-delete");
        },
    ),
    Fault::request("exchange-durable-ignored", "All exchanges are transient.", "exchange.declare", |unit| {
        unit.clear("durable");
    }),
    Fault::request(
        "exchange-internal-ignored",
        "Clients may publish to internal exchanges.",
        "exchange.declare",
        |unit| {
            unit.clear("internal");
        },
    ),
    Fault::request("exchange-passive-ignored", "A passive declare declares an exchange.", "exchange.declare", |unit| {
        unit.clear("passive");
    }),
    Fault::request("exchange-arguments-ignored", "Exchanges have no alternate.", "exchange.declare", no_arguments),
    Fault::request("topic-as-fanout", "A topic exchange routes to all of its queues.", "exchange.declare", |unit| {
        if unit.field("type") == Some(&Value::str("topic")) {
            unit.set_text("type", "fanout");
        }
    }),
    Fault::request("topic-as-direct", "A topic exchange knows no wildcards.", "exchange.declare", |unit| {
        if unit.field("type") == Some(&Value::str("topic")) {
            unit.set_text("type", "direct");
        }
    }),
    Fault::request("fanout-as-direct", "A fanout exchange looks at the routing key.", "exchange.declare", |unit| {
        if unit.field("type") == Some(&Value::str("fanout")) {
            unit.set_text("type", "direct");
        }
    }),
    Fault::request(
        "binding-arguments-ignored",
        "Arguments of bindings are not looked at.",
        "queue.bind exchange.bind",
        no_arguments,
    ),
    Fault::request("headers-match-all-always", "x-match is always all.", "queue.bind exchange.bind", |unit| {
        unit.table("arguments", |pairs| pairs.retain(|(name, _)| name != b"x-match"));
    }),
    Fault::request("binding-key-ignored", "Bindings have no key.", "queue.bind exchange.bind", |unit| {
        unit.set_text("routing-key", "");
    }),
    Fault::pretence(
        "unbind-ignored",
        "queue.unbind is answered, and the binding stays.",
        "queue.unbind",
        "queue.unbind-ok",
    ),
    Fault::pretence(
        "exchange-unbind-ignored",
        "exchange.unbind is answered, and the binding stays.",
        "exchange.unbind",
        "exchange.unbind-ok",
    ),
    Fault::pretence(
        "purge-ignored",
        "queue.purge is answered, and the messages stay.",
        "queue.purge",
        "queue.purge-ok",
    ),
    Fault::pretence(
        "delete-ignored",
        "queue.delete is answered, and the queue stays.",
        "queue.delete",
        "queue.delete-ok",
    ),
    Fault::pretence(
        "exchange-delete-ignored",
        "exchange.delete is answered, and the exchange stays.",
        "exchange.delete",
        "exchange.delete-ok",
    ),
    Fault::request(
        "if-unused-ignored",
        "What is in use is deleted all the same.",
        "queue.delete exchange.delete",
        |unit| {
            unit.clear("if-unused");
        },
    ),
    Fault::request("if-empty-ignored", "A queue with messages is deleted all the same.", "queue.delete", |unit| {
        unit.clear("if-empty");
    }),
    Fault::request("consumer-exclusive-ignored", "An exclusive consumer is not alone.", "basic.consume", |unit| {
        unit.clear("exclusive");
    }),
    Fault::request("no-ack-ignored", "Deliveries without acks wait for acks.", "basic.consume basic.get", |unit| {
        unit.clear("no-ack");
    }),
    Fault::request("no-ack-always", "Deliveries count as acknowledged at once.", "basic.consume basic.get", |unit| {
        unit.raise("no-ack");
    }),
    Fault::request(
        "consumer-arguments-ignored",
        "Arguments of consumers are not looked at.",
        "basic.consume",
        no_arguments,
    ),
    Fault::deafness("ack-lost", "basic.ack is not heard.", "basic.ack"),
    Fault::request("ack-multiple-ignored", "basic.ack with multiple acknowledges one delivery.", "basic.ack", |unit| {
        unit.clear("multiple");
    }),
    Fault::request(
        "ack-multiple-always",
        "basic.ack acknowledges all deliveries up to its tag.",
        "basic.ack",
        |unit| {
            unit.raise("multiple");
        },
    ),
    Fault::request("nack-multiple-ignored", "basic.nack with multiple rejects one delivery.", "basic.nack", |unit| {
        unit.clear("multiple");
    }),
    Fault::request(
        "nack-requeue-flipped",
        "basic.nack requeues what it should drop, and drops what it should requeue.",
        "basic.nack",
        |unit| {
            unit.flip("requeue");
        },
    ),
    Fault::request(
        "reject-requeue-flipped",
        "basic.reject requeues what it should drop, and drops what it should requeue.",
        "basic.reject",
        |unit| {
            unit.flip("requeue");
        },
    ),
    Fault::pretence(
        "recover-ignored",
        "basic.recover is answered, and nothing comes again.",
        "basic.recover",
        "basic.recover-ok",
    ),
    Fault::request("persistence-ignored", "Persistent messages become transient.", "header", |unit| {
        unit.property("delivery-mode", |value| *value = Value::Number(1));
    }),
    Fault::request("expiration-ignored", "Messages have no expiration of their own.", "header", |unit| {
        unit.without("expiration");
    }),
    Fault::request("user-id-ignored", "The user id of a message is not looked at.", "header", |unit| {
        unit.without("user-id")
    }),
    Fault::request("cc-ignored", "CC and BCC are headers like others.", "header", |unit| {
        unit.headers(|pairs| {
            for (name, _) in pairs {
                if name == b"CC" || name == b"BCC" {
                    name.push(b'-');
                }
            }
        });
    }),
    Fault::request(
        "reply-to-as-given",
        "The pseudo-queue of direct reply-to is a name like others.",
        "header",
        |unit| {
            unit.property("reply-to", |value| {
                if *value == Value::str("amq.rabbitmq.reply-to") {
                    *value = Value::str("amq.rabbitmq.reply");
                }
            });
        },
    ),
    Fault::request("routing-key-cut", "Routing keys are cut after 127 octets.", "basic.publish", |unit| {
        if let Some(Value::Str(key)) = unit.field("routing-key")
            && let Some(key) = key.get(..127).filter(|cut| cut.len() < key.len())
        {
            unit.set("routing-key", Value::Str(key.to_vec()));
        }
    }),
];

fn no_arguments(unit: &mut Unit) {
    unit.table("arguments", Vec::clear);
}
