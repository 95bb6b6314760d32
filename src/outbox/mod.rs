//! The delivery side of one connection: octets that wait to be written, and what its channels have been handed.
//!
//! One lock a connection; it is a leaf: under it no other lock is taken. Any task may append to an outbox or ring one of
//! its two bells; only the connection's own tasks open, close, confirm and resume. Its writing task writes to the socket,
//! except for a few octets that can be written at once: those are written by whoever appended them, which spares a task's
//! wake, and most connections the task. One at a time holds the pen. It knows no queue, no exchange and no socket.

pub mod ledger;

use crate::limits;
use crate::message::Message;
use crate::outbox::ledger::{Ledger, Unsettled};
use crate::store::error::Failure;
use crate::store::journal::OnDurable;
use crate::store::position::Position;
use crate::wire::encode_content::{self, Content};
use crate::wire::encode_reply::{self, Reply};
use crate::wire::fault::{Code, Fault};
use crate::wire::name::Name;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::Notify;

/// The way to a socket for octets that need not wait.
pub trait Line: fmt::Debug + Send + Sync {
    /// Writes what can be written at once; says how many octets that were. A line that is broken takes none: the writing
    /// task finds out why.
    fn try_write(&self, octets: &[u8]) -> usize;
}

/// Where a consumer's deliveries go.
#[derive(Clone, Debug)]
pub struct Address {
    /// Channel number.
    pub channel: u16,
    /// The channel's slot of this consumer.
    pub slot: u32,
    /// Consumer tag.
    pub tag: Name,
    /// Deliveries count as settled at once.
    pub no_ack: bool,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its octets are in the buffer.
    Delivered,
    /// Nothing was appended: the consumer is to be passed over until it is resumed.
    Stalled,
}

/// What the owner of the connection is to do, as others have asked.
#[derive(Debug, Default)]
pub struct Errands {
    /// Consumers (channel, slot) that were passed over because the buffer was full; resume them.
    pub stalled: BTreeSet<(u16, u32)>,
    /// Consumers (channel, slot) whose queue is gone; tell the client.
    pub lost: BTreeSet<(u16, u32)>,
    /// The connection is to be closed.
    pub close: Option<Fault>,
}

/// The outbox of one connection.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Rung when octets wait to be written.
    writer: Notify,
    staff: AtomicU8,
    /// Rung when the owner has errands to run.
    owner: Notify,
}

/// Whether there is a writing task: none, one is wanted, there is one. It only goes up.
const NO_WRITER: u8 = 0;
const WRITER_WANTED: u8 = 1;
const HAS_WRITER: u8 = 2;

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    pending: Vec<u8>,
    /// From these places of `pending` on nothing is written before the position is durable; both rise.
    holds: VecDeque<(usize, Position)>,
    frame_max: u32,
    channels: Vec<Option<Box<Ledger>>>,
    errands: Errands,
    /// Someone has already put this outbox on a list of outboxes to wake.
    announced: bool,
    /// No octet follows those that are pending.
    finished: bool,
    /// The socket is gone; nothing is kept any more.
    dead: bool,
    /// Where few octets may go directly.
    line: Option<Arc<dyn Line>>,
    pen: Pen,
}

/// Who writes to the socket now. Octets go out in the order in which they were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pen {
    /// Nobody.
    Free,
    /// The writing task: it looks for more when it has written.
    Writer,
    /// Someone who appended. `missed`: the writing task has looked meanwhile and has to look again.
    Another { missed: bool },
}

/// Outboxes that got octets in a batch of work, each once. Their writers are woken when the batch ends.
#[derive(Debug, Default)]
pub struct Touched {
    outboxes: Vec<Arc<Outbox>>,
    /// Octets may be written by whoever wakes, if they are few.
    direct: bool,
}

impl Touched {
    /// Says whether few octets may be written at once from now on. They may when there is little work: in a flood what waits
    /// a little goes out together with what follows.
    pub fn allow_direct(&mut self, direct: bool) {
        self.direct = direct;
    }

    /// Has the octets of each written, once: few octets for few connections here and now if that is allowed, everything else
    /// by their writers. No lock may be held.
    pub fn wake(&mut self) {
        let direct = self.direct && self.outboxes.len() <= limits::DIRECT_OUTBOXES;
        for outbox in self.outboxes.drain(..) {
            if !direct || !outbox.write_directly() {
                outbox.wake_writer();
            }
        }
    }

    /// Puts `outbox` on the list unless someone has already done so since its writer last looked.
    pub fn add(&mut self, outbox: &Arc<Outbox>, inner: &mut Inner) {
        if !inner.announced && !inner.dead {
            inner.announced = true;
            self.outboxes.push(Arc::clone(outbox));
        }
    }
}

impl Drop for Touched {
    /// Whoever announced an outbox and then left must not keep its writer asleep.
    fn drop(&mut self) {
        self.wake();
    }
}

/// What the writer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Octets to write.
    Octets,
    /// Nothing now; wait for the bell.
    Nothing,
    /// Nothing, and nothing will follow.
    Finished,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                pending: Vec::new(),
                holds: VecDeque::new(),
                frame_max: limits::FRAME_SIZE_BEFORE_TUNE,
                channels: Vec::new(),
                errands: Errands::default(),
                announced: false,
                finished: false,
                dead: false,
                line: None,
                pen: Pen::Free,
            }),
            writer: Notify::new(),
            staff: AtomicU8::new(NO_WRITER),
            owner: Notify::new(),
        }
    }
}

impl Outbox {
    /// Takes the lock, to append a run of things.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Waits until octets wait to be written.
    pub async fn octets_wait(&self) {
        self.writer.notified().await;
    }

    /// Waits until the owner has an errand.
    pub async fn errand_waits(&self) {
        self.owner.notified().await;
    }

    /// Tells the owner to look at its errands.
    pub fn ring_owner(&self) {
        self.owner.notify_one();
    }

    /// Octets wait that whoever appended them does not write. Where there is no writing task yet, the owner is to start one.
    fn wake_writer(&self) {
        self.writer.notify_one();
        if self.staff.load(Ordering::Relaxed) != HAS_WRITER {
            let _ = self.staff.compare_exchange(NO_WRITER, WRITER_WANTED, Ordering::Relaxed, Ordering::Relaxed);
            self.owner.notify_one();
        }
    }

    /// Whether the owner is to start the writing task now. True once, after its bell has rung for it.
    pub fn takes_on_writer(&self) -> bool {
        self.staff.compare_exchange(WRITER_WANTED, HAS_WRITER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Asks the owner to close the connection.
    pub fn ask_to_close(&self, fault: Fault) {
        self.lock().errands.close.get_or_insert(fault);
        self.ring_owner();
    }

    /// Tells the owner that the queue behind a consumer is gone.
    pub fn lost(&self, channel: u16, slot: u32) {
        self.lock().errands.lost.insert((channel, slot));
        self.ring_owner();
    }

    /// Few octets need not wait for the writing task any more.
    pub fn connect(&self, line: Arc<dyn Line>) {
        self.lock().line = Some(line);
    }

    /// No octet will follow; the writer ends when all is written.
    pub fn finish(&self) {
        let mut inner = self.lock();
        inner.finished = true;
        inner.line = None;
        drop(inner);
        self.writer.notify_one();
    }

    /// The socket is gone: what waits is dropped, and what follows too.
    pub fn die(&self) {
        let mut inner = self.lock();
        inner.dead = true;
        inner.finished = true;
        inner.line = None;
        inner.pending = Vec::new();
        inner.holds.clear();
        drop(inner);
        self.writer.notify_one();
        self.owner.notify_one();
    }

    /// Swaps the octets that wait with the writer's empty `spare`. Tells the owner when consumers that were passed over
    /// can go on.
    pub fn take(&self, spare: &mut Vec<u8>) -> Taken {
        let mut inner = self.lock();
        if let Pen::Another { missed } = &mut inner.pen {
            *missed = true;
            return Taken::Nothing;
        }
        inner.pen = Pen::Free;
        inner.announced = false;
        if !inner.errands.stalled.is_empty() || inner.holds_reader() {
            self.owner.notify_one();
        }
        match inner.free() {
            0 if inner.pending.is_empty() && inner.finished => return Taken::Finished,
            0 => return Taken::Nothing,
            free => inner.take_free(free, spare),
        }
        inner.pen = Pen::Writer;
        Taken::Octets
    }

    /// Writes what waits, if that is little and nobody else is writing. False: the writing task is to be woken.
    fn write_directly(&self) -> bool {
        let mut inner = self.lock();
        match inner.pen {
            // It will look again, and sees what was appended.
            Pen::Writer | Pen::Another { .. } => return true,
            Pen::Free if inner.free() > limits::DIRECT_OCTETS => return false,
            // Only the writing task tells the owner that there is room again.
            Pen::Free if !inner.errands.stalled.is_empty() || inner.holds_reader() => return false,
            Pen::Free => {}
        }
        let Some(line) = inner.line.clone() else { return false };
        inner.pen = Pen::Another { missed: false };
        inner.announced = false;
        let (free, mut octets) = (inner.free(), Vec::new());
        inner.take_free(free, &mut octets);
        drop(inner);
        let written = line.try_write(&octets);
        self.lock().written_directly(octets, written)
    }
}

impl OnDurable for Outbox {
    fn durable(&self, durable: Position) {
        if self.lock().release(durable) {
            self.wake_writer();
        }
        self.ring_owner();
    }

    fn failed(&self, failure: &Failure) {
        self.lock().drop_held();
        self.ask_to_close(Fault::new(Code::InternalError, format_args!("the store has failed: {failure}")));
    }
}

impl Inner {
    /// The first `written` of `octets` are written; the pen is free again. False: the writing task is to be woken.
    fn written_directly(&mut self, mut octets: Vec<u8>, written: usize) -> bool {
        let missed = std::mem::replace(&mut self.pen, Pen::Free) == Pen::Another { missed: true };
        if written < octets.len() && !self.dead {
            octets.drain(..written);
            self.holds.iter_mut().for_each(|(at, _)| *at += octets.len());
            octets.append(&mut self.pending);
            self.pending = octets;
        }
        self.free() == 0 && !missed
    }

    /// How many octets may be written.
    fn free(&self) -> usize {
        self.holds.front().map_or(self.pending.len(), |(at, _)| *at)
    }

    /// Moves the first `free` octets to `into`, which is empty.
    fn take_free(&mut self, free: usize, into: &mut Vec<u8>) {
        if free == self.pending.len() {
            std::mem::swap(&mut self.pending, into);
        } else {
            into.extend(self.pending.drain(..free));
        }
        self.holds.iter_mut().for_each(|(at, _)| *at -= free);
    }

    /// What is appended from now on is written when `position` is durable, and not before.
    pub fn hold_until(&mut self, position: Position) {
        if self.holds.back().is_none_or(|(_, last)| *last < position) {
            self.holds.push_back((self.pending.len(), position));
        }
    }

    /// The position that has to be durable next for something to be written.
    pub fn held_for(&self) -> Option<Position> {
        self.holds.front().map(|(_, position)| *position)
    }

    /// The position that has to be durable for everything to be written.
    pub fn held_to_the_end(&self) -> Option<Position> {
        self.holds.back().map(|(_, position)| *position)
    }

    /// Everything up to `durable` is. True: there is more to write.
    pub fn release(&mut self, durable: Position) -> bool {
        let before = self.free();
        while self.holds.front().is_some_and(|(_, position)| *position <= durable) {
            self.holds.pop_front();
        }
        self.free() > before
    }

    /// What is held is never written.
    fn drop_held(&mut self) {
        self.pending.truncate(self.free());
        self.holds.clear();
    }

    /// The frame size both sides agreed on, in octets.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// A channel is opened: deliveries to it are possible from now on.
    pub fn open_channel(&mut self, channel: u16) {
        let at = usize::from(channel);
        if self.channels.len() <= at {
            self.channels.resize_with(at + 1, || None);
        }
        if let Some(slot) = self.channels.get_mut(at) {
            *slot = Some(Box::default());
        }
    }

    /// A channel is closed: no delivery to it follows. Returns what it had not settled, by rising tag.
    pub fn close_channel(&mut self, channel: u16) -> Vec<(u64, Unsettled)> {
        let mut outstanding = Vec::new();
        if let Some(mut ledger) = self.channels.get_mut(usize::from(channel)).and_then(Option::take)
            && ledger.settle(0, true, &mut outstanding).is_err()
        {
            outstanding.clear();
        }
        for errands in [&mut self.errands.stalled, &mut self.errands.lost] {
            while let Some(errand) = errands.range((channel, 0)..=(channel, u32::MAX)).next().copied() {
                errands.remove(&errand);
            }
        }
        outstanding
    }

    /// The books of an open channel.
    pub fn ledger(&mut self, channel: u16) -> Option<&mut Ledger> {
        self.channels.get_mut(usize::from(channel))?.as_deref_mut()
    }

    /// Appends a delivery, unless the connection or the channel takes no more now.
    pub fn deliver(&mut self, to: &Address, seq: u64, redelivered: bool, message: &Message) -> Outcome {
        if self.dead {
            return Outcome::Stalled;
        }
        let frame_max = self.frame_max;
        let Some(ledger) = self.channels.get_mut(usize::from(to.channel)).and_then(Option::as_deref_mut) else {
            return Outcome::Stalled;
        };
        if self.pending.len() >= limits::STALL_AT {
            self.errands.stalled.insert((to.channel, to.slot));
            return Outcome::Stalled;
        }
        let tag = if to.no_ack {
            ledger.next_tag()
        } else if ledger.refuses(to.slot) {
            return Outcome::Stalled;
        } else {
            ledger.hand_out(Unsettled { slot: to.slot, seq, fetched: false })
        };
        let out = &mut self.pending;
        encode_content::deliver(out, to.channel, frame_max, to.tag.as_octets(), tag, redelivered, content(message));
        Outcome::Delivered
    }

    /// Appends a reply to a request over `amq.rabbitmq.reply-to`. False: the client reads too slowly, it is dropped.
    pub fn deliver_reply(&mut self, to: &Address, message: &Message) -> bool {
        if self.dead || self.pending.len() >= limits::HOLD_READER_AT {
            return false;
        }
        let frame_max = self.frame_max;
        let Some(ledger) = self.ledger(to.channel) else { return false };
        let tag = ledger.next_tag();
        let out = &mut self.pending;
        encode_content::deliver(out, to.channel, frame_max, to.tag.as_octets(), tag, false, content(message));
        true
    }

    /// Appends basic.get-ok; `slot` is `None` when the message counts as settled.
    pub fn get_ok(&mut self, channel: u16, slot: Option<u32>, entry: Got<'_>, remaining: u32) {
        let frame_max = self.frame_max;
        let Some(ledger) = self.ledger(channel) else { return };
        let tag = match slot {
            Some(slot) => ledger.hand_out(Unsettled { slot, seq: entry.seq, fetched: true }),
            None => ledger.next_tag(),
        };
        let out = &mut self.pending;
        encode_content::get_ok(out, channel, frame_max, tag, entry.redelivered, remaining, content(entry.message));
    }

    /// Appends basic.return.
    pub fn give_back(&mut self, channel: u16, code: u16, text: &[u8], content: Content<'_>) {
        encode_content::basic_return(&mut self.pending, channel, self.frame_max, code, text, content);
    }

    /// Appends a publisher confirm.
    pub fn confirm(&mut self, channel: u16, tag: u64, multiple: bool) {
        encode_content::ack(&mut self.pending, channel, tag, multiple);
    }

    /// Appends a method without content.
    pub fn reply(&mut self, channel: u16, reply: &Reply<'_>) {
        encode_reply::reply(&mut self.pending, channel, reply);
    }

    /// Appends raw octets: a heartbeat, a protocol header.
    pub fn octets(&mut self, octets: &[u8]) {
        self.pending.extend_from_slice(octets);
    }

    /// Appends a heartbeat, unless other octets wait: those show as well that the server is alive.
    pub fn heartbeat(&mut self) {
        if self.pending.is_empty() {
            encode_content::heartbeat(&mut self.pending);
        } else if self.free() == 0 {
            // What is held does not show anything.
            let mut heartbeat = Vec::new();
            encode_content::heartbeat(&mut heartbeat);
            self.holds.iter_mut().for_each(|(at, _)| *at += heartbeat.len());
            self.pending.splice(..0, heartbeat);
        }
    }

    /// What others have asked the owner to do. Stalled consumers stay on the list while the buffer is above low water.
    pub fn take_errands(&mut self) -> Errands {
        let stalled = if self.pending.len() <= limits::RESUME_AT {
            std::mem::take(&mut self.errands.stalled)
        } else {
            BTreeSet::new()
        };
        Errands { stalled, lost: std::mem::take(&mut self.errands.lost), close: self.errands.close.take() }
    }

    /// Whether so much waits to be written that the peer's own requests have to wait.
    pub fn holds_reader(&self) -> bool {
        self.pending.len() >= limits::HOLD_READER_AT
    }

    /// Whether the socket is gone.
    pub fn is_dead(&self) -> bool {
        self.dead
    }
}

/// A message fetched by basic.get.
#[derive(Clone, Copy, Debug)]
pub struct Got<'a> {
    /// Its position in the queue.
    pub seq: u64,
    /// Whether it was handed out before.
    pub redelivered: bool,
    /// The message.
    pub message: &'a Message,
}

fn content(message: &Message) -> Content<'_> {
    Content { route: message.route(), properties: message.properties(), body: message.body() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;
    use proptest::prelude::*;

    fn message(size: usize) -> Message {
        Publication { route: b"\0\0", properties: b"\0\0", body: &vec![0; size], persistent: false }.keep(1)
    }

    fn address(channel: u16, slot: u32) -> Address {
        Address { channel, slot, tag: Name::from_static("t"), no_ack: true }
    }

    fn rang(outbox: &Outbox) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(outbox.errand_waits()).poll(&mut context).is_ready()
    }

    #[test]
    fn a_writer_is_announced_once_until_it_looks() {
        let outbox = Arc::new(Outbox::default());
        let mut touched = Touched::default();
        for _ in 0..2 {
            outbox.lock().heartbeat();
            touched.add(&outbox, &mut outbox.lock());
            assert_eq!(touched.outboxes.len(), 1);
        }
        assert_eq!(outbox.take(&mut Vec::new()), Taken::Octets);
        assert_eq!(outbox.take(&mut Vec::new()), Taken::Nothing);
        touched.add(&outbox, &mut outbox.lock());
        assert_eq!(touched.outboxes.len(), 2);
    }

    /// A line that takes so many octets at a time, and lets something happen meanwhile.
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

    impl Line for Pipe {
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
        outbox.connect(Arc::<Pipe>::clone(&pipe));
        (outbox, pipe)
    }

    fn append(outbox: &Arc<Outbox>, octets: &[u8]) {
        let mut touched = Touched::default();
        touched.allow_direct(true);
        let mut inner = outbox.lock();
        inner.octets(octets);
        touched.add(outbox, &mut inner);
        drop(inner);
    }

    fn writer_rang(outbox: &Outbox) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(outbox.octets_wait()).poll(&mut context).is_ready()
    }

    #[test]
    fn few_octets_go_directly_and_many_by_the_writer() {
        let (outbox, pipe) = connected(usize::MAX);
        append(&outbox, b"few");
        assert_eq!(*pipe.written.lock(), b"few");
        assert!(!writer_rang(&outbox));
        append(&outbox, &vec![0; limits::DIRECT_OCTETS + 1]);
        assert!(writer_rang(&outbox));
        outbox.lock().announced = false;
        Touched::default().add(&outbox, &mut outbox.lock());
        assert!(writer_rang(&outbox), "nobody allowed it");
        let mut spare = Vec::new();
        assert_eq!(outbox.take(&mut spare), Taken::Octets);
        // The writing task is at it: what is appended now waits for its next look.
        append(&outbox, b"more");
        assert_eq!(*pipe.written.lock(), b"few");
        spare.clear();
        assert_eq!(outbox.take(&mut spare), Taken::Octets);
        assert_eq!(spare, b"more");
        spare.clear();
        assert_eq!(outbox.take(&mut spare), Taken::Nothing);
        append(&outbox, b"!");
        assert_eq!(*pipe.written.lock(), b"few!");
    }

    #[test]
    fn a_writer_is_wanted_once_and_not_for_few_octets() {
        let (outbox, _pipe) = connected(usize::MAX);
        append(&outbox, b"few");
        assert!(!rang(&outbox) && !outbox.takes_on_writer());
        append(&outbox, &vec![0; limits::DIRECT_OCTETS + 1]);
        assert!(rang(&outbox) && outbox.takes_on_writer() && !outbox.takes_on_writer());
        outbox.take(&mut Vec::new());
        append(&outbox, &vec![0; limits::DIRECT_OCTETS + 1]);
        assert!(writer_rang(&outbox) && !rang(&outbox) && !outbox.takes_on_writer());
    }

    #[test]
    fn what_a_line_does_not_take_is_left_to_the_writer_in_order() {
        let (outbox, pipe) = connected(2);
        let other = Arc::clone(&outbox);
        *pipe.meanwhile.lock() = Some(Box::new(move || append(&other, b"def")));
        append(&outbox, b"abc");
        assert_eq!(*pipe.written.lock(), b"ab");
        assert!(writer_rang(&outbox));
        let mut spare = Vec::new();
        assert_eq!(outbox.take(&mut spare), Taken::Octets);
        assert_eq!(spare, b"cdef");
    }

    #[test]
    fn a_writer_that_looks_during_a_direct_write_is_rung_again() {
        let (outbox, pipe) = connected(usize::MAX);
        let other = Arc::clone(&outbox);
        *pipe.meanwhile.lock() = Some(Box::new(move || {
            other.finish();
            assert!(writer_rang(&other));
            assert_eq!(other.take(&mut Vec::new()), Taken::Nothing);
        }));
        append(&outbox, b"abc");
        assert!(writer_rang(&outbox));
        assert_eq!(outbox.take(&mut Vec::new()), Taken::Finished);
    }

    #[test]
    fn a_dead_line_gets_nothing_back() {
        let (outbox, pipe) = connected(0);
        let other = Arc::clone(&outbox);
        *pipe.meanwhile.lock() = Some(Box::new(move || other.die()));
        append(&outbox, b"abc");
        assert_eq!(outbox.take(&mut Vec::new()), Taken::Finished);
    }

    #[test]
    fn a_full_buffer_stalls_a_consumer_and_its_end_rings_the_owner() {
        let outbox = Outbox::default();
        outbox.lock().open_channel(1);
        let (to, message) = (address(1, 0), message(limits::STALL_AT));
        assert_eq!(outbox.lock().deliver(&to, 0, false, &message), Outcome::Delivered);
        for _ in 0..3 {
            assert_eq!(outbox.lock().deliver(&to, 1, false, &message), Outcome::Stalled);
        }
        assert!(!rang(&outbox));
        assert!(outbox.lock().take_errands().stalled.is_empty(), "nothing was written yet");
        outbox.take(&mut Vec::new());
        assert!(rang(&outbox));
        assert_eq!(outbox.lock().take_errands().stalled.into_iter().collect::<Vec<_>>(), [(1, 0)]);
    }

    #[test]
    fn the_owner_is_told_when_its_reader_need_not_be_held_any_more() {
        let outbox = Outbox::default();
        outbox.lock().octets(&vec![0; limits::HOLD_READER_AT - 1]);
        assert!(!outbox.lock().holds_reader());
        outbox.lock().octets(&[0]);
        assert!(outbox.lock().holds_reader());
        outbox.take(&mut Vec::new());
        assert!(rang(&outbox) && !outbox.lock().holds_reader());
    }

    fn position(number: u64) -> Position {
        Position::from_number(number)
    }

    #[test]
    fn a_stalled_consumer_hears_of_room_though_little_is_released_at_a_time() {
        let (outbox, pipe) = connected(usize::MAX);
        outbox.lock().open_channel(1);
        outbox.lock().octets(b"few");
        outbox.lock().hold_until(position(5));
        let (to, message) = (address(1, 0), message(limits::STALL_AT));
        assert_eq!(outbox.lock().deliver(&to, 0, false, &message), Outcome::Delivered);
        assert_eq!(outbox.lock().deliver(&to, 1, false, &message), Outcome::Stalled);
        append(&outbox, b"");
        assert!(writer_rang(&outbox) && pipe.written.lock().is_empty());
        outbox.take(&mut Vec::new());
        assert!(rang(&outbox));
    }

    #[test]
    fn a_heartbeat_passes_what_is_held_and_follows_what_is_written() {
        let (outbox, pipe) = connected(2);
        outbox.lock().hold_until(position(5));
        outbox.lock().octets(b"held");
        let other = Arc::clone(&outbox);
        outbox.lock().heartbeat();
        // A part of it is written: the next one cannot come before the rest.
        *pipe.meanwhile.lock() = Some(Box::new(move || other.lock().heartbeat()));
        append(&outbox, b"");
        let mut written = std::mem::take(&mut *pipe.written.lock());
        assert_eq!(outbox.take(&mut written), Taken::Octets);
        let mut beat = Vec::new();
        encode_content::heartbeat(&mut beat);
        assert_eq!(written.len(), beat.len() * 2);
        outbox.durable(position(5));
        let mut rest = Vec::new();
        assert_eq!(outbox.take(&mut rest), Taken::Octets);
        assert_eq!(rest, b"held");
    }

    proptest! {
        #[test]
        fn what_is_held_goes_out_in_order_and_never_early(
            steps in proptest::collection::vec((0u8..5, 1u64..8), 1..80), room in 0usize..4,
        ) {
            let (outbox, pipe) = connected(room);
            let (mut said, mut holds, mut durable) = (Vec::new(), Vec::new(), 0_u64);
            let write = || {
                let mut spare = Vec::new();
                while outbox.take(&mut spare) == Taken::Octets {
                    pipe.written.lock().append(&mut spare);
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
                let written = pipe.written.lock().clone();
                prop_assert!(written.len() <= free.unwrap_or(usize::MAX));
                prop_assert_eq!(&written[..], &said[..written.len()]);
            }
            outbox.durable(position(8));
            write();
            prop_assert_eq!(&*pipe.written.lock(), &said);
        }
    }

    #[test]
    fn a_channel_that_is_opened_again_starts_anew() {
        let outbox = Outbox::default();
        let message = message(limits::STALL_AT);
        let to = Address { no_ack: false, ..address(1, 0) };
        outbox.lock().open_channel(1);
        outbox.lock().open_channel(2);
        outbox.lock().deliver(&to, 7, false, &message);
        outbox.lock().deliver(&to, 8, false, &message);
        outbox.lock().deliver(&address(2, 5), 8, false, &message);
        outbox.lost(1, 0);
        let outstanding = outbox.lock().close_channel(1);
        assert_eq!(outstanding, [(1, Unsettled { slot: 0, seq: 7, fetched: false })]);
        assert_eq!(outbox.lock().deliver(&to, 8, false, &message), Outcome::Stalled);
        outbox.take(&mut Vec::new());
        let errands = outbox.lock().take_errands();
        assert_eq!(errands.stalled.into_iter().collect::<Vec<_>>(), [(2, 5)]);
        assert!(errands.lost.is_empty());
        outbox.lock().open_channel(1);
        assert_eq!(outbox.lock().ledger(1).map(Ledger::next_tag), Some(1));
    }
}
