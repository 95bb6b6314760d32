//! A disk in memory that exploits every freedom of a real one: it keeps unsynced changes apart, can
//! stop at any call, fail any call and run out of space. For tests and fuzzing; names no format.
//!
//! ```text
//!   a file:      synced octets + changes since = what is read
//!   a directory: synced names + changes since = what is listed
//!   power loss: each change is kept, lost, or torn at an octet or between sectors; changes of
//!               names are undone one by one, and a directory whose name is lost takes its files
//!               with it
//!   kill:       the process is gone, the system keeps every change, still unsynced
//!   a failed sync_data: some changes are lost for good and can still be read; no later sync helps
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Directories, Disk, DiskFile};
use crate::random::Random;

/// Octets that a disk writes at once, all or none.
const SECTOR: u64 = 512;
/// The directory of the files.
pub const DIRECTORY: &str = "/data/journal";

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<DiskState>>);

struct DiskState {
    random: Random,
    calls: u64,
    stop_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    next_sync_fails: bool,
    stopped: bool,
    /// The number of the current process; handles of earlier ones are invalid.
    life: u64,
    capacity: u64,
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
    /// Directories whose names are synced.
    synced_directories: BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
struct File {
    synced: Vec<u8>,
    changes: Vec<UnsyncedChange>,
    current: Vec<u8>,
}

#[derive(Clone)]
enum UnsyncedChange {
    Write(u64, Vec<u8>),
    Size(u64),
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

/// The way in which the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Power loss: all unsynced changes are at risk.
    PowerLoss,
    /// Only the process ends; the system keeps all changes.
    Kill,
}

impl SimulatedDisk {
    /// Creates an empty disk for `capacity` octets, with the store's directory, already synced.
    pub fn new(seed: u64, capacity: u64) -> Self {
        let disk = Self::without_directory(seed, capacity);
        let directories: BTreeSet<PathBuf> = Path::new(DIRECTORY).ancestors().map(Path::to_owned).collect();
        disk.0.lock().directories.clone_from(&directories);
        disk.0.lock().synced_directories = directories;
        disk
    }

    /// Creates an empty disk for `capacity` octets, with no directory but the root.
    pub fn without_directory(seed: u64, capacity: u64) -> Self {
        let root = BTreeSet::from([PathBuf::from("/")]);
        Self(Arc::new(Mutex::new(DiskState {
            random: Random::new(seed),
            calls: 0,
            stop_at: None,
            fail_at: None,
            next_sync_fails: false,
            stopped: false,
            life: 0,
            capacity,
            files: BTreeMap::new(),
            next_file: 1,
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            name_changes: Vec::new(),
            directories: root.clone(),
            synced_directories: root,
        })))
    }

    /// Returns the number of calls made so far, since the disk was created.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Makes all calls from number `call` (the first is 1) on fail.
    pub fn stop_at(&self, call: u64) {
        self.0.lock().stop_at = Some(call);
    }

    /// Makes call number `call` fail, once.
    pub fn fail_at(&self, call: u64, kind: io::ErrorKind) {
        self.0.lock().fail_at = Some((call, kind));
    }

    /// Makes the next sync of a file fail.
    pub fn fail_next_sync(&self) {
        self.0.lock().next_sync_fails = true;
    }

    /// Returns true if the disk has stopped, as [`SimulatedDisk::stop_at`] asked.
    pub fn is_stopped(&self) -> bool {
        self.0.lock().stopped
    }

    /// Sets the capacity, in octets.
    pub fn set_capacity(&self, octets: u64) {
        self.0.lock().capacity = octets;
    }

    /// Returns the octets of all files that have a name.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Ends the process, whose handles become invalid, and starts a new one.
    pub fn restart(&self, crash: Crash) {
        let mut state = self.0.lock();
        state.life += 1;
        state.stopped = false;
        state.stop_at = None;
        state.fail_at = None;
        state.next_sync_fails = false;
        if crash == Crash::PowerLoss {
            state.lose_power();
        }
        let kept: Vec<u64> = state.names.values().chain(state.synced_names.values()).copied().collect();
        state.files.retain(|file, _| kept.contains(file));
    }

    /// Returns the octets of a file without a call; for tests that damage it.
    pub fn octets(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.lock();
        state.files.get(state.names.get(name)?).map(|file| file.current.clone())
    }

    /// Replaces the octets of a file, synced, without a call.
    pub fn put(&self, name: &str, octets: &[u8]) {
        let mut state = self.0.lock();
        let file = match state.names.get(name) {
            Some(&file) => file,
            None => state.new_file(),
        };
        state.files.insert(file, File { synced: octets.to_vec(), changes: Vec::new(), current: octets.to_vec() });
        state.names.insert(name.to_owned(), file);
        state.synced_names.insert(name.to_owned(), file);
    }
}

impl DiskState {
    /// Counts a call; returns an error if it is to fail.
    fn call(&mut self) -> io::Result<()> {
        if self.stopped {
            return Err(io::Error::other("the disk has stopped"));
        }
        self.calls += 1;
        if self.stop_at.is_some_and(|at| self.calls >= at) {
            self.stopped = true;
            return Err(io::Error::other("the disk stops"));
        }
        if let Some((_, kind)) = self.fail_at.take_if(|(at, _)| *at == self.calls) {
            return Err(io::Error::new(kind, "a call that was made to fail"));
        }
        Ok(())
    }

    fn has_directory(&self) -> bool {
        self.directories.contains(Path::new(DIRECTORY))
    }

    /// Counts a call about names; it also fails where there is no directory.
    fn call_in_directory(&mut self) -> io::Result<()> {
        self.call()?;
        if self.has_directory() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|file| file.current.len() as u64).sum()
    }

    /// Checks that a file, taken out of `files`, may grow to `size`.
    fn room_for(&self, file: &File, size: u64) -> io::Result<()> {
        let now = file.current.len() as u64;
        if size > now && self.used().saturating_add(size) > self.capacity {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn new_file(&mut self) -> u64 {
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File::default());
        file
    }

    fn lose_power(&mut self) {
        let (mut random, mut files) = (self.random.clone(), std::mem::take(&mut self.files));
        for file in files.values_mut() {
            file.lose_power(&mut random);
        }
        let style = random.below(4);
        let kept = random.below(self.name_changes.len() as u64 + 1) as usize;
        for (at, change) in std::mem::take(&mut self.name_changes).into_iter().enumerate() {
            let stays = match style {
                0 => true,
                1 => false,
                2 => at < kept,
                _ => random.one_in(2),
            };
            if stays {
                apply_name(&mut self.synced_names, change);
            }
        }
        for path in std::mem::take(&mut self.directories) {
            // Parents come first.
            let is_reached = path.parent().is_none_or(|parent| self.directories.contains(parent));
            let stays = self.synced_directories.contains(&path) || random.one_in(2);
            if is_reached && stays {
                self.directories.insert(path);
            }
        }
        self.synced_directories.clone_from(&self.directories);
        if !self.has_directory() {
            self.synced_names.clear();
        }
        self.names = self.synced_names.clone();
        self.random = random;
        self.files = files;
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: NameChange) {
    match change {
        NameChange::Create(name, file) => {
            names.insert(name, file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
    }
}

fn apply(octets: &mut Vec<u8>, change: &UnsyncedChange) {
    match change {
        UnsyncedChange::Write(offset, new) => {
            let (start, end) = (*offset as usize, *offset as usize + new.len());
            if octets.len() < end {
                octets.resize(end, 0);
            }
            if let Some(place) = octets.get_mut(start..end) {
                place.copy_from_slice(new);
            }
        }
        UnsyncedChange::Size(size) => octets.resize(*size as usize, 0),
    }
}

impl File {
    fn lose_power(&mut self, random: &mut Random) {
        let style = random.below(4);
        let kept = random.below(self.changes.len() as u64 + 1) as usize;
        for (at, change) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            match style {
                0 => apply(&mut self.synced, &change),
                1 => {}
                2 if at < kept => apply(&mut self.synced, &change),
                2 if at == kept => tear(&mut self.synced, &change, random),
                2 => {}
                _ => scatter(&mut self.synced, &change, random),
            }
        }
        self.current = self.synced.clone();
    }

    /// Gives up unsynced changes after a failed sync: they can still be read, and no later sync
    /// writes them.
    fn give_up(&mut self, random: &mut Random) {
        let current = self.current.clone();
        self.lose_power(random);
        self.current = current;
    }

    fn change(&mut self, change: UnsyncedChange) {
        apply(&mut self.current, &change);
        self.changes.push(change);
    }
}

/// Keeps the first octets of a write.
fn tear(octets: &mut Vec<u8>, change: &UnsyncedChange, random: &mut Random) {
    if let UnsyncedChange::Write(offset, new) = change {
        let length = random.below(new.len() as u64 + 1) as usize;
        apply(octets, &UnsyncedChange::Write(*offset, new.iter().take(length).copied().collect()));
    }
}

/// Keeps some sectors of a write.
fn scatter(octets: &mut Vec<u8>, change: &UnsyncedChange, random: &mut Random) {
    let UnsyncedChange::Write(offset, new) = change else {
        return if random.one_in(2) {
            apply(octets, change)
        };
    };
    let (mut at, mut rest) = (*offset, new.as_slice());
    while !rest.is_empty() {
        let length = ((SECTOR - at % SECTOR) as usize).min(rest.len());
        let (sector, behind) = rest.split_at(length);
        if random.one_in(2) {
            apply(octets, &UnsyncedChange::Write(at, sector.to_vec()));
        }
        (at, rest) = (at + length as u64, behind);
    }
}

impl Directories for SimulatedDisk {
    fn is_directory(&self, path: &Path) -> bool {
        self.0.lock().directories.contains(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        if !path.parent().is_some_and(|parent| state.directories.contains(parent)) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        if !state.directories.insert(path.to_owned()) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        Ok(())
    }

    fn sync_names(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let made = |path: &&PathBuf| path.parent() == Some(directory);
        let synced: Vec<PathBuf> = state.directories.iter().filter(made).cloned().collect();
        state.synced_directories.extend(synced);
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        if state.names.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let file = state.new_file();
        state.names.insert(name.to_owned(), file);
        state.name_changes.push(NameChange::Create(name.to_owned(), file));
        Ok(Arc::new(Handle { state: Arc::clone(&self.0), file, life: state.life }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle { state: Arc::clone(&self.0), file, life: state.life }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.name_changes.push(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.name_changes.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        state.name_changes.clear();
        state.synced_names = state.names.clone();
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        let mut state = self.0.lock();
        state.call_in_directory()?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

struct Handle {
    state: Arc<Mutex<DiskState>>,
    file: u64,
    life: u64,
}

impl Handle {
    /// Runs `act` on the file as a counted call; if the call is to fail, runs `failing` instead.
    fn call<T>(
        &self,
        act: impl FnOnce(&mut DiskState, &mut File) -> io::Result<T>,
        failing: impl FnOnce(&mut File, &mut Random),
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("a handle of a process that is gone"));
        }
        let was_stopped = state.stopped;
        let call = state.call();
        let mut file = state.files.get_mut(&self.file).map(std::mem::take).unwrap_or_default();
        let result = match call {
            Ok(()) => act(&mut state, &mut file),
            Err(error) => {
                if !was_stopped {
                    failing(&mut file, &mut state.random);
                }
                Err(error)
            }
        };
        state.files.insert(self.file, file);
        result
    }
}

impl DiskFile for Handle {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let read = |_: &mut DiskState, file: &mut File| {
            let there = file.current.get(offset as usize..).unwrap_or_default();
            let length = there.len().min(into.len());
            if let (Some(into), Some(there)) = (into.get_mut(..length), there.get(..length)) {
                into.copy_from_slice(there);
            }
            Ok(length)
        };
        self.call(read, |_, _| {})
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let write = |state: &mut DiskState, file: &mut File| {
            state.room_for(file, offset + octets.len() as u64)?;
            file.change(UnsyncedChange::Write(offset, octets.to_vec()));
            Ok(())
        };
        self.call(write, |file, random| {
            let length = random.below(octets.len() as u64 + 1) as usize;
            file.change(UnsyncedChange::Write(offset, octets.iter().take(length).copied().collect()));
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.call(|_, file| Ok(file.current.len() as u64), |_, _| {})
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let allocate = |state: &mut DiskState, file: &mut File| {
            state.room_for(file, size)?;
            file.change(UnsyncedChange::Size(size));
            Ok(())
        };
        self.call(allocate, |_, _| {})
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = |state: &mut DiskState, file: &mut File| {
            if std::mem::take(&mut state.next_sync_fails) {
                file.give_up(&mut state.random);
                return Err(io::Error::other("a sync that was made to fail"));
            }
            for change in std::mem::take(&mut file.changes) {
                apply(&mut file.synced, &change);
            }
            Ok(())
        };
        self.call(sync, File::give_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_synced_is_at_risk_and_what_is_synced_is_not() {
        let (mut kept, mut lost, mut torn, mut unnamed) = (0, 0, 0, 0);
        for seed in 0..200 {
            let disk = SimulatedDisk::new(seed, 1 << 20);
            let file = disk.create("a").unwrap();
            file.write_at(0, &[1; 1000]).unwrap();
            file.sync_data().unwrap();
            disk.sync_directory().unwrap();
            file.write_at(0, &[2; 1000]).unwrap();
            disk.create("b").unwrap();
            disk.restart(Crash::PowerLoss);
            assert!(file.size().is_err(), "a handle of the life before");
            let octets = disk.octets("a").unwrap();
            match octets.iter().filter(|octet| **octet == 2).count() {
                0 => lost += 1,
                1000 => kept += 1,
                _ => torn += 1,
            }
            unnamed += usize::from(disk.octets("b").is_none());
        }
        assert!(kept > 20 && lost > 20 && torn > 20 && unnamed > 20, "{kept} {lost} {torn} {unnamed}");
    }

    #[test]
    fn a_directory_whose_name_is_lost_takes_with_it_what_is_in_it() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..200 {
            let disk = SimulatedDisk::without_directory(seed, 1 << 20);
            assert!(disk.create("a").is_err());
            disk.create_directory(Path::new("/data")).unwrap();
            if seed % 2 == 0 {
                disk.sync_names(Path::new("/")).unwrap();
            }
            disk.create_directory(Path::new(DIRECTORY)).unwrap();
            disk.create("a").unwrap().sync_data().unwrap();
            disk.sync_directory().unwrap();
            disk.restart(Crash::PowerLoss);
            assert!(seed % 2 != 0 || disk.is_directory(Path::new("/data")));
            let is_there = disk.octets("a").is_some();
            assert_eq!(is_there, disk.is_directory(Path::new(DIRECTORY)));
            if is_there { kept += 1 } else { lost += 1 }
        }
        assert!(lost > 50 && kept > 20, "{lost} {kept}");
    }

    #[test]
    fn a_kill_loses_nothing_but_leaves_it_unsynced() {
        let disk = SimulatedDisk::new(2, 1 << 20);
        disk.create("a").unwrap().write_at(0, b"x").unwrap();
        disk.restart(Crash::Kill);
        assert_eq!(disk.octets("a").unwrap(), b"x");
        disk.open("a").unwrap().sync_data().unwrap();
        disk.sync_directory().unwrap();
        disk.restart(Crash::PowerLoss);
        assert_eq!(disk.octets("a").unwrap(), b"x");
    }

    #[test]
    fn calls_fail_and_stop_as_told() {
        let disk = SimulatedDisk::new(3, 100);
        disk.fail_at(2, io::ErrorKind::Other);
        disk.stop_at(4);
        let file = disk.create("a").unwrap();
        assert!(file.sync_data().is_err());
        assert_eq!(file.allocate(101).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!disk.is_stopped());
        assert!(disk.list().is_err() && disk.is_stopped() && disk.list().is_err());
    }
}
