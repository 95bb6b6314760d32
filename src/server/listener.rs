//! Accepts connections, one task each, and ends them all when told to. It reads and writes no
//! octet.

use crate::broker::node::Node;
use crate::clock::Clock;
use crate::server::connection::Connection;
use crate::server::error::StartError;
use crate::server::strangers::Strangers;
use crate::server::transport::Transport;
use leveret_wire::fault::{Code, Fault};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long clients have to answer connection.close before their sockets are closed.
const FAREWELL: Duration = Duration::from_millis(700);
/// How long accepting pauses when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sockets that listen.
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Listens on all of `addresses`. An address that this machine does not have is passed over
    /// with a warning, as long as another one is left.
    ///
    /// # Errors
    /// An address is taken or not allowed, or none is left.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, StartError> {
        let mut listeners = Vec::new();
        let mut missing = None;
        for address in addresses {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let address = listener.local_addr().unwrap_or(*address);
                    tracing::info!(%address, "started TCP listener");
                    listeners.push(listener);
                }
                Err(source) if is_absent(&source) => {
                    tracing::warn!(%address, %source, "this machine has no such address");
                    missing = Some(StartError::Listen { address: *address, source });
                }
                Err(source) => return Err(StartError::Listen { address: *address, source }),
            }
        }
        match missing {
            Some(error) if listeners.is_empty() => Err(error),
            None if listeners.is_empty() => Err(StartError::NoAddress),
            _ => Ok(Self(listeners)),
        }
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `stopped` says so or its sender is gone; then ends every connection.
    pub async fn serve(self, node: Arc<Node>, clock: Clock, mut stopped: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let strangers = Strangers::new();
        loop {
            tokio::select! {
                (transport, peer) = self.accept(&strangers, &clock) => {
                    let mut connection = Connection::new(transport, peer, Arc::clone(&node), clock.clone());
                    connection.take_place(strangers.admit(peer.ip(), clock.now(), connection.outbox()));
                    connections.spawn(connection.serve());
                }
                Some(_) = connections.join_next() => {
                    // All that the connection had is freed by now.
                    node.alarms().look();
                }
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
        }
        drop(self);
        let text = "broker forced connection closure with reason 'shutdown'";
        node.close_all(&Fault::new(Code::ConnectionForced, text));
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all_ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "clients did not answer connection.close");
        }
        connections.shutdown().await;
    }

    /// Accepts the next connection for which there is a place and a descriptor; what has no
    /// descriptor is closed at once.
    async fn accept(&self, strangers: &Strangers, clock: &Clock) -> (Transport, SocketAddr) {
        loop {
            strangers.room(clock).await;
            let error = match self.accept_any().await {
                Ok((stream, peer)) => {
                    let transport = Transport::plain(stream);
                    if !transport.is_over_limit() {
                        return (transport, peer);
                    }
                    tracing::error!(%peer, "too many open files: the connection is refused");
                    continue;
                }
                Err(error) => error,
            };
            // The peer gave up before it was its turn: nothing to wait for.
            if error.kind() != io::ErrorKind::ConnectionAborted {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept_any(&self) -> io::Result<(TcpStream, SocketAddr)> {
        std::future::poll_fn(|context| {
            for listener in &self.0 {
                let polled = listener.poll_accept(context);
                if polled.is_ready() {
                    return polled;
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(97 /* EAFNOSUPPORT */)
}
