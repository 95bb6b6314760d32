//! Work of a connection that may take more than one step. No further frame is taken before it is
//! done, and its answer is sent behind it.

use crate::limits;
use crate::session::close::{ChannelsEnd, Parts};
use crate::session::transaction::RollBack;
use crate::session::turn::Turn;
use leveret_wire::fault::Fault;
use leveret_wire::reply::Reply;
use std::collections::VecDeque;

/// Work that was begun.
#[derive(Debug)]
pub(super) enum Work {
    /// The end of channels, and why they end.
    Close(Box<ChannelsEnd>, Reason),
    /// tx.rollback on a channel.
    RollBack(u16, RollBack),
}

/// Reason why channels end, which decides the answer.
#[derive(Debug)]
pub(super) enum Reason {
    /// The client has closed this channel.
    Client(u16),
    /// A fault of this channel.
    Fault(u16, Fault),
    /// The end of the connection.
    Connection,
}

/// Work that is not done, in order; the first is under way.
#[derive(Debug, Default)]
pub(super) struct WorkQueue(VecDeque<Work>);

impl WorkQueue {
    /// Returns true if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds work behind all other.
    pub(super) fn push(&mut self, work: Work) {
        self.0.push_back(work);
    }

    /// Goes on until all is done, which is returned, or the step is spent. Channels that the client
    /// has closed are added to `closed`.
    pub(super) fn go_on(&mut self, parts: &mut Parts<'_>, closed: &mut Vec<u16>, turn: &mut Turn<'_>) -> bool {
        while let Some(first) = self.0.front_mut() {
            if !first.step(parts, turn) {
                turn.pause = true;
                return false;
            }
            match self.0.pop_front() {
                Some(Work::Close(_, Reason::Client(number))) => {
                    turn.send(number, &Reply::ChannelCloseOk);
                    closed.push(number);
                }
                Some(Work::Close(_, Reason::Fault(number, fault))) => {
                    let (code, text) = (fault.code.number(), fault.text.as_octets());
                    let Fault { class, method, .. } = fault;
                    turn.send(number, &Reply::ChannelClose { code, text, class, method });
                }
                Some(Work::RollBack(number, _)) => turn.send(number, &Reply::TxRollbackOk),
                Some(Work::Close(_, Reason::Connection)) | None => {}
            }
        }
        true
    }
}

impl Work {
    /// Goes on until all is done, which is returned, or the step is spent.
    fn step(&mut self, parts: &mut Parts<'_>, turn: &mut Turn<'_>) -> bool {
        match self {
            Self::Close(end, _) => end.step(parts, turn),
            Self::RollBack(number, rest) => roll_back(*number, rest, turn),
        }
    }
}

fn roll_back(number: u16, rest: &mut RollBack, turn: &mut Turn<'_>) -> bool {
    let mut settled = Vec::new();
    while !turn.is_spent() {
        let is_all = rest.take(limits::SETTLE_RUN, &mut settled);
        turn.spend(if is_all { settled.len() } else { limits::SETTLE_RUN });
        if let Some(unacked) = turn.outbox.lock().unacked(number) {
            settled.drain(..).for_each(|(tag, delivery)| unacked.put(tag, delivery));
            if is_all {
                unacked.end_transaction();
            }
        }
        if is_all {
            return true;
        }
    }
    false
}
