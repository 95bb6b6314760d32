//! What a clean stop leaves so that the next start need not read the journal. It saves time and nothing else: a checkpoint that
//! is damaged, or names another end of the journal than there is, counts for nothing. Knows no queue but by its number.
//!
//! ```text
//!   LEVERETC | format u32 | 0 u32
//!   last segment u64 | its salt u64 | its end u64 | oldest segment u64
//!   queues u64:       number u64 | next seq u64 | handed out u64 | runs u64:  first seq u64 | length u64 | entries u64 ..
//!   definitions u64:  key length u32 | value length u32 | entry u64 | key | value
//!   crc32c of all before, u32
//! ```

use std::io;

use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::store::journal::Journal;
use crate::store::layout::Layout;
use crate::store::live::{Live, Queue};
use crate::store::position::Entry;
use crate::store::replay::Replay;

/// The name of the file.
pub const NAME: &str = "checkpoint";
const NEW_NAME: &str = "checkpoint.new";
const MAGIC: &[u8; 8] = b"LEVERETC";
const FORMAT: u32 = 1;
const HEAD: usize = 16;

/// A checkpoint that fits the journal beside it.
pub struct Checkpoint(Replay);

impl Checkpoint {
    /// Reads the directory's checkpoint, if there is one and it fits.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn read(disk: &dyn Disk, layout: &Layout) -> Result<Option<Self>, StoreError> {
        let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
        if layout.last == 0 || !names.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let octets = read_all(disk).map_err(StoreError::io(format!("cannot read {NAME}")))?;
        Ok(Self::parse(&octets, layout))
    }

    fn parse(octets: &[u8], layout: &Layout) -> Option<Self> {
        let (rest, crc) = octets.split_last_chunk::<4>()?;
        let last = layout.segments.get(&layout.last)?;
        let mut fields = Fields(rest.get(HEAD..)?);
        let is_whole = rest.starts_with(MAGIC)
            && rest.get(8..12)? == FORMAT.to_le_bytes()
            && crc32c::crc32c(rest) == u32::from_le_bytes(*crc);
        let fits = [layout.last, last.segment.header.salt, last.end, layout.oldest];
        for expected in fits {
            if !is_whole || fields.number()? != expected {
                return None;
            }
        }
        let mut replay = Replay { live: Live::new(layout.oldest), ..Replay::default() };
        for _ in 0..fields.number()? {
            let (queue, next_seq, handed_out) = (fields.number()?, fields.number()?, fields.number()?);
            let mut words = Vec::new();
            for _ in 0..fields.number()? {
                let (first, length) = (fields.number()?, fields.number()?);
                for seq in first..first.checked_add(length)? {
                    words.push((seq, fields.number()?));
                }
            }
            replay.live.restore_queue(queue, next_seq, handed_out, &words);
        }
        for _ in 0..fields.number()? {
            let (key, value) = (fields.length()?, fields.length()?);
            let entry = Entry::from_number(fields.number()?)?;
            let (key, value) = (fields.octets(key)?, fields.octets(value)?);
            replay.live.restore_definition(key, entry);
            replay.values.insert(key.into(), value.into());
        }
        fields.0.is_empty().then_some(Self(replay))
    }

    /// What it remembers.
    pub fn into_replay(self) -> Replay {
        self.0
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
    /// Writes a checkpoint of a journal to which nothing is appended any more and in which all is synced.
    ///
    /// # Errors
    /// If the disk refuses, or a definition cannot be read back. Then there is none, and no harm is done.
    pub fn write_checkpoint(&self) -> Result<(), StoreError> {
        let Some(octets) = self.checkpoint()? else { return Ok(()) };
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
        let mut definitions: Vec<(Box<[u8]>, Entry)> = Vec::new();
        {
            let pen = self.pen.lock();
            let last = self.segments.read().get(&pen.segment()).map(|segment| segment.header.salt);
            let Some(salt) = last.filter(|_| pen.batch.octets.is_empty()) else { return Ok(None) };
            for number in [pen.segment(), salt, pen.end(), pen.live.oldest()] {
                put(&mut out, number);
            }
            let queues = pen.live.queues();
            put(&mut out, queues.len() as u64);
            for (number, queue) in queues {
                put_queue(&mut out, number, queue);
            }
            definitions.extend(pen.live.definitions().map(|(key, entry)| (key.into(), entry)));
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

fn put_queue(out: &mut Vec<u8>, number: u64, queue: &Queue) {
    for number in [number, queue.next_seq, queue.handed_out] {
        put(out, number);
    }
    // What does not outlive the process is not in the next one's way.
    let lasting = || {
        let entries = queue.messages.iter_from(0).filter_map(|(seq, word)| Some((seq, Entry::from_number(word)?)));
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
}
