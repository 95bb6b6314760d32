//! The traits for a directory and its files: on a real disk, or simulated.
//!
//! Guarantees of a real disk, which the simulated one exploits to the full: octets written are safe
//! after `sync_data` of their file; a name created, renamed or removed is safe after
//! `sync_directory`; neither implies the other; until then each change may be kept, lost or torn,
//! in any order. The name of a directory is a name in the one above it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories above the journal's, which are made before there is a [`Disk`].
pub trait Directories {
    /// Returns true if there is a directory at the path.
    fn is_directory(&self, path: &Path) -> bool;

    /// Creates a directory in an existing one.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken, or another I/O error.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes all changes of names in a directory so far safe.
    ///
    /// # Errors
    /// An I/O error; the names may or may not be safe then.
    fn sync_names(&self, directory: &Path) -> io::Result<()>;
}

/// Creates a directory and missing ones above it, each synced into its parent before anything is
/// created in it.
///
/// # Errors
/// An I/O error, or a name on the way that is no directory.
pub fn create_directories(directories: &dyn Directories, path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut found = path;
    while !directories.is_directory(found) {
        missing.push(found.to_owned());
        found = found.parent().ok_or(io::ErrorKind::NotFound)?;
    }
    // IMPORTANT: the process that created the deepest existing one may have been killed before its
    // name was synced; everything in it would vanish with it.
    if let Some(parent) = found.parent() {
        match directories.sync_names(parent) {
            // Not ours to open: it existed before.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    for path in missing.iter().rev() {
        match directories.create_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directories.is_directory(path) => {}
            created => created?,
        }
        if let Some(parent) = path.parent() {
            directories.sync_names(parent)?;
        }
    }
    Ok(())
}

/// A directory of files with plain names.
pub trait Disk: Send + Sync {
    /// Creates an empty file.
    ///
    /// # Errors
    /// The name is taken, or another I/O error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// There is no such file, or another I/O error.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Returns the names of all files, in no order.
    ///
    /// # Errors
    /// An I/O error.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file, replacing one with that name. Handles stay valid.
    ///
    /// # Errors
    /// An I/O error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Handles stay valid.
    ///
    /// # Errors
    /// An I/O error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes of names so far safe.
    ///
    /// # Errors
    /// An I/O error; the names may or may not be safe then.
    fn sync_directory(&self) -> io::Result<()>;

    /// Returns the octets that can be written before the disk is full.
    ///
    /// # Errors
    /// An I/O error.
    fn free_space(&self) -> io::Result<u64>;
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Reads from `offset` until `into` is full or the file ends; returns the number of octets.
    ///
    /// # Errors
    /// An I/O error.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `octets` at `offset`.
    ///
    /// # Errors
    /// An I/O error; any part may have been written then. Writing the same again is harmless.
    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Returns the file's size in octets.
    ///
    /// # Errors
    /// An I/O error.
    fn size(&self) -> io::Result<u64>;

    /// Sets the file's size and allocates space for all of it, so that a write inside cannot run
    /// out of space.
    ///
    /// # Errors
    /// `StorageFull`, or another I/O error.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Makes all octets written so far, and the size, safe.
    ///
    /// # Errors
    /// An I/O error: octets written may be lost then, though they can still be read. Must not be
    /// tried again.
    fn sync_data(&self) -> io::Result<()>;
}
