//! The index of a change: returned by appending, and compared with
//! [`Journal::durable`](crate::journal::Journal::durable).

/// The number of a change, counted from the opening of the journal: the first change appended
/// afterwards has number 1.
///
/// A change is durable when [`Journal::durable`](crate::journal::Journal::durable) is not smaller.
/// An index says nothing about the place on the disk, and is valid in one process only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(u64);

impl Index {
    /// The index before the first change: always durable.
    pub const ZERO: Self = Self(0);
    /// An index behind every change: never durable.
    pub const NEVER: Self = Self(u64::MAX);

    /// Returns the index with that number.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the index of the next change.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
