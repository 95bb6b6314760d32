//! connection.blocked and connection.unblocked: a connection's view of the memory and disk alarms.
//! The alarms are raised in `broker/alarms.rs`.

use crate::session::channels::Channels;
use crate::session::turn::Turn;
use leveret_wire::reply::Reply;
use std::sync::atomic::Ordering;

/// The alarm state of a connection, and whether its client was told.
#[derive(Debug, Default)]
pub(super) struct Blocking {
    is_blocked: bool,
    /// connection.blocked was sent, and connection.unblocked not yet.
    is_notified: bool,
}

impl Blocking {
    /// Returns true if the connection is not to be read because of an alarm.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Blocks the connection if an alarm is raised: it is about to publish (RabbitMQ holds back and
    /// notifies nobody else). Returns true if it is blocked.
    pub(super) fn hold_publisher(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(reason) = turn.node.alarms().look() else {
            turn.is_alarm_raised = false;
            return false;
        };
        self.is_blocked = true;
        turn.info.is_blocked.store(true, Ordering::Relaxed);
        if turn.client.blocked_notify && !std::mem::replace(&mut self.is_notified, true) {
            turn.send(0, &Reply::Blocked { reason: reason.as_bytes() });
        }
        true
    }

    /// As [`Blocking::hold_publisher`], for a frame of a content that has begun. A connection whose
    /// one unfinished body is what raises the memory alarm goes on: held back, it would never
    /// finish it, and nothing that others do would help.
    pub(super) fn hold_content(&mut self, channels: &Channels, turn: &mut Turn<'_>) -> bool {
        let is_cause = turn.node.alarms().is_caused_by(turn.outbox.memory().bodies());
        !(is_cause && channels.unfinished_bodies() == 1) && self.hold_publisher(turn)
    }

    /// Unblocks the connection if no alarm is left.
    pub(super) fn unblock_if_cleared(&mut self, turn: &mut Turn<'_>) {
        if !self.is_blocked || turn.node.alarms().look().is_some() {
            return;
        }
        self.is_blocked = false;
        turn.info.is_blocked.store(false, Ordering::Relaxed);
        if std::mem::take(&mut self.is_notified) {
            turn.send(0, &Reply::Unblocked);
        }
    }
}
