//! Lists of pairs of numbers as they stand on disk: read in place, or given by the caller. Knows no record.

/// Octets of one pair.
pub const PAIR_SIZE: usize = 16;

/// What is written as two numbers.
pub trait Pair: Copy {
    /// From the two numbers.
    fn from_numbers(first: u64, second: u64) -> Self;
    /// To the two numbers.
    fn numbers(self) -> (u64, u64);
}

/// One queue that holds a message, and the message's place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The queue's number.
    pub queue: u64,
    /// The message's number in the queue, below 2^62.
    pub seq: u64,
    /// It does not outlive the process: the queue or the message is not durable.
    pub transient: bool,
    /// It had been handed out before this record was written.
    pub handed_out: bool,
}

const TRANSIENT: u64 = 1 << 63;
const HANDED_OUT: u64 = 1 << 62;
/// The largest number a message can have in its queue.
pub const SEQ_MAX: u64 = HANDED_OUT - 1;

impl Target {
    /// A place that lasts, of a message not handed out yet.
    pub fn new(queue: u64, seq: u64) -> Self {
        Self { queue, seq, transient: false, handed_out: false }
    }
}

impl Pair for Target {
    fn from_numbers(first: u64, second: u64) -> Self {
        Self {
            queue: first,
            seq: second & SEQ_MAX,
            transient: second & TRANSIENT != 0,
            handed_out: second & HANDED_OUT != 0,
        }
    }

    fn numbers(self) -> (u64, u64) {
        let transient = if self.transient { TRANSIENT } else { 0 };
        let handed_out = if self.handed_out { HANDED_OUT } else { 0 };
        (self.queue, (self.seq & SEQ_MAX) | transient | handed_out)
    }
}

/// Messages of one queue with numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// The last; a run with `last < first` is empty.
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
    /// Given by the caller.
    Given(&'a [T]),
    /// As it stands on disk, a multiple of [`PAIR_SIZE`] octets.
    Octets(&'a [u8]),
}

impl<'a, T: Pair> List<'a, T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Given(items) => items.len(),
            Self::Octets(octets) => octets.len() / PAIR_SIZE,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (given, octets): (&'a [T], &'a [u8]) = match *self {
            Self::Given(items) => (items, &[]),
            Self::Octets(octets) => (&[], octets),
        };
        let (pairs, _) = octets.as_chunks::<8>();
        let numbers = pairs.as_chunks::<2>().0.iter();
        let read = numbers.map(|[a, b]| T::from_numbers(u64::from_le_bytes(*a), u64::from_le_bytes(*b)));
        given.iter().copied().chain(read)
    }

    /// Appends the list as it stands on disk.
    pub fn write(&self, out: &mut Vec<u8>) {
        for item in self.iter() {
            let (first, second) = item.numbers();
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&second.to_le_bytes());
        }
    }
}
