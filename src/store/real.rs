//! A directory of the file system as a [`Disk`]. It knows no format, and nothing of who holds the directory's lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::store::disk::{Disk, DiskFile};

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
}

impl RealDisk {
    /// Opens the directory, made with its parents where it is not there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            // IMPORTANT: a directory whose own name is not synced can vanish with all that is in it.
            let absolute = fs::canonicalize(path)?;
            for parent in absolute.ancestors().skip(1) {
                if File::open(parent).and_then(|parent| parent.sync_all()).is_err() {
                    // Not ours to open: it was there before us.
                    break;
                }
            }
        }
        Ok(Self { path: path.to_owned(), directory: File::open(path)? })
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_space(&self) -> io::Result<u64> {
        let space = statvfs(&self.path)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(octets) => done += octets,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.0.write_all_at(octets, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, size) {
            // A file system without the call: then a write may still run out of space, and is tried again.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.0.set_len(size),
            Err(error) => {
                // Half of it may be there; it must not look like a file with all its room.
                self.0.set_len(0)?;
                Err(error.into())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_what_is_written_under_their_names() {
        let path = std::env::temp_dir().join(format!("leveret-disk-{}", std::process::id()));
        let disk = RealDisk::open(&path).unwrap();
        let file = disk.create("one").unwrap();
        file.allocate(4096).unwrap();
        file.write_at(1000, b"hello").unwrap();
        file.sync_data().unwrap();
        disk.rename("one", "two").unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(disk.list().unwrap(), ["two"]);
        assert!(disk.create("two").is_err());
        let file = disk.open("two").unwrap();
        let mut octets = [0; 8];
        assert_eq!(file.read_at(1000, &mut octets).unwrap(), 8);
        assert_eq!(&octets, b"hello\0\0\0");
        assert_eq!(file.read_at(4092, &mut octets).unwrap(), 4);
        assert_eq!(file.size().unwrap(), 4096);
        assert!(disk.free_space().unwrap() > 0);
        disk.remove("two").unwrap();
        fs::remove_dir_all(path).unwrap();
    }
}
