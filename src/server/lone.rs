//! Serves a publisher that waits for each confirm, while it is the only one at work: whoever has read its message writes it to the
//! journal, confirms it and reads the next, with no other thread between socket and disk. It knows no frame.

use crate::clock::Clock;
use crate::limits;
use crate::session::hangup::Hangup;
use crate::session::{CLOSED_BY_PEER, Session};
use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// The next message is waited for so long before the thread is given back.
const GAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };
/// What else concerns the connection is looked at after so long.
const TURN: Duration = Duration::from_millis(20);

/// Whether a thread of this runtime may be kept for so long: another one goes on with its tasks meanwhile.
pub fn is_possible() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread
}

/// Attends to the journal if the session owes that, and goes on as long as nobody else is at work and the peer does not let itself be
/// waited for. What is left of what was read goes behind `buffer`, which is empty.
///
/// # Errors
/// The connection is over.
pub fn serve(session: &mut Session, socket: &TcpStream, buffer: &mut BytesMut, clock: &Clock) -> Result<(), Hangup> {
    if session.owed().is_none_or(|journal| !journal.attends()) {
        session.leave();
        return Ok(());
    }
    block_in_place(|| {
        let mut desk = vec![0; limits::READ_CHUNK];
        let until = Instant::now() + TURN;
        while session.owed().is_some_and(|journal| journal.attend()) {
            session.ring(clock.now())?;
            if !buffer.is_empty() || !session.takes_more() || Instant::now() >= until || !comes(socket) {
                break;
            }
            // The runtime is not asked, and misses nothing by that: it believes a socket empty only when it found it so itself.
            let octets = match read(socket, &mut desk) {
                Ok(0) => return Err(Hangup { reason: CLOSED_BY_PEER.to_owned(), linger_ms: 0 }),
                Ok(length) => desk.get(..length).unwrap_or_default(),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(Hangup { reason: format!("socket error: {error}"), linger_ms: 0 }),
            };
            let used = session.receive(octets, clock.now())?;
            buffer.extend_from_slice(octets.get(used..).unwrap_or_default());
        }
        session.leave();
        Ok(())
    })
}

/// Whether there is something to read soon.
fn comes(socket: &TcpStream) -> bool {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&GAP)).is_ok_and(|ready| ready > 0)
}
