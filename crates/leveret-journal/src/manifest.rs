//! The manifest: how far the journal is known to reach, in a file of its own. Thereby a last
//! segment that is missing or cut short is told from one that never existed.
//!
//! ```text
//!   two slots, at 0 and at 4096, written in turn; the whole one with the larger number counts:
//!   LEVERETM | format u32 | 0 u32 | number u64 | segment u64 | salt u64 | end u64 | crc32c u32
//! ```
//!
//! It is written and synced when a segment is begun, before anything in it is durable (`end` is 0),
//! after a recovery has synced what it read, and at a clean stop.

use std::io;
use std::sync::Arc;

use crate::damage::Damage;
use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;
use crate::layout::Synced;

/// The file's name.
pub const NAME: &str = "manifest";
const NEW_NAME: &str = "manifest.new";
const MAGIC: &[u8; 8] = b"LEVERETM";
const FORMAT: u32 = 1;
/// Octets from one slot to the next: a write to one does not touch the other.
const SLOT: u64 = 4096;
const SIZE: usize = 52;

/// The manifest of an open journal.
pub struct Manifest {
    file: Arc<dyn DiskFile>,
    /// The number in the slot written last.
    number: u64,
}

/// The contents of a manifest.
#[derive(Debug, Default)]
pub struct Stated {
    /// The place that the journal reaches at least.
    pub synced: Synced,
    /// Damage of the file itself.
    pub damage: Option<Damage>,
    /// There is a manifest.
    pub is_there: bool,
    number: u64,
}

impl Stated {
    /// Reads a directory's manifest; without one, the journal is not known to reach anywhere.
    ///
    /// # Errors
    /// A manifest of a later version, or an I/O error.
    pub fn read(disk: &dyn Disk) -> Result<Self, StoreError> {
        let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
        let mut stated = Self::default();
        if !names.iter().any(|name| name == NAME) {
            return Ok(stated);
        }
        stated.is_there = true;
        let failed = || StoreError::io(format!("cannot read {NAME}"));
        let file = disk.open(NAME).map_err(failed())?;
        let mut broken = Vec::new();
        for at in [0, SLOT] {
            let mut octets = [0; SIZE];
            file.read_at(at, &mut octets).map_err(failed())?;
            match parse(&octets) {
                Some((FORMAT, number, synced)) => {
                    if number >= stated.number {
                        (stated.number, stated.synced) = (number, synced);
                    }
                }
                Some(_) => return Err(StoreError::Newer { file: NAME.to_owned(), offset: at + 8 }),
                None => broken.push((at, octets == [0; SIZE])),
            }
        }
        // The first write leaves one slot empty.
        let is_wrong = |(_, is_empty): &&(u64, bool)| !is_empty || stated.number != 1;
        stated.damage = broken.iter().find(is_wrong).map(|(offset, _)| {
            let what = "no whole statement of how far the journal reaches";
            Damage { file: NAME.to_owned(), offset: *offset, octets: SIZE as u64, what }
        });
        Ok(stated)
    }
}

fn parse(octets: &[u8; SIZE]) -> Option<(u32, u64, Synced)> {
    let (rest, crc) = octets.split_last_chunk::<4>()?;
    if !rest.starts_with(MAGIC) || crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let number_at = |at: usize| rest.get(at..)?.first_chunk::<8>().map(|octets| u64::from_le_bytes(*octets));
    let synced = Synced { segment: number_at(24)?, salt: number_at(32)?, end: number_at(40)? };
    Some((number_at(8)? as u32, number_at(16)?, synced))
}

impl Manifest {
    /// Opens the manifest for writing, and creates it if there is none. Its name is safe when the
    /// directory is synced.
    ///
    /// # Errors
    /// An I/O error.
    pub fn open(disk: &dyn Disk, stated: &Stated) -> io::Result<Self> {
        let file = match disk.open(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(disk)?,
            other => other?,
        };
        if file.size()? != 2 * SLOT {
            file.allocate(2 * SLOT)?;
        }
        Ok(Self { file, number: stated.number })
    }

    fn create(disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        let file = match disk.create(NEW_NAME) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(NEW_NAME),
            other => other,
        }?;
        file.allocate(2 * SLOT)?;
        file.sync_data()?;
        disk.rename(NEW_NAME, NAME)?;
        Ok(file)
    }

    /// Writes and syncs how far the journal was synced.
    ///
    /// # Errors
    /// An I/O error; then the contents before count.
    pub fn state(&mut self, synced: Synced) -> io::Result<()> {
        let number = self.number + 1;
        let mut octets = Vec::with_capacity(SIZE);
        octets.extend_from_slice(MAGIC);
        octets.extend_from_slice(&FORMAT.to_le_bytes());
        octets.extend_from_slice(&[0; 4]);
        for number in [number, synced.segment, synced.salt, synced.end] {
            octets.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&octets);
        octets.extend_from_slice(&crc.to_le_bytes());
        self.file.write_at(number % 2 * SLOT, &octets)?;
        self.file.sync_data()?;
        self.number = number;
        Ok(())
    }
}
