//! The data directory, locked by one process at a time.
//!
//! The directory itself is locked, so that a missing lock file lets nobody in. The lock file names
//! the holder, and is locked as well: earlier versions lock nothing else.

use leveret_journal::disk::create_directories;
use leveret_journal::real::RealDirectories;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "leveret.lock";

/// A data directory that this process has locked until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The system releases the locks when the files are closed, however the process ends.
    _locks: [File; 2],
}

/// The reason why a data directory cannot be locked.
#[derive(Debug)]
pub enum DataDirError {
    /// Another process has locked it.
    Held {
        /// The directory.
        path: PathBuf,
        /// The holder's process id, if it is known.
        pid: Option<u32>,
    },
    /// An operation failed.
    Io {
        /// The directory.
        path: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path, pid: Some(pid) } => {
                write!(
                    f,
                    "data directory {} is used by another broker (pid {pid}): stop it, or change `data_dir`",
                    path.display()
                )
            }
            Self::Held { path, pid: None } => {
                write!(
                    f,
                    "data directory {} is used by another broker (its pid is unknown): stop it, or change `data_dir`",
                    path.display()
                )
            }
            Self::Io { path, what, error } => {
                write!(f, "data directory {}: cannot {what}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for DataDirError {}

impl DataDir {
    /// Creates the directory if it does not exist, and locks it.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let failed = |what| move |error| DataDirError::Io { path: path.to_owned(), what, error };
        let absolute = std::path::absolute(path).map_err(failed("find it"))?;
        create_directories(&RealDirectories, &absolute).map_err(failed("make it"))?;
        let directory = File::open(&absolute).map_err(failed("open it"))?;
        let is_held = match directory.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            // Some network file systems lock files only.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the data directory's file system does not lock directories");
                false
            }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(!is_held).truncate(false).mode(0o600);
        let file = options.open(absolute.join(LOCK_FILE));
        if is_held {
            return Err(DataDirError::Held { path: path.to_owned(), pid: file.ok().and_then(holder) });
        }
        let mut file = file.map_err(failed("open its lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Held { path: path.to_owned(), pid: holder(file) });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock it")(error)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            file.flush()
        };
        write(&mut file).map_err(failed("write its lock file"))?;
        Ok(Self { path: path.to_owned(), _locks: [directory, file] })
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the process id in a lock file.
fn holder(mut file: File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn is_held_by_one_at_a_time() {
        let path = std::env::temp_dir().join(format!("leveret-lock-{}", std::process::id()));
        let held = DataDir::lock(&path).unwrap();
        let refused = DataDir::lock(&path).unwrap_err();
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
        fs::remove_file(path.join(LOCK_FILE)).unwrap();
        let refused = DataDir::lock(&path).unwrap_err();
        assert!(
            matches!(refused, DataDirError::Held { pid: None, .. }),
            "without its file it is held all the same: {refused}"
        );
        assert!(!path.join(LOCK_FILE).exists(), "who is refused changes nothing");
        drop(held);
        drop(DataDir::lock(&path).unwrap());
        // A program of an earlier version locks the file only.
        let earlier = File::open(path.join(LOCK_FILE)).unwrap();
        earlier.try_lock().unwrap();
        assert!(DataDir::lock(&path).is_err());
        fs::remove_dir_all(&path).unwrap();
    }
}
