//! Lists of pairs of numbers in the format on disk: borrowed from there, or from the caller.

/// The size of one pair, in octets.
pub const PAIR_SIZE: usize = 16;

/// A value that is written as two numbers.
pub trait Pair: Copy {
    /// Creates the value from two numbers.
    fn from_numbers(first: u64, second: u64) -> Self;
    /// Returns the two numbers.
    fn numbers(self) -> (u64, u64);
}

/// One of the queues that hold a message, and the message's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The queue's number.
    pub queue: u64,
    /// The message's number in the queue, below 2^62.
    pub seq: u64,
    /// True if the message is not recovered after a restart: the queue or the message is transient.
    pub transient: bool,
    /// True if it was delivered before this record was written.
    pub delivered: bool,
}

const TRANSIENT: u64 = 1 << 63;
const DELIVERED: u64 = 1 << 62;
/// The largest message number.
pub const SEQ_MAX: u64 = DELIVERED - 1;

impl Target {
    /// Creates the target of a durable message that was not delivered.
    pub fn new(queue: u64, seq: u64) -> Self {
        Self { queue, seq, transient: false, delivered: false }
    }
}

impl Pair for Target {
    fn from_numbers(first: u64, second: u64) -> Self {
        Self {
            queue: first,
            seq: second & SEQ_MAX,
            transient: second & TRANSIENT != 0,
            delivered: second & DELIVERED != 0,
        }
    }

    fn numbers(self) -> (u64, u64) {
        let transient = if self.transient { TRANSIENT } else { 0 };
        let delivered = if self.delivered { DELIVERED } else { 0 };
        (self.queue, (self.seq & SEQ_MAX) | transient | delivered)
    }
}

/// The messages of one queue with numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first number.
    pub first: u64,
    /// The last number; a run with `last < first` is empty.
    pub last: u64,
}

impl Pair for Run {
    fn from_numbers(first: u64, last: u64) -> Self {
        Self { first, last }
    }

    fn numbers(self) -> (u64, u64) {
        (self.first, self.last)
    }
}

/// A list, borrowed from the caller or from octets.
#[derive(Clone, Copy, Debug)]
pub enum List<'a, T> {
    /// The caller's values.
    Given(&'a [T]),
    /// Octets in the format on disk, a multiple of [`PAIR_SIZE`].
    Octets(&'a [u8]),
    /// One value of the caller's.
    One(T),
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::Given(&[])
    }
}

impl<'a, T: Pair> List<'a, T> {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Given(items) => items.len(),
            Self::Octets(octets) => octets.len() / PAIR_SIZE,
            Self::One(_) => 1,
        }
    }

    /// Returns true for the empty list.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the values in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (given, octets, one): (&'a [T], &'a [u8], _) = match *self {
            Self::Given(items) => (items, &[], None),
            Self::Octets(octets) => (&[], octets, None),
            Self::One(item) => (&[], &[], Some(item)),
        };
        let (pairs, _) = octets.as_chunks::<8>();
        let numbers = pairs.as_chunks::<2>().0.iter();
        let read = numbers.map(|[a, b]| T::from_numbers(u64::from_le_bytes(*a), u64::from_le_bytes(*b)));
        given.iter().copied().chain(read).chain(one)
    }

    /// Appends the list in the format on disk.
    pub fn write(&self, out: &mut Vec<u8>) {
        for item in self.iter() {
            let (first, second) = item.numbers();
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&second.to_le_bytes());
        }
    }
}
