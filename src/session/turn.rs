//! The context that a call into a session passes down: the connection's identity, and the collected
//! effects. Names no channel and no state machine.

use crate::broker::access::User;
use crate::broker::node::Node;
use crate::broker::vhost::Vhost;
use crate::limits;
use crate::memory::MemoryAccount;
use crate::message::Publication;
use crate::metrics::ConnectionInfo;
use crate::outbox::{FlushSet, Outbox};
use crate::session::handshake::{Client, Tuned};
use leveret_journal::index::Index;
use leveret_journal::journal::Journal;
use leveret_wire::fault::Code;
use leveret_wire::reply::Reply;
use std::net::SocketAddr;
use std::sync::Arc;

/// The properties of an open connection that do not change.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) node: Arc<Node>,
    pub(super) vhost: Arc<Vhost>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) user: User,
    pub(super) client: Client,
    pub(super) tuned: Tuned,
    pub(super) peer: SocketAddr,
    /// The connection's number, to which exclusive queues are locked.
    pub(super) number: u64,
    pub(super) info: Arc<ConnectionInfo>,
}

impl Identity {
    /// Returns the context of one call; `flush` collects the outboxes that get octets.
    pub(super) fn turn<'t>(&'t self, flush: &'t mut FlushSet) -> Turn<'t> {
        let Self { node, vhost, outbox, user, client, tuned, peer, number, info } = self;
        let (connection, peer, tuned) = (*number, *peer, *tuned);
        Turn {
            node,
            vhost,
            outbox,
            user,
            client,
            tuned,
            peer,
            connection,
            info,
            flush,
            pause: false,
            is_alarm_raised: node.alarms().is_raised(),
            work: 0,
            has_held: false,
        }
    }
}

/// The context of one call into an open connection.
pub(super) struct Turn<'t> {
    pub(super) node: &'t Node,
    pub(super) vhost: &'t Vhost,
    pub(super) outbox: &'t Arc<Outbox>,
    pub(super) user: &'t User,
    pub(super) client: &'t Client,
    pub(super) tuned: Tuned,
    pub(super) peer: SocketAddr,
    /// Number of the connection.
    pub(super) connection: u64,
    /// Numbers of the connection, for others to read.
    pub(super) info: &'t ConnectionInfo,
    /// Outboxes that got octets in this call.
    pub(super) flush: &'t mut FlushSet,
    /// No further frame is to be processed in this call.
    pub(super) pause: bool,
    /// An alarm was raised when the call began, or at the last look since.
    pub(super) is_alarm_raised: bool,
    /// Work done so far, in the units of [`limits::STEP_WORK`].
    work: usize,
    /// Replies were appended that are held until the journal is durable.
    pub(super) has_held: bool,
}

impl Turn<'_> {
    /// Adds to the work done, in the units of [`limits::STEP_WORK`].
    pub(super) fn spend(&mut self, work: usize) {
        self.work += work;
    }

    /// Returns true if the work done has reached the bound of one step.
    pub(super) fn is_spent(&self) -> bool {
        self.work >= limits::STEP_WORK
    }

    /// Returns the most octets that the connection's unfinished bodies may take, and likewise its
    /// messages that wait for tx.commit.
    pub(super) fn unfinished_max(&self) -> u64 {
        let config = self.node.config();
        (config.memory_high_watermark / limits::UNFINISHED_PART).max(config.max_message_size)
    }

    /// Returns the journal, if the broker has one.
    pub(super) fn journal(&self) -> Option<&Arc<Journal>> {
        self.vhost.context().journal()
    }

    /// Returns the memory account of the broker.
    pub(super) fn memory(&self) -> MemoryAccount {
        self.node.context().memory()
    }

    /// Appends a method without content to the outbox.
    pub(super) fn send(&mut self, channel: u16, reply: &Reply<'_>) {
        let mut inner = self.outbox.lock();
        inner.reply(channel, reply);
        self.flush.add(self.outbox, &mut inner);
    }

    /// Appends a reply, unless the client set `no-wait`.
    pub(super) fn answer(&mut self, channel: u16, no_wait: bool, reply: &Reply<'_>) {
        if !no_wait {
            self.send(channel, reply);
        }
    }

    /// Appends a reply that is written when `index` is durable, as is everything appended after it.
    pub(super) fn send_when_durable(&mut self, channel: u16, reply: &Reply<'_>, index: Option<Index>) {
        let durable = self.journal().map(|journal| journal.durable());
        let later = index.filter(|index| durable.is_some_and(|durable| *index > durable));
        if let Some(index) = later {
            self.outbox.lock().hold_until(index);
            self.has_held = true;
        }
        self.send(channel, reply);
    }

    /// Appends the reply to a change of the topology, unless the client set `no-wait`; it is
    /// written when `defined` is durable.
    pub(super) fn answer_change(&mut self, channel: u16, no_wait: bool, defined: Option<Index>, reply: &Reply<'_>) {
        if !no_wait {
            self.send_when_durable(channel, reply, defined);
        }
    }

    /// Appends basic.return with 312 NO_ROUTE; it is written before the publication's confirm.
    pub(super) fn return_unroutable(&mut self, channel: u16, publication: Publication<'_>) {
        let mut inner = self.outbox.lock();
        let (code, text) = (Code::NoRoute.number(), Code::NoRoute.name().as_bytes());
        inner.basic_return(channel, code, text, publication);
        self.flush.add(self.outbox, &mut inner);
    }
}

/// The outcome of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameOutcome {
    /// Processed, together with so many octets of the frames behind it.
    Used(usize),
    /// Processed; it was connection.close.
    Closed,
    /// Not processed: settlements come first, and they are more than this step of the connection
    /// has room for.
    Later,
}
