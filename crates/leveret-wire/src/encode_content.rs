//! Writers of deliveries, returned messages and confirms: the hottest code of the workspace.
//!
//! By hand over slices, one reservation a call. Whatever lies between two variable parts is one
//! array, so that the compiler writes it in a few stores.

use crate::frame::{BODY, FRAME_END, HEADER, HEARTBEAT, METHOD};
use crate::limits::FRAME_OVERHEAD;
use crate::method_id::{BASIC, BASIC_ACK, BASIC_DELIVER, BASIC_GET_OK, BASIC_NACK, BASIC_RETURN, Id};
use crate::name::clip;

/// A message as it goes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content<'a> {
    /// Exchange and routing key, each with its length octet, as a publish holds them.
    pub route: &'a [u8],
    /// The raw properties: flags and values.
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

/// The way of a body into the octets that go out.
pub trait BodyWriter {
    /// Returns how many octets of a body of `size` octets it appends to the octets.
    fn appends(&self, size: usize) -> usize;

    /// Takes the part of the body that begins at `from`; it goes out behind what is in `out` now.
    fn write(&mut self, out: &mut Vec<u8>, from: usize, part: &[u8]);
}

/// Bodies are copied into the octets.
#[derive(Clone, Copy, Debug)]
pub struct Copied;

impl BodyWriter for Copied {
    fn appends(&self, size: usize) -> usize {
        size
    }

    fn write(&mut self, out: &mut Vec<u8>, _from: usize, part: &[u8]) {
        out.extend_from_slice(part);
    }
}

/// Appends basic.deliver with its content. A body is split so that no frame exceeds `frame_max`
/// octets (0: not split).
#[expect(clippy::too_many_arguments, reason = "the fields of one method, and where it goes")]
pub fn deliver(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    consumer_tag: &[u8],
    delivery_tag: u64,
    redelivered: bool,
    content: Content<'_>,
    body: &mut impl BodyWriter,
) {
    let tag = clip(consumer_tag);
    let size = 4 + 1 + tag.len() + 9 + content.route.len();
    reserve(out, size, content, frame_max, body);
    out.extend_from_slice(&method_head(channel, size, BASIC_DELIVER));
    out.push(tag.len() as u8);
    out.extend_from_slice(tag);
    out.extend_from_slice(&tag_and_bits(delivery_tag, redelivered.into()));
    out.extend_from_slice(content.route);
    put_content(out, channel, frame_max, content, body);
}

/// Appends basic.get-ok with its content; `message_count` is what is left in the queue.
#[expect(clippy::too_many_arguments, reason = "the fields of one method, and where it goes")]
pub fn get_ok(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    delivery_tag: u64,
    redelivered: bool,
    message_count: u32,
    content: Content<'_>,
    body: &mut impl BodyWriter,
) {
    let size = 4 + 9 + content.route.len() + 4;
    reserve(out, size, content, frame_max, body);
    out.extend_from_slice(&method_head(channel, size, BASIC_GET_OK));
    out.extend_from_slice(&tag_and_bits(delivery_tag, redelivered.into()));
    out.extend_from_slice(content.route);
    out.extend_from_slice(&message_count.to_be_bytes());
    put_content(out, channel, frame_max, content, body);
}

/// Appends basic.return with its content; `text` is cut at 255 octets.
pub fn basic_return(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    code: u16,
    text: &[u8],
    content: Content<'_>,
    body: &mut impl BodyWriter,
) {
    let text = clip(text);
    let size = 4 + 2 + 1 + text.len() + content.route.len();
    reserve(out, size, content, frame_max, body);
    out.extend_from_slice(&method_head(channel, size, BASIC_RETURN));
    out.extend_from_slice(&code.to_be_bytes());
    out.push(text.len() as u8);
    out.extend_from_slice(text);
    out.extend_from_slice(content.route);
    put_content(out, channel, frame_max, content, body);
}

/// Appends basic.ack: a confirm.
pub fn ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    settle(out, channel, BASIC_ACK, delivery_tag, multiple.into());
}

/// Appends basic.nack: a refused publication. The requeue bit means nothing in this direction and
/// is 0.
pub fn nack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    settle(out, channel, BASIC_NACK, delivery_tag, multiple.into());
}

/// Appends a heartbeat frame.
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

fn settle(out: &mut Vec<u8>, channel: u16, id: Id, delivery_tag: u64, bits: u8) {
    const SIZE: usize = 4 + 9;
    out.reserve(SIZE + FRAME_OVERHEAD);
    out.extend_from_slice(&method_head(channel, SIZE, id));
    out.extend_from_slice(&tag_and_bits(delivery_tag, bits));
    out.push(FRAME_END);
}

/// Makes room for everything at once.
fn reserve(out: &mut Vec<u8>, method_size: usize, content: Content<'_>, frame_max: u32, body: &impl BodyWriter) {
    let bodies = content.body.len().div_ceil(chunk_size(frame_max));
    let head_size = 12 + content.properties.len();
    out.reserve(method_size + head_size + body.appends(content.body.len()) + (2 + bodies) * FRAME_OVERHEAD);
}

/// Ends the method frame; appends header and body frames. An empty body has no frame.
fn put_content(out: &mut Vec<u8>, channel: u16, frame_max: u32, content: Content<'_>, body: &mut impl BodyWriter) {
    let [c1, c2] = channel.to_be_bytes();
    let [s1, s2, s3, s4] = (12 + content.properties.len() as u32).to_be_bytes();
    let [k1, k2] = BASIC.to_be_bytes();
    out.extend_from_slice(&[FRAME_END, HEADER, c1, c2, s1, s2, s3, s4, k1, k2, 0, 0]);
    out.extend_from_slice(&(content.body.len() as u64).to_be_bytes());
    out.extend_from_slice(content.properties);
    let mut from = 0;
    for piece in content.body.chunks(chunk_size(frame_max)) {
        let [s1, s2, s3, s4] = (piece.len() as u32).to_be_bytes();
        out.extend_from_slice(&[FRAME_END, BODY, c1, c2, s1, s2, s3, s4]);
        body.write(out, from, piece);
        from += piece.len();
    }
    out.push(FRAME_END);
}

/// Octets of body a frame may carry, at least 1. Without a limit it is what the size field can say.
fn chunk_size(frame_max: u32) -> usize {
    match frame_max {
        0 => u32::MAX as usize,
        limit => (limit as usize).saturating_sub(FRAME_OVERHEAD).max(1),
    }
}

fn method_head(channel: u16, size: usize, id: Id) -> [u8; 11] {
    let [c1, c2] = channel.to_be_bytes();
    let [s1, s2, s3, s4] = (size as u32).to_be_bytes();
    let [k1, k2] = id.0.to_be_bytes();
    let [m1, m2] = id.1.to_be_bytes();
    [METHOD, c1, c2, s1, s2, s3, s4, k1, k2, m1, m2]
}

fn tag_and_bits(delivery_tag: u64, bits: u8) -> [u8; 9] {
    let [t1, t2, t3, t4, t5, t6, t7, t8] = delivery_tag.to_be_bytes();
    [t1, t2, t3, t4, t5, t6, t7, t8, bits]
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::AMQPFrame;
    use amq_protocol::frame::parsing::parse_frame;
    use amq_protocol::protocol::{AMQPClass, basic};
    use proptest::prelude::*;

    use super::*;

    fn frames(mut octets: &[u8]) -> Vec<AMQPFrame> {
        let mut frames = Vec::new();
        while !octets.is_empty() {
            let (rest, frame) = parse_frame(octets).unwrap();
            frames.push(frame);
            octets = rest;
        }
        frames
    }

    fn body(frames: &[AMQPFrame]) -> Vec<Vec<u8>> {
        let piece = |frame: &AMQPFrame| match frame {
            AMQPFrame::Body(7, piece) => piece.clone(),
            other => panic!("{other:?}"),
        };
        frames.iter().map(piece).collect()
    }

    /// Notes the parts of bodies, as for a vectored write.
    #[derive(Default)]
    struct Apart {
        /// For each part its place in the octets, and where it begins and ends in the body.
        parts: Vec<(usize, usize, usize)>,
    }

    impl BodyWriter for Apart {
        fn appends(&self, _size: usize) -> usize {
            0
        }

        fn write(&mut self, out: &mut Vec<u8>, from: usize, part: &[u8]) {
            self.parts.push((out.len(), from, from + part.len()));
        }
    }

    const ROUTE: &[u8] = b"\x02ex\x03key";
    const PERSISTENT: &[u8] = &[0x10, 0, 2];

    #[test]
    fn deliver_octet_by_octet() {
        let mut out = vec![0xaa];
        let content = Content { route: ROUTE, properties: PERSISTENT, body: b"hi" };
        deliver(&mut out, 7, 8192, b"tag", 258, true, content, &mut Copied);
        let mut expected = vec![0xaa, 1, 0, 7, 0, 0, 0, 24, 0, 60, 0, 60, 3, b't', b'a', b'g'];
        expected.extend([0, 0, 0, 0, 0, 0, 1, 2, 1, 2, b'e', b'x', 3, b'k', b'e', b'y', 206]);
        expected.extend([2, 0, 7, 0, 0, 0, 15, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x10, 0, 2, 206]);
        expected.extend([3, 0, 7, 0, 0, 0, 2, b'h', b'i', 206]);
        assert_eq!(out, expected);
    }

    #[test]
    fn get_ok_and_return_are_read_by_others() {
        let content = Content { route: ROUTE, properties: PERSISTENT, body: b"" };
        let mut out = Vec::new();
        get_ok(&mut out, 7, 8192, 5, true, 9, content, &mut Copied);
        basic_return(&mut out, 7, 8192, 312, b"NO_ROUTE", content, &mut Copied);
        let frames = frames(&out);
        assert_eq!(frames.len(), 4);
        let got = basic::GetOk {
            delivery_tag: 5,
            redelivered: true,
            exchange: "ex".into(),
            routing_key: "key".into(),
            message_count: 9,
        };
        assert_eq!(frames[0], AMQPFrame::Method(7, AMQPClass::Basic(basic::AMQPMethod::GetOk(got))));
        let returned = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "ex".into(),
            routing_key: "key".into(),
        };
        assert_eq!(frames[2], AMQPFrame::Method(7, AMQPClass::Basic(basic::AMQPMethod::Return(returned))));
    }

    #[test]
    fn confirms_and_heartbeat() {
        let mut out = Vec::new();
        ack(&mut out, 1, 3, true);
        nack(&mut out, 1, 4, false);
        heartbeat(&mut out);
        let acked = basic::Ack { delivery_tag: 3, multiple: true };
        let nacked = basic::Nack { delivery_tag: 4, multiple: false, requeue: false };
        assert_eq!(
            frames(&out),
            [
                AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(acked))),
                AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Nack(nacked))),
                AMQPFrame::Heartbeat,
            ]
        );
    }

    proptest! {
        #[test]
        fn bodies_are_split_and_whole(
            sent in prop::collection::vec(any::<u8>(), 0..200),
            frame_max in prop::sample::select(vec![0u32, 1, 8, 9, 16, 50, 108, 8192]),
            tag in prop::collection::vec(b'a'..=b'z', 0..300),
        ) {
            let mut out = Vec::new();
            let content = Content { route: ROUTE, properties: PERSISTENT, body: &sent };
            deliver(&mut out, 7, frame_max, &tag, 1, false, content, &mut Copied);
            let (mut heads, mut apart) = (Vec::new(), Apart::default());
            deliver(&mut heads, 7, frame_max, &tag, 1, false, content, &mut apart);
            let (mut put_together, mut at) = (Vec::new(), 0);
            for (place, from, to) in apart.parts {
                put_together.extend_from_slice(&heads[at..place]);
                put_together.extend_from_slice(&sent[from..to]);
                at = place;
            }
            put_together.extend_from_slice(&heads[at..]);
            prop_assert_eq!(&put_together, &out);
            prop_assert!(out.capacity() <= 64.max(out.len()));
            let frames = frames(&out);
            let pieces = body(&frames[2..]);
            prop_assert_eq!(pieces.concat(), sent);
            let limit = if frame_max == 0 { usize::MAX } else { (frame_max as usize).saturating_sub(8).max(1) };
            prop_assert!(pieces.iter().all(|piece| (1..=limit).contains(&piece.len())));
        }
    }
}
