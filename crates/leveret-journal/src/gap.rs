//! Gap records: octets of a segment that are given up are made a record without content, so that
//! the records behind them can be read.

use std::io;

use crate::encode::{gap_head, write_mark};
use crate::record::{HEAD_SIZE, MARK_SIZE, Mark};
use crate::segment::{HEADER_SIZE, Segment};

/// The offset behind the first mark of a segment.
pub const BEHIND_MARK: u64 = HEADER_SIZE + MARK_SIZE;

/// Writes a gap record from one offset to another, and syncs it.
///
/// # Errors
/// An I/O error.
pub fn gap(segment: &Segment, from: u64, to: u64) -> io::Result<()> {
    let octets = to.saturating_sub(from) as usize;
    if let Some(behind) = octets.checked_sub(HEAD_SIZE) {
        let mut behind = vec![0; behind];
        segment.file.read_at(from + HEAD_SIZE as u64, &mut behind)?;
        segment.file.write_at(from, &gap_head(&behind, segment.header.salt))?;
    }
    segment.file.sync_data()
}

/// Writes the first mark of a segment, and a gap from there to an offset.
///
/// # Errors
/// An I/O error.
pub fn begin(segment: &Segment, mark: Mark, to: u64) -> io::Result<()> {
    let mut octets = Vec::new();
    write_mark(mark, segment.header.salt, &mut octets);
    segment.file.write_at(HEADER_SIZE, &octets)?;
    gap(segment, BEHIND_MARK, to)
}
