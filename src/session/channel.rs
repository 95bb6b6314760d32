//! One channel of a connection: whether it is open, in which mode it is, and the parts that consume
//! and declare. Knows no frame order and no other channel.
//!
//! ```text
//!             channel.open                 fault: channel.close sent
//!  Starting ---------------> Open ------------------------------> Closing
//!  (a frame came on a           | channel.close received             | close-ok received
//!   number that was free)       v                                    v
//!                            Closed  ---- end of the read batch ---> (gone)
//! ```

use crate::broker::replies::REPLY_TO;
use crate::metrics::{ChannelStats, Mode};
use crate::session::confirms::PendingConfirms;
use crate::session::consuming::{Consume, Consuming};
use crate::session::content::Assembly;
use crate::session::declaring::Declaring;
use crate::session::transaction::{Committed, RollBack, Transaction};
use crate::session::turn::Turn;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::reply::Reply;
use std::sync::Arc;

/// The lifecycle of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelState {
    /// Not opened: a frame came on a number that was free.
    #[default]
    Starting,
    /// Open.
    Open,
    /// channel.close was sent; everything but the end of the handshake is ignored.
    Closing,
    /// channel.close was received in this read batch; further frames of the batch are ignored.
    Closed,
}

/// The effect of publications and acknowledgements on a channel.
#[derive(Debug, Default)]
pub enum ChannelMode {
    /// They take effect at once.
    #[default]
    Plain,
    /// As `Plain`, and publications are confirmed (RabbitMQ's confirm.select).
    Confirm(PendingConfirms),
    /// They take effect at tx.commit (AMQP 0-9-1, 1.9).
    Transaction(Transaction),
}

/// The state of one channel.
#[derive(Debug, Default)]
pub struct Channel {
    /// The place in the channel's lifecycle.
    pub state: ChannelState,
    /// The content that is being received.
    pub assembly: Assembly,
    /// Plain, confirm or transaction.
    pub mode: ChannelMode,
    /// Consumers, and the slots that deliveries refer to.
    pub consuming: Consuming,
    /// The queue that was declared last.
    pub declaring: Declaring,
    /// The numbers that others may read.
    pub stats: Arc<ChannelStats>,
}

impl Channel {
    /// Returns true if settlements wait for tx.commit.
    pub fn has_transaction(&self) -> bool {
        transaction(&self.mode).is_some()
    }

    /// Takes the transaction out of a channel that has one, and starts a new one.
    pub fn take_transaction(&mut self) -> Option<Transaction> {
        if let ChannelMode::Transaction(transaction) = &mut self.mode {
            Some(std::mem::take(transaction))
        } else {
            None
        }
    }

    /// Performs confirm.select.
    ///
    /// # Errors
    /// 406 in a transaction.
    pub(super) fn select_confirms(&mut self, number: u16, no_wait: bool, turn: &mut Turn<'_>) -> Result<(), Fault> {
        match self.mode {
            ChannelMode::Plain => {
                self.mode = ChannelMode::Confirm(PendingConfirms::default());
                self.stats.set_mode(Mode::Confirm);
            }
            ChannelMode::Confirm(_) => {}
            ChannelMode::Transaction(_) => {
                return Err(Fault::new(Code::PreconditionFailed, "cannot switch from tx to confirm mode"));
            }
        }
        turn.answer(number, no_wait, &Reply::ConfirmSelectOk);
        Ok(())
    }

    /// Performs tx.select.
    ///
    /// # Errors
    /// 406 in confirm mode.
    pub(super) fn select_transaction(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<(), Fault> {
        match self.mode {
            ChannelMode::Plain => {
                self.mode = ChannelMode::Transaction(Transaction::default());
                self.stats.set_mode(Mode::Transaction);
            }
            ChannelMode::Transaction(_) => {}
            ChannelMode::Confirm(_) => {
                return Err(Fault::new(Code::PreconditionFailed, "cannot switch from confirm to tx mode"));
            }
        }
        turn.send(number, &Reply::TxSelectOk);
        Ok(())
    }

    /// Performs tx.commit except for requeues, which are returned; a new transaction begins.
    ///
    /// # Errors
    /// 406 without a transaction, or for one that is larger than a record of the journal: that one
    /// stays until the channel ends.
    pub(super) fn commit(&mut self, number: u16, turn: &mut Turn<'_>) -> Result<Committed, Fault> {
        let ChannelMode::Transaction(transaction) = &mut self.mode else { return Err(not_transactional()) };
        transaction.check_size(turn)?;
        if let Some(unacked) = turn.outbox.lock().unacked(number) {
            unacked.end_transaction();
        }
        Ok(std::mem::take(transaction).commit(number, self.consuming.slots(), turn))
    }

    /// Returns the number of publications and deliveries in the transaction.
    pub(super) fn transaction_len(&self) -> usize {
        transaction(&self.mode).map_or(0, Transaction::len)
    }

    /// Begins tx.rollback: publications are dropped, settled deliveries are unacked again.
    ///
    /// # Errors
    /// 406 without a transaction.
    pub(super) fn roll_back(&mut self) -> Result<RollBack, Fault> {
        Ok(self.take_transaction().ok_or_else(not_transactional)?.roll_back())
    }

    /// Performs basic.consume; an empty name is the queue declared last.
    ///
    /// # Errors
    /// Those of [`Consuming::consume`] and [`Consuming::consume_replies`].
    pub(super) fn consume(
        &mut self,
        number: u16,
        queue: &[u8],
        consume: Consume<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        if queue == REPLY_TO {
            return self.consuming.consume_replies(number, consume, turn);
        }
        let (queue, transaction) = (self.declaring.queue_name(queue)?, transaction(&self.mode));
        self.consuming.consume(number, &queue, consume, transaction, turn)
    }

    /// Performs basic.get; an empty name is the queue declared last.
    ///
    /// # Errors
    /// 404; 405.
    pub(super) fn get(&mut self, number: u16, queue: &[u8], no_ack: bool, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let (queue, transaction) = (self.declaring.queue_name(queue)?, transaction(&self.mode));
        self.consuming.get(number, &queue, no_ack, transaction, turn)
    }

    /// Resets a channel that is closed to `state`; a content that is being received is skipped to
    /// its end.
    pub fn reset(&mut self, state: ChannelState) {
        let assembly = std::mem::take(&mut self.assembly);
        *self = Self { assembly, state, ..Self::default() };
    }
}

fn transaction(mode: &ChannelMode) -> Option<&Transaction> {
    if let ChannelMode::Transaction(transaction) = mode { Some(transaction) } else { None }
}

fn not_transactional() -> Fault {
    Fault::new(Code::PreconditionFailed, "channel is not transactional")
}
