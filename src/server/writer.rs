//! Writes one connection's outbox to its socket: everything that waits in one go, then the next. It knows no frame.

use crate::limits;
use crate::outbox::{Line, Outbox, Taken};
use std::io;
use std::sync::Arc;
use tokio::net::tcp::OwnedWriteHalf;

/// The socket, for whoever has few octets to write. When the last holder lets go of it, the peer sees the end of the stream.
#[derive(Debug)]
pub struct Socket(OwnedWriteHalf);

impl Socket {
    /// Takes over the half that is written to.
    pub fn new(half: OwnedWriteHalf) -> Self {
        Self(half)
    }

    async fn write_all(&self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            match self.0.try_write(octets) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => octets = octets.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Line for Socket {
    fn try_write(&self, octets: &[u8]) -> usize {
        self.0.try_write(octets).unwrap_or(0)
    }
}

/// Writes until nothing will follow or the socket fails.
pub async fn write(outbox: Arc<Outbox>, socket: Arc<Socket>) {
    let mut octets = Vec::new();
    loop {
        match outbox.take(&mut octets) {
            Taken::Nothing => {
                if octets.capacity() < limits::DIRECT_OCTETS {
                    // So few will go directly, and a connection that has few to say keeps no buffer.
                    octets = Vec::new();
                }
                outbox.octets_wait().await;
            }
            Taken::Finished => return,
            Taken::Octets => {
                if let Err(error) = socket.write_all(&octets).await {
                    tracing::debug!(%error, "cannot write");
                    outbox.die();
                    return;
                }
                octets.clear();
                if octets.capacity() > limits::KEEP_BUFFER {
                    octets = Vec::new();
                }
            }
        }
    }
}
