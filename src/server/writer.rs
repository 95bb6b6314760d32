//! Writes one connection's outbox to its socket: everything that waits in one go, then the next. It
//! knows no frame.

use crate::clock::Clock;
use crate::limits;
use crate::outbox::buffer::WriteBatch;
use crate::outbox::{DirectWriter, Drained, Outbox};
use crate::server::transport::WriteHalf;
use crate::session::CLOSED_BY_PEER;
use arrayvec::ArrayVec;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// How often a peer that takes nothing is looked at before it is given up.
const LOOKS: u64 = 6;

/// The reason for a connection whose peer reads nothing.
const NOT_READ: &str = "the client has read nothing for 30 s of what was written to it";

/// The socket, for whoever has few octets to write. When the last holder lets go of it, the peer
/// sees the end of the stream.
#[derive(Debug)]
pub struct Socket(WriteHalf);

impl Socket {
    /// Takes over the half that is written to.
    pub fn new(half: WriteHalf) -> Self {
        Self(half)
    }

    /// Writes everything.
    ///
    /// # Errors
    /// The socket fails, or its peer takes nothing for [`limits::WRITE_TIMEOUT_MS`] (`TimedOut`).
    async fn write_all(&self, batch: &WriteBatch, clock: &Clock) -> io::Result<()> {
        let (mut written, all, mut looks) = (0, batch.len(), 0);
        while written < all {
            match self.try_write_batch(batch, written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(octets) => (written, looks) = (written + octets, 0),
                // In several looks: one counts as one, however long the process was stopped
                // meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match clock.timeout(limits::WRITE_TIMEOUT_MS / LOOKS, self.0.writable()).await {
                        Some(ready) => ready?,
                        None => looks += 1,
                    }
                    if looks >= LOOKS {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes some of what comes behind the first `written` octets; large bodies from where they
    /// stand.
    fn try_write_batch(&self, batch: &WriteBatch, written: usize) -> io::Result<usize> {
        if let Some(octets) = batch.only_octets() {
            return self.0.try_write(octets.get(written..).unwrap_or_default());
        }
        let mut slices = ArrayVec::<IoSlice<'_>, { limits::WRITE_SLICES }>::new();
        batch.slices(written, &mut slices);
        self.0.try_write_vectored(&slices)
    }
}

impl DirectWriter for Socket {
    fn try_write(&self, octets: &[u8]) -> usize {
        self.0.try_write(octets).unwrap_or(0)
    }
}

/// Writes until nothing will follow or the socket fails.
pub async fn write(outbox: Arc<Outbox>, socket: Arc<Socket>, clock: Clock) {
    let mut batch = WriteBatch::new(outbox.memory());
    loop {
        match outbox.take(&mut batch) {
            Drained::Nothing => {
                if batch.capacity() < limits::DIRECT_OCTETS {
                    // So few will go directly, and a connection that has few to say keeps no
                    // buffer.
                    batch.clear(0);
                }
                outbox.writer_notified().await;
            }
            Drained::Finished => return,
            Drained::Octets => {
                if let Err(error) = socket.write_all(&batch, &clock).await {
                    tracing::debug!(%error, "cannot write");
                    outbox.disconnect(if error.kind() == io::ErrorKind::TimedOut { NOT_READ } else { CLOSED_BY_PEER });
                    return;
                }
                batch.clear(limits::KEEP_BUFFER);
            }
        }
    }
}
