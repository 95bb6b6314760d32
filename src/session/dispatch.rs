//! Frames to channels, methods to the parts that perform them, faults to the channel or connection
//! that they close (AMQP 0-9-1, 1.2 to 1.9).

use crate::broker::exchanges::{Bind, ExchangeDeclare};
use crate::broker::queues::QueueDeclare;
use crate::escaped::Escaped;
use crate::limits;
use crate::outbox::PendingActions;
use crate::outbox::deliveries::UnknownTag;
use crate::queue::command::Disposition;
use crate::session::blocking::Blocking;
use crate::session::channel::{Channel, ChannelState};
use crate::session::channels::Channels;
use crate::session::close::{ChannelsEnd, Parts};
use crate::session::confirming::{self, Confirming};
use crate::session::consuming::Consume;
use crate::session::content::{self, Assembly, ContentLimits, Subject};
use crate::session::declaring::{self, Asked};
use crate::session::owned_queues::OwnedQueues;
use crate::session::publishing::{PublishContent, Publishing, PublishingChannel};
use crate::session::settlement::Settlement;
use crate::session::settling::{Settling, Unknown};
use crate::session::transaction::Committed;
use crate::session::turn::{FrameOutcome, Turn};
use crate::session::work::{Reason, Work, WorkQueue};
use leveret_wire::fault::{Code, Fault, Reach};
use leveret_wire::frame::{self, Frame, FrameKind};
use leveret_wire::method::{self, Method, Publish};
use leveret_wire::method_id::{BASIC_PUBLISH, CHANNEL_OPEN, EXCHANGE_DECLARE, QUEUE_DECLARE};
use leveret_wire::reply::Reply;

/// The channels of an open connection, and the state that they share.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    channels: Channels,
    publishing: Publishing,
    settling: Settling,
    confirming: Confirming,
    blocking: Blocking,
    /// Exclusive queues that the connection has declared.
    owned: OwnedQueues,
    /// Channels that the client has closed in this read batch.
    closed: Vec<u16>,
    /// Work that was begun; the first is under way.
    work: WorkQueue,
    /// The connection ends, and everything it has received has taken effect.
    is_closing: bool,
}

impl Dispatch {
    /// Returns the connection's view of the alarms.
    pub(super) fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    /// Returns the confirms and replies that wait for the journal.
    pub(super) fn confirming(&self) -> &Confirming {
        &self.confirming
    }

    /// Returns the exclusive queues that the connection has declared.
    #[cfg(test)]
    pub(super) fn owned(&self) -> &OwnedQueues {
        &self.owned
    }

    /// Begins a read batch, and goes on with what is left over from the last one; `inline_commit`
    /// is whether the driver commits inline when the batch ends.
    pub(super) fn begin_read(&mut self, inline_commit: bool, turn: &mut Turn<'_>) {
        self.publishing.set_inline_commit(inline_commit);
        if self.has_work() {
            self.do_work(turn);
            // Whether more may be read is to be asked again.
            turn.pause = true;
        } else if self.settling.has_unresolved() {
            turn.pause = !self.settle_gathered(turn);
        }
    }

    /// Processes a frame; `rest` are the octets behind it.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub(super) fn frame(&mut self, frame: &Frame<'_>, rest: &[u8], turn: &mut Turn<'_>) -> Result<FrameOutcome, Fault> {
        match frame.kind {
            FrameKind::Method if frame.channel != 0 => self.channel_method(frame, rest, turn),
            FrameKind::Header | FrameKind::Body if frame.channel != 0 => {
                if turn.is_alarm_raised && self.blocking.hold_content(&self.channels, turn) {
                    return Ok(FrameOutcome::Later);
                }
                self.content_frame(frame, turn)
            }
            FrameKind::Method => self.connection_method(frame.payload, turn),
            FrameKind::Heartbeat if frame.channel == 0 => Ok(FrameOutcome::Used(0)),
            FrameKind::Heartbeat | FrameKind::Header | FrameKind::Body => {
                Err(frame::unexpected_frame(frame.kind, frame.payload))
            }
            FrameKind::Other(_) => Err(frame::unknown_frame(frame.kind, frame.payload)),
        }
    }

    /// Ends a read batch; the numbers of channels that the client has closed are free from now on.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub(super) fn end_read(&mut self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        turn.pause |= !self.settle_gathered(turn);
        self.end_publishes(turn)?;
        if !turn.pause {
            for number in std::mem::take(&mut self.closed) {
                if self.state(number) == Some(ChannelState::Closed) {
                    self.channels.forget(number);
                }
            }
        }
        Ok(())
    }

    /// Performs what was gathered: settlements, publications, confirms.
    ///
    /// # Errors
    /// The fault that ends the connection.
    fn end_batch(&mut self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        self.settling.settle_all(&mut self.channels, turn);
        self.end_publishes(turn)
    }

    /// Performs the publications and confirms that were gathered. Behind the last settlement,
    /// closes channels with an unknown delivery tag.
    fn end_publishes(&mut self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let outcome = self.publishing.end_batch(turn.flush);
        self.confirming.end_batch(outcome, &mut self.channels, turn);
        self.confirming.look_at_journal(turn);
        // Not only publications make the broker keep memory.
        turn.is_alarm_raised = turn.node.alarms().look().is_some();
        if self.settling.has_unresolved() {
            return Ok(());
        }
        for Unknown { channel, method, tag } in self.settling.take_unknown() {
            if self.state(channel) == Some(ChannelState::Open) {
                self.close_on_fault(channel, method, UnknownTag(tag).into(), turn)?;
            }
        }
        Ok(())
    }

    /// Performs the settlements that were gathered; returns false if they are more than this step
    /// has room for.
    fn settle_gathered(&mut self, turn: &mut Turn<'_>) -> bool {
        self.settling.settle_some(&mut self.channels, turn)
    }

    /// Performs the pending actions that others left in the outbox, and sends confirms and replies
    /// that are due.
    pub(super) fn notified(&mut self, actions: &PendingActions, turn: &mut Turn<'_>) {
        self.confirming.journal_advanced(&mut self.channels, turn);
        self.channels.resume(&actions.stalled, turn);
        for (number, slot) in &actions.cancelled {
            if let Some(channel) = self.channels.get_mut(*number) {
                channel.consuming.queue_deleted(*number, *slot, turn);
            }
        }
        self.blocking.unblock_if_cleared(turn);
    }

    /// Gives back what the connection has, at its end, until all is done, which is returned, or
    /// the step is spent. Publications and settlements that were received take effect; faults
    /// among them are dropped.
    pub(super) fn close(&mut self, turn: &mut Turn<'_>) -> bool {
        if !self.is_closing {
            if !(self.do_work(turn) && self.settle_gathered(turn)) {
                return false;
            }
            if let Err(fault) = self.end_publishes(turn) {
                tracing::debug!(peer = %turn.peer, %fault, "fault while the connection closes");
            }
            if !self.work.is_empty() {
                return false;
            }
            self.is_closing = true;
            let end = ChannelsEnd::new(self.channels.numbers(), ChannelState::Closed);
            self.work.push(Work::Close(Box::new(end), Reason::Connection));
        }
        if !(self.do_work(turn) && self.owned.delete_some(turn)) {
            return false;
        }
        confirming::leave_held(turn);
        // The memory that is freed may clear the alarm, and nothing else of this connection looks
        // at it.
        turn.node.alarms().look();
        true
    }

    /// Returns true if work that was begun is not done.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// Goes on with the work that was begun, until all is done, which is returned, or the step is
    /// spent.
    fn do_work(&mut self, turn: &mut Turn<'_>) -> bool {
        let Self { channels, settling, owned, work, closed, .. } = self;
        work.go_on(&mut Parts { channels, settling, owned }, closed, turn)
    }

    /// Begins the end of a channel.
    fn close_channel(&mut self, number: u16, state: ChannelState, reason: Reason, turn: &mut Turn<'_>) {
        let end = ChannelsEnd::new(vec![number], state);
        self.work.push(Work::Close(Box::new(end), reason));
        self.do_work(turn);
    }

    /// Processes a method on channel 0 (AMQP 0-9-1, 1.1).
    fn connection_method(&mut self, payload: &[u8], turn: &mut Turn<'_>) -> Result<FrameOutcome, Fault> {
        let method = method::parse(payload)?;
        if !self.finish_gathered(turn)? {
            return Ok(FrameOutcome::Later);
        }
        match method {
            Method::ConnectionClose { .. } => Ok(FrameOutcome::Closed),
            Method::UpdateSecret { .. } => {
                turn.send(0, &Reply::UpdateSecretOk);
                Ok(FrameOutcome::Used(0))
            }
            other => {
                let (class, id) = other.id();
                let text = "unexpected method in connection state running";
                Err(Fault::new(Code::ChannelError, text).at(class, id))
            }
        }
    }

    /// Processes a method frame on a channel.
    fn channel_method(&mut self, frame: &Frame<'_>, rest: &[u8], turn: &mut Turn<'_>) -> Result<FrameOutcome, Fault> {
        let number = frame.channel;
        if self.channels.get(number).is_none() {
            self.channels.start(number, turn.tuned.channel_max)?;
        }
        let Some(channel) = self.channels.get_mut(number) else { return Ok(FrameOutcome::Used(0)) };
        channel.assembly.check_idle()?;
        if let Some(publish) = method::parse_publish(frame.payload) {
            return self.publish_method(number, &publish, rest, turn);
        }
        if channel.state == ChannelState::Open
            && let Some((tag, multiple)) = method::parse_ack(frame.payload)
        {
            self.settling.gather(Settlement::ack(number, tag, multiple, channel.has_transaction()));
            return Ok(FrameOutcome::Used(0));
        }
        match method::parse(frame.payload)? {
            method if method.has_content() => {
                let (class, id) = method.id();
                channel.assembly = Assembly::Header(Subject::Foreign(class, id));
                Ok(FrameOutcome::Used(0))
            }
            method => self.method(number, method, turn),
        }
    }

    /// Processes basic.publish, and its content if `rest` holds all of it.
    fn publish_method(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        rest: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<FrameOutcome, Fault> {
        if turn.is_alarm_raised && self.blocking.hold_publisher(turn) {
            return Ok(FrameOutcome::Later);
        }
        if self.settling.is_pending() && !self.check_acks(number, turn)? {
            return Ok(FrameOutcome::Later);
        }
        let Self { channels, publishing, confirming, .. } = self;
        let Some(channel) = channels.get_mut(number) else { return Ok(FrameOutcome::Used(0)) };
        if channel.state == ChannelState::Open
            && let Some((head, body, used)) = content::whole(rest, number, turn.tuned.frame_max)
        {
            let content = PublishContent { properties: head.properties, body, size: head.body_size };
            let publisher = PublishingChannel { number, channel, confirming };
            if let Err(fault) = publishing.publish(publisher, publish, content, turn) {
                self.close_on_fault(number, BASIC_PUBLISH, fault, turn)?;
            }
            return Ok(FrameOutcome::Used(used));
        }
        channel.assembly = Assembly::Header(Subject::publish(publish));
        Ok(FrameOutcome::Used(0))
    }

    /// Resolves the gathered delivery tags before another method on channel `number` takes effect:
    /// behind an unknown tag none does. Returns false if they are more than this step has room for.
    fn check_acks(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<bool, Fault> {
        if !self.settling.resolve(&mut self.channels, turn) && !self.settle_gathered(turn) {
            return Ok(false);
        }
        Ok(!self.settling.has_unknown(number) || self.finish_gathered(turn)?)
    }

    /// Performs everything that was gathered; returns false if it takes more than this step.
    ///
    /// # Errors
    /// The fault that ends the connection.
    fn finish_gathered(&mut self, turn: &mut Turn<'_>) -> Result<bool, Fault> {
        if !self.settle_gathered(turn) {
            return Ok(false);
        }
        self.end_publishes(turn)?;
        Ok(self.work.is_empty())
    }

    /// Processes a header or body frame on a channel.
    fn content_frame(&mut self, frame: &Frame<'_>, turn: &mut Turn<'_>) -> Result<FrameOutcome, Fault> {
        let number = frame.channel;
        if self.settling.is_pending() && !self.check_acks(number, turn)? {
            return Ok(FrameOutcome::Later);
        }
        let done = Ok(FrameOutcome::Used(0));
        let limits = content_limits(turn);
        let Self { channels, publishing, confirming, .. } = self;
        let Some(channel) = channels.get_mut(number) else {
            return Err(Fault::new(Code::UnexpectedFrame, "expected method frame, got non method frame instead"));
        };
        let Some(content) = channel.assembly.take(frame, limits)? else { return done };
        let (class, id) = content.subject.id();
        match (channel.state, &content.subject) {
            (ChannelState::Closing | ChannelState::Closed, _) => done,
            (ChannelState::Starting, _) => Err(Fault::new(Code::ChannelError, "expected 'channel.open'").at(class, id)),
            (ChannelState::Open, Subject::Foreign(..)) => {
                Err(Fault::new(Code::CommandInvalid, "unimplemented method").at(class, id))
            }
            (ChannelState::Open, Subject::Publish { .. }) => {
                let publisher = PublishingChannel { number, channel, confirming };
                match publishing.publish_assembled(publisher, &content, turn) {
                    Ok(()) => done,
                    Err(fault) => self.close_on_fault(number, (class, id), fault, turn).and(done),
                }
            }
        }
    }

    /// Processes a method without content: opens and closes channels, gathers settlements.
    fn method(&mut self, number: u16, method: Method<'_>, turn: &mut Turn<'_>) -> Result<FrameOutcome, Fault> {
        let Some(channel) = self.channels.get_mut(number) else { return Ok(FrameOutcome::Used(0)) };
        if channel.state == ChannelState::Open {
            return match Settlement::of(number, &method, channel.has_transaction()) {
                Some(settlement) => {
                    self.settling.gather(settlement);
                    Ok(FrameOutcome::Used(0))
                }
                None => self.open_channel_method(number, method, turn),
            };
        }
        let (class, id) = method.id();
        match (channel.state, method) {
            (ChannelState::Starting, Method::ChannelOpen) => {
                channel.state = ChannelState::Open;
                turn.info.channels.add(number, &channel.stats);
                turn.outbox.lock().open_channel(number);
                turn.send(number, &Reply::ChannelOpenOk);
            }
            (ChannelState::Starting | ChannelState::Closing, Method::ChannelCloseOk) => self.channels.forget(number),
            (ChannelState::Starting, _) => {
                return Err(Fault::new(Code::ChannelError, "expected 'channel.open'").at(class, id));
            }
            (ChannelState::Closed, Method::ChannelOpen) => {
                self.channels.forget(number);
                self.channels.start(number, turn.tuned.channel_max)?;
                return self.method(number, method, turn);
            }
            (ChannelState::Closed, _) => {}
            (ChannelState::Closing, Method::ChannelOpen) => return Err(second_open()),
            (ChannelState::Closing, Method::ChannelClose { .. }) => turn.send(number, &Reply::ChannelCloseOk),
            (ChannelState::Closing, _) => {}
            (ChannelState::Open, _) => {}
        }
        Ok(FrameOutcome::Used(0))
    }

    /// Processes a method, other than a settlement, on an open channel.
    fn open_channel_method(
        &mut self,
        number: u16,
        method: Method<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<FrameOutcome, Fault> {
        if let Method::ChannelOpen = method {
            return Err(second_open());
        }
        if !self.finish_gathered(turn)? {
            return Ok(FrameOutcome::Later);
        }
        // An unknown delivery tag may have closed the channel meanwhile.
        if self.state(number) != Some(ChannelState::Open) {
            return self.method(number, method, turn);
        }
        if let Method::ChannelClose { .. } = method {
            self.close_channel(number, ChannelState::Closed, Reason::Client(number), turn);
            return Ok(FrameOutcome::Used(0));
        }
        let id = method.id();
        let defines = id.0 == EXCHANGE_DECLARE.0 || id.0 == QUEUE_DECLARE.0;
        turn.spend(if defines { limits::DEFINITION_WORK } else { limits::METHOD_WORK });
        if let Err(fault) = self.perform(number, method, turn) {
            self.close_on_fault(number, id, fault, turn)?;
        }
        Ok(FrameOutcome::Used(0))
    }

    /// Performs a method on an open channel.
    ///
    /// # Errors
    /// The fault that ends the channel or the connection.
    fn perform(&mut self, number: u16, method: Method<'_>, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let Self { channels, owned, .. } = self;
        let Some(channel) = channels.get_mut(number) else { return Ok(()) };
        let asked = |no_wait: bool| Asked { channel: number, no_wait };
        match method {
            // basic.recover with requeue was gathered; without it, RabbitMQ does not implement it
            // either.
            Method::Recover { .. } | Method::RecoverAsync { .. } => {
                Err(Fault::new(Code::NotImplemented, "requeue=false"))
            }
            Method::Get { queue, no_ack } => channel.get(number, queue, no_ack, turn),
            Method::Qos { prefetch_size: size, prefetch_count, global } => {
                channel.consuming.qos(number, (size, prefetch_count), global, turn)?;
                channel.stats.set_prefetch(channel.consuming.prefetch());
                Ok(())
            }
            Method::Consume { queue, tag, no_ack, exclusive, no_wait, arguments, .. } => {
                channel.consume(number, queue, Consume { tag, no_ack, exclusive, no_wait, arguments }, turn)
            }
            Method::Cancel { tag, no_wait } => self.cancel(tag, asked(no_wait), turn),
            Method::CancelOk { tag } => self.cancel(tag, asked(true), turn),
            Method::ConfirmSelect { no_wait } => channel.select_confirms(number, no_wait, turn),
            Method::TxSelect => channel.select_transaction(number, turn),
            Method::TxCommit => self.commit(number, turn),
            Method::TxRollback => self.roll_back(number, turn),
            Method::Flow { active } => flow(number, active, turn),
            Method::AccessRequest => access_request(number, turn),
            Method::ExchangeDeclare {
                exchange: name,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments,
            } => {
                let declare = ExchangeDeclare { name, kind, durable, auto_delete, internal, arguments };
                declaring::declare_exchange(declare, passive, asked(no_wait), turn)
            }
            Method::ExchangeDelete { exchange, if_unused, no_wait } => {
                declaring::delete_exchange(exchange, if_unused, asked(no_wait), turn)
            }
            Method::ExchangeBind { destination, source, routing_key: key, no_wait, arguments } => {
                let bind = Bind { source, destination, to_queue: false, key, arguments };
                declaring::bind_exchange(bind, asked(no_wait), turn)
            }
            Method::ExchangeUnbind { destination, source, routing_key: key, no_wait, arguments } => {
                let bind = Bind { source, destination, to_queue: false, key, arguments };
                declaring::unbind_exchange(bind, asked(no_wait), turn)
            }
            Method::QueueDeclare { queue: name, passive, durable, exclusive, auto_delete, no_wait, arguments } => {
                let declare = QueueDeclare { name, durable, exclusive, auto_delete, arguments };
                channel.declaring.declare_queue(declare, passive, owned, asked(no_wait), turn)
            }
            Method::QueueBind { queue: destination, exchange: source, routing_key: key, no_wait, arguments } => {
                let bind = Bind { source, destination, to_queue: true, key, arguments };
                channel.declaring.bind_queue(bind, asked(no_wait), turn)
            }
            Method::QueueUnbind { queue: destination, exchange: source, routing_key: key, arguments } => {
                let bind = Bind { source, destination, to_queue: true, key, arguments };
                channel.declaring.unbind_queue(bind, number, turn)
            }
            Method::QueuePurge { queue, no_wait } => channel.declaring.purge_queue(queue, asked(no_wait), turn),
            Method::QueueDelete { queue, if_unused, if_empty, no_wait } => {
                channel.declaring.delete_queue(queue, (if_unused, if_empty), owned, asked(no_wait), turn)
            }
            _ => Err(Fault::new(Code::CommandInvalid, "unimplemented method")),
        }
    }

    /// Performs basic.cancel; an unknown consumer tag is answered with cancel-ok, too.
    fn cancel(&mut self, tag: &[u8], Asked { channel, no_wait }: Asked, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let consuming = self.channels.get_mut(channel).map(|channel| &mut channel.consuming);
        if let Some(queue) = consuming.and_then(|consuming| consuming.cancel(tag, turn)) {
            self.owned.delete_unused(&queue, turn);
        }
        turn.answer(channel, no_wait, &Reply::CancelOk { tag });
        Ok(())
    }

    /// Performs tx.commit: publications in order, then settlements in order. A crash leaves all of
    /// it or nothing.
    ///
    /// # Errors
    /// 406 without a transaction, or for one that is larger than the journal can hold.
    fn commit(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let len = self.channels.get(number).map_or(0, Channel::transaction_len);
        if len < limits::STEP_WORK {
            return self.commit_now(number, turn);
        }
        // It is one record, and so one step, which others have not to wait for.
        let (node, mut outcome) = (turn.node, Ok(()));
        node.context().offload().run(|| outcome = self.commit_now(number, turn));
        outcome
    }

    /// Begins tx.rollback.
    ///
    /// # Errors
    /// 406 without a transaction.
    fn roll_back(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(number) else { return Ok(()) };
        self.work.push(Work::RollBack(number, channel.roll_back()?));
        self.do_work(turn);
        Ok(())
    }

    fn commit_now(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(number) else { return Ok(()) };
        let Committed { requeued, index, is_partial } = channel.commit(number, turn)?;
        for settled in requeued {
            self.settling.apply(number, Disposition::Requeue, &settled, &self.channels, turn);
        }
        if is_partial {
            return Err(Fault::new(Code::PreconditionFailed, "partial tx completion"));
        }
        turn.send_when_durable(number, &Reply::TxCommitOk, index);
        // As in RabbitMQ, what there is room for now comes behind the answer.
        self.channels.resume_limited(number, turn);
        Ok(())
    }

    /// Closes a channel on a soft fault; returns a hard one.
    ///
    /// # Errors
    /// The fault that ends the connection.
    fn close_on_fault(
        &mut self,
        number: u16,
        (class, id): (u16, u16),
        fault: Fault,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let fault = if fault.class == 0 { fault.at(class, id) } else { fault };
        // What was accepted before the fault takes effect, and is confirmed.
        self.end_batch(turn)?;
        if fault.reach == Reach::Connection {
            return Err(fault);
        }
        if self.state(number) != Some(ChannelState::Open) {
            // An unknown delivery tag in the batch has closed it meanwhile.
            return Ok(());
        }
        tracing::warn!(peer = %turn.peer, channel = number, reason = ?Escaped::text(fault.text.as_str()), "channel closed");
        self.close_channel(number, ChannelState::Closing, Reason::Fault(number, fault), turn);
        Ok(())
    }

    fn state(&self, number: u16) -> Option<ChannelState> {
        self.channels.get(number).map(|channel| channel.state)
    }
}

/// Returns the limits of the contents that a connection is sending.
fn content_limits<'t>(turn: &Turn<'t>) -> ContentLimits<'t> {
    let (message, memory) = (turn.node.config().max_message_size, turn.outbox.memory());
    ContentLimits { message, unfinished: turn.unfinished_max(), memory }
}

fn second_open() -> Fault {
    let (class, id) = CHANNEL_OPEN;
    Fault::new(Code::ChannelError, "second 'channel.open' seen").at(class, id)
}

/// Performs channel.flow, with which a client stops and starts deliveries.
///
/// # Errors
/// 540 for stopping deliveries, as in RabbitMQ.
fn flow(number: u16, active: bool, turn: &mut Turn<'_>) -> Result<(), Fault> {
    if !active {
        return Err(Fault::new(Code::NotImplemented, "active=false"));
    }
    turn.send(number, &Reply::FlowOk { active });
    Ok(())
}

/// Answers access.request of AMQP 0-8, which old clients still send.
fn access_request(number: u16, turn: &mut Turn<'_>) -> Result<(), Fault> {
    turn.send(number, &Reply::AccessRequestOk { ticket: 1 });
    Ok(())
}
