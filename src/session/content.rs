//! From a method with content over its header to its body: whole in one read, or frame by frame. It knows no exchange and
//! no queue.

use crate::wire::fault::{Code, Fault};
use crate::wire::frame::{self, Frame, Kind, Scan};
use crate::wire::method::Publish;
use crate::wire::properties::{self, ContentHead};

/// The class of every method with content.
const BASIC: u16 = 60;

/// What a content belongs to.
#[derive(Clone, Debug)]
pub enum Subject {
    /// basic.publish.
    Publish {
        /// Exchange and key as two short strings.
        route: Box<[u8]>,
        /// Octets of `route` that the exchange takes, its length octet included.
        key_at: usize,
        /// `mandatory`.
        mandatory: bool,
        /// `immediate`.
        immediate: bool,
    },
    /// A method with content that only servers send: class and method.
    Foreign(u16, u16),
}

impl Subject {
    /// Remembers a publish beyond its read buffer.
    pub fn publish(publish: &Publish<'_>) -> Self {
        Self::Publish {
            route: publish.route.into(),
            key_at: publish.exchange.len() + 1,
            mandatory: publish.mandatory,
            immediate: publish.immediate,
        }
    }

    /// Class and method id.
    pub fn id(&self) -> (u16, u16) {
        match self {
            Self::Publish { .. } => (BASIC, 40),
            Self::Foreign(class, method) => (*class, *method),
        }
    }
}

/// How far a channel's content has come.
#[derive(Debug, Default)]
pub enum Assembly {
    /// A method is due.
    #[default]
    Idle,
    /// A header is due.
    Header(Subject),
    /// Body frames are due.
    Body(Partial),
}

/// A content of which something is still missing.
#[derive(Debug)]
pub struct Partial {
    /// What it belongs to.
    pub subject: Subject,
    /// Property flags and values.
    pub properties: Vec<u8>,
    /// What has come of the body; nothing is kept of one that is larger than `max_message_size`.
    pub body: Vec<u8>,
    /// Octets of the body that the header promised.
    pub size: u64,
    /// Octets that have come.
    pub received: u64,
    /// Whether the body is kept.
    keep: bool,
}

impl Assembly {
    /// Takes a frame; returns the content when it is whole.
    ///
    /// # Errors
    /// 505 for a frame that is not due, 501 for one that does not fit.
    pub fn take(&mut self, frame: &Frame<'_>, max_message_size: u64) -> Result<Option<Partial>, Fault> {
        let due = std::mem::take(self);
        let partial = match due {
            Self::Idle => return Err(unexpected("expected method frame, got non method frame instead")),
            Self::Header(subject) => begin(subject, frame, max_message_size)?,
            Self::Body(partial) => partial.add(frame)?,
        };
        if partial.received == partial.size {
            return Ok(Some(partial));
        }
        *self = Self::Body(partial);
        Ok(None)
    }

    /// A method frame came.
    ///
    /// # Errors
    /// 505: a header or a body frame was due.
    pub fn check_idle(&self) -> Result<(), Fault> {
        match self {
            Self::Idle => Ok(()),
            Self::Header(subject) => Err(no_header(subject)),
            Self::Body(partial) => Err(no_body(&partial.subject)),
        }
    }
}

fn begin(subject: Subject, frame: &Frame<'_>, max_message_size: u64) -> Result<Partial, Fault> {
    if frame.kind != Kind::Header {
        return Err(no_header(&subject));
    }
    let head = properties::content_head(frame.payload)?;
    let properties = head.properties.octets().to_vec();
    let keep = head.body_size <= max_message_size;
    Ok(Partial { subject, properties, body: Vec::new(), size: head.body_size, received: 0, keep })
}

impl Partial {
    fn add(mut self, frame: &Frame<'_>) -> Result<Self, Fault> {
        if frame.kind != Kind::Body {
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
            // Grows with what came, not with what was promised.
            self.body.extend_from_slice(frame.payload);
        }
        Ok(self)
    }
}

/// The header and body that directly follow a publish, if both are whole in `octets` and in order; and how many octets
/// they take. Anything unusual is left to [`Assembly`].
pub fn whole<'a>(octets: &'a [u8], channel: u16, frame_max: u32) -> Option<(ContentHead<'a>, &'a [u8], usize)> {
    let Ok(Scan::Frame(header, header_octets)) = frame::scan(octets, frame_max) else { return None };
    if header.kind != Kind::Header || header.channel != channel {
        return None;
    }
    let head = properties::content_head(header.payload).ok()?;
    if head.body_size == 0 {
        return Some((head, &[], header_octets));
    }
    let Ok(Scan::Frame(body, body_octets)) = frame::scan(octets.get(header_octets..)?, frame_max) else { return None };
    let is_all = body.kind == Kind::Body && body.channel == channel && body.payload.len() as u64 == head.body_size;
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
    use crate::wire::method::{Method, parse};

    const PUBLISH: &[u8] = b"\0\x3c\0\x28\0\0\x01x\x01k\0";

    fn subject() -> Subject {
        let Ok(Method::Publish(publish)) = parse(PUBLISH) else { panic!() };
        Subject::publish(&publish)
    }

    fn head(size: u64) -> Vec<u8> {
        [&b"\0\x3c\0\0"[..], &size.to_be_bytes(), b"\0\0"].concat()
    }

    fn frame(kind: Kind, payload: &[u8]) -> Frame<'_> {
        Frame { kind, channel: 1, payload }
    }

    #[test]
    fn a_body_comes_in_pieces() {
        let mut assembly = Assembly::Header(subject());
        assert!(assembly.check_idle().is_err());
        assert!(assembly.take(&frame(Kind::Header, &head(5)), 100).unwrap().is_none());
        assert!(assembly.take(&frame(Kind::Body, b"he"), 100).unwrap().is_none());
        assert!(assembly.check_idle().is_err());
        let content = assembly.take(&frame(Kind::Body, b"llo"), 100).unwrap().unwrap();
        assert_eq!((&content.body[..], content.size), (&b"hello"[..], 5));
        let Subject::Publish { route, key_at, .. } = &content.subject else { panic!() };
        assert_eq!((&route[..], *key_at), (&b"\x01x\x01k"[..], 2));
        assert!(assembly.check_idle().is_ok());
    }

    #[test]
    fn an_empty_body_has_no_frame() {
        let mut assembly = Assembly::Header(subject());
        assert!(assembly.take(&frame(Kind::Header, &head(0)), 100).unwrap().is_some());
    }

    #[test]
    fn nothing_is_kept_of_what_is_too_large() {
        let mut assembly = Assembly::Header(subject());
        assembly.take(&frame(Kind::Header, &head(5)), 4).unwrap();
        let content = assembly.take(&frame(Kind::Body, b"hello"), 4).unwrap().unwrap();
        assert_eq!((content.body.len(), content.size), (0, 5));
    }

    #[test]
    fn frames_that_are_not_due_are_faults() {
        let code = |assembly: &mut Assembly, kind, payload: &[u8]| {
            assembly.take(&frame(kind, payload), 100).map(|_| ()).map_err(|fault| fault.code)
        };
        assert_eq!(code(&mut Assembly::Idle, Kind::Body, b""), Err(Code::UnexpectedFrame));
        assert_eq!(code(&mut Assembly::Header(subject()), Kind::Body, b""), Err(Code::UnexpectedFrame));
        let mut assembly = Assembly::Header(subject());
        assert_eq!(code(&mut assembly, Kind::Header, &head(3)), Ok(()));
        assert_eq!(code(&mut assembly, Kind::Body, b"four"), Err(Code::FrameError));
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
