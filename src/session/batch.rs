//! The end of a read batch: acknowledgements, messages and confirms that were gathered are handed over. It decides nothing;
//! it takes each lock once a run.

use crate::outbox::Touched;
use crate::outbox::ledger::{UnknownTag, Unsettled};
use crate::session::channel::{Stage, Verdict};
use crate::session::running::Running;
use crate::wire::fault::Fault;
use crate::wire::method_id::BASIC_ACK;
use std::sync::Arc;

impl Running {
    /// Does what was gathered: acknowledgements, messages into their queues, confirms.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub(super) fn end_batch(&mut self, touched: &mut Touched) -> Result<(), Fault> {
        self.settle_ledger();
        self.settle_queues(touched);
        self.batch.runs.hand_over(touched);
        self.end_confirms(touched);
        self.look_at_journal();
        self.look_at_alarms(touched);
        for (number, tag) in std::mem::take(&mut self.batch.unknown) {
            if self.channel(number).is_some_and(|channel| channel.stage == Stage::Running) {
                self.contain(number, BASIC_ACK, Err(UnknownTag(tag).into()), touched)?;
            }
        }
        Ok(())
    }

    /// Something other than an acknowledgement comes on a channel: if one of those before it was bad, it does not count.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub(super) fn check_acks(&mut self, number: u16, touched: &mut Touched) -> Result<(), Fault> {
        self.settle_ledger();
        if self.batch.unknown.iter().any(|(other, _)| *other == number) { self.end_batch(touched) } else { Ok(()) }
    }

    /// Takes what was acknowledged out of the ledger, all under one hold of the outbox.
    fn settle_ledger(&mut self) {
        if self.batch.acks.is_empty() {
            return;
        }
        let batch = &mut self.batch;
        let mut inner = self.outbox.lock();
        for (number, tag, multiple) in batch.acks.drain(..) {
            if batch.unknown.iter().any(|(other, _)| *other == number) {
                continue;
            }
            let Some(ledger) = inner.ledger(number) else { continue };
            match ledger.settle(tag, multiple, &mut batch.taken) {
                Ok(()) => {
                    batch.settled.extend(batch.taken.drain(..).map(|(tag, delivery)| (number, tag, delivery)));
                    batch.limited.extend(ledger.take_limited().into_iter().map(|slot| (number, slot)));
                }
                Err(UnknownTag(tag)) => batch.unknown.push((number, tag)),
            }
        }
    }

    /// Tells the queues what has left the ledger.
    fn settle_queues(&mut self, touched: &mut Touched) {
        if self.batch.settled.is_empty() {
            return;
        }
        let mut settled = std::mem::take(&mut self.batch.settled);
        self.conclude(Verdict::Settle, &mut settled, touched);
        settled.clear();
        self.batch.settled = settled;
        let limited = std::mem::take(&mut self.batch.limited);
        self.resume_slots(&limited, touched);
    }

    /// Tells the queues what became of deliveries, one run of the same slot at a time; what goes back, one run of the same
    /// queue at a time: else somebody could be handed a later message before an earlier one is back.
    pub(super) fn conclude(&mut self, verdict: Verdict, settled: &mut [(u16, u64, Unsettled)], touched: &mut Touched) {
        let channels = &self.channels;
        let slot = |number: u16, slot: u32| channels.get(usize::from(number))?.as_deref()?.slot(slot);
        let place = |(number, _, delivery): &(u16, u64, Unsettled)| match verdict {
            Verdict::Requeue => {
                let queue = slot(*number, delivery.slot).map(|slot| Arc::as_ptr(&slot.queue));
                (*number, queue.map_or(0, |queue| queue.addr()))
            }
            Verdict::Settle | Verdict::Discard => (*number, delivery.slot as usize),
        };
        // No two are equal; a stable sort would allocate.
        settled.sort_unstable_by_key(|delivery| (place(delivery), delivery.1));
        let seqs = &mut self.batch.seqs;
        for run in settled.chunk_by(|one, other| place(one) == place(other)) {
            let Some((number, _, first)) = run.first() else { continue };
            let Some(slot) = slot(*number, first.slot) else { continue };
            seqs.clear();
            seqs.extend(run.iter().map(|(_, _, delivery)| delivery.seq));
            match verdict {
                Verdict::Settle | Verdict::Discard => slot.queue.settle(seqs, touched),
                Verdict::Requeue => slot.queue.requeue(seqs, touched),
            }
        }
    }

    /// Lets consumers (channel, slot) go on that a limit of their channel or a full buffer had stopped.
    pub(super) fn resume_slots<'a>(&mut self, slots: impl IntoIterator<Item = &'a (u16, u32)>, touched: &mut Touched) {
        for (number, slot) in slots {
            if let Some(slot) = self.channel(*number).and_then(|channel| channel.slot(*slot))
                && let Some(consumer) = slot.consumer
            {
                slot.queue.resume(consumer, touched);
            }
        }
    }
}
