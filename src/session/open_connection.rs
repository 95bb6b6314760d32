//! An open connection: octets to frames, and the reasons to process no further frame.

use crate::broker::node::Node;
use crate::escaped::Escaped;
use crate::memory::{ConnectionCharge, Use};
use crate::metrics::{ConnectionInfo, Counter, OpenChannels};
use crate::outbox::{FlushSet, Outbox, PendingActions};
use crate::session::dispatch::Dispatch;
use crate::session::handshake::Opened;
use crate::session::read_gate::ReadGate;
use crate::session::turn::{FrameOutcome, Identity};
use leveret_wire::fault::Fault;
use leveret_wire::frame::{self, FrameScan};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The state of an open connection.
#[derive(Debug)]
pub(super) struct OpenConnection {
    identity: Identity,
    /// For the client properties.
    _properties_charge: ConnectionCharge,
    dispatch: Dispatch,
    /// Octets were left over that may hold whole frames.
    has_unprocessed: bool,
    /// The outbox has more pending actions than one step performs.
    has_more_actions: bool,
}

/// The reason why no further frame was processed.
#[derive(Debug)]
pub(super) enum Stop {
    /// The next frame is not whole, or the read gate is closed.
    NeedsMore,
    /// The client sent connection.close.
    ClosedByClient,
    /// A fault that ends the connection.
    Fault(Fault),
    /// A framing error: the octets behind it cannot be parsed.
    Garbled(Fault),
}

impl OpenConnection {
    /// Creates the state of a connection right after connection.open.
    pub(super) fn new(opened: Opened, node: Arc<Node>, outbox: Arc<Outbox>, number: u64) -> Self {
        let Opened { user, mut client, peer, vhost, tuned } = opened;
        tracing::info!(
            %peer, user = ?Escaped::name(user.name.as_bytes()), vhost = %Escaped::name(vhost.name().as_octets()), client = ?client.shown_name(),
            "connection opened"
        );
        let mut properties_charge = ConnectionCharge::new(outbox.memory(), Use::Buffer);
        properties_charge.set(client.properties.len() as u64);
        let info = Arc::new(ConnectionInfo {
            number,
            peer,
            octets_in: Counter::default(),
            is_blocked: AtomicBool::default(),
            user: user.name.clone(),
            vhost: vhost.name().clone(),
            client_properties: std::mem::take(&mut client.properties),
            frame_max: tuned.frame_max,
            channel_max: tuned.channel_max,
            heartbeat_ms: tuned.heartbeat_ms,
            connected_at_ms: node.context().wall_ms(),
            channels: OpenChannels::default(),
        });
        node.opened(&info, &outbox);
        let identity = Identity { node, vhost, outbox, user, client, tuned, peer, number, info };
        Self {
            identity,
            _properties_charge: properties_charge,
            dispatch: Dispatch::default(),
            has_unprocessed: false,
            has_more_actions: false,
        }
    }

    /// Returns the heartbeat interval, in ms; 0: none.
    pub(super) fn heartbeat_ms(&self) -> u64 {
        self.identity.tuned.heartbeat_ms
    }

    /// Returns true if publisher confirms wait for the journal.
    pub(super) fn awaits_confirms(&self) -> bool {
        self.dispatch.confirming().is_waiting()
    }

    /// Returns whether the socket may be read, or why not, apart from a full outbox.
    pub(super) fn read_gate(&self) -> ReadGate {
        match self.dispatch.confirming().full_until() {
            _ if self.dispatch.blocking().is_blocked() => ReadGate::Alarm,
            Some(position) => ReadGate::Journal(position),
            None if self.has_unprocessed => ReadGate::Unprocessed,
            None => ReadGate::Open,
        }
    }

    /// Processes the whole frames of `octets` as one read batch. Returns how many octets were used,
    /// and why it stopped; `inline_commit` is whether the driver commits inline afterwards.
    pub(super) fn receive(&mut self, octets: &[u8], inline_commit: bool, flush: &mut FlushSet) -> (usize, Stop) {
        let Self { identity, dispatch, has_unprocessed, .. } = self;
        let mut turn = identity.turn(flush);
        dispatch.begin_read(inline_commit, &mut turn);
        let mut at = 0;
        let stop = loop {
            if turn.pause || turn.is_spent() {
                turn.pause = true;
                break Stop::NeedsMore;
            }
            let rest = octets.get(at..).unwrap_or_default();
            let (frame, used) = match frame::scan(rest, turn.tuned.frame_max) {
                Ok(FrameScan::Frame(frame, used)) => (frame, used),
                Ok(FrameScan::Partial { .. }) => break Stop::NeedsMore,
                Err(fault) => break Stop::Garbled(fault),
            };
            at += used;
            match dispatch.frame(&frame, rest.get(used..).unwrap_or_default(), &mut turn) {
                Ok(FrameOutcome::Used(more)) => at += more,
                Ok(FrameOutcome::Later) => {
                    at -= used;
                    turn.pause = true;
                    break Stop::NeedsMore;
                }
                Ok(FrameOutcome::Closed) => break Stop::ClosedByClient,
                Err(fault) => break Stop::Fault(fault),
            }
        };
        // Before the answers are flushed.
        turn.info.octets_in.add(at as u64);
        let stop = match stop {
            Stop::NeedsMore => dispatch.end_read(&mut turn).err().map_or(Stop::NeedsMore, Stop::Fault),
            stop => stop,
        };
        *has_unprocessed = turn.pause;
        (at, stop)
    }

    /// Returns true if there is work to go on with, whatever holds the reader back.
    pub(super) fn has_work(&self) -> bool {
        self.dispatch.has_work() || self.has_more_actions
    }

    /// Returns true if [`OpenConnection::notified`] is to be called again.
    pub(super) fn has_more_actions(&self) -> bool {
        self.has_more_actions
    }

    /// Performs the pending actions that others left in the outbox.
    pub(super) fn notified(&mut self, actions: &PendingActions, flush: &mut FlushSet) {
        // Octets that wait meanwhile may hold whole frames.
        self.has_unprocessed |= self.has_more_actions;
        self.has_more_actions = actions.has_more;
        self.dispatch.notified(actions, &mut self.identity.turn(flush));
    }

    /// Gives back what the connection has, at its end, until all is done, which is returned, or the
    /// step is spent.
    pub(super) fn close(&mut self, reason: &str, flush: &mut FlushSet) -> bool {
        if !self.dispatch.close(&mut self.identity.turn(flush)) {
            return false;
        }
        let Identity { peer, user, vhost, client, .. } = &self.identity;
        tracing::info!(
            %peer, user = ?Escaped::name(user.name.as_bytes()), vhost = %Escaped::name(vhost.name().as_octets()), client = ?client.shown_name(), reason = ?Escaped::text(reason),
            "connection closed"
        );
        true
    }

    /// Returns true if the connection has exclusive queues.
    #[cfg(test)]
    pub(super) fn owns_queues(&self) -> bool {
        !self.dispatch.owned().is_empty()
    }
}
