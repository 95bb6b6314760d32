//! Drives one session: reads its socket, tells it the time, runs when its bells ring. It knows no frame.

use crate::broker::node::Node;
use crate::clock::{Clock, Tick};
use crate::limits;
use crate::outbox::Outbox;
use crate::server::writer;
use crate::session::hangup::Hangup;
use crate::session::{CLOSED_BY_PEER, Session};
use bytes::{Buf, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, timeout};

/// Most reads in a row before the other tasks of this thread get their turn.
const READS_IN_A_ROW: usize = 4;
/// How long the last octets may take to be written, where nothing else is said.
const LAST_WRITE_MS: u64 = 500;
/// How often a peer that is not read because of an alarm is looked after.
const LOOK_MS: u64 = 1_000;

/// A connection that was accepted.
pub struct Connection {
    socket: OwnedReadHalf,
    writer: Writer,
    node: Arc<Node>,
    session: Session,
    outbox: Arc<Outbox>,
    clock: Clock,
    buffer: BytesMut,
}

/// The writing task; it does not outlive its connection.
struct Writer(JoinHandle<()>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Takes over a socket.
    pub fn new(stream: TcpStream, peer: SocketAddr, node: Arc<Node>, clock: Clock) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let (socket, write_half) = stream.into_split();
        let session = Session::new(Arc::clone(&node), peer, clock.now());
        let outbox = Arc::clone(session.outbox());
        let writer = Writer(tokio::spawn(writer::write(Arc::clone(&outbox), write_half)));
        Self { socket, writer, node, session, outbox, clock, buffer: BytesMut::new() }
    }

    /// Serves the connection to its end.
    pub async fn serve(mut self) {
        let hangup = self.run().await;
        tracing::debug!(reason = hangup.reason, "hangup");
        self.session.end(&hangup.reason);
        self.outbox.finish();
        let last_write = Duration::from_millis(hangup.linger_ms.max(LAST_WRITE_MS));
        if timeout(last_write, &mut self.writer.0).await.is_ok() {
            let linger = Duration::from_millis(hangup.linger_ms);
            // Octets that nobody read would make the system reset the connection, and the last answer could be lost.
            let _ = timeout(linger, self.discard()).await;
        }
    }

    async fn run(&mut self) -> Hangup {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        loop {
            let now = self.clock.now();
            let is_blocked = self.session.is_blocked();
            let held = self.outbox.lock().holds_reader() || is_blocked && !self.peer_has_left().await;
            self.session.hold(held, now);
            match self.session.tick(now) {
                Ok(next) if is_blocked => rouse_at(sleep.as_mut(), next.min(now + LOOK_MS), now),
                Ok(next) => rouse_at(sleep.as_mut(), next, now),
                Err(hangup) => return hangup,
            }
            let node = Arc::clone(&self.node);
            let outcome = tokio::select! {
                ready = self.socket.readable(), if !held && !self.session.has_paused() => match ready {
                    Ok(()) => self.read().await,
                    Err(error) => Err(gone(&error)),
                },
                () = tokio::task::yield_now(), if !held && self.session.has_paused() => self.take(),
                () = self.outbox.errand_waits() => self.errand(),
                () = &mut sleep => Ok(()),
                () = node.alarms().cleared(), if self.session.is_blocked() => {
                    self.session.unblock();
                    Ok(())
                }
            };
            if let Err(hangup) = outcome {
                return hangup;
            }
        }
    }

    fn errand(&mut self) -> Result<(), Hangup> {
        if self.outbox.lock().is_dead() {
            return Err(Hangup { reason: CLOSED_BY_PEER.to_owned(), linger_ms: 0 });
        }
        self.session.ring(self.clock.now())
    }

    /// Reads what is there, up to a bound, and hands it to the session.
    async fn read(&mut self) -> Result<(), Hangup> {
        for _ in 0..READS_IN_A_ROW {
            // Strangers get little to fill: a login is short, and there may be many of them.
            let chunk = if self.session.is_open() { limits::READ_CHUNK } else { limits::READ_CHUNK_BEFORE_OPEN };
            self.buffer.reserve(chunk);
            let room = self.buffer.capacity() - self.buffer.len();
            let read = match self.socket.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(Hangup { reason: CLOSED_BY_PEER.to_owned(), linger_ms: 0 }),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(gone(&error)),
            };
            self.take()?;
            let stops = self.session.is_blocked() || self.session.has_paused();
            if read < room || stops || self.outbox.lock().holds_reader() {
                break;
            }
        }
        if self.buffer.is_empty() {
            // An idle connection keeps no buffer.
            self.buffer = BytesMut::new();
        }
        // One that floods gives way to the others after each turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Hands what was read to the session.
    fn take(&mut self) -> Result<(), Hangup> {
        let used = self.session.receive(&self.buffer, self.clock.now())?;
        self.buffer.advance(used);
        Ok(())
    }

    /// Whether the peer has closed its side. A socket that is not read does not tell by itself, and whoever is gone
    /// must not keep its queues and deliveries: what it had sent before is read in spite of an alarm.
    async fn peer_has_left(&self) -> bool {
        let ready = timeout(Duration::ZERO, self.socket.ready(Interest::READABLE)).await;
        matches!(ready, Ok(Ok(ready)) if ready.is_read_closed())
    }

    async fn discard(&mut self) {
        let mut octets = [0; 4096];
        loop {
            if self.socket.readable().await.is_err() {
                return;
            }
            match self.socket.try_read(&mut octets) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Sets the alarm clock, unless it will ring before anyway: it may ring early, and is set again then.
fn rouse_at(mut sleep: std::pin::Pin<&mut Sleep>, next: Tick, now: Tick) {
    const FAR: Duration = Duration::from_secs(3600);
    let wait = Duration::from_millis(next.since(now)).min(FAR);
    let deadline = Instant::now() + wait;
    if sleep.is_elapsed() || deadline < sleep.deadline() {
        sleep.as_mut().reset(deadline);
    }
}

fn gone(error: &io::Error) -> Hangup {
    Hangup { reason: format!("socket error: {error}"), linger_ms: 0 }
}
