//! The buffer of log lines, bounded, and the thread that writes them to standard error.

use crate::cli::log::rates::Kinds;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Most octets of lines that wait to be written; further lines are dropped and counted.
const BUFFER_OCTETS: usize = 1024 * 1024;
/// How often the thread checks whether summaries of left-out lines are due.
const LOOK: Duration = Duration::from_secs(1);

/// The buffer of lines that wait to be written.
#[derive(Debug, Default)]
pub struct LogSink {
    buffer: Mutex<LineBuffer>,
    /// Notified when there is work for the thread.
    filled: Condvar,
    /// Notified when all lines are written.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct LineBuffer {
    lines: Vec<u8>,
    /// Lines dropped because the buffer was full.
    dropped: u64,
    /// The thread is writing the lines that it took.
    writing: bool,
}

impl LogSink {
    /// Appends a line, or drops it if too much waits. Never waits for a write.
    pub fn push(&self, line: &[u8]) {
        let mut buffer = self.buffer.lock();
        if buffer.lines.len() + line.len() > BUFFER_OCTETS {
            buffer.dropped += 1;
            return;
        }
        buffer.lines.extend_from_slice(line);
        drop(buffer);
        self.filled.notify_one();
    }

    /// Wakes the thread: from now on it checks for left-out lines.
    pub fn wake(&self) {
        // The thread may be about to wait: it holds the lock until it does.
        drop(self.buffer.lock());
        self.filled.notify_one();
    }

    /// Takes the waiting lines, in place of the thread.
    #[cfg(test)]
    pub fn taken(&self) -> Vec<u8> {
        std::mem::take(&mut self.buffer.lock().lines)
    }

    /// Waits until all lines are written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut buffer = self.buffer.lock();
        while (buffer.writing || !buffer.lines.is_empty())
            && !self.drained.wait_until(&mut buffer, deadline).timed_out()
        {}
    }

    /// Writes lines to `out` for ever, and summaries of those that are missing: dropped here, or
    /// left out by `kinds`.
    pub fn run(&self, mut out: impl Output, kinds: &Kinds) {
        let mut lines = Vec::new();
        loop {
            let dropped = self.take(&mut lines, kinds);
            // A failure to write the log cannot be logged.
            let _ = out.write_lines(&lines);
            lines.clear();
            if dropped > 0 {
                tracing::error!(lines = dropped, "log lines were dropped: standard error was not read in time");
            }
            kinds.sum_up();
        }
    }

    /// Waits for lines, moves them into the empty `lines`, and returns how many were dropped
    /// before.
    fn take(&self, lines: &mut Vec<u8>, kinds: &Kinds) -> u64 {
        let mut buffer = self.buffer.lock();
        buffer.writing = false;
        if buffer.lines.is_empty() {
            self.drained.notify_all();
        }
        while buffer.lines.is_empty() && buffer.dropped == 0 {
            if !kinds.has_left_out() {
                self.filled.wait(&mut buffer);
            } else if self.filled.wait_for(&mut buffer, LOOK).timed_out() {
                break;
            }
        }
        std::mem::swap(&mut buffer.lines, lines);
        buffer.writing = true;
        std::mem::take(&mut buffer.dropped)
    }
}

/// A writer that collects one line for the buffer.
#[derive(Debug)]
pub struct Line(Arc<LogSink>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A maker of line writers for the layer that formats lines.
#[derive(Debug)]
pub struct Lines(pub Arc<LogSink>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Arc::clone(&self.0))
    }
}

/// The destination of lines.
pub trait Output {
    /// Writes all octets, however long it takes.
    ///
    /// # Errors
    /// The destination accepts no more octets.
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()>;
}

impl Output for File {
    fn write_lines(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            match self.write(lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => lines = lines.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard error is shared with the parent process, which may have made it
                // non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// An output that reports when it is to write, and writes when the test allows it.
    struct Gate {
        asked: SyncSender<Vec<u8>>,
        allowed: Receiver<()>,
    }

    impl Output for Gate {
        fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
            self.asked.send(lines.to_vec()).map_err(io::Error::other)?;
            self.allowed.recv().map_err(io::Error::other)
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_finds_no_room_is_dropped() {
        let sink = Arc::new(LogSink::default());
        let (asked, asks) = sync_channel(0);
        let (allow, allowed) = sync_channel(0);
        let thread = Arc::clone(&sink);
        let kinds = Kinds::new(Clock::manual().0);
        std::thread::spawn(move || thread.run(Gate { asked, allowed }, &kinds));
        let line = [b'x'; 1024];
        sink.push(&line);
        assert_eq!(asks.recv().unwrap(), line);
        // No reader: the thread blocks in its write, and this returns all the same.
        let room = BUFFER_OCTETS / line.len();
        for _ in 0..room + 7 {
            sink.push(&line);
        }
        sink.flush(Duration::from_millis(1));
        let counts = |buffer: &LineBuffer| (buffer.lines.len(), buffer.dropped);
        assert_eq!(counts(&sink.buffer.lock()), (room * line.len(), 7));
        allow.send(()).unwrap();
        assert_eq!(asks.recv().unwrap().len(), room * line.len());
        allow.send(()).unwrap();
        sink.push(b"again\n");
        assert_eq!(asks.recv().unwrap(), b"again\n");
        assert_eq!(sink.buffer.lock().dropped, 0);
        allow.send(()).unwrap();
        sink.flush(Duration::from_secs(60));
        let buffer = sink.buffer.lock();
        assert!(buffer.lines.is_empty() && !buffer.writing);
    }
}
