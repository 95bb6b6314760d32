//! Whole features that a broker may lack without being wrong; each is probed once a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::peer::{Heard, Peer};
use crate::target::Target;

/// A name of the suite's own, deleted at once.
const NAME: &str = "conformance.capability";

/// Features that a case can need, each with the declaration that probes it: it must be answered
/// with its `-ok`.
const DECLARED: &[(&str, &str, &str)] = &[
    ("quorum", "queue", "durable arguments={x-queue-type: \"quorum\"}"),
    ("stream", "queue", "durable arguments={x-queue-type: \"stream\"}"),
    ("transient-queues", "queue", ""),
    ("delayed", "exchange", "type=x-delayed-message arguments={x-delayed-type: \"direct\"}"),
    ("consistent-hash", "exchange", "type=x-consistent-hash"),
    ("modulus-hash", "exchange", "type=x-modulus-hash"),
    ("random", "exchange", "type=x-random"),
    ("local-random", "exchange", "type=x-local-random durable"),
    ("recent-history", "exchange", "type=x-recent-history"),
    ("jms-topic", "exchange", "type=x-jms-topic"),
    ("deduplication", "exchange", "type=x-message-deduplication arguments={x-cache-size: int32 10}"),
];

/// Why a broker does not offer something, or nothing if it does; an error if it could not be asked.
type Answer = Result<Option<String>, String>;

/// Answers that are known so far.
#[derive(Default)]
pub struct Capabilities(Mutex<BTreeMap<String, Answer>>);

impl Capabilities {
    /// Returns the first of the needs that the broker lacks. An error means that it could not be
    /// probed.
    pub fn lacking(&self, target: &Target, needs: &[String]) -> Result<Option<String>, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for need in needs {
            let answer = known.entry(need.clone()).or_insert_with(|| ask(target, need));
            match answer {
                Ok(None) => {}
                Ok(lack) => return Ok(lack.clone()),
                Err(why) => return Err(format!("whether it has `{need}` could not be asked: {why}")),
            }
        }
        Ok(None)
    }

    /// Returns true if a word names a feature.
    pub fn is_known(need: &str) -> bool {
        let other = ["http", "restart", "global-qos", "event-exchange"];
        other.contains(&need) || DECLARED.iter().any(|(name, ..)| *name == need)
    }
}

fn ask(target: &Target, need: &str) -> Answer {
    match need {
        "http" => http(target),
        "restart" if target.can_restart() => Ok(None),
        "restart" => Ok(Some("no --restart-cmd was given".to_owned())),
        "global-qos" => global_qos(target),
        "event-exchange" => event_exchange(target),
        need => match DECLARED.iter().find(|(name, ..)| *name == need) {
            Some((_, kind, options)) => declared(target, need, kind, options),
            None => Err(format!("nothing is known of `{need}`")),
        },
    }
}

fn http(target: &Target) -> Answer {
    if !target.has_http() {
        return Ok(Some("no --http was given".to_owned()));
    }
    Ok(match target.http("GET", "/api/users", None)? {
        (200, _) => None,
        (401 | 403, _) => Some(format!("right missing: {} is no administrator", target.account.user)),
        (status, _) => Some(format!("capability absent: /api/users answers {status}")),
    })
}

fn channel(target: &Target) -> Result<Peer, String> {
    let mut peer = target.login()?;
    peer.call(1, "channel.open", "")?;
    Ok(peer)
}

fn declared(target: &Target, need: &str, kind: &str, options: &str) -> Answer {
    let name = format!("{NAME}.{need}");
    let mut peer = channel(target)?;
    let answer = peer.call(1, &format!("{kind}.declare"), &format!("{kind}={name} {options}"))?;
    if answer.method() != Some(&format!("{kind}.declare-ok")) {
        return Ok(Some(format!("capability absent: {need} ({answer})")));
    }
    peer.call(1, &format!("{kind}.delete"), &format!("{kind}={name}"))?;
    Ok(None)
}

/// The broker itself declares it, in one virtual host: it is there or not.
fn event_exchange(target: &Target) -> Answer {
    let answer = channel(target)?.call(1, "exchange.declare", "exchange=amq.rabbitmq.event type=topic passive")?;
    Ok(match answer.method() {
        Some("exchange.declare-ok") => None,
        _ => Some(format!("capability absent: event-exchange ({answer})")),
    })
}

/// A broker may deny a prefetch for a whole channel by taking it as one for each consumer: two
/// consumers then get two.
fn global_qos(target: &Target) -> Answer {
    let mut peer = channel(target)?;
    peer.call(1, "basic.qos", "prefetch-count=1 global")?;
    peer.call(1, "confirm.select", "")?;
    let declared = peer.call(1, "queue.declare", "exclusive")?;
    let name = declared.field("queue").map(ToString::to_string).unwrap_or_default();
    for tag in ["one", "two"] {
        peer.call(1, "basic.consume", &format!("queue={name} consumer-tag={tag}"))?;
    }
    for _ in 0..2 {
        let key = crate::peer::text::fields(&format!("routing-key={name}"))?;
        peer.publish(1, &key, &Vec::new(), b"x")?;
    }
    // A passive declare may overtake publications, but not those that are confirmed.
    let (mut deliveries, mut asked) = (0, false);
    loop {
        match peer.recv() {
            Heard::Method(_, "basic.deliver", _) => deliveries += 1,
            Heard::Method(_, "queue.declare-ok", _) => break,
            ack if ack.method() == Some("basic.ack") => {
                let is_last = ack.field("delivery-tag").is_some_and(|tag| tag.to_string() == "2");
                if is_last && !asked {
                    asked = true;
                    peer.send(1, "queue.declare", &format!("queue={name} passive"))?;
                }
            }
            Heard::Header(..) | Heard::Body(..) => {}
            other => return Ok(Some(format!("capability absent: global-qos ({other})"))),
        }
    }
    Ok((deliveries != 1).then(|| "capability absent: global-qos (denied)".to_owned()))
}
