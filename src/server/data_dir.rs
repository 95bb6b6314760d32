//! The broker's directory, held by one process at a time. It knows no file in it but the lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "leveret.lock";

/// A directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The system lets go of the lock when the file is closed, whatever ends the process.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// It cannot be made or written, or another process holds it: then the text names that process.
    pub fn lock(path: &Path) -> Result<Self, String> {
        let failed =
            |what: &str, error: std::io::Error| format!("data directory {}: cannot {what}: {error}", path.display());
        fs::create_dir_all(path).map_err(|error| failed("make it", error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path.join(LOCK_FILE)).map_err(|error| failed("open its lock file", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = if known { holder.trim() } else { "unknown" };
                return Err(format!("data directory {} is used by another broker (pid {holder})", path.display()));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock it", error)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            file.flush()
        };
        write(&mut file).map_err(|error| failed("write its lock file", error))?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_held_by_one_at_a_time() {
        let path = std::env::temp_dir().join(format!("leveret-lock-{}", std::process::id()));
        let held = DataDir::lock(&path).unwrap();
        let refused = DataDir::lock(&path).unwrap_err();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(held);
        drop(DataDir::lock(&path).unwrap());
        fs::remove_dir_all(&path).unwrap();
    }
}
