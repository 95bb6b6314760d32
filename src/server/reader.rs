//! The side of a connection that reads: what came goes to the session at once. Knows no frame.

use crate::clock::{Clock, Tick};
use crate::limits;
use crate::memory::{ConnectionCharge, Use};
use crate::outbox::Outbox;
use crate::server::inline_commit;
use crate::server::transport::ReadHalf;
use crate::session::hangup::Hangup;
use crate::session::{CLOSED_BY_PEER, Session};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// Octets read in a row before the other tasks of this thread get their turn.
const OCTETS_IN_A_ROW: usize = 4 * limits::READ_CHUNK;
/// A peer that publishes so soon after all was confirmed has waited for that, in ms.
const COMES_BACK_MS: u64 = 1;

thread_local! {
    /// The buffer that a connection without a partial frame reads to: what came is mostly whole,
    /// and then nothing is kept.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::READ_CHUNK]);
}

/// The side of a connection that reads.
pub struct Reader {
    socket: ReadHalf,
    /// The session.
    pub session: Session,
    /// A partial frame, or octets that the session has not processed yet.
    buffer: BytesMut,
    /// For the buffer.
    charge: ConnectionCharge,
    /// Octets to ask for behind a partial frame: more while the socket has more.
    chunk: usize,
    /// Octets read since it gave way to others, or since there was nothing to read.
    in_a_row: usize,
    /// A thread may be kept for this connection alone.
    may_commit_inline: bool,
    /// When everything that it has published was confirmed, if it has published nothing since.
    confirmed_at: Option<Tick>,
}

impl Reader {
    /// Creates the reader of a socket for a session.
    pub fn new(socket: ReadHalf, session: Session) -> Self {
        let charge = ConnectionCharge::new(session.outbox().memory(), Use::Buffer);
        Self {
            may_commit_inline: inline_commit::is_possible() && socket.descriptor().is_some(),
            socket,
            session,
            charge,
            buffer: BytesMut::new(),
            chunk: limits::READ_CHUNK,
            in_a_row: 0,
            confirmed_at: None,
        }
    }

    /// Returns true if the peer, which had nothing unconfirmed, did not let itself be waited for:
    /// then it publishes one at a time, or few.
    fn comes_back(&mut self, now: Tick) -> bool {
        self.may_commit_inline
            && self.confirmed_at.take().is_some_and(|confirmed| now.since(confirmed) <= COMES_BACK_MS)
    }

    /// Performs the pending actions that others left in the outbox.
    ///
    /// # Errors
    /// The connection is over.
    pub fn run_pending_actions(&mut self, outbox: &Outbox, clock: &Clock) -> Result<(), Hangup> {
        let awaited = self.session.awaits();
        let disconnected = outbox.lock().disconnected();
        if let Some(reason) = disconnected {
            return Err(Hangup::now(reason));
        }
        let now = clock.now();
        self.session.notified(now)?;
        if awaited && !self.session.awaits() {
            self.confirmed_at = Some(now);
        }
        Ok(())
    }

    /// Goes on with a peer that is alone.
    ///
    /// # Errors
    /// The connection is over.
    pub fn serve_lone(&mut self, clock: &Clock) -> Result<(), Hangup> {
        inline_commit::serve(&mut self.session, &self.socket, &mut self.buffer, clock)?;
        if !self.session.awaits() {
            self.confirmed_at = Some(clock.now());
        }
        Ok(())
    }

    /// Does what is due, and returns when to call again. A peer's silence counts only when its
    /// socket was found empty behind the deadline: while the process was stopped, or its machine
    /// slept, the peer may have sent much that nobody has read yet.
    ///
    /// # Errors
    /// The connection is over.
    pub fn tick(&mut self, now: Tick, clock: &Clock) -> Result<Tick, Hangup> {
        match self.session.tick(now) {
            Err(_) if !self.session.read_gate().is_closed() => {
                self.read_now(clock)?;
                self.session.tick(now)
            }
            outcome => outcome,
        }
    }

    /// Reads what lies in the socket, up to a bound, even if the runtime has not heard of it yet,
    /// and hands it to the session.
    fn read_now(&mut self, clock: &Clock) -> Result<(), Hangup> {
        let chunk = self.first_chunk();
        let read = READ_BUFFER.with_borrow_mut(|scratch| {
            let scratch = scratch.get_mut(..chunk).unwrap_or_default();
            let read = self.socket.read_now(scratch).map_err(|error| failed(&error))?;
            let octets = read.and_then(|read| scratch.get(..read)).unwrap_or_default();
            self.buffer.extend_from_slice(octets);
            Ok(read)
        })?;
        match read {
            None => Ok(()),
            Some(0) => Err(Hangup::now(CLOSED_BY_PEER)),
            Some(_) => self.take(clock),
        }
    }

    /// Returns how many octets to ask for where no partial frame waits. Strangers get little to
    /// fill: a login is short, and there may be many of them.
    fn first_chunk(&self) -> usize {
        if self.session.is_open() { limits::READ_CHUNK } else { limits::READ_CHUNK_BEFORE_OPEN }
    }

    /// Reads what is there, up to a bound, and hands it to the session.
    ///
    /// # Errors
    /// The connection is over.
    pub fn poll(&mut self, context: &mut Context<'_>, clock: &Clock) -> Poll<Result<(), Hangup>> {
        let (read, room) = if self.buffer.is_empty() {
            let chunk = self.first_chunk();
            let read =
                |scratch: &mut Vec<u8>| self.poll_scratch(context, clock, scratch.get_mut(..chunk).unwrap_or_default());
            (ready!(READ_BUFFER.with_borrow_mut(read))?, chunk)
        } else {
            let before_open = limits::LEFT_BY_STRANGER.saturating_sub(self.buffer.len());
            let chunk = if self.session.is_open() { self.chunk } else { before_open.max(1) };
            self.buffer.reserve(chunk);
            let room = self.buffer.capacity() - self.buffer.len();
            let read = ready!(self.socket.poll_read_buf(context, &mut self.buffer)).map_err(|error| failed(&error))?;
            self.take(clock)?;
            (read, room)
        };
        if read == 0 {
            return Poll::Ready(Err(Hangup::now(CLOSED_BY_PEER)));
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

    /// Returns true once whenever so much was read in a row that others are to get the thread.
    pub fn gives_way(&mut self) -> bool {
        let is_flood = self.in_a_row >= OCTETS_IN_A_ROW;
        if is_flood {
            self.in_a_row = 0;
        }
        is_flood
    }

    fn poll_scratch(
        &mut self,
        context: &mut Context<'_>,
        clock: &Clock,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, Hangup>> {
        let mut read = ReadBuf::new(scratch);
        ready!(self.socket.poll_read(context, &mut read)).map_err(|error| failed(&error))?;
        let (octets, now) = (read.filled(), clock.now());
        let comes_back = self.comes_back(now);
        self.session.set_inline_commit(comes_back);
        let used = self.session.receive(octets, now)?;
        self.buffer.extend_from_slice(octets.get(used..).unwrap_or_default());
        self.charge_buffer();
        Poll::Ready(Ok(octets.len()))
    }

    fn charge_buffer(&mut self) {
        let capacity = self.buffer.capacity();
        self.charge.set(if capacity <= limits::BUFFER_UNCHARGED { 0 } else { capacity as u64 });
    }

    /// Hands what was kept to the session.
    ///
    /// # Errors
    /// The connection is over.
    pub fn take(&mut self, clock: &Clock) -> Result<(), Hangup> {
        self.session.set_inline_commit(false);
        let used = self.session.receive(&self.buffer, clock.now())?;
        self.buffer.advance(used);
        if self.buffer.is_empty() {
            // An idle connection keeps no buffer.
            self.buffer = BytesMut::new();
        }
        self.charge_buffer();
        Ok(())
    }

    /// Returns true if the peer has closed its side: whoever is gone must not keep its queues and
    /// deliveries.
    pub async fn peer_has_left(&self) -> bool {
        self.socket.is_closed_by_peer().await
    }

    /// Reads and drops whatever comes, until the stream ends.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn discard(&mut self) -> io::Result<()> {
        self.socket.discard(limits::READ_CHUNK_BEFORE_OPEN).await
    }
}

/// Returns the end of a connection whose socket failed.
fn failed(error: &io::Error) -> Hangup {
    Hangup::now(format!("socket error: {error}"))
}
