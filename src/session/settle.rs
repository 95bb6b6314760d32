//! What clients say of deliveries: ack, nack, reject, recover; and transactions, which put it off (AMQP 0-9-1, 1.8 and
//! 1.9). It knows no exchange.

use crate::limits;
use crate::message::Message;
use crate::outbox::Touched;
use crate::outbox::ledger::Unsettled;
use crate::queue::Queue;
use crate::queue::intake::Append;
use crate::queue::together::{self, Share};
use crate::session::channel::{Channel, Mode, Pending, Transaction, Verdict};
use crate::session::running::Running;
use crate::wire::encode_reply::Reply;
use crate::wire::fault::{Code, Fault};
use hashbrown::HashMap;
use std::sync::Arc;

impl Running {
    /// ack, nack and reject.
    ///
    /// # Errors
    /// 406: unknown tag.
    pub(super) fn settle(
        &mut self,
        number: u16,
        verdict: Verdict,
        tag: u64,
        multiple: bool,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        let mut settled = Vec::new();
        {
            let mut inner = self.outbox.lock();
            let Some(ledger) = inner.ledger(number) else { return Ok(()) };
            ledger.settle(tag, multiple, &mut settled)?;
        }
        if let Some(Channel { mode: Mode::Transaction(transaction), .. }) = self.channel(number) {
            transaction.settlements.push((verdict, settled));
            return Ok(());
        }
        self.carry_out(number, verdict, &settled, touched);
        Ok(())
    }

    /// basic.recover with requeue: everything outstanding goes back.
    ///
    /// # Errors
    /// 540 without requeue, as in RabbitMQ.
    pub(super) fn recover(
        &mut self,
        number: u16,
        requeue: bool,
        answer: bool,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::new(Code::NotImplemented, "requeue=false"));
        }
        let mut settled = Vec::new();
        {
            // In one hold: what others deliver meanwhile is outstanding, and stands behind the answer. As in RabbitMQ, so does what is
            // delivered again.
            let mut inner = self.outbox.lock();
            if let Some(ledger) = inner.ledger(number)
                && ledger.settle(0, true, &mut settled).is_err()
            {
                settled.clear();
            }
            if answer {
                inner.reply(number, &Reply::RecoverOk);
                touched.add(&self.outbox, &mut inner);
            }
        }
        self.carry_out(number, Verdict::Requeue, &settled, touched);
        Ok(())
    }

    /// Tells the queues, and lets consumers go on that the channel's limit had stopped.
    fn carry_out(&mut self, number: u16, verdict: Verdict, settled: &[(u64, Unsettled)], touched: &mut Touched) {
        let mut settled: Vec<_> = settled.iter().map(|(tag, delivery)| (number, *tag, *delivery)).collect();
        self.conclude(verdict, &mut settled, touched);
        let limited = match self.outbox.lock().ledger(number) {
            Some(ledger) => ledger.take_limited(),
            None => Vec::new(),
        };
        let limited: Vec<_> = limited.into_iter().map(|slot| (number, slot)).collect();
        self.resume_slots(&limited, touched);
    }

    /// confirm.select.
    ///
    /// # Errors
    /// 406 in a transaction.
    pub(super) fn confirm_select(&mut self, number: u16) -> Result<(), Fault> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        match channel.mode {
            Mode::Plain => channel.mode = Mode::Confirm(Default::default()),
            Mode::Confirm(_) => {}
            Mode::Transaction(_) => {
                return Err(Fault::new(Code::PreconditionFailed, "cannot switch from tx to confirm mode"));
            }
        }
        Ok(())
    }

    /// tx.select.
    ///
    /// # Errors
    /// 406 in confirm mode.
    pub(super) fn tx_select(&mut self, number: u16, touched: &mut Touched) -> Result<(), Fault> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        match channel.mode {
            Mode::Plain => channel.mode = Mode::Transaction(Transaction::default()),
            Mode::Transaction(_) => {}
            Mode::Confirm(_) => {
                return Err(Fault::new(Code::PreconditionFailed, "cannot switch from confirm to tx mode"));
            }
        }
        self.say(number, &Reply::TxSelectOk, touched);
        Ok(())
    }

    /// tx.commit: publications in order, then settlements in order; a crash leaves all of it or nothing.
    ///
    /// # Errors
    /// 406 without a transaction, or for one that is larger than the journal can hold.
    pub(super) fn tx_commit(&mut self, number: u16, touched: &mut Touched) -> Result<(), Fault> {
        let transaction = self.take_transaction(number)?;
        self.forget_publications(&transaction);
        let (octets, max) = (transaction.octets(), limits::TRANSACTION_OCTETS);
        if octets > max && self.journal().is_some() {
            let text = format!("transaction of {octets} octets is larger than the maximum of {max}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        let mut commit = Commit::default();
        for pending in transaction.publications {
            let Pending { message, mut queues, mandatory } = pending;
            queues.retain(|queue| !queue.is_ended());
            if queues.is_empty() && mandatory {
                self.give_back(number, message.publication(), touched);
            }
            commit.publish(&queues, &message);
        }
        let mut returned = Vec::new();
        for (verdict, settled) in transaction.settlements {
            match verdict {
                Verdict::Requeue => returned.push(settled),
                Verdict::Settle | Verdict::Discard => {
                    for (_, Unsettled { slot, seq, .. }) in settled {
                        if let Some(slot) = self.channel(number).and_then(|channel| channel.slot(slot)) {
                            commit.share(&slot.queue).settled.push(seq);
                        }
                    }
                }
            }
        }
        let mut shares: Vec<_> = commit.shares.into_values().collect();
        let position = together::hand_over(&mut shares, &commit.several, Append::Whole, touched);
        returned.push(Vec::new());
        for settled in returned {
            self.carry_out(number, Verdict::Requeue, &settled, touched);
        }
        self.say_when_durable(number, &Reply::TxCommitOk, position, touched);
        Ok(())
    }

    /// tx.rollback: publications are forgotten, deliveries are outstanding again.
    ///
    /// # Errors
    /// 406 without a transaction.
    pub(super) fn tx_rollback(&mut self, number: u16, touched: &mut Touched) -> Result<(), Fault> {
        let transaction = self.take_transaction(number)?;
        self.forget_publications(&transaction);
        if let Some(ledger) = self.outbox.lock().ledger(number) {
            for (tag, delivery) in transaction.settlements.into_iter().flat_map(|(_, settled)| settled) {
                ledger.put(tag, delivery);
            }
        }
        self.say(number, &Reply::TxRollbackOk, touched);
        Ok(())
    }

    /// The memory of publications that will never be made.
    pub(super) fn forget_publications(&self, transaction: &Transaction) {
        for pending in &transaction.publications {
            self.node.counters().book_memory(pending.charge(), 0);
        }
    }

    fn take_transaction(&mut self, number: u16) -> Result<Transaction, Fault> {
        match self.channel(number) {
            Some(Channel { mode: Mode::Transaction(transaction), .. }) => Ok(std::mem::take(transaction)),
            _ => Err(Fault::new(Code::PreconditionFailed, "channel is not transactional")),
        }
    }
}

/// What a transaction does, queue by queue.
#[derive(Default)]
struct Commit {
    shares: HashMap<u64, Share>,
    /// Messages that the journal keeps for more than one queue.
    several: Vec<Message>,
}

impl Commit {
    fn share(&mut self, queue: &Arc<Queue>) -> &mut Share {
        self.shares.entry(queue.number()).or_insert_with(|| Share::new(queue))
    }

    fn publish(&mut self, queues: &[Arc<Queue>], message: &Message) {
        if message.is_persistent() && queues.iter().filter(|queue| queue.keeps()).count() > 1 {
            self.several.push(message.clone());
        }
        for queue in queues {
            self.share(queue).arrivals.push(message.clone());
        }
    }
}
