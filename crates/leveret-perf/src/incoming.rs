//! Octets that were read from a socket, and the frames in them.

use leveret_wire::frame::{self, Frame, FrameScan};
use std::io::{self, ErrorKind, Read};

/// A read buffer. It grows to hold a frame, never more.
#[derive(Debug)]
pub struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Octets that the frame at `start` takes, as far as known.
    needed: usize,
    /// The negotiated size of a frame in octets.
    pub frame_max: u32,
    /// All octets that ever came.
    pub total: u64,
}

/// Outcome of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// Octets.
    Some,
    /// None within the socket's patience.
    Nothing,
    /// The end.
    End,
}

impl Incoming {
    /// A buffer of so many octets.
    pub fn new(capacity: usize, frame_max: u32) -> Incoming {
        Incoming { buffer: vec![0; capacity], start: 0, end: 0, needed: 0, frame_max, total: 0 }
    }

    /// The same octets in a buffer of another size.
    pub fn resize(&mut self, capacity: usize) {
        self.compact();
        self.buffer.resize(capacity.max(self.end), 0);
        self.buffer.shrink_to_fit();
    }

    fn compact(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    /// Reads once.
    ///
    /// # Errors
    /// What the socket says, but for time that is over.
    pub fn fill(&mut self, mut socket: impl Read) -> io::Result<Filled> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.compact();
        }
        if self.needed > self.buffer.len() {
            self.buffer.resize(self.needed, 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match socket.read(room) {
            Ok(0) => Ok(Filled::End),
            Ok(read) => {
                self.end += read;
                self.total += read as u64;
                Ok(Filled::Some)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(Filled::Nothing),
                _ => Err(error),
            },
        }
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// The octets are no AMQP.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, String> {
        let octets = self.buffer.get(self.start..self.end).unwrap_or_default();
        match frame::scan(octets, self.frame_max) {
            Ok(FrameScan::Frame(frame, used)) => {
                self.start += used;
                self.needed = 0;
                Ok(Some(frame))
            }
            Ok(FrameScan::Partial { needed }) => {
                self.needed = needed;
                Ok(None)
            }
            Err(fault) => Err(format!("the broker does not speak AMQP 0-9-1: {fault}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::encode_content::{Content, Copied, deliver};

    #[test]
    fn finds_frames_however_they_come() {
        let mut octets = Vec::new();
        let body = vec![7; 10_000];
        let content = Content { route: b"\x01x\x01k", properties: &[0, 0], body: &body };
        for tag in 0..3 {
            deliver(&mut octets, 1, 4096, b"t", tag, false, content, &mut Copied);
        }
        for step in [1, 7, 1000, 5000] {
            let mut incoming = Incoming::new(64, 131_072);
            let (mut frames, mut bodies) = (0, 0);
            for piece in octets.chunks(step) {
                let mut piece = piece;
                while !piece.is_empty() {
                    assert_eq!(incoming.fill(&mut piece).unwrap(), Filled::Some);
                    while let Some(frame) = incoming.next_frame().unwrap() {
                        frames += 1;
                        bodies += if frame.kind == frame::FrameKind::Body { frame.payload.len() } else { 0 };
                    }
                }
            }
            assert_eq!((frames, bodies), (3 * (2 + 3), 30_000));
            assert_eq!(incoming.total as usize, octets.len());
            assert!(incoming.buffer.len() <= 4096 + 8);
        }
        assert_eq!(Incoming::new(64, 0).fill(&mut &b""[..]).unwrap(), Filled::End);
    }

    #[test]
    fn refuses_other_octets() {
        let mut incoming = Incoming::new(64, 4096);
        incoming.fill(&b"HTTP/1.1 400 Bad Request"[..]).unwrap();
        assert!(incoming.next_frame().unwrap_err().contains("does not speak AMQP"));
    }
}
