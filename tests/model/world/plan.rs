//! From an operation to the octets that ask for it. It changes no expected.

use super::{FRAME_MAX, Plan, World};
use crate::model::broker_model::Mode;
use crate::model::methods::{self, Fields};
use crate::model::ops::{Op, Step};
use leveret::memory::MemoryAccount;
use leveret::message::Publication;

/// A tag far from every one that is delivered.
const UNKNOWN_TAG: u64 = 1 << 40;

impl World {
    /// Octets for an operation, and what is known of its outcome.
    pub(super) fn plan(&mut self, step: &Step) -> Plan {
        let channel = self.expected.channels.get(&(step.end, step.channel)).cloned().unwrap_or_default();
        let number = step.channel;
        let named = step.queue();
        let queue = match (&channel.last_queue, named) {
            (Some(last), b"") => last.clone(),
            _ => named.to_vec(),
        };
        let usable = self.expected.queues.get(&queue).map(|queue| queue.owner.is_none_or(|owner| owner == step.end));
        let mut plan = Plan { queue, ..Plan::default() };
        let in_transaction = matches!(channel.mode, Mode::Transaction { .. });
        let (f, short) = (|bit| step.flag(bit), Fields::new().short(0));
        plan.octets = match step.op {
            Op::Publish => return self.plan_publish(step, plan),
            Op::Ack | Op::Nack | Op::Reject => {
                let tags: Vec<u64> = channel.outstanding.keys().copied().collect();
                let multiple = f(0) && step.op != Op::Reject;
                plan.tag = tags.get(usize::from(step.number) % (tags.len() + 1)).copied().unwrap_or(UNKNOWN_TAG);
                if multiple && f(2) && f(3) {
                    plan.tag = 0;
                }
                plan.survives = Some(plan.tag != UNKNOWN_TAG);
                match step.op {
                    Op::Ack => methods::ack(number, plan.tag, multiple),
                    Op::Nack => methods::nack(number, plan.tag, multiple, f(1)),
                    _ => Fields::new().long_long(plan.tag).bits(&[f(1)]).method(number, 60, 90),
                }
            }
            Op::Open if self.unanswered.remove(&(step.end, number)) => {
                [methods::bare(number, 20, 41), methods::open(number)].concat()
            }
            Op::Open => methods::open(number),
            Op::Close => methods::close(number),
            Op::Declare => {
                let no_wait = f(3) && !named.is_empty();
                methods::declare(number, named, &[f(0) && f(5), false, f(1) && f(4), f(2) && f(4), no_wait])
            }
            Op::Bind | Op::Unbind => {
                let fields = short.name(named).name(step.exchange()).name(step.key());
                match step.op {
                    Op::Bind => fields.bits(&[f(0)]).text(b"").method(number, 50, 20),
                    _ => fields.text(b"").method(number, 50, 50),
                }
            }
            Op::Consume => methods::consume(number, named, step.tag(), &[false, f(0), f(1) && f(4), f(2)]),
            Op::Cancel => Fields::new().name(step.tag()).bits(&[f(0)]).method(number, 60, 30),
            Op::Get => {
                plan.survives = Some(usable == Some(true));
                methods::get(number, named, f(0))
            }
            Op::Recover => Fields::new().bits(&[true]).method(number, 60, if f(0) { 100 } else { 110 }),
            Op::Qos => Fields::new().long(0).short((step.number & 3).into()).bits(&[f(0)]).method(number, 60, 10),
            Op::Confirm => {
                plan.survives = Some(!in_transaction);
                Fields::new().bits(&[false]).method(number, 85, 10)
            }
            Op::TxSelect => {
                plan.survives = Some(!matches!(channel.mode, Mode::Confirm { .. }));
                methods::bare(number, 90, 10)
            }
            Op::TxCommit | Op::TxRollback => {
                plan.survives = Some(in_transaction);
                methods::bare(number, 90, if step.op == Op::TxCommit { 20 } else { 30 })
            }
            Op::Purge => {
                plan.survives = Some(usable == Some(true));
                short.name(named).bits(&[f(0)]).method(number, 50, 30)
            }
            Op::Delete => short.name(named).bits(&[f(0), f(1), f(2)]).method(number, 50, 40),
            Op::Tick | Op::Piece | Op::Gather | Op::Hangup | Op::Mangle => Vec::new(),
        };
        plan
    }

    fn plan_publish(&mut self, step: &Step, mut plan: Plan) -> Plan {
        let (exchange, key) = (step.exchange(), step.key());
        plan.id = self.expected.number();
        plan.routed = self.expected.route(exchange, key);
        plan.survives = Some(exchange != b"none");
        let mut body = plan.id.to_be_bytes().to_vec();
        body.resize(8 + step.padding(), b'.');
        let properties: &[u8] = if step.flag(1) { &[0x10, 0, 2] } else { &[0, 0] };
        let route = [&[exchange.len() as u8], exchange, &[key.len() as u8], key].concat();
        let publication = Publication { route: &route, properties, body: &body, persistent: false };
        plan.charge = publication.keep(MemoryAccount::default()).charge();
        let content = methods::content(step.channel, properties, &body, FRAME_MAX as usize);
        plan.octets = methods::publish(step.channel, exchange, key, step.flag(0), &content);
        plan
    }
}
