//! Writes one connection's outbox to its socket: everything that waits in one go, then the next. It knows no frame.

use crate::limits;
use crate::outbox::{Outbox, Taken};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

/// Writes until nothing will follow or the socket fails.
pub async fn write(outbox: Arc<Outbox>, mut socket: OwnedWriteHalf) {
    let mut octets = Vec::new();
    loop {
        match outbox.take(&mut octets) {
            Taken::Nothing => outbox.octets_wait().await,
            Taken::Finished => {
                // The peer sees the end of the stream behind the last octet; that it may be gone already changes nothing.
                let _ = socket.shutdown().await;
                return;
            }
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
