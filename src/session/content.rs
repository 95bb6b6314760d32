//! Contents: method, header and body, whole in one read or frame by frame. Names no exchange and no
//! queue.

use crate::memory::{ConnectionCharge, ConnectionMemory, Use};
use leveret_wire::fault::{Code, Fault};
use leveret_wire::frame::{self, Frame, FrameKind, FrameScan};
use leveret_wire::method::Publish;
use leveret_wire::properties::{self, ContentHead};
use std::sync::Arc;

/// The class of every method with content.
const BASIC: u16 = 60;

/// The method that a content belongs to.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Content of basic.publish.
    Publish {
        /// Exchange and routing key as two AMQP short strings.
        route: Box<[u8]>,
        /// Octets of `route` before the routing key: the exchange with its length octet.
        key_at: usize,
        /// The bit `mandatory`.
        mandatory: bool,
        /// The bit `immediate`.
        immediate: bool,
    },
    /// Content of a method that only servers send: class and method id.
    Foreign(u16, u16),
}

impl Subject {
    /// Copies a basic.publish out of its read buffer.
    pub fn publish(publish: &Publish<'_>) -> Self {
        Self::Publish {
            route: publish.route.into(),
            key_at: publish.exchange.len() + 1,
            mandatory: publish.mandatory,
            immediate: publish.immediate,
        }
    }

    /// Returns class and method id.
    pub fn id(&self) -> (u16, u16) {
        match self {
            Self::Publish { .. } => (BASIC, 40),
            Self::Foreign(class, method) => (*class, *method),
        }
    }
}

/// The progress of a channel's content.
#[derive(Debug, Default)]
pub enum Assembly {
    /// No content is being received.
    #[default]
    Idle,
    /// The header has to come next.
    Header(Subject),
    /// Body frames have to come next.
    Body(Partial),
}

/// A content that is not complete.
#[derive(Debug)]
pub struct Partial {
    /// The method of the content.
    pub subject: Subject,
    /// Property flags and values.
    pub properties: Vec<u8>,
    /// Octets of the body so far; empty if the body is larger than `max_message_size`.
    pub body: Vec<u8>,
    /// The body's octets as given in the header.
    pub size: u64,
    /// The body's octets received.
    pub received: u64,
    /// The body is kept: it is not larger than `max_message_size`.
    keep: bool,
    /// For the properties and the body.
    charge: ConnectionCharge,
}

/// The limits of the contents that a connection is sending.
#[derive(Clone, Copy, Debug)]
pub struct ContentLimits<'a> {
    /// Octets of the largest body that is kept.
    pub message: u64,
    /// Octets of the connection's unfinished bodies together.
    pub unfinished: u64,
    /// The connection's memory.
    pub memory: &'a Arc<ConnectionMemory>,
}

impl Assembly {
    /// Returns true if body frames have to come.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Body(_))
    }

    /// Takes a frame; returns the content when it is complete.
    ///
    /// # Errors
    /// 505 for an unexpected frame, 501 for a frame that contradicts the header, 506 if the
    /// connection's unfinished bodies take more than they may.
    pub fn take(&mut self, frame: &Frame<'_>, limits: ContentLimits<'_>) -> Result<Option<Partial>, Fault> {
        let due = std::mem::take(self);
        let partial = match due {
            Self::Idle => return Err(unexpected("expected method frame, got non method frame instead")),
            Self::Header(subject) => begin(subject, frame, limits)?,
            Self::Body(partial) => partial.add(frame)?,
        };
        if partial.received == partial.size {
            return Ok(Some(partial));
        }
        if limits.memory.bodies() > limits.unfinished {
            return Err(too_much(limits));
        }
        *self = Self::Body(partial);
        Ok(None)
    }

    /// Checks that a method frame may come now.
    ///
    /// # Errors
    /// 505 if a header or body frame has to come.
    pub fn check_idle(&self) -> Result<(), Fault> {
        match self {
            Self::Idle => Ok(()),
            Self::Header(subject) => Err(no_header(subject)),
            Self::Body(partial) => Err(no_body(&partial.subject)),
        }
    }
}

fn begin(subject: Subject, frame: &Frame<'_>, limits: ContentLimits<'_>) -> Result<Partial, Fault> {
    if frame.kind != FrameKind::Header {
        return Err(no_header(&subject));
    }
    let head = properties::content_head(frame.payload)?;
    let properties = head.properties.octets().to_vec();
    let keep = head.body_size <= limits.message && matches!(subject, Subject::Publish { .. });
    let mut charge = ConnectionCharge::new(limits.memory, Use::Body);
    charge.set(properties.len() as u64);
    Ok(Partial { subject, properties, body: Vec::new(), size: head.body_size, received: 0, keep, charge })
}

impl Partial {
    fn add(mut self, frame: &Frame<'_>) -> Result<Self, Fault> {
        if frame.kind != FrameKind::Body {
            return Err(no_body(&self.subject));
        }
        let received = self.received + frame.payload.len() as u64;
        if received > self.size {
            let (class, method) = self.subject.id();
            let text = "content body frame exceeds remaining content size";
            return Err(Fault::new(Code::FrameError, text).at(class, method));
        }
        self.received = received;
        if self.keep {
            self.append(frame.payload);
        }
        Ok(self)
    }

    /// Appends octets of the body, for which memory grows with those received, not with the size
    /// promised.
    fn append(&mut self, octets: &[u8]) {
        let length = self.body.len() + octets.len();
        if length > self.body.capacity() {
            let promised = usize::try_from(self.size).unwrap_or(usize::MAX);
            self.body.reserve_exact((2 * length).min(promised) - self.body.len());
            self.charge.set((self.properties.len() + self.body.capacity()) as u64);
        }
        self.body.extend_from_slice(octets);
    }
}

fn too_much(limits: ContentLimits<'_>) -> Fault {
    let max = limits.unfinished;
    let text = format_args!("unfinished message bodies take more than {max} octets of memory");
    Fault::new(Code::ResourceError, text).at(BASIC, 40)
}

/// Returns the header and body that directly follow a basic.publish, if both are whole in `octets`
/// and in order, and the octets they take. Anything else is left to [`Assembly`].
#[inline(always)]
pub fn whole<'a>(octets: &'a [u8], channel: u16, frame_max: u32) -> Option<(ContentHead<'a>, &'a [u8], usize)> {
    let Ok(FrameScan::Frame(header, header_octets)) = frame::scan(octets, frame_max) else { return None };
    if header.kind != FrameKind::Header || header.channel != channel {
        return None;
    }
    let head = properties::content_head(header.payload).ok()?;
    if head.body_size == 0 {
        return Some((head, &[], header_octets));
    }
    let Ok(FrameScan::Frame(body, body_octets)) = frame::scan(octets.get(header_octets..)?, frame_max) else {
        return None;
    };
    let is_all = body.kind == FrameKind::Body && body.channel == channel && body.payload.len() as u64 == head.body_size;
    is_all.then_some((head, body.payload, header_octets + body_octets))
}

fn unexpected(text: &str) -> Fault {
    Fault::new(Code::UnexpectedFrame, text)
}

fn no_header(subject: &Subject) -> Fault {
    let (class, method) = subject.id();
    let text = format!("expected content header for class {class}, got non content header frame instead");
    unexpected(&text).at(class, method)
}

fn no_body(subject: &Subject) -> Fault {
    let (class, method) = subject.id();
    unexpected("expected content body, got non content body frame instead").at(class, method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::method::{Method, parse};

    const PUBLISH: &[u8] = b"\0\x3c\0\x28\0\0\x01x\x01k\0";

    fn subject() -> Subject {
        let Ok(Method::Publish(publish)) = parse(PUBLISH) else { panic!() };
        Subject::publish(&publish)
    }

    fn memory() -> Arc<ConnectionMemory> {
        Arc::default()
    }

    fn limits(memory: &Arc<ConnectionMemory>, message: u64) -> ContentLimits<'_> {
        ContentLimits { message, unfinished: 1_000, memory }
    }

    fn head(size: u64) -> Vec<u8> {
        [&b"\0\x3c\0\0"[..], &size.to_be_bytes(), b"\0\0"].concat()
    }

    fn frame(kind: FrameKind, payload: &[u8]) -> Frame<'_> {
        Frame { kind, channel: 1, payload }
    }

    #[test]
    fn a_body_comes_in_pieces() {
        let mut assembly = Assembly::Header(subject());
        assert!(assembly.check_idle().is_err());
        assert!(assembly.take(&frame(FrameKind::Header, &head(5)), limits(&memory(), 100)).unwrap().is_none());
        assert!(assembly.take(&frame(FrameKind::Body, b"he"), limits(&memory(), 100)).unwrap().is_none());
        assert!(assembly.check_idle().is_err());
        let content = assembly.take(&frame(FrameKind::Body, b"llo"), limits(&memory(), 100)).unwrap().unwrap();
        assert_eq!((&content.body[..], content.size), (&b"hello"[..], 5));
        let Subject::Publish { route, key_at, .. } = &content.subject else { panic!() };
        assert_eq!((&route[..], *key_at), (&b"\x01x\x01k"[..], 2));
        assert!(assembly.check_idle().is_ok());
    }

    #[test]
    fn an_empty_body_has_no_frame() {
        let mut assembly = Assembly::Header(subject());
        assert!(assembly.take(&frame(FrameKind::Header, &head(0)), limits(&memory(), 100)).unwrap().is_some());
    }

    #[test]
    fn nothing_is_kept_of_what_is_too_large() {
        let mut assembly = Assembly::Header(subject());
        assembly.take(&frame(FrameKind::Header, &head(5)), limits(&memory(), 4)).unwrap();
        let content = assembly.take(&frame(FrameKind::Body, b"hello"), limits(&memory(), 4)).unwrap().unwrap();
        assert_eq!((content.body.len(), content.size), (0, 5));
    }

    #[test]
    fn unfinished_bodies_are_charged_and_bounded_together() {
        let memory = memory();
        let mut assemblies = [(), ()].map(|()| Assembly::Header(subject()));
        for assembly in &mut assemblies {
            assert!(assembly.take(&frame(FrameKind::Header, &head(5_000)), limits(&memory, 5_000)).unwrap().is_none());
            assert!(assembly.take(&frame(FrameKind::Body, &[0; 200]), limits(&memory, 5_000)).unwrap().is_none());
        }
        assert_eq!(memory.bodies(), 2 * (400 + 2));
        let one_more = assemblies[0].take(&frame(FrameKind::Body, &[0; 300]), limits(&memory, 5_000));
        assert_eq!(one_more.unwrap_err().code, Code::ResourceError);
        drop(assemblies);
        assert_eq!((memory.bodies(), memory.used()), (0, 0));
    }

    #[test]
    fn frames_that_are_not_due_are_faults() {
        let code = |assembly: &mut Assembly, kind, payload: &[u8]| {
            assembly.take(&frame(kind, payload), limits(&memory(), 100)).map(|_| ()).map_err(|fault| fault.code)
        };
        assert_eq!(code(&mut Assembly::Idle, FrameKind::Body, b""), Err(Code::UnexpectedFrame));
        assert_eq!(code(&mut Assembly::Header(subject()), FrameKind::Body, b""), Err(Code::UnexpectedFrame));
        let mut assembly = Assembly::Header(subject());
        assert_eq!(code(&mut assembly, FrameKind::Header, &head(3)), Ok(()));
        assert_eq!(code(&mut assembly, FrameKind::Body, b"four"), Err(Code::FrameError));
    }

    #[test]
    fn what_lies_whole_in_one_read_is_taken_at_once() {
        let octets = |kind: u8, channel: u8, payload: &[u8]| {
            [&[kind, 0, channel], &(payload.len() as u32).to_be_bytes()[..], payload, &[frame::FRAME_END]].concat()
        };
        let header = octets(frame::HEADER, 1, &head(2));
        let all = [&header[..], &octets(frame::BODY, 1, b"hi"), b"more"].concat();
        let (head, body, used) = whole(&all, 1, 4096).unwrap();
        assert_eq!((head.body_size, body, used), (2, &b"hi"[..], all.len() - 4));
        assert!(whole(&all[..used - 1], 1, 4096).is_none());
        assert!(whole(&all, 2, 4096).is_none());
        let in_pieces = [&header[..], &octets(frame::BODY, 1, b"h"), &octets(frame::BODY, 1, b"i")].concat();
        assert!(whole(&in_pieces, 1, 4096).is_none());
        let of_another = [&header[..], &octets(frame::BODY, 2, b"hi")].concat();
        assert!(whole(&of_another, 1, 4096).is_none());
    }
}
