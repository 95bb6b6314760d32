//! The checkpoint of a clean stop, which spares the next start reading the journal. It counts only
//! if it is whole and the journal ends where it says; any whole one tells what was synced.
//!
//! ```text
//!   LEVERETC | format u32 | 0 u32
//!   last segment u64 | its salt u64 | its end u64 | oldest segment u64
//!   segments from the oldest to the last:  salt u64 | capacity u64 | format u64 (from 2) ..
//!   queues u64:       number u64 | next seq u64 | delivered u64
//!                     | runs u64:  first seq u64 | length u64 | entries u64 ..
//!                     | expiries u64 (from format 2):  first seq of a chunk u64 | earliest u64 ..
//!   definitions u64:  key length u32 | value length u32 | entry u64 | key | value
//!   crc32c of all before, u32
//! ```

use std::io;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::journal::Journal;
use crate::layout::Synced;
use crate::live::{Live, LiveQueue};
use crate::position::IndexEntry;
use crate::replay::Replay;
use crate::segment::Header;

/// The file's name.
pub const NAME: &str = "checkpoint";
const NEW_NAME: &str = "checkpoint.new";
const MAGIC: &[u8; 8] = b"LEVERETC";
const FORMAT: u32 = 2;
/// The format without segments and expiries.
const FORMAT_BEFORE: u32 = 1;
const HEAD: usize = 16;

/// A checkpoint read from its file.
pub struct Checkpoint {
    /// The place up to which the journal was synced.
    pub synced: Synced,
    /// The headers of the needed segments, in order; none in format 1.
    pub headers: Vec<Header>,
    /// The live set and the definitions.
    pub replay: Replay,
}

impl Checkpoint {
    /// Returns true if the directory has a checkpoint, whole or not.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn is_there(disk: &dyn Disk) -> Result<bool, StoreError> {
        let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
        Ok(names.iter().any(|name| name == NAME))
    }

    /// Reads the checkpoint, if there is a whole one.
    ///
    /// # Errors
    /// An I/O error.
    pub fn read(disk: &dyn Disk) -> Result<Option<Self>, StoreError> {
        if !Self::is_there(disk)? {
            return Ok(None);
        }
        let octets = read_all(disk).map_err(StoreError::io(format!("cannot read {NAME}")))?;
        Ok(Self::parse(&octets))
    }

    fn parse(octets: &[u8]) -> Option<Self> {
        let (rest, crc) = octets.split_last_chunk::<4>()?;
        let mut fields = Fields(rest.get(HEAD..)?);
        let format = u32::from_le_bytes(*rest.get(8..)?.first_chunk()?);
        if !rest.starts_with(MAGIC)
            || !(1..=FORMAT).contains(&format)
            || crc32c::crc32c(rest) != u32::from_le_bytes(*crc)
        {
            return None;
        }
        let has_expiries = format > FORMAT_BEFORE;
        let synced = Synced { segment: fields.number()?, salt: fields.number()?, end: fields.number()? };
        let oldest = fields.number()?;
        let mut headers = Vec::new();
        if format > FORMAT_BEFORE {
            for number in oldest..=synced.segment {
                let (salt, capacity) = (fields.number()?, fields.number()?);
                headers.push(Header { number, salt, capacity, format: u32::try_from(fields.number()?).ok()? });
            }
        }
        let mut replay = Replay { live: Live::new(oldest), ..Replay::default() };
        for _ in 0..fields.number()? {
            let (queue, next_seq, delivered_upto) = (fields.number()?, fields.number()?, fields.number()?);
            let mut words = Vec::new();
            for _ in 0..fields.number()? {
                let (first, length) = (fields.number()?, fields.number()?);
                for seq in first..first.checked_add(length)? {
                    words.push((seq, fields.number()?));
                }
            }
            let mut expiries = Vec::new();
            for _ in 0..if has_expiries { fields.number()? } else { 0 } {
                expiries.push((fields.number()?, fields.number()?));
            }
            replay.live.restore_queue(queue, (next_seq, delivered_upto), &words, &expiries);
        }
        for _ in 0..fields.number()? {
            let (key, value) = (fields.length()?, fields.length()?);
            let entry = IndexEntry::from_number(fields.number()?)?;
            let (key, value) = (fields.octets(key)?, fields.octets(value)?);
            replay.live.restore_definition(key, entry);
            replay.values.insert(key.into(), value.into());
        }
        fields.0.is_empty().then_some(Self { synced, headers, replay })
    }
}

fn read_all(disk: &dyn Disk) -> io::Result<Vec<u8>> {
    let file = disk.open(NAME)?;
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut octets = vec![0; size];
    let length = file.read_at(0, &mut octets)?;
    octets.truncate(length);
    Ok(octets)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn length(&mut self) -> Option<usize> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number) as usize)
    }

    fn octets(&mut self, length: usize) -> Option<&'a [u8]> {
        let (octets, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(octets)
    }
}

impl Journal {
    /// Writes a checkpoint of a journal that is synced and gets no more changes.
    ///
    /// # Errors
    /// An I/O error, or a definition cannot be read back. Then there is no checkpoint, which does
    /// no harm.
    pub fn write_checkpoint(&self) -> Result<(), StoreError> {
        let Some(octets) = self.checkpoint()? else { return Ok(()) };
        let stated = {
            let appender = self.hold_appender();
            let salt = self.segments.read().get(&appender.segment()).map(|segment| segment.header.salt);
            salt.map(|salt| Synced { segment: appender.segment(), salt, end: appender.end() })
        };
        let state = || stated.map_or(Ok(()), |synced| self.manifest.lock().state(synced));
        state().map_err(StoreError::io("cannot write the manifest"))?;
        let write = || {
            let file = match self.disk.create(NEW_NAME) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(NEW_NAME),
                other => other,
            }?;
            file.allocate(octets.len() as u64)?;
            file.write_at(0, &octets)?;
            file.sync_data()?;
            self.disk.rename(NEW_NAME, NAME)?;
            self.disk.sync_directory()
        };
        write().map_err(StoreError::io(format!("cannot write {NAME}")))
    }

    fn checkpoint(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let mut definitions: Vec<(Box<[u8]>, IndexEntry)> = Vec::new();
        {
            let appender = self.hold_appender();
            let last = self.segments.read().get(&appender.segment()).map(|segment| segment.header.salt);
            // Recovery trusts it: nothing that waits for space or for a sync may be in it.
            let is_synced = appender.batch.is_empty() && self.synced() >= appender.last();
            let Some(salt) = last.filter(|_| is_synced) else { return Ok(None) };
            for number in [appender.segment(), salt, appender.end(), appender.live.oldest()] {
                put(&mut out, number);
            }
            for number in appender.live.oldest()..=appender.segment() {
                let header = self.segments.read().get(&number).map(|segment| segment.header);
                let Some(header) = header else { return Ok(None) };
                for number in [header.salt, header.capacity, u64::from(header.format)] {
                    put(&mut out, number);
                }
            }
            let queues = appender.live.queues();
            put(&mut out, queues.len() as u64);
            for (number, queue) in queues {
                put_queue(&mut out, number, queue);
            }
            definitions.extend(appender.live.definitions().map(|(key, entry)| (key.into(), entry)));
        }
        put(&mut out, definitions.len() as u64);
        for (key, entry) in definitions {
            let Some(value) = self.read_definition(&key)? else { return Ok(None) };
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            put(&mut out, entry.number());
            out.extend_from_slice(&key);
            out.extend_from_slice(&value);
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(Some(out))
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_queue(out: &mut Vec<u8>, number: u64, queue: &LiveQueue) {
    for number in [number, queue.next_seq, queue.delivered_upto] {
        put(out, number);
    }
    // Transient messages do not keep a checkpoint from being written.
    let lasting = || {
        let entries = queue.messages.iter_from(0);
        entries.filter(|(_, entry)| !entry.is_transient())
    };
    let mut lengths: Vec<u64> = Vec::new();
    let mut last = None;
    for (seq, _) in lasting() {
        match lengths.last_mut() {
            Some(length) if last.is_some_and(|last: u64| last + 1 == seq) => *length += 1,
            _ => lengths.push(1),
        }
        last = Some(seq);
    }
    put(out, lengths.len() as u64);
    let mut entries = lasting();
    for length in lengths {
        for at in 0..length {
            let Some((seq, entry)) = entries.next() else { return };
            if at == 0 {
                put(out, seq);
                put(out, length);
            }
            put(out, entry.number());
        }
    }
    let expiries: Vec<(u64, u64)> = queue.messages.expiries().collect();
    put(out, expiries.len() as u64);
    for (seq, earliest) in expiries {
        put(out, seq);
        put(out, earliest);
    }
}
