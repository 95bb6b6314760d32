//! The outbox of one connection: octets that wait to be written, and unacked deliveries.
//!
//! One lock a connection, a leaf of the lock order. Any task may append to an outbox, or notify its
//! owner (the connection's task) or its writer task; only the connection's own tasks open, close,
//! confirm and resume. The writer task writes to the socket, except for few octets that can be
//! written at once: the task that appended them writes them, which saves waking the writer task,
//! and most connections having one. Who writes holds the write permit. Names no queue, exchange or
//! socket.

pub mod buffer;
pub mod confirms;
pub mod deliveries;

use crate::limits;
use crate::memory::{ConnectionMemory, MemoryAccount};
use crate::message::{Message, Publication};
use crate::outbox::buffer::{Buffer, DeliverArguments, WriteBatch};
use crate::outbox::deliveries::{UnackedDeliveries, UnackedDelivery};
use leveret_journal::error::Failure;
use leveret_journal::index::Index;
use leveret_journal::journal::OnDurable;
use leveret_wire::encode_content;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::name::Name;
use leveret_wire::reply::Reply;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use tokio::sync::Notify;

/// A socket to which few octets can be written without waiting.
pub trait DirectWriter: fmt::Debug + Send + Sync {
    /// Writes as much as the socket takes at once, and returns how many octets that were. On an
    /// error it returns 0: the writer task finds out why.
    fn try_write(&self, octets: &[u8]) -> usize;
}

/// The destination of a consumer's deliveries within its connection.
#[derive(Clone, Debug)]
pub struct DeliveryTarget {
    /// Channel number.
    pub channel: u16,
    /// The consumer's slot in the channel.
    pub slot: u32,
    /// Consumer tag.
    pub tag: Name,
    /// Deliveries are acknowledged at once (`no-ack`).
    pub no_ack: bool,
}

/// The outcome of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliverOutcome {
    /// The delivery was appended.
    Delivered,
    /// Nothing was appended: skip the consumer until it is resumed.
    Stalled,
}

/// Actions that other tasks have requested of the connection's task.
#[derive(Debug, Default)]
pub struct PendingActions {
    /// Consumers (channel, slot) that were skipped because the buffer was full, to be resumed.
    pub stalled: BTreeSet<(u16, u32)>,
    /// Consumers (channel, slot) whose queue was deleted, to be cancelled.
    pub cancelled: BTreeSet<(u16, u32)>,
    /// The connection is to be closed with this fault.
    pub close: Option<Fault>,
    /// More consumers were stalled or cancelled than were taken at once.
    pub has_more: bool,
}

/// The outbox of one connection.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    memory: Arc<ConnectionMemory>,
    /// The connection's number; 0: it has none.
    connection: AtomicU64,
    /// Notified when octets wait to be written.
    writer: Notify,
    writer_state: AtomicU8,
    /// Notified when there are pending actions.
    owner: Notify,
}

/// The writer task: not started, wanted, started. The state only advances.
const NO_WRITER: u8 = 0;
const WRITER_WANTED: u8 = 1;
const HAS_WRITER: u8 = 2;

/// The state under an outbox's lock.
#[derive(Debug)]
pub struct Inner {
    buffer: Buffer,
    frame_max: u32,
    channels: Vec<Option<Box<UnackedDeliveries>>>,
    actions: PendingActions,
    /// Is in a flush set since the writer task last looked.
    in_flush_set: bool,
    /// The connection is not read until its replies are written.
    is_reader_held: bool,
    /// No octet will be appended any more.
    finished: bool,
    /// The reason why the socket is closed, once it is; appended octets are dropped.
    disconnected: Option<&'static str>,
    /// The socket, for few octets.
    direct: Option<Arc<dyn DirectWriter>>,
    permit: WritePermit,
    /// Octets written to the socket.
    octets_out: u64,
}

/// The right to write to the socket, which keeps octets in the order in which they were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WritePermit {
    /// No task writes.
    Free,
    /// The writer task writes, and looks for more afterwards.
    Writer,
    /// A task that appended writes. `missed`: the writer task has looked meanwhile and has to look
    /// again.
    Another { missed: bool },
}

/// Outboxes that got octets in a batch of work, each once, to be flushed at its end.
#[derive(Debug, Default)]
pub struct FlushSet {
    outboxes: Vec<Arc<Outbox>>,
    /// The flushing task may write few octets itself.
    direct: bool,
}

impl FlushSet {
    /// Sets whether [`FlushSet::flush`] may write few octets itself. It may when there is little
    /// work: under load, octets that wait a little go out together with those that follow.
    pub fn allow_direct(&mut self, direct: bool) {
        self.direct = direct;
    }

    /// Flushes each outbox once: few octets for few connections are written by this task, if that
    /// is allowed, all others by their writer tasks. No lock may be held.
    pub fn flush(&mut self) {
        let direct = self.direct && self.outboxes.len() <= limits::DIRECT_OUTBOXES;
        for outbox in self.outboxes.drain(..) {
            if !direct || !outbox.write_directly() {
                outbox.wake_writer();
            }
        }
    }

    /// Adds `outbox`, unless it was added to a flush set since its writer last looked.
    pub fn add(&mut self, outbox: &Arc<Outbox>, inner: &mut Inner) {
        if !inner.in_flush_set && inner.disconnected.is_none() {
            inner.in_flush_set = true;
            self.outboxes.push(Arc::clone(outbox));
        }
    }
}

impl Drop for FlushSet {
    /// Flushes the outboxes that an early return left in the set: nothing else would wake their
    /// writers.
    fn drop(&mut self) {
        self.flush();
    }
}

/// The outcome of looking for octets to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// There are octets to write.
    Octets,
    /// There are none now; wait to be notified.
    Nothing,
    /// There are none, and there never will be.
    Finished,
}

impl Default for Outbox {
    /// Creates an outbox without a broker.
    fn default() -> Self {
        Self::new(MemoryAccount::default())
    }
}

impl Outbox {
    /// Creates the outbox of a connection whose memory is charged to `account`.
    pub fn new(account: MemoryAccount) -> Self {
        let memory = Arc::new(ConnectionMemory::new(account));
        Self {
            inner: Mutex::new(Inner {
                buffer: Buffer::new(&memory),
                frame_max: limits::FRAME_SIZE_BEFORE_TUNE,
                channels: Vec::new(),
                actions: PendingActions::default(),
                in_flush_set: false,
                is_reader_held: false,
                finished: false,
                disconnected: None,
                direct: None,
                permit: WritePermit::Free,
                octets_out: 0,
            }),
            memory,
            connection: AtomicU64::new(0),
            writer: Notify::new(),
            writer_state: AtomicU8::new(NO_WRITER),
            owner: Notify::new(),
        }
    }

    /// Returns the memory that the connection has grown.
    pub fn memory(&self) -> &Arc<ConnectionMemory> {
        &self.memory
    }

    /// Sets the number of its connection.
    pub fn set_connection(&self, number: u64) {
        self.connection.store(number, Ordering::Relaxed);
    }

    /// Returns the number of its connection; 0 if it has none.
    pub fn connection(&self) -> u64 {
        self.connection.load(Ordering::Relaxed)
    }

    /// Locks the state, to append to it.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Waits until octets wait to be written.
    pub async fn writer_notified(&self) {
        self.writer.notified().await;
    }

    /// Waits until there are pending actions.
    pub async fn owner_notified(&self) {
        self.owner.notified().await;
    }

    /// Notifies the owner of pending actions.
    pub fn notify_owner(&self) {
        self.owner.notify_one();
    }

    /// Wakes the writer task. If it was not started, the owner is notified to start it.
    fn wake_writer(&self) {
        self.writer.notify_one();
        if self.writer_state.load(Ordering::Relaxed) != HAS_WRITER {
            let _ = self.writer_state.compare_exchange(NO_WRITER, WRITER_WANTED, Ordering::Relaxed, Ordering::Relaxed);
            self.owner.notify_one();
        }
    }

    /// Returns true once, when the owner is to start the writer task.
    pub fn should_spawn_writer(&self) -> bool {
        self.writer_state.compare_exchange(WRITER_WANTED, HAS_WRITER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Requests that the owner close the connection.
    pub fn ask_to_close(&self, fault: Fault) {
        self.lock().actions.close.get_or_insert(fault);
        self.notify_owner();
    }

    /// Requests that the owner cancel a consumer whose queue was deleted.
    pub fn cancel_consumer(&self, channel: u16, slot: u32) {
        self.lock().actions.cancelled.insert((channel, slot));
        self.notify_owner();
    }

    /// Sets the socket for few octets, which need not wait for the writer task any more.
    pub fn set_direct_writer(&self, line: Arc<dyn DirectWriter>) {
        self.lock().direct = Some(line);
    }

    /// Declares that no octet will be appended; the writer task ends when all are written.
    pub fn finish(&self) {
        let mut inner = self.lock();
        inner.finished = true;
        inner.direct = None;
        drop(inner);
        self.writer.notify_one();
    }

    /// Drops waiting octets, and those appended later: the socket is closed, for this reason.
    pub fn disconnect(&self, reason: &'static str) {
        let mut inner = self.lock();
        inner.disconnected.get_or_insert(reason);
        inner.finished = true;
        inner.direct = None;
        inner.buffer.clear();
        drop(inner);
        self.writer.notify_one();
        self.owner.notify_one();
    }

    /// Swaps the octets that may be written with the writer's empty `spare`. Notifies the owner
    /// when skipped consumers can be resumed or the connection can be read again.
    pub fn take(&self, spare: &mut WriteBatch) -> Drained {
        let mut inner = self.lock();
        if let WritePermit::Another { missed } = &mut inner.permit {
            *missed = true;
            return Drained::Nothing;
        }
        inner.permit = WritePermit::Free;
        inner.in_flush_set = false;
        if inner.owner_waits() {
            self.owner.notify_one();
        }
        if !inner.buffer.has_free() {
            let is_over = inner.finished && inner.buffer.is_empty();
            return if is_over { Drained::Finished } else { Drained::Nothing };
        }
        inner.buffer.take_free(spare);
        inner.octets_out += spare.len() as u64;
        inner.permit = WritePermit::Writer;
        Drained::Octets
    }

    /// Appends the octets that may be written to `octets`, bodies included, for a writer without
    /// vectored writes.
    pub fn take_octets(&self, octets: &mut Vec<u8>) -> Drained {
        let mut batch = WriteBatch::default();
        let drained = self.take(&mut batch);
        if drained == Drained::Octets {
            batch.copy_to(octets);
        }
        drained
    }

    /// Writes waiting octets, if they are few and the write permit is free; returns false if the
    /// writer task is to be woken.
    fn write_directly(&self) -> bool {
        let mut inner = self.lock();
        match inner.permit {
            // The holder of the permit looks again, and finds the octets.
            WritePermit::Writer | WritePermit::Another { .. } => return true,
            // Only the writer task notifies the owner that there is room again.
            WritePermit::Free if !inner.buffer.is_little(limits::DIRECT_OCTETS) || inner.owner_waits() => return false,
            WritePermit::Free => {}
        }
        let Some(direct) = inner.direct.clone() else { return false };
        inner.permit = WritePermit::Another { missed: false };
        inner.in_flush_set = false;
        let mut batch = WriteBatch::new(&self.memory);
        inner.buffer.take_free(&mut batch);
        drop(inner);
        let written = direct.try_write(batch.only_octets().unwrap_or_default());
        self.lock().written_directly(batch, written)
    }
}

impl OnDurable for Outbox {
    fn durable(&self, durable: Index) {
        if self.lock().release(durable) {
            self.wake_writer();
        }
        self.notify_owner();
    }

    fn failed(&self, failure: &Failure) {
        self.lock().buffer.drop_held();
        self.ask_to_close(Fault::new(Code::InternalError, format_args!("the store has failed: {failure}")));
    }
}

impl Inner {
    /// Puts back the part of `batch` behind its first `written` octets, and frees the permit;
    /// returns false if the writer task is to be woken.
    fn written_directly(&mut self, batch: WriteBatch, written: usize) -> bool {
        let missed = std::mem::replace(&mut self.permit, WritePermit::Free) == WritePermit::Another { missed: true };
        self.octets_out += written as u64;
        if self.disconnected.is_none() {
            self.buffer.put_back(batch, written);
        }
        !self.buffer.has_free() && !missed
    }

    /// Returns true if the owner is to be notified when octets were written.
    fn owner_waits(&self) -> bool {
        self.is_reader_held || !self.actions.stalled.is_empty()
    }

    /// Holds everything appended from now on until `index` is durable.
    pub fn hold_until(&mut self, index: Index) {
        self.buffer.hold_until(index);
    }

    /// Returns the index that has to be durable for the first held octet.
    pub fn held_for(&self) -> Option<Index> {
        self.buffer.holds().first_index()
    }

    /// Returns the index that has to be durable for all octets.
    pub fn held_to_the_end(&self) -> Option<Index> {
        self.buffer.holds().last_index()
    }

    /// Releases octets held for indexes up to `durable`. Returns true if there is more to write.
    pub fn release(&mut self, durable: Index) -> bool {
        self.buffer.release(durable)
    }

    /// Sets the negotiated frame size, in octets.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// Opens a channel for deliveries.
    pub fn open_channel(&mut self, channel: u16) {
        let at = usize::from(channel);
        if self.channels.len() <= at {
            self.channels.resize_with(at + 1, || None);
        }
        if let Some(slot) = self.channels.get_mut(at) {
            *slot = Some(Box::new(UnackedDeliveries::new(self.buffer.memory())));
        }
    }

    /// Closes a channel for deliveries; returns its unacked deliveries.
    pub fn close_channel(&mut self, channel: u16) -> Option<Box<UnackedDeliveries>> {
        self.channels.get_mut(usize::from(channel)).and_then(Option::take)
    }

    /// Returns the unacked deliveries of an open channel.
    pub fn unacked(&mut self, channel: u16) -> Option<&mut UnackedDeliveries> {
        self.channels.get_mut(usize::from(channel))?.as_deref_mut()
    }

    /// Appends basic.deliver, unless the connection or the channel takes no more now.
    pub fn deliver(&mut self, to: &DeliveryTarget, seq: u64, redelivered: bool, message: &Message) -> DeliverOutcome {
        if self.disconnected.is_some() {
            return DeliverOutcome::Stalled;
        }
        let frame_max = self.frame_max;
        let Some(unacked) = self.channels.get_mut(usize::from(to.channel)).and_then(Option::as_deref_mut) else {
            return DeliverOutcome::Stalled;
        };
        if self.buffer.is_full() {
            self.actions.stalled.insert((to.channel, to.slot));
            return DeliverOutcome::Stalled;
        }
        // As in RabbitMQ, a consumer that does not acknowledge waits with the others.
        if unacked.refuses(to.slot) {
            return DeliverOutcome::Stalled;
        }
        let tag = if to.no_ack {
            unacked.next_tag()
        } else {
            unacked.add(UnackedDelivery { slot: to.slot, seq, fetched: false })
        };
        let delivery = DeliverArguments { channel: to.channel, consumer_tag: to.tag.as_octets(), tag, redelivered };
        self.buffer.deliver(frame_max, delivery, message);
        DeliverOutcome::Delivered
    }

    /// Appends a message for `amq.rabbitmq.reply-to`; returns false if the buffer is full: the
    /// message is dropped.
    pub fn deliver_reply(&mut self, to: &DeliveryTarget, message: &Message) -> bool {
        if self.disconnected.is_some() || self.buffer.level() >= limits::HOLD_READER_AT {
            return false;
        }
        let frame_max = self.frame_max;
        let Some(unacked) = self.unacked(to.channel) else { return false };
        let tag = unacked.next_tag();
        let delivery =
            DeliverArguments { channel: to.channel, consumer_tag: to.tag.as_octets(), tag, redelivered: false };
        self.buffer.deliver(frame_max, delivery, message);
        true
    }

    /// Appends basic.get-ok; `slot` is `None` if the message is acknowledged at once.
    pub fn get_ok(&mut self, channel: u16, slot: Option<u32>, entry: GetOkMessage<'_>, remaining: u32) {
        let frame_max = self.frame_max;
        let Some(unacked) = self.unacked(channel) else { return };
        let tag = match slot {
            Some(slot) => unacked.add(UnackedDelivery { slot, seq: entry.seq, fetched: true }),
            None => unacked.next_tag(),
        };
        unacked.count_fetched();
        let get_ok = DeliverArguments { channel, consumer_tag: b"", tag, redelivered: entry.redelivered };
        self.buffer.get_ok(frame_max, get_ok, remaining, entry.message);
    }

    /// Appends basic.return.
    pub fn basic_return(&mut self, channel: u16, code: u16, text: &[u8], publication: Publication<'_>) {
        self.buffer.basic_return(self.frame_max, channel, code, text, publication);
        if let Some(unacked) = self.unacked(channel) {
            unacked.count_returned();
        }
    }

    /// Appends a publisher confirm.
    pub fn confirm(&mut self, channel: u16, tag: u64, multiple: bool) {
        self.buffer.append(|out| encode_content::ack(out, channel, tag, multiple));
    }

    /// Appends the negative publisher confirm of one publication.
    pub fn confirm_rejected(&mut self, channel: u16, tag: u64) {
        self.buffer.append(|out| encode_content::nack(out, channel, tag, false));
    }

    /// Appends a method without content.
    pub fn reply(&mut self, channel: u16, reply: &Reply<'_>) {
        self.buffer.append(|out| reply.put(out, channel));
    }

    /// Appends raw octets, such as a protocol header.
    pub fn octets(&mut self, octets: &[u8]) {
        self.buffer.append(|out| out.extend_from_slice(octets));
    }

    /// Appends a heartbeat, unless other octets may be written now: they serve as one.
    pub fn heartbeat(&mut self) {
        self.buffer.heartbeat();
    }

    /// Takes pending actions, at most [`limits::CONSUMERS_PER_STEP`] consumers of each kind.
    /// Stalled consumers stay in the list while the buffer is above [`limits::RESUME_AT`].
    pub fn take_pending_actions(&mut self) -> PendingActions {
        let may_resume = self.buffer.level() <= limits::RESUME_AT;
        let PendingActions { stalled, cancelled, close, .. } = &mut self.actions;
        PendingActions {
            stalled: if may_resume { take_some(stalled) } else { BTreeSet::new() },
            cancelled: take_some(cancelled),
            close: close.take(),
            has_more: may_resume && !stalled.is_empty() || !cancelled.is_empty(),
        }
    }

    /// Returns true if so many replies wait that the connection must not be read. The owner is then
    /// notified when that changes.
    pub fn holds_reader(&mut self) -> bool {
        self.is_reader_held = self.buffer.is_full_of_answers();
        self.is_reader_held
    }

    /// Returns the number of octets written to the socket.
    pub fn octets_out(&self) -> u64 {
        self.octets_out
    }

    /// Returns the reason why the socket is closed; `None`: it is not.
    pub fn disconnected(&self) -> Option<&'static str> {
        self.disconnected
    }
}

fn take_some(consumers: &mut BTreeSet<(u16, u32)>) -> BTreeSet<(u16, u32)> {
    if consumers.len() <= limits::CONSUMERS_PER_STEP {
        return std::mem::take(consumers);
    }
    (0..limits::CONSUMERS_PER_STEP).filter_map(|_| consumers.pop_first()).collect()
}

/// A message fetched by basic.get.
#[derive(Clone, Copy, Debug)]
pub struct GetOkMessage<'a> {
    /// The message's id in the queue.
    pub seq: u64,
    /// The message was delivered before.
    pub redelivered: bool,
    /// The message.
    pub message: &'a Message,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AccountLease, MemoryAccount};
    use crate::message::Publication;
    use leveret_wire::encode_content::Copied;
    use proptest::prelude::*;

    fn message(size: usize) -> Message {
        Publication { route: b"\0\0", properties: b"\0\0", body: &vec![0; size], persistent: false }
            .keep(MemoryAccount::default())
    }

    /// Writes as a writer task would, two slices at a time and three octets less than it may.
    fn written(batch: &WriteBatch) -> Vec<u8> {
        let mut octets = Vec::new();
        while octets.len() < batch.len() {
            let mut slices = arrayvec::ArrayVec::<_, 2>::new();
            batch.slices(octets.len(), &mut slices);
            let some: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            octets.extend_from_slice(&some[..some.len().saturating_sub(3).max(1)]);
        }
        octets
    }

    fn address(channel: u16, slot: u32) -> DeliveryTarget {
        DeliveryTarget { channel, slot, tag: Name::from_static("t"), no_ack: true }
    }

    fn notified(outbox: &Outbox) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(outbox.owner_notified()).poll(&mut context).is_ready()
    }

    #[test]
    fn a_writer_is_announced_once_until_it_looks() {
        let outbox = Arc::new(Outbox::default());
        let mut flush = FlushSet::default();
        for _ in 0..2 {
            outbox.lock().heartbeat();
            flush.add(&outbox, &mut outbox.lock());
            assert_eq!(flush.outboxes.len(), 1);
        }
        assert_eq!(outbox.take(&mut WriteBatch::default()), Drained::Octets);
        assert_eq!(outbox.take(&mut WriteBatch::default()), Drained::Nothing);
        flush.add(&outbox, &mut outbox.lock());
        assert_eq!(flush.outboxes.len(), 2);
    }

    /// A socket that takes so many octets at a time, and calls `meanwhile` during a write.
    struct Pipe {
        room: usize,
        meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
        written: Mutex<Vec<u8>>,
    }

    impl fmt::Debug for Pipe {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Pipe")
        }
    }

    impl DirectWriter for Pipe {
        fn try_write(&self, octets: &[u8]) -> usize {
            let meanwhile = self.meanwhile.lock().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
            let some = octets.len().min(self.room);
            self.written.lock().extend_from_slice(&octets[..some]);
            some
        }
    }

    fn connected(room: usize) -> (Arc<Outbox>, Arc<Pipe>) {
        let pipe = Arc::new(Pipe { room, meanwhile: Mutex::default(), written: Mutex::default() });
        let outbox = Arc::new(Outbox::default());
        outbox.set_direct_writer(Arc::<Pipe>::clone(&pipe));
        (outbox, pipe)
    }

    fn append(outbox: &Arc<Outbox>, octets: &[u8]) {
        let mut flush = FlushSet::default();
        flush.allow_direct(true);
        let mut inner = outbox.lock();
        inner.octets(octets);
        flush.add(outbox, &mut inner);
        drop(inner);
    }

    fn writer_notified(outbox: &Outbox) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(outbox.writer_notified()).poll(&mut context).is_ready()
    }

    #[test]
    fn few_octets_go_directly_and_many_by_the_writer() {
        let (outbox, pipe) = connected(usize::MAX);
        append(&outbox, b"few");
        assert_eq!(*pipe.written.lock(), b"few");
        assert!(!writer_notified(&outbox));
        append(&outbox, &vec![0; limits::DIRECT_OCTETS + 1]);
        assert!(writer_notified(&outbox));
        outbox.lock().in_flush_set = false;
        FlushSet::default().add(&outbox, &mut outbox.lock());
        assert!(writer_notified(&outbox), "nobody allowed it");
        let mut spare = WriteBatch::default();
        assert_eq!(outbox.take(&mut spare), Drained::Octets);
        // The writer task is writing: octets appended now wait until it looks again.
        append(&outbox, b"more");
        assert_eq!(*pipe.written.lock(), b"few");
        spare.clear(usize::MAX);
        assert_eq!(outbox.take(&mut spare), Drained::Octets);
        assert_eq!(written(&spare), b"more");
        spare.clear(usize::MAX);
        assert_eq!(outbox.take(&mut spare), Drained::Nothing);
        append(&outbox, b"!");
        assert_eq!(*pipe.written.lock(), b"few!");
    }

    #[test]
    fn a_writer_is_wanted_once_and_not_for_few_octets() {
        let (outbox, _pipe) = connected(usize::MAX);
        append(&outbox, b"few");
        assert!(!notified(&outbox) && !outbox.should_spawn_writer());
        append(&outbox, &vec![0; limits::DIRECT_OCTETS + 1]);
        assert!(notified(&outbox) && outbox.should_spawn_writer() && !outbox.should_spawn_writer());
        outbox.take(&mut WriteBatch::default());
        append(&outbox, &vec![0; limits::DIRECT_OCTETS + 1]);
        assert!(writer_notified(&outbox) && !notified(&outbox) && !outbox.should_spawn_writer());
    }

    #[test]
    fn what_a_socket_does_not_take_is_left_to_the_writer_in_order() {
        let (outbox, pipe) = connected(2);
        let other = Arc::clone(&outbox);
        *pipe.meanwhile.lock() = Some(Box::new(move || append(&other, b"def")));
        append(&outbox, b"abc");
        assert_eq!(*pipe.written.lock(), b"ab");
        assert!(writer_notified(&outbox));
        let mut spare = WriteBatch::default();
        assert_eq!(outbox.take(&mut spare), Drained::Octets);
        assert_eq!(written(&spare), b"cdef");
    }

    #[test]
    fn a_writer_that_looks_during_a_direct_write_is_notified_again() {
        let (outbox, pipe) = connected(usize::MAX);
        let other = Arc::clone(&outbox);
        *pipe.meanwhile.lock() = Some(Box::new(move || {
            other.finish();
            assert!(writer_notified(&other));
            assert_eq!(other.take(&mut WriteBatch::default()), Drained::Nothing);
        }));
        append(&outbox, b"abc");
        assert!(writer_notified(&outbox));
        assert_eq!(outbox.take(&mut WriteBatch::default()), Drained::Finished);
    }

    #[test]
    fn a_broken_socket_gets_nothing_back() {
        let (outbox, pipe) = connected(0);
        let other = Arc::clone(&outbox);
        *pipe.meanwhile.lock() = Some(Box::new(move || other.disconnect("closed")));
        append(&outbox, b"abc");
        assert_eq!(outbox.take(&mut WriteBatch::default()), Drained::Finished);
    }

    #[test]
    fn a_full_buffer_stalls_a_consumer_and_its_end_notifies_the_owner() {
        let outbox = Outbox::default();
        outbox.lock().open_channel(1);
        let (to, message) = (address(1, 0), message(limits::STALL_AT));
        assert_eq!(outbox.lock().deliver(&to, 0, false, &message), DeliverOutcome::Delivered);
        for _ in 0..3 {
            assert_eq!(outbox.lock().deliver(&to, 1, false, &message), DeliverOutcome::Stalled);
        }
        assert!(!notified(&outbox));
        assert!(outbox.lock().take_pending_actions().stalled.is_empty(), "nothing was written yet");
        outbox.take(&mut WriteBatch::default());
        assert!(notified(&outbox));
        assert_eq!(outbox.lock().take_pending_actions().stalled.into_iter().collect::<Vec<_>>(), [(1, 0)]);
    }

    #[test]
    fn the_owner_is_told_when_its_reader_need_not_be_held_any_more() {
        let outbox = Outbox::default();
        outbox.lock().octets(&vec![0; limits::HOLD_READER_AT - 1]);
        assert!(!outbox.lock().holds_reader());
        outbox.lock().octets(&[0]);
        assert!(outbox.lock().holds_reader());
        outbox.take(&mut WriteBatch::default());
        assert!(notified(&outbox) && !outbox.lock().holds_reader());
    }

    fn position(number: u64) -> Index {
        Index::from_number(number)
    }

    #[test]
    fn a_stalled_consumer_hears_of_room_though_little_is_released_at_a_time() {
        let (outbox, pipe) = connected(usize::MAX);
        outbox.lock().open_channel(1);
        outbox.lock().octets(b"few");
        outbox.lock().hold_until(position(5));
        let (to, message) = (address(1, 0), message(limits::STALL_AT));
        assert_eq!(outbox.lock().deliver(&to, 0, false, &message), DeliverOutcome::Delivered);
        assert_eq!(outbox.lock().deliver(&to, 1, false, &message), DeliverOutcome::Stalled);
        append(&outbox, b"");
        assert!(writer_notified(&outbox) && pipe.written.lock().is_empty());
        outbox.take(&mut WriteBatch::default());
        assert!(notified(&outbox));
    }

    #[test]
    fn a_heartbeat_passes_what_is_held_and_follows_what_is_written() {
        let (outbox, pipe) = connected(2);
        outbox.lock().hold_until(position(5));
        outbox.lock().octets(b"held");
        let other = Arc::clone(&outbox);
        outbox.lock().heartbeat();
        // A part is written: the next batch must not come before the rest.
        *pipe.meanwhile.lock() = Some(Box::new(move || other.lock().heartbeat()));
        append(&outbox, b"");
        let mut by_writer = WriteBatch::default();
        assert_eq!(outbox.take(&mut by_writer), Drained::Octets);
        let sent = [std::mem::take(&mut *pipe.written.lock()), written(&by_writer)].concat();
        let mut heartbeat = Vec::new();
        encode_content::heartbeat(&mut heartbeat);
        assert_eq!(sent.len(), heartbeat.len() * 2);
        outbox.durable(position(5));
        let mut rest = WriteBatch::default();
        assert_eq!(outbox.take(&mut rest), Drained::Octets);
        assert_eq!(written(&rest), b"held");
    }

    proptest! {
        /// Bodies by reference between octets are written as if all were copied.
        #[test]
        fn bodies_by_reference_go_out_where_they_belong(
            steps in proptest::collection::vec((0u8..6, 0usize..3, 1u64..8), 1..60),
        ) {
            const SIZES: [usize; 3] = [10, limits::BODY_BY_REFERENCE, 3 * limits::BODY_BY_REFERENCE + 1];
            let lease = AccountLease::default();
            let outbox = Outbox::new(lease.account());
            outbox.lock().open_channel(1);
            outbox.lock().set_frame_max(20_000);
            let (mut expected, mut sent, mut tag) = (Vec::new(), Vec::new(), 0);
            let mut spare = WriteBatch::new(outbox.memory());
            for (step, size, number) in steps {
                let body: Vec<u8> = (0..SIZES[size]).map(|at| (at as u64 * number) as u8).collect();
                let publication = Publication { route: b"\0\0", properties: b"\0\0", body: &body, persistent: false };
                let content = encode_content::Content { route: b"\0\0", properties: b"\0\0", body: &body };
                match step {
                    0 | 1 if outbox.lock().buffer.is_full() => {}
                    0 | 1 => {
                        let message = publication.keep(lease.account());
                        assert_eq!(outbox.lock().deliver(&address(1, 0), 1, false, &message), DeliverOutcome::Delivered);
                        tag += 1;
                        encode_content::deliver(&mut expected, 1, 20_000, b"t", tag, false, content, &mut Copied);
                    }
                    2 => {
                        outbox.lock().basic_return(1, 312, b"NO_ROUTE", publication);
                        encode_content::basic_return(&mut expected, 1, 20_000, 312, b"NO_ROUTE", content, &mut Copied);
                    }
                    3 => {
                        let message = &publication.keep(lease.account());
                        let entry = GetOkMessage { seq: 1, redelivered: true, message };
                        outbox.lock().get_ok(1, None, entry, 7);
                        tag += 1;
                        encode_content::get_ok(&mut expected, 1, 20_000, tag, true, 7, content, &mut Copied);
                    }
                    4 => outbox.lock().hold_until(position(number)),
                    _ => {
                        outbox.durable(position(number));
                        spare.clear(0);
                        if outbox.take(&mut spare) == Drained::Octets {
                            sent.extend(written(&spare));
                        }
                    }
                }
                prop_assert_eq!(&sent[..], &expected[..sent.len()]);
            }
            outbox.durable(position(8));
            spare.clear(0);
            while outbox.take(&mut spare) == Drained::Octets {
                prop_assert!(outbox.lock().buffer.level() == 0 && outbox.lock().buffer.is_empty());
                sent.extend(written(&spare));
                spare.clear(0);
            }
            prop_assert_eq!(&sent, &expected);
            prop_assert_eq!(lease.account().used(), 0);
        }
    }

    #[test]
    fn one_large_message_to_many_readers_is_one_body() {
        let lease = AccountLease::default();
        let outboxes: Vec<_> = (0..100).map(|_| Outbox::new(lease.account())).collect();
        let message = Publication { route: b"\0\0", properties: b"\0\0", body: &[0; 1_000_000], persistent: false }
            .keep(lease.account());
        for outbox in &outboxes {
            outbox.lock().open_channel(1);
            assert_eq!(outbox.lock().deliver(&address(1, 0), 0, false, &message), DeliverOutcome::Delivered);
            assert_eq!(outbox.lock().deliver(&address(1, 0), 1, false, &message), DeliverOutcome::Stalled);
        }
        drop(message);
        assert!((1_000_000..1_010_000).contains(&lease.account().used()), "{}", lease.account().used());
        drop(outboxes);
        assert_eq!(lease.account().used(), 0);
    }

    #[test]
    fn less_is_buffered_while_the_memory_alarm_is_on() {
        let lease = AccountLease::default();
        let outbox = Outbox::new(lease.account());
        outbox.lock().open_channel(1);
        outbox.lock().octets(&vec![0; limits::STALL_AT_SCARCE]);
        assert!(!outbox.lock().holds_reader() && !outbox.lock().buffer.is_full());
        lease.account().set_scarce(true);
        assert!(outbox.lock().holds_reader());
        assert_eq!(outbox.lock().deliver(&address(1, 0), 0, false, &message(1)), DeliverOutcome::Stalled);
        lease.account().set_scarce(false);
        assert!(!notified(&outbox));
        outbox.take(&mut WriteBatch::default());
        assert!(notified(&outbox), "the reader waits for it, whatever became of the alarm");
    }

    proptest! {
        #[test]
        fn what_is_held_goes_out_in_order_and_never_early(
            steps in proptest::collection::vec((0u8..5, 1u64..8), 1..80), room in 0usize..4,
        ) {
            let (outbox, pipe) = connected(room);
            let (mut said, mut holds, mut durable) = (Vec::new(), Vec::new(), 0_u64);
            let write = || {
                let mut spare = WriteBatch::default();
                while outbox.take(&mut spare) == Drained::Octets {
                    pipe.written.lock().extend(written(&spare));
                    spare.clear(usize::MAX);
                }
            };
            for (step, number) in steps {
                let octets = [said.len() as u8, number as u8];
                match step {
                    0 => append(&outbox, &octets),
                    1 => outbox.lock().octets(&octets),
                    2 => outbox.lock().hold_until(position(number)),
                    3 => outbox.durable(position(durable.max(number))),
                    _ => write(),
                }
                match step {
                    0 | 1 => said.extend(octets),
                    2 => holds.push((said.len(), number)),
                    3 => durable = durable.max(number),
                    _ => {}
                }
                let free = holds.iter().filter(|(_, until)| *until > durable).map(|(at, _)| *at).min();
                let sent = pipe.written.lock().clone();
                prop_assert!(sent.len() <= free.unwrap_or(usize::MAX));
                prop_assert_eq!(&sent[..], &said[..sent.len()]);
            }
            outbox.durable(position(8));
            write();
            prop_assert_eq!(&*pipe.written.lock(), &said);
        }
    }

    #[test]
    fn consumers_are_given_to_the_owner_a_bounded_number_at_a_time_and_each_once() {
        let outbox = Outbox::default();
        let all = 2 * limits::CONSUMERS_PER_STEP as u32 + 1;
        (0..all).for_each(|slot| outbox.cancel_consumer(1, slot));
        let mut slots = Vec::new();
        loop {
            let actions = outbox.lock().take_pending_actions();
            assert!(actions.cancelled.len() <= limits::CONSUMERS_PER_STEP);
            slots.extend(actions.cancelled.into_iter().map(|(_, slot)| slot));
            assert_eq!(actions.has_more, slots.len() < all as usize);
            if !actions.has_more {
                break;
            }
        }
        assert!(slots.into_iter().eq(0..all));
    }

    #[test]
    fn a_channel_that_is_opened_again_starts_anew() {
        let outbox = Outbox::default();
        let message = message(limits::STALL_AT);
        let to = DeliveryTarget { no_ack: false, ..address(1, 0) };
        outbox.lock().open_channel(1);
        outbox.lock().open_channel(2);
        outbox.lock().deliver(&to, 7, false, &message);
        outbox.lock().deliver(&to, 8, false, &message);
        outbox.lock().deliver(&address(2, 5), 8, false, &message);
        let (mut unacked, mut outstanding) = (outbox.lock().close_channel(1).unwrap(), Vec::new());
        unacked.settle(0, true, &mut outstanding).unwrap();
        assert_eq!(outstanding, [(1, UnackedDelivery { slot: 0, seq: 7, fetched: false })]);
        assert_eq!(outbox.lock().deliver(&to, 8, false, &message), DeliverOutcome::Stalled);
        outbox.lock().open_channel(1);
        assert_eq!(outbox.lock().unacked(1).map(UnackedDeliveries::next_tag), Some(1));
    }
}
