//! The first 16 octets of every message of a run: producer, number and time.
//!
//! ```text
//! producer u16 | sequence u48 | time u64, ns since the run's epoch; all big-endian, 16 octets
//! ```
//!
//! A producer in this sense is one channel of one connection: only there does AMQP promise an order
//! (section 4.7).

/// Octets of a stamp; smaller bodies carry none.
pub const SIZE: usize = 16;

/// Producer, number and time of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The channel that published it, counted over all connections.
    pub producer: u16,
    /// Its number on that channel, from 0; the lower 48 bits count.
    pub sequence: u64,
    /// When it was published, in ns since the run's epoch.
    pub time: u64,
}

impl Stamp {
    /// As a body begins.
    #[inline]
    pub fn octets(self) -> [u8; SIZE] {
        let head = u64::from(self.producer) << 48 | self.sequence & 0xffff_ffff_ffff;
        (u128::from(head) << 64 | u128::from(self.time)).to_be_bytes()
    }

    /// The stamp that a body begins with.
    #[inline]
    pub fn read(body: &[u8]) -> Option<Stamp> {
        let octets = u128::from_be_bytes(*body.first_chunk()?);
        let head = (octets >> 64) as u64;
        Some(Stamp { producer: (head >> 48) as u16, sequence: head & 0xffff_ffff_ffff, time: octets as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_written() {
        for stamp in [
            Stamp { producer: 0, sequence: 0, time: 0 },
            Stamp { producer: 0x1234, sequence: 0x5678_9abc_def0, time: u64::MAX },
            Stamp { producer: u16::MAX, sequence: (1 << 48) - 1, time: 1 },
        ] {
            assert_eq!(Stamp::read(&stamp.octets()), Some(stamp));
        }
        assert_eq!(Stamp::read(&[0; 15]), None);
    }
}
