//! An open connection: frames to channels, methods to what they do, faults to what they close. The doing stands in
//! `publish`, `basic`, `settle` and `declare`.

use crate::broker::access::User;
use crate::broker::node::Node;
use crate::broker::vhost::Vhost;
use crate::outbox::{Errands, Outbox, Touched};
use crate::session::awaited::Awaited;
use crate::session::channel::{Channel, Stage};
use crate::session::content::{self, Assembly, Subject};
use crate::session::gathered::Batch;
use crate::session::handshake::{Client, Opened, Tuned};
use crate::session::routes::Routes;
use crate::wire::encode_reply::Reply;
use crate::wire::fault::{Code, Fault, Reach};
use crate::wire::frame::{self, Frame, Kind, Scan};
use crate::wire::method::{self, Method};
use crate::wire::name::Name;
use hashbrown::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// What became of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many were used; 0: the frame is not whole.
    Used(usize),
    /// The last of so many was a connection.close.
    Closed(usize),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) node: Arc<Node>,
    pub(super) vhost: Arc<Vhost>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) number: u64,
    pub(super) user: User,
    pub(super) client: Client,
    pub(super) channels: Vec<Option<Box<Channel>>>,
    pub(super) routes: Routes,
    pub(super) batch: Batch,
    /// Channels that the client has closed in this read batch.
    closed: Vec<u16>,
    /// Exclusive queues it has declared.
    pub(super) owned: HashSet<Name>,
    peer: SocketAddr,
    tuned: Tuned,
    open_channels: usize,
    /// It has published: alarms concern it.
    pub(super) is_publisher: bool,
    blocked: bool,
    told_blocked: bool,
    lost: bool,
    /// What waits for the journal.
    pub(super) awaited: Awaited,
    /// So many answers wait to be written that no further request is taken.
    pub(super) paused: bool,
}

impl Running {
    /// Right after connection.open.
    pub(super) fn new(opened: Opened, node: Arc<Node>, outbox: Arc<Outbox>, number: u64) -> Self {
        let Opened { user, client, peer, vhost, tuned } = opened;
        tracing::info!(
            %peer, user = user.name, vhost = %vhost.name(), client = client.name.as_deref().unwrap_or_default(),
            "connection opened"
        );
        Self {
            node,
            vhost,
            outbox,
            number,
            user,
            client,
            channels: Vec::new(),
            routes: Routes::default(),
            batch: Batch::default(),
            closed: Vec::new(),
            owned: HashSet::new(),
            peer,
            tuned,
            open_channels: 0,
            is_publisher: false,
            blocked: false,
            told_blocked: false,
            lost: false,
            awaited: Awaited::default(),
            paused: false,
        }
    }

    pub(super) fn heartbeat_ms(&self) -> u64 {
        self.tuned.heartbeat_ms
    }

    /// Whether the stream of frames broke: what follows the fault makes no sense.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether it is not to be read because of an alarm.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether it is not to be read because the journal cannot follow.
    pub(super) fn is_crowded(&self) -> bool {
        self.awaited.is_crowded()
    }

    /// Whether confirms wait for the journal.
    pub(super) fn awaits(&self) -> bool {
        !self.awaited.channels.is_empty()
    }

    /// Takes the next frame of `octets`.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub(super) fn take(&mut self, octets: &[u8], touched: &mut Touched) -> Result<Progress, Fault> {
        let scan = frame::scan(octets, self.tuned.frame_max).inspect_err(|_| self.lost = true)?;
        let Scan::Frame(frame, used) = scan else { return Ok(Progress::Used(0)) };
        match frame.kind {
            Kind::Other(_) => Err(frame::unknown_frame(frame.kind, frame.payload)),
            Kind::Heartbeat if frame.channel == 0 => Ok(Progress::Used(used)),
            Kind::Heartbeat => Err(frame::unexpected_frame(frame.kind, frame.payload)),
            Kind::Method if frame.channel == 0 => self.connection_method(frame.payload, used, touched),
            Kind::Header | Kind::Body if frame.channel == 0 => Err(frame::unexpected_frame(frame.kind, frame.payload)),
            Kind::Method => {
                let rest = octets.get(used..).unwrap_or_default();
                let more = self.channel_method(&frame, rest, touched)?;
                Ok(Progress::Used(used + more))
            }
            Kind::Header | Kind::Body => {
                self.content_frame(&frame, touched)?;
                Ok(Progress::Used(used))
            }
        }
    }

    /// What was read has been taken: numbers of channels that the client has closed are free from now on.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub(super) fn end_read(&mut self, touched: &mut Touched) -> Result<(), Fault> {
        for number in std::mem::take(&mut self.closed) {
            if self.channel(number).is_some_and(|channel| channel.stage == Stage::Closed) {
                self.forget_channel(number);
            }
        }
        self.end_batch(touched)
    }

    /// A method on channel 0 (AMQP 0-9-1, 1.1).
    fn connection_method(&mut self, payload: &[u8], used: usize, touched: &mut Touched) -> Result<Progress, Fault> {
        let method = method::parse(payload)?;
        self.end_batch(touched)?;
        match method {
            Method::ConnectionClose { .. } => Ok(Progress::Closed(used)),
            Method::UpdateSecret { .. } => {
                self.say(0, &Reply::UpdateSecretOk, touched);
                Ok(Progress::Used(used))
            }
            other => {
                let (class, id) = other.id();
                let text = "unexpected method in connection state running";
                Err(Fault::new(Code::ChannelError, text).at(class, id))
            }
        }
    }

    /// A method on a channel; how many octets behind it were used, too.
    fn channel_method(&mut self, frame: &Frame<'_>, rest: &[u8], touched: &mut Touched) -> Result<usize, Fault> {
        let number = frame.channel;
        if self.channel(number).is_none() {
            self.start_channel(number)?;
        }
        let frame_max = self.tuned.frame_max;
        let Some(channel) = self.channel(number) else { return Ok(0) };
        channel.assembly.check_idle()?;
        let method = method::parse(frame.payload)?;
        if let Method::Publish(publish) = &method {
            if !self.batch.acks.is_empty() {
                self.check_acks(number, touched)?;
            }
            let Some(channel) = self.channel(number) else { return Ok(0) };
            if channel.stage == Stage::Running
                && let Some((head, body, more)) = content::whole(rest, number, frame_max)
            {
                let published = self.publish(number, publish, head.properties, body, head.body_size, touched);
                self.contain(number, method.id(), published, touched)?;
                return Ok(more);
            }
            channel.assembly = Assembly::Header(Subject::publish(publish));
            return Ok(0);
        }
        if method.has_content() {
            let (class, id) = method.id();
            channel.assembly = Assembly::Header(Subject::Foreign(class, id));
            return Ok(0);
        }
        self.method(number, method, touched)?;
        Ok(0)
    }

    fn method(&mut self, number: u16, method: Method<'_>, touched: &mut Touched) -> Result<(), Fault> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        let (class, id) = method.id();
        match (channel.stage, method) {
            (Stage::Starting, Method::ChannelOpen) => {
                channel.stage = Stage::Running;
                self.outbox.lock().open_channel(number);
                self.say(number, &Reply::ChannelOpenOk, touched);
                Ok(())
            }
            (Stage::Starting, Method::ChannelCloseOk) => {
                self.forget_channel(number);
                Ok(())
            }
            (Stage::Starting, _) => Err(Fault::new(Code::ChannelError, "expected 'channel.open'").at(class, id)),
            (Stage::Closed, Method::ChannelOpen) => {
                self.forget_channel(number);
                self.start_channel(number)?;
                self.method(number, method, touched)
            }
            (Stage::Closed, _) => Ok(()),
            (_, Method::ChannelOpen) => Err(Fault::new(Code::ChannelError, "second 'channel.open' seen").at(class, id)),
            (Stage::Closing, Method::ChannelClose { .. }) => {
                self.say(number, &Reply::ChannelCloseOk, touched);
                Ok(())
            }
            (Stage::Closing, Method::ChannelCloseOk) => {
                self.forget_channel(number);
                Ok(())
            }
            (Stage::Closing, _) => Ok(()),
            (Stage::Running, Method::Ack { tag, multiple }) if channel.may_gather_acks() => {
                self.batch.acks.push((number, tag, multiple));
                Ok(())
            }
            (Stage::Running, Method::ChannelClose { .. }) => {
                self.end_batch(touched)?;
                self.close_channel(number, touched);
                self.say(number, &Reply::ChannelCloseOk, touched);
                if let Some(channel) = self.channel(number) {
                    channel.stage = Stage::Closed;
                    self.closed.push(number);
                }
                Ok(())
            }
            (Stage::Running, method) => {
                self.end_batch(touched)?;
                let done = match self.channel(number).map(|channel| channel.stage) {
                    Some(Stage::Running) => self.perform(number, method, touched),
                    // What was gathered before has closed it meanwhile.
                    _ => Ok(()),
                };
                self.contain(number, (class, id), done, touched)
            }
        }
    }

    /// A header or body frame on a channel.
    fn content_frame(&mut self, frame: &Frame<'_>, touched: &mut Touched) -> Result<(), Fault> {
        let number = frame.channel;
        let max = self.node.config().max_message_size;
        let Some(channel) = self.channel(number) else {
            return Err(Fault::new(Code::UnexpectedFrame, "expected method frame, got non method frame instead"));
        };
        let Some(content) = channel.assembly.take(frame, max)? else { return Ok(()) };
        let (stage, (class, id)) = (channel.stage, content.subject.id());
        match (stage, &content.subject) {
            (Stage::Closing | Stage::Closed, _) => Ok(()),
            (Stage::Starting, _) => Err(Fault::new(Code::ChannelError, "expected 'channel.open'").at(class, id)),
            (Stage::Running, Subject::Foreign(..)) => {
                Err(Fault::new(Code::CommandInvalid, "unimplemented method").at(class, id))
            }
            (Stage::Running, Subject::Publish { .. }) => {
                let published = self.publish_assembled(number, &content, touched);
                self.contain(number, (class, id), published, touched)
            }
        }
    }

    /// A soft fault closes the channel and goes no further; a hard one goes on.
    pub(super) fn contain(
        &mut self,
        number: u16,
        (class, id): (u16, u16),
        done: Result<(), Fault>,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        let Err(fault) = done else { return Ok(()) };
        let fault = if fault.class == 0 { fault.at(class, id) } else { fault };
        // What was accepted before the fault counts, and is confirmed.
        self.end_batch(touched)?;
        if self.channel(number).is_some_and(|channel| channel.stage != Stage::Running) {
            // An acknowledgement that came before has closed the channel already: what came behind it is void.
            return Ok(());
        }
        if fault.reach == Reach::Connection {
            return Err(fault);
        }
        if self.channel(number).is_none_or(|channel| channel.stage != Stage::Running) {
            // An acknowledgement that was gathered before has closed it meanwhile.
            return Ok(());
        }
        tracing::warn!(peer = %self.peer, channel = number, reason = fault.text.as_str(), "channel closed");
        self.close_channel(number, touched);
        if let Some(channel) = self.channel(number) {
            channel.stage = Stage::Closing;
        }
        let (code, text) = (fault.code.number(), fault.text.as_octets());
        self.say(number, &Reply::ChannelClose { code, text, class: fault.class, method: fault.method }, touched);
        Ok(())
    }

    /// Others asked for something.
    pub(super) fn run_errands(&mut self, errands: &Errands, touched: &mut Touched) {
        self.journal_rang(touched);
        self.resume_slots(&errands.stalled, touched);
        for (number, slot) in &errands.lost {
            self.consumer_lost(*number, *slot, touched);
        }
        self.look_at_alarms(touched);
    }

    /// Holds this connection back if an alarm concerns it.
    pub(super) fn look_at_alarms(&mut self, touched: &mut Touched) {
        let alarms = self.node.alarms();
        if !(self.is_publisher || alarms.is_raised()) {
            return;
        }
        let reason = alarms.look();
        if let Some(reason) = reason
            && self.is_publisher
            && !self.blocked
        {
            self.blocked = true;
            if self.client.blocked_notify {
                self.told_blocked = true;
                self.say(0, &Reply::Blocked { reason: reason.as_bytes() }, touched);
            }
        }
    }

    /// Alarms are over.
    pub(super) fn unblock(&mut self, touched: &mut Touched) {
        self.blocked = false;
        if std::mem::take(&mut self.told_blocked) {
            self.say(0, &Reply::Unblocked, touched);
        }
    }

    /// The connection is over: gives everything back.
    pub(super) fn end(&mut self, reason: &str, touched: &mut Touched) {
        // What was read and accepted before counts; a fault has nobody left to tell.
        if let Err(fault) = self.end_batch(touched) {
            tracing::debug!(%fault, "fault on a connection that ends");
        }
        let numbers: Vec<u16> = (0..=u16::MAX).zip(&self.channels).filter_map(|(n, c)| c.as_ref().map(|_| n)).collect();
        // All consumers first: what one channel gives back must not go to another one of the dying.
        let deserted: Vec<_> = numbers.iter().flat_map(|number| self.drop_consumers(*number)).collect();
        for number in numbers {
            self.close_channel(number, touched);
        }
        for queue in deserted {
            self.end_if_deserted(&queue);
        }
        self.channels.clear();
        self.leave_held(touched);
        if !self.owned.is_empty() {
            self.vhost.end_owned(self.number, std::mem::take(&mut self.owned));
        }
        if self.node.alarms().is_raised() {
            // What went with it may be what memory was short of; it has no other look to come.
            self.node.alarms().look();
        }
        tracing::info!(
            peer = %self.peer, user = self.user.name, vhost = %self.vhost.name(),
            client = self.client.name.as_deref().unwrap_or_default(), reason, "connection closed"
        );
    }

    pub(super) fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(number))?.as_deref_mut()
    }

    fn start_channel(&mut self, number: u16) -> Result<(), Fault> {
        let (open, max) = (self.open_channels, self.tuned.channel_max);
        if max != 0 && open >= usize::from(max) {
            let text = format!("number of channels opened ({open}) has reached the negotiated channel_max ({max})");
            return Err(Fault::new(Code::NotAllowed, text));
        }
        let at = usize::from(number);
        if self.channels.len() <= at {
            self.channels.resize_with(at + 1, || None);
        }
        if let Some(place) = self.channels.get_mut(at) {
            *place = Some(Box::default());
            self.open_channels += 1;
        }
        Ok(())
    }

    fn forget_channel(&mut self, number: u16) {
        if let Some(place) = self.channels.get_mut(usize::from(number))
            && place.take().is_some()
        {
            self.open_channels -= 1;
        }
    }

    /// Appends a method to the client's octets.
    pub(super) fn say(&mut self, number: u16, reply: &Reply<'_>, touched: &mut Touched) {
        let mut inner = self.outbox.lock();
        inner.reply(number, reply);
        touched.add(&self.outbox, &mut inner);
    }
}
