//! Publications encoded ahead: only number and time are written into them before they go.
//!
//! A batch is a ring of slots of one size. Slot i belongs to channel i mod channels and, within the
//! channel, to its targets in turn; so whoever walks the ring walks channels and targets, and
//! neighbours go out in one write.

use crate::layout::PublishTarget;
use crate::stamp::{self, Stamp};
use leveret_wire::frame::{BODY, FRAME_END, HEADER};
use leveret_wire::limits::FRAME_OVERHEAD;
use leveret_wire::method::{Method, Publish};
use leveret_wire::method_id::BASIC;

/// Octets of a batch, if the messages are small enough.
const OCTETS: usize = 128 * 1024;
/// Most slots, unless channels and targets need more.
const SLOTS: usize = 1024;
/// Most octets that a batch may take because of many channels and targets.
const OCTETS_MAX: usize = 1 << 30;

/// Properties that all messages of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Octets of a body.
    pub size: usize,
    /// Delivery mode 2.
    pub persistent: bool,
    /// Ask for it back if no queue gets it.
    pub mandatory: bool,
    /// Largest frame in octets.
    pub frame_max: u32,
}

/// A ring of encoded publications.
#[derive(Debug)]
pub struct EncodedBatch {
    octets: Vec<u8>,
    slot: usize,
    slots: usize,
    /// Where in a slot the stamp is, if the body is large enough for one.
    stamp_at: Option<usize>,
}

impl EncodedBatch {
    /// Encodes publications on channels 1 to `channels`. All targets must take the same octets.
    ///
    /// # Errors
    /// They do not, or together take too much memory.
    pub fn new(channels: u16, targets: &[PublishTarget], shape: Shape) -> Result<EncodedBatch, String> {
        let first = targets.first().ok_or("nowhere to publish to")?;
        let mut octets = Vec::new();
        let body = publication(&mut octets, 1, first, shape);
        let slot = octets.len();
        let turn = usize::from(channels) * targets.len();
        if turn.saturating_mul(slot) > OCTETS_MAX {
            return Err("too many channels, queues and octets for one connection: use more producers".to_owned());
        }
        let slots = (OCTETS / slot).clamp(1, SLOTS).div_ceil(turn) * turn;
        octets.clear();
        octets.reserve(slots * slot);
        let channel = (0..slots).map(|slot| 1 + (slot % usize::from(channels)) as u16);
        let target = targets.iter().flat_map(|target| std::iter::repeat_n(target, channels.into())).cycle();
        for (channel, target) in channel.zip(target) {
            publication(&mut octets, channel, target, shape);
        }
        if octets.len() != slots * slot {
            return Err("targets of different sizes".to_owned());
        }
        let stamp_at = (shape.size >= stamp::SIZE).then_some(body);
        Ok(EncodedBatch { octets, slot, slots, stamp_at })
    }

    /// How many slots there are: a multiple of channels x targets.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Writes number and time into a slot.
    #[inline]
    pub fn stamp(&mut self, slot: usize, stamp: Stamp) {
        let Some(at) = self.stamp_at else { return };
        let at = slot * self.slot + at;
        if let Some(place) = self.octets.get_mut(at..at + stamp::SIZE) {
            place.copy_from_slice(&stamp.octets());
        }
    }

    /// The octets of `count` slots.
    pub fn octets(&self, from: usize, count: usize) -> &[u8] {
        self.octets.get(from * self.slot..(from + count) * self.slot).unwrap_or_default()
    }
}

/// Appends method, header and body frames; where the body begins, counted from the publication's
/// first octet.
fn publication(out: &mut Vec<u8>, channel: u16, target: &PublishTarget, shape: Shape) -> usize {
    let start = out.len();
    let (exchange, routing_key) = (target.exchange.as_slice(), target.key.as_slice());
    let route = [&[exchange.len() as u8], exchange, &[routing_key.len() as u8], routing_key].concat();
    let publish = Publish { exchange, routing_key, route: &route, mandatory: shape.mandatory, immediate: false };
    Method::Publish(publish).put(out, channel);
    let mut head = Vec::new();
    head.extend_from_slice(&BASIC.to_be_bytes());
    head.extend_from_slice(&[0; 2]);
    head.extend_from_slice(&(shape.size as u64).to_be_bytes());
    let flags = u16::from(target.headers.is_some()) << 13 | u16::from(shape.persistent) << 12;
    head.extend_from_slice(&flags.to_be_bytes());
    if let Some(headers) = &target.headers {
        put_long(&mut head, headers);
    }
    if shape.persistent {
        head.push(2);
    }
    put_frame(out, HEADER, channel, &head);
    let body_at = out.len() - start + FRAME_OVERHEAD - 1;
    let body = vec![b'x'; shape.size];
    for piece in body.chunks((shape.frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(stamp::SIZE)) {
        put_frame(out, BODY, channel, piece);
    }
    body_at
}

/// Appends a long string, or what else has a 32 bit length in front.
fn put_long(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend_from_slice(&(octets.len() as u32).to_be_bytes());
    out.extend_from_slice(octets);
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    put_long(out, payload);
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::frame::{Frame, FrameKind, FrameScan, scan};
    use leveret_wire::method::parse;
    use leveret_wire::properties::content_head;

    fn frames(mut octets: &[u8]) -> Vec<Frame<'_>> {
        let mut frames = Vec::new();
        while let Ok(FrameScan::Frame(frame, used)) = scan(octets, 0) {
            frames.push(frame);
            octets = &octets[used..];
        }
        assert!(octets.is_empty());
        frames
    }

    fn targets(keys: &[&str]) -> Vec<PublishTarget> {
        let target =
            |key: &&str| PublishTarget { exchange: b"x".to_vec(), key: key.as_bytes().to_vec(), headers: None };
        keys.iter().map(target).collect()
    }

    const SHAPE: Shape = Shape { size: 20, persistent: false, mandatory: false, frame_max: 4096 };

    #[test]
    fn slots_walk_channels_and_targets() {
        let mut batch = EncodedBatch::new(2, &targets(&["a", "b", "c"]), SHAPE).unwrap();
        assert_eq!(batch.slots() % 6, 0);
        batch.stamp(7, Stamp { producer: 3, sequence: 9, time: 11 });
        for (slot, expected) in [(0, (1, b"a")), (1, (2, b"a")), (2, (1, b"b")), (5, (2, b"c")), (6, (1, b"a"))] {
            let frames = frames(batch.octets(slot, 1));
            assert_eq!(frames.len(), 3);
            match parse(frames[0].payload) {
                Ok(Method::Publish(publish)) => {
                    assert_eq!((frames[0].channel, publish.routing_key), (expected.0, &expected.1[..]))
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(Stamp::read(frames[2].payload).is_some_and(|stamp| stamp.time == 11), slot == 7);
        }
        let stamped = frames(batch.octets(7, 1))[2].payload;
        assert_eq!(Stamp::read(stamped), Some(Stamp { producer: 3, sequence: 9, time: 11 }));
        assert_eq!(frames(batch.octets(0, batch.slots())).len(), 3 * batch.slots());
    }

    #[test]
    fn large_bodies_are_split() {
        let shape = Shape { size: 10_000, persistent: true, mandatory: true, ..SHAPE };
        let mut target = targets(&["a"]);
        let mut headers = leveret_wire::table_builder::TableBuilder::new();
        headers.put_bool(b"h", true);
        target[0].headers = Some(headers.into_octets());
        let mut batch = EncodedBatch::new(1, &target, shape).unwrap();
        batch.stamp(0, Stamp { producer: 1, sequence: 2, time: 3 });
        let frames = frames(batch.octets(0, 1));
        assert!(matches!(parse(frames[0].payload), Ok(Method::Publish(publish)) if publish.mandatory));
        let head = content_head(frames[1].payload).unwrap();
        assert_eq!((head.body_size, head.properties.is_persistent()), (10_000, true));
        assert!(head.properties.headers().is_some_and(|table| table.get(b"h").is_some()));
        assert_eq!(frames[2..].iter().map(|frame| frame.payload.len()).sum::<usize>(), 10_000);
        assert!(frames[2..].iter().all(|frame| frame.kind == FrameKind::Body && frame.payload.len() <= 4088));
        assert!(Stamp::read(frames[2].payload).is_some_and(|stamp| stamp.sequence == 2));
    }

    #[test]
    fn small_bodies_carry_no_stamp() {
        for size in [0, 15] {
            let mut batch = EncodedBatch::new(1, &targets(&["a"]), Shape { size, ..SHAPE }).unwrap();
            let before = batch.octets(0, 1).to_vec();
            batch.stamp(0, Stamp { producer: 1, sequence: 2, time: 3 });
            assert_eq!(batch.octets(0, 1), before);
            assert_eq!(frames(batch.octets(0, 1)).len(), if size == 0 { 2 } else { 3 });
        }
        assert!(EncodedBatch::new(1, &targets(&["a", "bb"]), SHAPE).is_err());
    }
}
