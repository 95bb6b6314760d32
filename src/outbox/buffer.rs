//! The octets and bodies that wait to be written to one socket. A body of
//! [`limits::BODY_BY_REFERENCE`] octets or more is not copied: the batch refers to the message and
//! notes the body's place. Names no channel and no socket.

use crate::limits;
use crate::memory::{ConnectionCharge, ConnectionMemory, Use};
use crate::message::{Message, Publication};
use crate::outbox::confirms::Holds;
use leveret_journal::index::Index;
use leveret_wire::encode_content::{self, BodyWriter, Content, Copied};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Octets to write, with references to bodies in between.
#[derive(Debug, Default)]
pub struct WriteBatch {
    octets: Vec<u8>,
    bodies: VecDeque<BodyPart>,
    /// Charges the capacity of `octets`; bodies are charged by their messages.
    charge: Option<ConnectionCharge>,
    /// The capacity at which the charge was set last.
    capacity: usize,
}

/// A part of a message's body, as large as a frame.
#[derive(Debug)]
struct BodyPart {
    /// Index in the octets before which it is written.
    at: usize,
    message: Message,
    from: usize,
    to: usize,
    /// The part of a reply to the client's request (basic.get-ok, basic.return), not of a delivery.
    is_answer: bool,
}

impl BodyPart {
    fn octets(&self) -> &[u8] {
        self.message.body().get(self.from..self.to).unwrap_or_default()
    }
}

impl WriteBatch {
    /// Creates an empty batch whose octets are charged to a connection.
    pub fn new(memory: &Arc<ConnectionMemory>) -> Self {
        Self { charge: Some(ConnectionCharge::new(memory, Use::Buffer)), ..Self::default() }
    }

    /// Returns true if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        // Each body is followed by the octets of its frame's end.
        self.octets.is_empty()
    }

    /// Returns the octets, if there are no bodies in between.
    pub fn only_octets(&self) -> Option<&[u8]> {
        self.bodies.is_empty().then_some(&self.octets)
    }

    /// Returns the number of octets to write, bodies included.
    pub fn len(&self) -> usize {
        self.octets.len() + self.bodies.iter().map(|body| body.to - body.from).sum::<usize>()
    }

    /// Removes everything; frees the memory if its capacity is more than `keep` octets.
    pub fn clear(&mut self, keep: usize) {
        self.octets.clear();
        self.bodies.clear();
        if self.octets.capacity() > keep {
            self.octets = Vec::new();
            self.charge_capacity();
        }
    }

    /// Returns the capacity for octets.
    pub fn capacity(&self) -> usize {
        self.octets.capacity()
    }

    /// Adds slices of the octets and bodies behind the first `written` octets to `slices`, in
    /// order, as many as fit.
    pub fn slices<'a, const N: usize>(&'a self, mut written: usize, slices: &mut arrayvec::ArrayVec<IoSlice<'a>, N>) {
        let mut at = 0;
        let mut add = |octets: &'a [u8]| {
            let rest = octets.get(written..).unwrap_or_default();
            written = written.saturating_sub(octets.len());
            rest.is_empty() || slices.try_push(IoSlice::new(rest)).is_ok()
        };
        for body in &self.bodies {
            if !add(self.octets.get(at..body.at).unwrap_or_default()) || !add(body.octets()) {
                return;
            }
            at = body.at;
        }
        add(self.octets.get(at..).unwrap_or_default());
    }

    /// Appends all octets and bodies to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        let mut at = 0;
        for body in &self.bodies {
            out.extend_from_slice(self.octets.get(at..body.at).unwrap_or_default());
            out.extend_from_slice(body.octets());
            at = body.at;
        }
        out.extend_from_slice(self.octets.get(at..).unwrap_or_default());
    }

    /// Sets the charge to the capacity. A small capacity is not charged: it is bounded by the
    /// number of connections.
    fn charge_capacity(&mut self) {
        if self.octets.capacity() == self.capacity {
            return;
        }
        self.capacity = self.octets.capacity();
        let octets = if self.capacity <= limits::BUFFER_UNCHARGED { 0 } else { self.capacity as u64 };
        if let Some(charge) = &mut self.charge {
            charge.set(octets);
        }
    }
}

/// The octets and bodies that wait to be written, with the places from which they are held.
#[derive(Debug)]
pub struct Buffer {
    memory: Arc<ConnectionMemory>,
    batch: WriteBatch,
    holds: Holds,
    /// Octets of bodies by reference: those of deliveries, and those of replies.
    deliveries: usize,
    answers: usize,
}

/// A writer of content that adds bodies by reference.
struct ByReference<'a> {
    bodies: &'a mut VecDeque<BodyPart>,
    message: &'a Message,
    is_answer: bool,
}

impl BodyWriter for ByReference<'_> {
    fn appends(&self, _size: usize) -> usize {
        0
    }

    fn write(&mut self, out: &mut Vec<u8>, from: usize, part: &[u8]) {
        let Self { message, is_answer, .. } = *self;
        let to = from + part.len();
        self.bodies.push_back(BodyPart { at: out.len(), message: message.clone(), from, to, is_answer });
    }
}

/// The arguments of basic.deliver and basic.get-ok.
#[derive(Clone, Copy)]
pub struct DeliverArguments<'a> {
    /// Channel number.
    pub channel: u16,
    /// Consumer tag.
    pub consumer_tag: &'a [u8],
    /// DeliverArguments tag.
    pub tag: u64,
    /// The bit `redelivered`.
    pub redelivered: bool,
}

impl Buffer {
    /// Creates the empty buffer of a connection.
    pub fn new(memory: &Arc<ConnectionMemory>) -> Self {
        let (batch, holds) = (WriteBatch::new(memory), Holds::default());
        Self { memory: Arc::clone(memory), batch, holds, deliveries: 0, answers: 0 }
    }

    /// Returns the memory of the connection.
    pub fn memory(&self) -> &Arc<ConnectionMemory> {
        &self.memory
    }

    /// Returns true if no more deliveries are to be appended for now.
    pub fn is_full(&self) -> bool {
        let level = self.level();
        level >= limits::STALL_AT_SCARCE && (level >= limits::STALL_AT || self.memory.account().is_scarce())
    }

    /// Returns true if so many replies wait that the client's requests have to wait, too.
    pub fn is_full_of_answers(&self) -> bool {
        let level = self.batch.octets.len() + self.answers;
        level >= limits::HOLD_READER_AT_SCARCE && (level >= limits::HOLD_READER_AT || self.memory.account().is_scarce())
    }

    /// Returns the octets that wait, bodies included.
    pub fn level(&self) -> usize {
        self.batch.octets.len() + self.deliveries + self.answers
    }

    /// Returns true if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Appends octets by `append`, which must not remove any.
    #[inline]
    pub fn append(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.batch.octets);
        self.batch.charge_capacity();
    }

    /// Appends basic.deliver with its content.
    #[inline]
    pub fn deliver(&mut self, frame_max: u32, delivery: DeliverArguments<'_>, message: &Message) {
        let DeliverArguments { channel, consumer_tag, tag, redelivered } = delivery;
        let (out, content) = (&mut self.batch.octets, content(message));
        if content.body.len() < limits::BODY_BY_REFERENCE {
            encode_content::deliver(out, channel, frame_max, consumer_tag, tag, redelivered, content, &mut Copied);
        } else {
            self.deliveries += content.body.len();
            let mut body = ByReference { bodies: &mut self.batch.bodies, message, is_answer: false };
            encode_content::deliver(out, channel, frame_max, consumer_tag, tag, redelivered, content, &mut body);
        }
        self.batch.charge_capacity();
    }

    /// Appends basic.get-ok with its content; `remaining` is the number of messages left in the
    /// queue.
    pub fn get_ok(&mut self, frame_max: u32, get_ok: DeliverArguments<'_>, remaining: u32, message: &Message) {
        let DeliverArguments { channel, tag, redelivered, .. } = get_ok;
        let (out, content) = (&mut self.batch.octets, content(message));
        if content.body.len() < limits::BODY_BY_REFERENCE {
            encode_content::get_ok(out, channel, frame_max, tag, redelivered, remaining, content, &mut Copied);
        } else {
            self.answers += content.body.len();
            let mut body = ByReference { bodies: &mut self.batch.bodies, message, is_answer: true };
            encode_content::get_ok(out, channel, frame_max, tag, redelivered, remaining, content, &mut body);
        }
        self.batch.charge_capacity();
    }

    /// Appends basic.return with its content. A large body is copied once, into a message.
    pub fn basic_return(&mut self, frame_max: u32, channel: u16, code: u16, text: &[u8], publication: Publication<'_>) {
        let Publication { route, properties, body, .. } = publication;
        let (out, content) = (&mut self.batch.octets, Content { route, properties, body });
        if body.len() < limits::BODY_BY_REFERENCE {
            encode_content::basic_return(out, channel, frame_max, code, text, content, &mut Copied);
        } else {
            self.answers += body.len();
            let message = &publication.keep(self.memory.account());
            let mut body = ByReference { bodies: &mut self.batch.bodies, message, is_answer: true };
            encode_content::basic_return(out, channel, frame_max, code, text, content, &mut body);
        }
        self.batch.charge_capacity();
    }

    /// Returns how many octets are not held, bodies not counted.
    fn free(&self) -> usize {
        self.holds.first_place().unwrap_or(self.batch.octets.len())
    }

    /// Returns true if something may be written now.
    pub fn has_free(&self) -> bool {
        self.free() > 0
    }

    /// Returns true if at most `octets` octets may be written now, without bodies in between.
    pub fn is_little(&self, octets: usize) -> bool {
        let free = self.free();
        free <= octets && self.batch.bodies.front().is_none_or(|body| body.at >= free)
    }

    /// Moves everything that may be written now to `into`, which is empty.
    pub fn take_free(&mut self, into: &mut WriteBatch) {
        let free = self.free();
        if free == self.batch.octets.len() {
            std::mem::swap(&mut self.batch, into);
            (self.deliveries, self.answers) = (0, 0);
        } else {
            into.octets.extend(self.batch.octets.drain(..free));
            into.charge_capacity();
            let bodies = self.batch.bodies.partition_point(|body| body.at < free);
            for body in self.batch.bodies.drain(..bodies) {
                *if body.is_answer { &mut self.answers } else { &mut self.deliveries } -= body.to - body.from;
                into.bodies.push_back(body);
            }
            self.batch.bodies.iter_mut().for_each(|body| body.at -= free);
        }
        self.holds.shift_forward(free);
    }

    /// Inserts octets before everything that waits; the capacity of `first` is reused.
    fn put_first(&mut self, mut first: Vec<u8>) {
        let octets = first.len();
        self.holds.shift_back(octets);
        self.batch.bodies.iter_mut().for_each(|body| body.at += octets);
        first.append(&mut self.batch.octets);
        self.batch.octets = first;
        self.batch.charge_capacity();
    }

    /// Puts back the part of `batch`, which has no bodies, behind its first `written` octets.
    pub fn put_back(&mut self, mut batch: WriteBatch, written: usize) {
        if written < batch.octets.len() {
            let mut rest = std::mem::take(&mut batch.octets);
            rest.drain(..written);
            self.put_first(rest);
        }
    }

    /// Appends a heartbeat, unless other octets may be written now: they serve as one.
    pub fn heartbeat(&mut self) {
        if self.is_empty() {
            self.append(encode_content::heartbeat);
        } else if self.free() == 0 {
            // Held octets do not serve as a heartbeat: it goes before them.
            let mut heartbeat = Vec::new();
            encode_content::heartbeat(&mut heartbeat);
            self.put_first(heartbeat);
        }
    }

    /// Holds everything appended from now on until `index` is durable.
    pub fn hold_until(&mut self, index: Index) {
        self.holds.add(self.batch.octets.len(), index);
    }

    /// Returns the holds.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Releases octets held for indexes up to `durable`. Returns true if there is more to write.
    pub fn release(&mut self, durable: Index) -> bool {
        let before = self.free();
        self.holds.release(durable);
        self.free() > before
    }

    /// Drops the octets that are held.
    pub fn drop_held(&mut self) {
        let free = self.free();
        self.batch.octets.truncate(free);
        let bodies = self.batch.bodies.partition_point(|body| body.at < free);
        for body in self.batch.bodies.drain(bodies..) {
            *if body.is_answer { &mut self.answers } else { &mut self.deliveries } -= body.to - body.from;
        }
        self.holds.clear();
    }

    /// Drops everything, and frees the memory.
    pub fn clear(&mut self) {
        self.batch.clear(0);
        self.holds.clear();
        (self.deliveries, self.answers) = (0, 0);
    }
}

fn content(message: &Message) -> Content<'_> {
    Content { route: message.route(), properties: message.properties(), body: message.body() }
}
