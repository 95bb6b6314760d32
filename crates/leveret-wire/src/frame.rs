//! Frames, and the protocol header that a peer begins with.

use std::fmt::Display;

use crate::erlang::Pretty;
use crate::fault::{Code, Fault};
use crate::limits::{FRAME_HEAD_SIZE, FRAME_OVERHEAD};

/// The octet that ends every frame (AMQP 0-9-1 section 4.2.3).
pub const FRAME_END: u8 = amq_protocol::protocol::constants::FRAME_END;
/// Type octet of a method frame.
pub const METHOD: u8 = amq_protocol::protocol::constants::FRAME_METHOD;
/// Type octet of a content header frame.
pub const HEADER: u8 = amq_protocol::protocol::constants::FRAME_HEADER;
/// Type octet of a content body frame.
pub const BODY: u8 = amq_protocol::protocol::constants::FRAME_BODY;
/// Type octet of a heartbeat frame.
pub const HEARTBEAT: u8 = amq_protocol::protocol::constants::FRAME_HEARTBEAT;

/// The protocol header of AMQP 0-9-1: the answer to another version that looks like 0-9.
pub const HEADER_AMQP_091: [u8; 8] = *b"AMQP\0\0\x09\x01";
/// The SASL protocol header of AMQP 1.0: RabbitMQ's answer to everything else.
pub const HEADER_AMQP_SASL: [u8; 8] = *b"AMQP\x03\x01\0\0";

/// The type of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A method.
    Method,
    /// A content header.
    Header,
    /// A piece of a content body.
    Body,
    /// A heartbeat; its payload is empty.
    Heartbeat,
    /// No frame of AMQP 0-9-1, also a heartbeat that carries a payload: answer with
    /// [`unknown_frame`].
    Other(u8),
}

/// A whole frame, borrowed from the octets it was found in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: FrameKind,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// Octets between head and end octet.
    pub payload: &'a [u8],
}

/// Result of looking for a frame at the beginning of some octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameScan<'a> {
    /// A whole frame, and how many octets it took, head and end octet included.
    Frame(Frame<'a>, usize),
    /// The beginning of one.
    Partial {
        /// Octets the whole frame takes, or 7 while even its head is incomplete.
        needed: usize,
    },
}

/// Finds the frame that `octets` begin with. `frame_max` is the negotiated size in octets, 0 for no
/// limit; like RabbitMQ it tolerates a payload of `frame_max` octets, 8 more than fit.
///
/// # Errors
/// 501 if the frame is too large, as soon as its head is there, or does not end with the end octet.
// Always inline, so that a frame's parts stay in registers: they are written one by one, and to
// read them back together from memory is a stall for each frame.
#[inline(always)]
pub fn scan(octets: &[u8], frame_max: u32) -> Result<FrameScan<'_>, Fault> {
    let Some((&[kind, c1, c2, s1, s2, s3, s4], rest)) = octets.split_first_chunk::<FRAME_HEAD_SIZE>() else {
        return Ok(FrameScan::Partial { needed: FRAME_HEAD_SIZE });
    };
    let size = u32::from_be_bytes([s1, s2, s3, s4]);
    if size > frame_max && frame_max != 0 {
        return Err(too_large(kind, size, frame_max));
    }
    let needed = size as usize + FRAME_OVERHEAD;
    let Some((payload, &[end, ..])) = rest.split_at_checked(size as usize) else {
        return Ok(FrameScan::Partial { needed });
    };
    if end != FRAME_END {
        return Err(frame_error(kind, payload, format_args!("{{invalid_frame_end_marker,{end}}}")));
    }
    let kind = match kind {
        METHOD => FrameKind::Method,
        HEADER => FrameKind::Header,
        BODY => FrameKind::Body,
        HEARTBEAT if payload.is_empty() => FrameKind::Heartbeat,
        other => FrameKind::Other(other),
    };
    let channel = u16::from_be_bytes([c1, c2]);
    Ok(FrameScan::Frame(Frame { kind, channel, payload }, needed))
}

/// Octets of the whole frame that `octets` begin with, head and end octet included; all of them if
/// it is not whole.
pub fn length(octets: &[u8]) -> usize {
    match scan(octets, 0) {
        Ok(FrameScan::Frame(_, used)) => used,
        _ => octets.len(),
    }
}

/// The fault of a frame that is none of AMQP's: 501.
pub fn unknown_frame(kind: FrameKind, payload: &[u8]) -> Fault {
    frame_error(kind.octet(), payload, "unknown_frame")
}

/// The fault of a frame that is not due on its channel, or before the connection is open: 505.
pub fn unexpected_frame(kind: FrameKind, payload: &[u8]) -> Fault {
    let (extent, octets) = snippet(payload);
    let explanation = format!("type {}, {extent} octets = {}", kind.octet(), Pretty(octets));
    Fault::new(Code::UnexpectedFrame, explanation)
}

impl FrameKind {
    fn octet(self) -> u8 {
        match self {
            FrameKind::Method => METHOD,
            FrameKind::Header => HEADER,
            FrameKind::Body => BODY,
            FrameKind::Heartbeat => HEARTBEAT,
            FrameKind::Other(octet) => octet,
        }
    }
}

#[cold]
fn too_large(kind: u8, size: u32, frame_max: u32) -> Fault {
    let limit = i64::from(frame_max) - FRAME_OVERHEAD as i64;
    frame_error(kind, &[], format_args!("{{frame_too_large,{size},{limit}}}"))
}

#[cold]
fn frame_error(kind: u8, payload: &[u8], reason: impl Display) -> Fault {
    let (extent, octets) = snippet(payload);
    Fault::new(Code::FrameError, format_args!("type {kind}, {extent} octets = {}: {reason}", Pretty(octets)))
}

/// Returns the extent and the octets that RabbitMQ shows of a payload.
fn snippet(payload: &[u8]) -> (&'static str, &[u8]) {
    match payload.split_first_chunk::<16>() {
        Some((first, rest)) if !rest.is_empty() => ("first 16", first),
        _ => ("all", payload),
    }
}

/// Protocol that a peer speaks, by its first octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolHeader {
    /// Not enough octets to tell.
    Partial,
    /// AMQP 0-9-1, 8 octets.
    Amqp091,
    /// AMQP 0-9 in its own form (`AMQP` 1 1 0 9), 8 octets; it may be served as 0-9-1.
    Amqp09,
    /// Another AMQP that should hear of 0-9-1: answer [`HEADER_AMQP_091`] and close. AMQP 1.0
    /// behind SASL is one of them, as this broker does not speak it.
    OtherAmqp,
    /// Another AMQP to which RabbitMQ offers 1.0: answer [`HEADER_AMQP_SASL`] and close.
    OtherAmqpSasl,
    /// An HTTP request; RabbitMQ answers [`HEADER_AMQP_SASL`], logs it and closes.
    Http,
    /// A TLS client hello on a plain port; answered like HTTP.
    Tls,
    /// Anything else; answered like HTTP.
    Foreign,
}

/// Tells what a peer speaks by its first octets, as early as they allow it.
pub fn protocol_header(octets: &[u8]) -> ProtocolHeader {
    match octets {
        [b'A', b'M', b'Q', b'P', 0, 0, 9, 1, ..] => ProtocolHeader::Amqp091,
        [b'A', b'M', b'Q', b'P', 1, 1, 0, 9, ..] => ProtocolHeader::Amqp09,
        [b'A', b'M', b'Q', b'P', 3, 1, 0, 0, ..] => ProtocolHeader::OtherAmqp,
        [b'A', b'M', b'Q', b'P', 0, 0, minor, _, ..] if *minor >= 9 => ProtocolHeader::OtherAmqp,
        [b'A', b'M', b'Q', b'P', _, _, _, _, ..] => ProtocolHeader::OtherAmqpSasl,
        [b'G', b'E', b'T', b' ', ..] => ProtocolHeader::Http,
        [0x16, 3, _, _, _, 1, ..] => ProtocolHeader::Tls,
        [b'A', b'M', b'Q', b'P', ..] => ProtocolHeader::Partial,
        [0x16] | [0x16, 3] | [0x16, 3, _] | [0x16, 3, _, _] | [0x16, 3, _, _, _] => ProtocolHeader::Partial,
        _ if b"AMQP".starts_with(octets) || b"GET ".starts_with(octets) => ProtocolHeader::Partial,
        _ => ProtocolHeader::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(result: Result<FrameScan<'_>, Fault>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn finds_a_frame_and_what_it_took() {
        let octets = [1, 0, 7, 0, 0, 0, 2, b'h', b'i', 206, 99];
        let frame = Frame { kind: FrameKind::Method, channel: 7, payload: b"hi" };
        assert_eq!(scan(&octets, 8192), Ok(FrameScan::Frame(frame, 10)));
        for cut in 0..7 {
            assert_eq!(scan(&octets[..cut], 8192), Ok(FrameScan::Partial { needed: 7 }));
        }
        for cut in 7..10 {
            assert_eq!(scan(&octets[..cut], 8192), Ok(FrameScan::Partial { needed: 10 }));
        }
    }

    #[test]
    fn tells_kinds_apart() {
        let kind = |octets: &[u8]| match scan(octets, 0) {
            Ok(FrameScan::Frame(frame, _)) => frame.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(&[2, 0, 0, 0, 0, 0, 0, 206]), FrameKind::Header);
        assert_eq!(kind(&[3, 0, 0, 0, 0, 0, 0, 206]), FrameKind::Body);
        assert_eq!(kind(&[8, 0, 0, 0, 0, 0, 0, 206]), FrameKind::Heartbeat);
        assert_eq!(kind(&[8, 0, 0, 0, 0, 0, 1, 0, 206]), FrameKind::Other(8));
        assert_eq!(kind(&[4, 0, 0, 0, 0, 0, 0, 206]), FrameKind::Other(4));
    }

    #[test]
    fn refuses_a_large_frame_by_its_head() {
        let head = |size: u32| [&[3, 0, 1][..], &size.to_be_bytes()].concat();
        assert!(matches!(scan(&head(8192), 8192), Ok(FrameScan::Partial { needed: 8200 })));
        assert_eq!(
            text(scan(&head(8193), 8192)),
            "501 FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,8193,8184}"
        );
        assert!(matches!(scan(&head(u32::MAX), 0), Ok(FrameScan::Partial { .. })));
    }

    #[test]
    fn refuses_a_wrong_end() {
        assert_eq!(
            text(scan(&[1, 0, 0, 0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o', 65], 0)),
            "501 FRAME_ERROR - type 1, all octets = <<\"hello\">>: {invalid_frame_end_marker,65}"
        );
        assert_eq!(
            unexpected_frame(FrameKind::Body, b"abcdefghijklmnopq").text.as_str(),
            "UNEXPECTED_FRAME - type 3, first 16 octets = <<\"abcdefghijklmnop\">>"
        );
        assert_eq!(
            unknown_frame(FrameKind::Other(9), &[1, 2]).text.as_str(),
            "FRAME_ERROR - type 9, all octets = <<1,2>>: unknown_frame"
        );
    }

    #[test]
    fn tells_what_a_peer_speaks() {
        for (octets, header) in [
            (&HEADER_AMQP_091[..], ProtocolHeader::Amqp091),
            (b"AMQP\x01\x01\0\x09", ProtocolHeader::Amqp09),
            (b"AMQP\0\0\x09\x02", ProtocolHeader::OtherAmqp),
            (&HEADER_AMQP_SASL, ProtocolHeader::OtherAmqp),
            (b"AMQP\0\x01\0\0", ProtocolHeader::OtherAmqpSasl),
            (b"AMQP\x01\x01\x08\0", ProtocolHeader::OtherAmqpSasl),
            (b"GET / HTTP/1.1", ProtocolHeader::Http),
            (b"\x16\x03\x01\x02\0\x01\0\x01", ProtocolHeader::Tls),
            (b"\x16\x03\x01\x02\0\x02\0\x01", ProtocolHeader::Foreign),
            (b"SSH-2.0", ProtocolHeader::Foreign),
            (b"", ProtocolHeader::Partial),
            (b"AMQP\0\0\x09", ProtocolHeader::Partial),
            (b"GET", ProtocolHeader::Partial),
            (b"\x16\x03\x01\x02\0", ProtocolHeader::Partial),
            (b"AMX", ProtocolHeader::Foreign),
        ] {
            assert_eq!(protocol_header(octets), header, "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_scanned(octets in prop::collection::vec(any::<u8>(), 0..64), frame_max in 0..64u32) {
            let _ = scan(&octets, frame_max);
            let _ = protocol_header(&octets);
        }
    }
}
