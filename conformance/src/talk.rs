//! The conversation of a case, frame by frame, as a reader wants to see it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::peer::value::{Hex, Reader};
use crate::peer::{Beginning, Heard, Listener};

/// Lines kept; what comes after is counted. A case says far less.
const LINES: usize = 2_000;

/// Where the frames of one connection are noted. Clones write to the same page.
#[derive(Clone)]
pub struct Talk {
    page: Arc<Mutex<Vec<String>>>,
    start: Instant,
    connection: String,
}

impl Default for Talk {
    fn default() -> Talk {
        Talk::new()
    }
}

impl Talk {
    /// An empty page. Times count from now.
    pub fn new() -> Talk {
        Talk { page: Arc::default(), start: Instant::now(), connection: String::new() }
    }

    /// The same page for a connection of this name.
    pub fn on(&self, connection: &str) -> Talk {
        Talk { connection: connection.to_owned(), ..self.clone() }
    }

    /// Notes anything else: a request over HTTP, a restart.
    pub fn note(&self, direction: &str, line: &str) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if page.len() < LINES {
            let ms = self.start.elapsed().as_millis();
            page.push(format!("{ms:>6} ms  {:<5} {direction} {line}", self.connection));
        }
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Listener for Talk {
    /// A line for each frame.
    fn sent(&self, octets: &[u8]) {
        for line in frames(octets) {
            self.note("->", &line);
        }
    }

    fn heard(&self, heard: &Heard) {
        self.note("<-", &heard.to_string());
    }
}

/// Octets as readable frames; what is no whole frame, in hexadecimal.
fn frames(octets: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = octets;
    while !rest.is_empty() {
        let Some((line, after)) = frame(rest) else {
            lines.push(format!("octets {}", Beginning(rest)));
            break;
        };
        lines.push(line);
        rest = after;
    }
    lines
}

fn frame(octets: &[u8]) -> Option<(String, &[u8])> {
    if let Some(rest) = octets.strip_prefix(b"AMQP") {
        let (version, rest) = rest.split_at_checked(4)?;
        return Some((format!("protocol header AMQP {}", Hex(version)), rest));
    }
    let mut reader = Reader(octets);
    let (kind, channel, size) =
        (reader.number(1).ok()? as u8, reader.number(2).ok()? as u16, reader.number(4).ok()? as usize);
    let payload = reader.take(size).ok()?;
    if reader.number(1).ok()? != 0xce {
        return None;
    }
    let heard = Heard::parse(kind, channel, payload).ok()?;
    Some((heard.to_string(), reader.0))
}
