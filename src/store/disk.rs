//! The seam between the store and whatever keeps its octets: a directory and its files. It knows no format.
//!
//! What holds on a real disk, and what the simulated one takes advantage of: octets written are safe after `sync_data` of
//! their file; a name created, renamed or removed is safe after `sync_directory`; neither implies the other; until then
//! each change may be kept, lost or torn, in any order.

use std::io;
use std::sync::Arc;

/// A directory of the store. Names are plain file names.
pub trait Disk: Send + Sync {
    /// Makes an empty file.
    ///
    /// # Errors
    /// If the name is taken, or the system refuses.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// If there is none of that name, or the system refuses.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files, in no order.
    ///
    /// # Errors
    /// If the system refuses.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name; a file of that name is replaced. Handles stay good.
    ///
    /// # Errors
    /// If the system refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Handles stay good.
    ///
    /// # Errors
    /// If the system refuses.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes of names so far safe.
    ///
    /// # Errors
    /// If the system refuses; then nothing is known about them.
    fn sync_directory(&self) -> io::Result<()>;

    /// Octets that may still be written before the disk is full.
    ///
    /// # Errors
    /// If the system does not tell.
    fn free_space(&self) -> io::Result<u64>;
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Reads from `offset` until `into` is full or the file ends; how many octets were read.
    ///
    /// # Errors
    /// If the system refuses.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `octets` at `offset`.
    ///
    /// # Errors
    /// If the system refuses; then any part may have been written. Writing the same again is harmless.
    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Octets in the file.
    ///
    /// # Errors
    /// If the system does not tell.
    fn size(&self) -> io::Result<u64>;

    /// Makes the file exactly `size` octets long and has the disk set room for all of them aside, so that a write inside
    /// cannot run out of space.
    ///
    /// # Errors
    /// If there is no space (`StorageFull`), or the system refuses.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Makes all octets written so far safe, and the size with them.
    ///
    /// # Errors
    /// If the system refuses. What was written may be gone then, though it can still be read: never to be tried again.
    fn sync_data(&self) -> io::Result<()>;
}
