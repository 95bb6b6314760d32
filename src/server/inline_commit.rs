//! Serves a publisher that waits for each confirm, while it is the only one at work: whoever has
//! read its message writes it to the journal, confirms it and reads the next, with no other thread
//! between socket and disk. It knows no frame.

use crate::clock::Clock;
use crate::limits;
use crate::server::transport::ReadHalf;
use crate::session::hangup::Hangup;
use crate::session::read_gate::ReadGate;
use crate::session::{CLOSED_BY_PEER, Session};
use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// The next message is waited for so long before the thread is given back.
const GAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };
/// The time after which everything else of the connection is looked at.
const TURN: Duration = Duration::from_millis(20);

/// Returns true if a thread of this runtime may be kept for so long: another one goes on with its
/// tasks meanwhile.
pub fn is_possible() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread
}

/// Attends to the journal if the session owes that, and goes on as long as nobody else is at work
/// and the peer does not let itself be waited for. What is left of what was read goes behind
/// `rest`, which is empty.
///
/// # Errors
/// The connection is over.
pub fn serve(session: &mut Session, socket: &ReadHalf, rest: &mut BytesMut, clock: &Clock) -> Result<(), Hangup> {
    if session.uncommitted().is_none_or(|journal| !journal.can_commit_inline()) {
        session.hand_over_commit();
        return Ok(());
    }
    block_in_place(|| {
        let mut buffer = vec![0; limits::READ_CHUNK];
        let until = Instant::now() + TURN;
        while session.uncommitted().is_some_and(|journal| journal.commit_inline()) {
            session.notified(clock.now())?;
            let is_free = rest.is_empty() && session.is_open() && session.read_gate() == ReadGate::Open;
            if !is_free || Instant::now() >= until || !comes(socket) {
                break;
            }
            let octets = match socket.read_now(&mut buffer) {
                Ok(Some(0)) => return Err(Hangup::now(CLOSED_BY_PEER)),
                Ok(Some(length)) => buffer.get(..length).unwrap_or_default(),
                Ok(None) => break,
                Err(error) => return Err(Hangup::now(format!("socket error: {error}"))),
            };
            let used = session.receive(octets, clock.now())?;
            rest.extend_from_slice(octets.get(used..).unwrap_or_default());
        }
        session.hand_over_commit();
        Ok(())
    })
}

/// Returns true if there is something to read soon.
fn comes(socket: &ReadHalf) -> bool {
    let Some(descriptor) = socket.descriptor() else { return false };
    poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&GAP)).is_ok_and(|ready| ready > 0)
}
