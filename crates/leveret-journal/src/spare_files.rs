//! Spares: files, by number, that will be used for new segments.

/// The spare files.
#[derive(Debug, Default)]
pub(crate) struct SpareFiles {
    /// The numbers of existing ones.
    pub ready: Vec<u64>,
    /// The number for a new one.
    pub next: u64,
}

impl SpareFiles {
    /// Takes the number of an existing spare, or of one to be created.
    pub fn take(&mut self) -> u64 {
        self.ready.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        })
    }
}
