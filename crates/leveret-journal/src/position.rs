//! The position of a record as one number, and the entry of a message in the live set.
//!
//! ```text
//!   Position:              0 (9) | segment (30) | offset / 8 (25)      later is larger
//!   IndexEntry:     transient (1) | segment (30) | offset / 8 (25) | size class (8)
//! ```

/// Records begin at multiples of this offset, in octets.
pub const ALIGNMENT: u64 = 8;
const OFFSET_BITS: u32 = 25;
const SEGMENT_BITS: u32 = 30;
/// Records begin before this offset of a segment, in octets.
pub const OFFSET_LIMIT: u64 = ALIGNMENT << OFFSET_BITS;
/// The largest number of a segment; the first is 1. At 64 MiB each they last for 64 PiB.
pub const SEGMENT_MAX: u64 = (1 << SEGMENT_BITS) - 1;

/// The place where a record begins. Positions of one journal ascend, and are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// The position before all records.
    pub const ZERO: Self = Self(0);

    /// Creates the position at an offset, a multiple of 8 octets, of a segment.
    pub fn new(segment: u64, offset: u64) -> Self {
        debug_assert!(segment <= SEGMENT_MAX && offset < OFFSET_LIMIT && offset.is_multiple_of(ALIGNMENT));
        Self((segment << OFFSET_BITS) | (offset / ALIGNMENT))
    }

    /// Creates the position from its number.
    pub fn from_number(number: u64) -> Self {
        Self(number & ((1 << (SEGMENT_BITS + OFFSET_BITS)) - 1))
    }

    /// Returns the position as a number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Returns the position `octets` behind in the same segment.
    #[must_use]
    pub fn behind(self, octets: u64) -> Self {
        Self(self.0 + octets / ALIGNMENT)
    }

    /// Returns the number of the segment.
    pub fn segment(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    /// Returns the offset in the segment's file, in octets.
    pub fn offset(self) -> u64 {
        (self.0 & ((1 << OFFSET_BITS) - 1)) * ALIGNMENT
    }
}

/// The position and the approximate size of a message's record, in 8 octets. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry(u64);

impl IndexEntry {
    /// Creates the entry of a record of `size` octets at a position; the size is rounded down by at
    /// most an eighth. `transient`: the message is not recovered.
    pub fn new(position: Position, size: u64, transient: bool) -> Self {
        Self((u64::from(transient) << 63) | (position.0 << 8) | u64::from(size_class(size / ALIGNMENT)))
    }

    /// Creates the entry from its number; none from 0.
    pub fn from_number(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// Returns the entry as a number, which is not 0 as no segment is.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Returns the record's position.
    pub fn position(self) -> Position {
        Position::from_number(self.0 >> 8)
    }

    /// Returns true if the message is not recovered after a restart.
    pub fn is_transient(self) -> bool {
        self.0 >> 63 == 1
    }

    /// Returns the octets with which the entry is charged.
    pub fn size(self) -> u64 {
        class_size((self.0 & 0xff) as u8) * ALIGNMENT
    }
}

/// Returns the size class of a size: three bits behind the leading one, and their shift.
fn size_class(units: u64) -> u8 {
    if units < 8 {
        return units as u8;
    }
    let shift = units.ilog2() - 3;
    (((shift + 1) << 3) | ((units >> shift) & 7) as u32).min(255) as u8
}

fn class_size(class: u8) -> u64 {
    match class >> 3 {
        0 => u64::from(class),
        shift => u64::from(8 | (class & 7)) << (shift - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_keep_both_parts(segment in 0..=SEGMENT_MAX, unit in 0..(OFFSET_LIMIT / 8)) {
            let position = Position::new(segment, unit * 8);
            prop_assert_eq!((position.segment(), position.offset()), (segment, unit * 8));
            prop_assert_eq!(Position::from_number(position.number()), position);
        }

        #[test]
        fn sizes_are_rounded_down_a_little(size in 0u64..1 << 31, transient: bool) {
            let entry = IndexEntry::new(Position::new(SEGMENT_MAX, OFFSET_LIMIT - 8), size, transient);
            prop_assert_eq!(entry.is_transient(), transient);
            prop_assert_eq!(entry.position(), Position::new(SEGMENT_MAX, OFFSET_LIMIT - 8));
            let size = size / 8 * 8;
            prop_assert!(entry.size() <= size && entry.size() >= size - size / 8, "{} of {}", entry.size(), size);
        }
    }
}
