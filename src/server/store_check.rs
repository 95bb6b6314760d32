//! A check of the store in the background: after a start from a checkpoint, which reads no message,
//! each message is read once, so that damage is logged before a consumer meets it, and damaged
//! definitions are written again.

use leveret_journal::journal::Journal;
use leveret_journal::read::Unreadable;
use leveret_journal::record::PublishRecord;
use leveret_journal::recovery::{Definition, Recovered};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most messages read between two pauses.
const MESSAGES: usize = 1024;
/// Most octets of messages read between two pauses.
const OCTETS: u64 = 1024 * 1024;
/// The length of a pause as a multiple of the reading before it: the disk and the processor are
/// for clients first.
const PAUSE: u32 = 3;

/// A check under way. Dropping it stops the check and waits for the end of its thread.
#[derive(Debug)]
pub struct StoreCheck {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreCheck {
    /// Starts a check of what was recovered.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(journal: Arc<Journal>, recovered: &Recovered) -> io::Result<Self> {
        let queues = recovered.queues.iter().filter(|queue| queue.messages > 0).map(|queue| queue.queue).collect();
        let definitions = recovered.definitions.clone();
        let (stop, stopped) = channel();
        let check = BackgroundCheck { journal, stopped, messages: 0, damaged: 0 };
        let thread = std::thread::Builder::new().name("store check".to_owned());
        let thread = thread.spawn(move || check.run(queues, definitions))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for StoreCheck {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("store: the check in the background ended badly");
        }
    }
}

struct BackgroundCheck {
    journal: Arc<Journal>,
    /// Disconnected when the check is to stop.
    stopped: Receiver<()>,
    messages: u64,
    damaged: u64,
}

impl BackgroundCheck {
    fn run(mut self, queues: Vec<u64>, definitions: Vec<Definition>) {
        let began = Instant::now();
        for Definition { key, value } in definitions {
            match self.journal.restore_definition(&key, &value) {
                Ok(false) => {}
                Ok(true) => tracing::warn!("store: a damaged definition was written again"),
                Err(error) => tracing::error!(%error, "store: a damaged definition cannot be written again"),
            }
            if !self.pause(Duration::ZERO) {
                return;
            }
        }
        for queue in queues {
            if !self.queue(queue) {
                return;
            }
        }
        let (messages, damaged, took) = (self.messages, self.damaged, began.elapsed());
        if damaged > 0 {
            tracing::error!(messages, damaged, ?took, "store: checked in the background: damaged");
        } else {
            tracing::info!(messages, ?took, "store: checked in the background: sound");
        }
    }

    /// Reads all messages of a queue; returns false if the check is to stop.
    fn queue(&mut self, queue: u64) -> bool {
        let mut from = 0;
        loop {
            let (began, mut last, mut count) = (Instant::now(), None, 0);
            let visit = &mut |seq, _: PublishRecord<'_>| (last, count) = (Some(seq), count + 1);
            let unreadable = self.journal.visit_run(queue, from, MESSAGES, OCTETS, visit);
            let Some(reached) = last.max(unreadable.last().map(|message| message.seq)) else { return true };
            from = reached + 1;
            self.messages += count + unreadable.len() as u64;
            for Unreadable { seq, file, offset, error } in unreadable {
                self.damaged += 1;
                tracing::error!(
                    queue,
                    id = seq,
                    file,
                    offset,
                    %error,
                    "store: a message is damaged: it cannot be delivered"
                );
            }
            if !self.pause(began.elapsed() * PAUSE) {
                return false;
            }
        }
    }

    /// Waits; returns false if the check is to stop.
    fn pause(&self, time: Duration) -> bool {
        matches!(self.stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}
