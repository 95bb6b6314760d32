//! Hears what a session emits and insists on its form: whole frames, contents that are whole and in
//! one piece, nothing on a channel that is not open, nothing behind a close.

use leveret_wire::frame::{self, FrameKind, FrameScan};
use std::collections::BTreeSet;

/// A received method, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub channel: u16,
    pub id: (u16, u16),
    /// The method's arguments.
    pub fields: Vec<u8>,
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

/// A cursor over arguments; what is missing is a broken promise of the broker.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn octets(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    pub fn number(&mut self, octets: usize) -> u64 {
        self.octets(octets).iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
    }

    pub fn name(&mut self) -> &'a [u8] {
        let size = self.number(1) as usize;
        self.octets(size)
    }
}

pub const CONNECTION_CLOSE: (u16, u16) = (10, 50);
pub const CHANNEL_CLOSE: (u16, u16) = (20, 40);
pub const DECLARE_OK: (u16, u16) = (50, 11);
pub const RETURN: (u16, u16) = (60, 50);
pub const DELIVER: (u16, u16) = (60, 60);
pub const GET_OK: (u16, u16) = (60, 71);
pub const ACK: (u16, u16) = (60, 80);

/// One connection's listener.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Channels on which something may come.
    pub open: BTreeSet<u16>,
    /// Channels that the broker closed.
    closing: BTreeSet<u16>,
    started: bool,
    refused: bool,
    /// The broker sent connection.close or close-ok.
    pub closed: bool,
    /// Largest frame that was agreed on.
    pub frame_max: u32,
}

impl Decoder {
    /// Everything that one drain of the outbox brought.
    ///
    /// # Panics
    /// Where it breaks the protocol.
    pub fn hear(&mut self, mut octets: &[u8]) -> Vec<Received> {
        let mut received: Vec<Received> = Vec::new();
        if !self.started && octets.starts_with(b"AMQP") {
            assert!(octets.len() == 8 && !self.refused, "a protocol header and more: {octets:?}");
            self.refused = true;
            return received;
        }
        let mut missing = None;
        while !octets.is_empty() {
            assert!(!self.refused, "octets behind a protocol header: {octets:?}");
            let (frame, used) = match frame::scan(octets, 0) {
                Ok(FrameScan::Frame(frame, used)) => (frame, used),
                other => panic!("no whole frame: {other:?} in {octets:?}"),
            };
            octets = &octets[used..];
            match (frame.kind, missing) {
                (FrameKind::Heartbeat, None) => assert_eq!(frame.channel, 0),
                (FrameKind::Method, None) => {
                    let one = self.method(frame.channel, frame.payload);
                    if matches!(one.id, RETURN | DELIVER | GET_OK) {
                        missing = Some(None);
                    }
                    received.push(one);
                }
                (FrameKind::Header, Some(None)) => {
                    let Some(last) = received.last_mut() else { panic!("header without method") };
                    assert_eq!((frame.channel, &frame.payload[..4]), (last.channel, &[0, 60, 0, 0][..]));
                    let size = Fields(&frame.payload[4..]).number(8);
                    last.properties = frame.payload[12..].to_vec();
                    missing = (size > 0).then_some(Some(size));
                }
                (FrameKind::Body, Some(Some(size))) => {
                    let Some(last) = received.last_mut() else { panic!("body without method") };
                    assert_eq!(frame.channel, last.channel);
                    assert!(!frame.payload.is_empty() && frame.payload.len() as u64 <= size);
                    assert!(self.frame_max == 0 || used <= self.frame_max as usize, "a body frame of {used} octets");
                    last.body.extend_from_slice(frame.payload);
                    let left = size - frame.payload.len() as u64;
                    missing = (left > 0).then_some(Some(left));
                }
                (kind, missing) => panic!("{kind:?} while {missing:?} was missing"),
            }
        }
        assert_eq!(missing, None, "a content that is not whole");
        received
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Received {
        let mut fields = Fields(payload);
        let id = (fields.number(2) as u16, fields.number(2) as u16);
        assert!(!self.closed || id == (10, 51), "{id:?} behind connection.close");
        match id {
            (10, _) => {
                assert_eq!(channel, 0);
                self.started = true;
                self.closed |= matches!(id, CONNECTION_CLOSE | (10, 51));
            }
            (20, 11) => {
                assert!(self.open.insert(channel), "channel.open-ok on the open channel {channel}");
                self.closing.remove(&channel);
            }
            (20, 41) if self.closing.contains(&channel) => {}
            (20, 40 | 41) => {
                assert!(self.open.remove(&channel), "{id:?} on channel {channel}, which is not open");
                if id == CHANNEL_CLOSE {
                    self.closing.insert(channel);
                }
            }
            _ => assert!(self.open.contains(&channel), "{id:?} on channel {channel}, which is not open"),
        }
        Received { channel, id, fields: fields.0.to_vec(), properties: Vec::new(), body: Vec::new() }
    }
}
