//! Drives one session: reads its socket, tells it the time, runs when its bells ring. It knows no frame.

use crate::broker::node::Node;
use crate::clock::{Clock, Tick};
use crate::limits;
use crate::outbox::Outbox;
use crate::server::lone;
use crate::server::writer;
use crate::session::hangup::Hangup;
use crate::session::{CLOSED_BY_PEER, Session};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, timeout};

/// Octets read in a row before the other tasks of this thread get their turn.
const OCTETS_IN_A_ROW: usize = 4 * limits::READ_CHUNK;
/// A peer that publishes so soon after all was confirmed has waited for that.
const COMES_BACK_MS: u64 = 1;
/// How long the last octets may take to be written, where nothing else is said.
const LAST_WRITE_MS: u64 = 500;
/// How often a peer that is not read because of an alarm is looked after.
const LOOK_MS: u64 = 1_000;

thread_local! {
    /// Where a connection reads to that has no partial frame: what came is mostly whole, and then nothing is kept.
    static DESK: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::READ_CHUNK]);
}

/// A connection that was accepted.
pub struct Connection {
    reader: Reader,
    writer: Writer,
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    clock: Clock,
}

/// The side that reads: what came goes to the session at once.
struct Reader {
    socket: OwnedReadHalf,
    session: Session,
    /// A partial frame, or what a session that paused has not taken.
    buffer: BytesMut,
    /// Octets to ask for behind a partial frame: more while the socket has more.
    chunk: usize,
    /// Octets read since it gave way to others, or since there was nothing to read.
    in_a_row: usize,
    /// Whether a thread may be kept for it alone.
    may_be_lone: bool,
    /// When everything that it has published was confirmed, if it has published nothing since.
    confirmed_at: Option<Tick>,
}

/// The side that writes what whoever appended it did not. Its task starts when it is wanted for the first time: most
/// connections have little to say at a time. It does not outlive its connection.
struct Writer {
    outbox: Arc<Outbox>,
    /// Until the task has it: when nobody has it any more, the peer sees the end of the stream.
    line: Option<Arc<writer::Socket>>,
    task: Option<JoinHandle<()>>,
}

impl Writer {
    fn start_if_wanted(&mut self) {
        if self.outbox.takes_on_writer()
            && let Some(line) = self.line.take()
        {
            self.task = Some(tokio::spawn(writer::write(Arc::clone(&self.outbox), line)));
        }
    }

    /// Writes what is left.
    async fn finish(&mut self) {
        self.outbox.finish();
        if let Some(line) = self.line.take() {
            writer::write(Arc::clone(&self.outbox), line).await;
        } else if let Some(task) = &mut self.task {
            // It was not aborted; if it panicked, nothing more is written either way.
            let _ = task.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        // Whoever still has something to say to this connection lets go of its socket too.
        self.outbox.die();
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
        let line = Arc::new(writer::Socket::new(write_half));
        outbox.connect(Arc::<writer::Socket>::clone(&line));
        let writer = Writer { outbox: Arc::clone(&outbox), line: Some(line), task: None };
        let reader = Reader::new(socket, session);
        Self { reader, writer, node, outbox, clock }
    }

    /// Serves the connection to its end.
    pub async fn serve(mut self) {
        let hangup = self.run().await;
        // A future has room for each of its parts from the start: this one for a pointer instead.
        Box::pin(self.end(hangup)).await;
    }

    async fn end(mut self, hangup: Hangup) {
        tracing::debug!(reason = hangup.reason, "hangup");
        self.reader.session.end(&hangup.reason);
        let last_write = Duration::from_millis(hangup.linger_ms.max(LAST_WRITE_MS));
        if timeout(last_write, self.writer.finish()).await.is_ok() {
            let linger = Duration::from_millis(hangup.linger_ms);
            // Octets that nobody read would make the system reset the connection, and the last answer could be lost.
            let _ = timeout(linger, self.reader.discard()).await;
        }
    }

    async fn run(&mut self) -> Hangup {
        let Self { reader, writer, node, outbox, clock } = self;
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        loop {
            let now = clock.now();
            let is_blocked = reader.session.is_blocked();
            let waits = is_blocked || reader.session.is_crowded();
            let held = outbox.lock().holds_reader() || waits && !Box::pin(reader.peer_has_left()).await;
            reader.session.hold(held, now);
            match reader.session.tick(now) {
                Ok(next) if waits => rouse_at(sleep.as_mut(), next.min(now + LOOK_MS), now),
                Ok(next) => rouse_at(sleep.as_mut(), next, now),
                Err(hangup) => return hangup,
            }
            let has_paused = reader.session.has_paused();
            let outcome = tokio::select! {
                read = poll_fn(|context| reader.poll(context, clock)), if !held && !has_paused => read,
                () = tokio::task::yield_now(), if !held && has_paused => reader.take(clock),
                () = outbox.errand_waits() => {
                    writer.start_if_wanted();
                    reader.errand(outbox, clock)
                }
                () = &mut sleep => Ok(()),
                () = cleared(node), if is_blocked => {
                    reader.session.unblock();
                    Ok(())
                }
            };
            let owes = reader.session.owed().is_some();
            if let Err(hangup) = outcome.and_then(|()| if owes { reader.serve_lone(clock) } else { Ok(()) }) {
                return hangup;
            }
            if reader.in_a_row >= OCTETS_IN_A_ROW {
                // One that floods gives way to the others.
                reader.in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Waits until alarms are over. Few connections ever do: the rest has room for a pointer.
async fn cleared(node: &Node) {
    Box::pin(node.alarms().cleared()).await;
}

impl Reader {
    fn new(socket: OwnedReadHalf, session: Session) -> Self {
        Self {
            socket,
            session,
            buffer: BytesMut::new(),
            chunk: limits::READ_CHUNK,
            in_a_row: 0,
            may_be_lone: lone::is_possible(),
            confirmed_at: None,
        }
    }

    /// Whether the peer, which had nothing unconfirmed, did not let itself be waited for: then it publishes one at a time, or few.
    fn comes_back(&mut self, now: Tick) -> bool {
        self.may_be_lone && self.confirmed_at.take().is_some_and(|confirmed| now.since(confirmed) <= COMES_BACK_MS)
    }

    /// Runs errands.
    fn errand(&mut self, outbox: &Outbox, clock: &Clock) -> Result<(), Hangup> {
        let awaited = self.session.awaits();
        if outbox.lock().is_dead() {
            return Err(Hangup { reason: CLOSED_BY_PEER.to_owned(), linger_ms: 0 });
        }
        let now = clock.now();
        self.session.ring(now)?;
        if awaited && !self.session.awaits() {
            self.confirmed_at = Some(now);
        }
        Ok(())
    }

    /// Goes on with a peer that is alone.
    fn serve_lone(&mut self, clock: &Clock) -> Result<(), Hangup> {
        lone::serve(&mut self.session, self.socket.as_ref(), &mut self.buffer, clock)?;
        if !self.session.awaits() {
            self.confirmed_at = Some(clock.now());
        }
        Ok(())
    }

    /// Reads what is there, up to a bound, and hands it to the session.
    fn poll(&mut self, context: &mut Context<'_>, clock: &Clock) -> Poll<Result<(), Hangup>> {
        let is_open = self.session.is_open();
        let (read, room) = if self.buffer.is_empty() {
            // Strangers get little to fill: a login is short, and there may be many of them.
            let chunk = if is_open { limits::READ_CHUNK } else { limits::READ_CHUNK_BEFORE_OPEN };
            let desk = |desk: &mut Vec<u8>| self.poll_desk(context, clock, desk.get_mut(..chunk).unwrap_or_default());
            (ready!(DESK.with_borrow_mut(desk))?, chunk)
        } else {
            self.buffer.reserve(if is_open { self.chunk } else { limits::READ_CHUNK_BEFORE_OPEN });
            let room = self.buffer.capacity() - self.buffer.len();
            let read =
                ready!(pin!(self.socket.read_buf(&mut self.buffer)).poll(context)).map_err(|error| gone(&error))?;
            self.take(clock)?;
            (read, room)
        };
        if read == 0 {
            return Poll::Ready(Err(Hangup { reason: CLOSED_BY_PEER.to_owned(), linger_ms: 0 }));
        }
        if read < room {
            self.in_a_row = 0;
            self.chunk = (self.chunk / 2).max(limits::READ_CHUNK);
        } else {
            self.in_a_row += read;
            self.chunk = (self.chunk * 2).min(limits::READ_CHUNK_MAX);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_desk(&mut self, context: &mut Context<'_>, clock: &Clock, desk: &mut [u8]) -> Poll<Result<usize, Hangup>> {
        let mut read = ReadBuf::new(desk);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut read)).map_err(|error| gone(&error))?;
        let (octets, now) = (read.filled(), clock.now());
        let comes_back = self.comes_back(now);
        self.session.attend(comes_back);
        let used = self.session.receive(octets, now)?;
        self.buffer.extend_from_slice(octets.get(used..).unwrap_or_default());
        Poll::Ready(Ok(octets.len()))
    }

    /// Hands what was kept to the session.
    fn take(&mut self, clock: &Clock) -> Result<(), Hangup> {
        self.session.attend(false);
        let used = self.session.receive(&self.buffer, clock.now())?;
        self.buffer.advance(used);
        if self.buffer.is_empty() {
            // An idle connection keeps no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Whether the peer has closed its side. A socket that is not read does not tell by itself, and whoever is gone
    /// must not keep its queues and deliveries: what it had sent before is read in spite of an alarm.
    async fn peer_has_left(&self) -> bool {
        let ready = timeout(Duration::ZERO, self.socket.ready(Interest::READABLE)).await;
        matches!(ready, Ok(Ok(ready)) if ready.is_read_closed())
    }

    async fn discard(&mut self) {
        loop {
            if self.socket.readable().await.is_err() {
                return;
            }
            match DESK.with_borrow_mut(|desk| self.socket.try_read(desk)) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Sets the alarm clock. It may ring early, by less than it takes to set it every time, and is set again then.
fn rouse_at(mut sleep: Pin<&mut Sleep>, next: Tick, now: Tick) {
    const FAR: Duration = Duration::from_secs(3600);
    const EARLY: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + Duration::from_millis(in_company(next, now).since(now)).min(FAR);
    let set = sleep.deadline();
    if deadline < set || deadline > set + EARLY || sleep.is_elapsed() {
        sleep.as_mut().reset(deadline);
    }
}

/// What has time is done a little later, together with what is due for other connections by then: thousands of idle ones
/// with their heartbeats would else wake this process for each.
fn in_company(next: Tick, now: Tick) -> Tick {
    const HAS_TIME_MS: u64 = 2_000;
    const TOGETHER_MS: u64 = 128;
    if next == Tick::NEVER || next.since(now) < HAS_TIME_MS { next } else { Tick(next.0.next_multiple_of(TOGETHER_MS)) }
}

fn gone(error: &io::Error) -> Hangup {
    Hangup { reason: format!("socket error: {error}"), linger_ms: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_met_in_time_and_what_is_far_never_early_and_not_much_later() {
        let now = Tick(1_000_000);
        for wait in [0, 1, 1_999] {
            assert_eq!(in_company(now + wait, now), now + wait);
        }
        let far: Vec<_> = (2_000..7_000).map(|wait| in_company(now + wait, now).since(now + wait)).collect();
        assert!(far.iter().all(|late| *late < 128), "{far:?}");
        let moments =
            (2_000..7_000).map(|wait| in_company(now + wait, now).0).collect::<std::collections::BTreeSet<_>>();
        assert!(moments.len() <= 5_000 / 128 + 2, "{}", moments.len());
        assert!((2_000..7_000).all(|wait| in_company(now + wait, now) >= now + wait));
        assert_eq!(in_company(Tick::NEVER, now), Tick::NEVER);
    }
}
