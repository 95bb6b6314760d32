//! The reasons why a store cannot be opened, or has failed.

use std::{fmt, io};

use rustix::io::Errno;

/// The reason why a store cannot be opened.
#[derive(Debug)]
pub enum StoreError {
    /// An I/O error.
    Io {
        /// The operation that failed, with the file's name.
        what: String,
        /// The disk's error.
        error: io::Error,
    },
    /// There is no room for a new journal.
    DiskTooSmall {
        /// The free octets of the disk.
        free: u64,
        /// The octets that are needed.
        needed: u64,
    },
    /// Octets that had been synced are damaged.
    Corrupt {
        /// The file's name in the directory.
        file: String,
        /// The offset in octets.
        offset: u64,
        /// A description of the damage.
        what: &'static str,
    },
    /// A file that is needed does not exist.
    Missing {
        /// The file's name in the directory.
        file: String,
    },
    /// A file in a format of a later version.
    Newer {
        /// The file's name in the directory.
        file: String,
        /// The offset in octets.
        offset: u64,
    },
    /// A file with a feature that this version reserves and does not implement.
    Reserved {
        /// The file's name in the directory.
        file: String,
        /// The offset in octets.
        offset: u64,
        /// The feature's name.
        what: &'static str,
    },
}

impl StoreError {
    /// Returns a function that makes an error of an I/O error; `what` is the operation.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, error } => write!(f, "{what}: {error}"),
            Self::DiskTooSmall { free, needed } => {
                write!(f, "the disk has {free} octets free, and a new store needs at least {needed}")
            }
            Self::Corrupt { file, offset, what } => write!(f, "{file} is damaged at octet {offset}: {what}"),
            Self::Missing { file } => write!(f, "{file} is missing"),
            Self::Newer { file, offset } => {
                write!(f, "{file} was written by a later version of Leveret (octet {offset}): start that version")
            }
            Self::Reserved { file, offset, what } => {
                write!(f, "{file} holds {what} at octet {offset}: this version of Leveret has no replicated queues")
            }
        }
    }
}

impl std::error::Error for StoreError {}

/// The reason why nothing becomes durable any more. Final: the process has to end and recover at
/// the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The operation that failed, and the disk's error.
    pub reason: String,
}

impl Failure {
    /// Returns a function that makes a failure of an error; `what` is the operation.
    pub(crate) fn of<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self { reason: format!("{what}: {error}") }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}

/// The reason why a batch was not written.
pub(super) enum WriteError {
    /// Something outside the store ran out: space on the disk, descriptors, memory. To be tried
    /// again.
    Shortage(String),
    /// A failure that must not be tried again.
    Failed(Failure),
}

/// Classifies an error of a write, or of opening a file for writing.
pub(super) fn write_error(error: io::Error, what: &str) -> WriteError {
    let reason = format!("{what}: {error}");
    if is_shortage(&error) { WriteError::Shortage(reason) } else { WriteError::Failed(Failure { reason }) }
}

/// Returns true if the error is a shortage that may end by itself: space, descriptors, memory.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let errno = Errno::from_io_error(error);
    is_full || matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC | Errno::DQUOT))
}
