//! Where a record stands, as one number, and what the index of live messages keeps of it. Knows no file and no format.
//!
//! ```text
//!   Position:              0 (9) | segment (30) | offset / 8 (25)      later is larger
//!   Entry:     transient (1) | segment (30) | offset / 8 (25) | size class (8)
//! ```

/// Records begin at multiples of so many octets.
pub const ALIGNMENT: u64 = 8;
const OFFSET_BITS: u32 = 25;
const SEGMENT_BITS: u32 = 30;
/// No record begins at or behind this offset of a segment, in octets.
pub const OFFSET_LIMIT: u64 = ALIGNMENT << OFFSET_BITS;
/// The number of the last segment that can be; the first is 1. At 64 MiB each they last for 64 PiB.
pub const SEGMENT_MAX: u64 = (1 << SEGMENT_BITS) - 1;

/// Where a record begins. Positions of one journal grow with time, and are never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Before all records.
    pub const ZERO: Self = Self(0);

    /// The position of a record at an offset, a multiple of 8 octets, of a segment.
    pub fn new(segment: u64, offset: u64) -> Self {
        debug_assert!(segment <= SEGMENT_MAX && offset < OFFSET_LIMIT && offset.is_multiple_of(ALIGNMENT));
        Self((segment << OFFSET_BITS) | (offset / ALIGNMENT))
    }

    /// The same from its number.
    pub fn from_number(number: u64) -> Self {
        Self(number & ((1 << (SEGMENT_BITS + OFFSET_BITS)) - 1))
    }

    /// As one number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The number of its segment.
    pub fn segment(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    /// Where in the segment's file it begins, in octets.
    pub fn offset(self) -> u64 {
        (self.0 & ((1 << OFFSET_BITS) - 1)) * ALIGNMENT
    }
}

/// A message in the index: where it is and about how large, in 8 octets. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// A record of `size` octets at a position; the size is rounded down by at most an eighth. `transient`: it does not
    /// outlive the process.
    pub fn new(position: Position, size: u64, transient: bool) -> Self {
        Self((u64::from(transient) << 63) | (position.0 << 8) | u64::from(size_class(size / ALIGNMENT)))
    }

    /// The same from its number; none from 0.
    pub fn from_number(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// As one number, never 0 as no segment is.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Where the record begins.
    pub fn position(self) -> Position {
        Position::from_number(self.0 >> 8)
    }

    /// Whether it does not outlive the process.
    pub fn is_transient(self) -> bool {
        self.0 >> 63 == 1
    }

    /// Octets that the entry is charged with.
    pub fn size(self) -> u64 {
        class_size((self.0 & 0xff) as u8) * ALIGNMENT
    }
}

/// Three bits behind the leading one, and how far they are shifted.
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
            let entry = Entry::new(Position::new(SEGMENT_MAX, OFFSET_LIMIT - 8), size, transient);
            prop_assert_eq!(entry.is_transient(), transient);
            prop_assert_eq!(entry.position(), Position::new(SEGMENT_MAX, OFFSET_LIMIT - 8));
            let size = size / 8 * 8;
            prop_assert!(entry.size() <= size && entry.size() >= size - size / 8, "{} of {}", entry.size(), size);
        }
    }
}
