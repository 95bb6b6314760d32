//! Files that wait to become segments, by number. Knows no file.

/// Files that wait to become segments.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// Their numbers.
    pub ready: Vec<u64>,
    /// The number of the next new one.
    pub next: u64,
}

impl Spares {
    /// The number of a spare that is there, or of one to be made.
    pub fn take(&mut self) -> u64 {
        self.ready.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        })
    }
}
