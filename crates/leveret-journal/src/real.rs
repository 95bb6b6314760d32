//! A directory of the file system as a [`Disk`], accessible to its owner only.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::disk::{Directories, Disk, DiskFile, create_directories};

/// The mode of a directory: all for its owner.
const DIRECTORY_MODE: u32 = 0o700;
/// The mode of a file: read and write for its owner.
const FILE_MODE: u32 = 0o600;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// The sticky bit: a shared directory such as `/tmp`, never a store's own.
const STICKY: u32 = 0o1000;

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
}

impl RealDisk {
    /// Opens the directory, created with its parents if missing, with access for its owner only.
    ///
    /// # Errors
    /// An I/O error.
    pub fn open(path: &Path) -> io::Result<Self> {
        create_directories(&RealDirectories, &std::path::absolute(path)?)?;
        Ok(Self { path: path.to_owned(), directory: File::open(path)? })
    }
}

/// The directories of the file system.
#[derive(Debug)]
pub struct RealDirectories;

impl Directories for RealDirectories {
    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create(path)
    }

    fn sync_names(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

/// Removes the permissions of others from a directory and the files in it; returns the names of
/// those that others could read or write. Directories inside, links, and sticky directories are
/// left alone.
///
/// # Errors
/// An I/O error; some permissions may have been changed.
pub fn restrict(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut restricted = Vec::new();
    let mut restrict = |path: PathBuf, mode: u32, allowed: u32| {
        if mode & OTHERS != 0 && mode & STICKY == 0 {
            fs::set_permissions(&path, Permissions::from_mode(mode & allowed))?;
            restricted.push(path);
        }
        io::Result::Ok(())
    };
    restrict(directory.to_owned(), fs::metadata(directory)?.permissions().mode(), DIRECTORY_MODE)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            restrict(entry.path(), entry.metadata()?.permissions().mode(), FILE_MODE)?;
        }
    }
    Ok(restricted)
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(FILE_MODE).open(self.path.join(name))?;
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
            // A file system without the call: a write may still run out of space, and is then tried
            // again.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.0.set_len(size),
            Err(error) => {
                // A partly allocated file must not look like one with all its space.
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_the_owners_and_what_others_could_read_is_taken_away() {
        let top = std::env::temp_dir().join(format!("leveret-modes-{}", std::process::id()));
        let path = top.join("data/journal");
        let disk = RealDisk::open(&path).unwrap();
        disk.create("one").unwrap();
        for (path, expected) in [(&top, 0o700), (&path, 0o700), (&path.join("one"), 0o600)] {
            assert_eq!(mode(path), expected, "{}", path.display());
        }
        assert!(restrict(&path).unwrap().is_empty());
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(path.join("one"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(restrict(&path).unwrap(), [path.clone(), path.join("one")]);
        assert_eq!((mode(&path), mode(&path.join("one"))), (0o700, 0o600));
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        assert!(restrict(&path).unwrap().is_empty(), "it is everybody's");
        fs::remove_dir_all(top).unwrap();
    }
}
