//! Drives one session: reads its socket, tells it the time, runs when its bells ring. It knows no
//! frame.

use crate::broker::node::Node;
use crate::clock::{Clock, Tick, Timer};
use crate::limits;
use crate::outbox::Outbox;
use crate::server::reader::Reader;
use crate::server::strangers::StrangerPlace;
use crate::server::transport::Transport;
use crate::server::writer;
use crate::session::hangup::{Hangup, SocketClose};
use crate::session::read_gate::ReadGate;
use crate::session::{CLOSED_BY_PEER, Session};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the last octets may take to be written, where nothing else is said.
const LAST_WRITE_MS: u64 = 500;
/// How often a peer that is not read because of an alarm is looked after.
const LOOK_MS: u64 = 1_000;

/// How often a peer is looked after whose login waits: it keeps a place.
const LOOK_AT_STRANGER_MS: u64 = 100;

/// Why a connection is over whose peer has gone while an alarm was on.
const LEFT_UNREAD: &str = "the client closed the socket while it was held back by an alarm";

/// A connection that was accepted.
pub struct Connection {
    reader: Reader,
    writer: Writer,
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    clock: Clock,
    /// Until its peer has logged in.
    place: Option<StrangerPlace>,
}

/// The side that writes what whoever appended it did not. Its task starts when it is wanted for the
/// first time: most connections have little to say at a time. It does not outlive its connection.
struct Writer {
    outbox: Arc<Outbox>,
    /// Until the task has it: when nobody has it any more, the peer sees the end of the stream.
    line: Option<Arc<writer::Socket>>,
    task: Option<JoinHandle<()>>,
    clock: Clock,
}

impl Writer {
    fn start_if_wanted(&mut self) {
        if self.outbox.should_spawn_writer()
            && let Some(line) = self.line.take()
        {
            self.task = Some(tokio::spawn(writer::write(Arc::clone(&self.outbox), line, self.clock.clone())));
        }
    }

    /// Writes what is left.
    async fn finish(&mut self) {
        self.outbox.finish();
        if let Some(line) = self.line.take() {
            writer::write(Arc::clone(&self.outbox), line, self.clock.clone()).await;
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
        self.outbox.disconnect("the connection has ended");
    }
}

impl Connection {
    /// Takes over a socket.
    pub fn new(transport: Transport, peer: SocketAddr, node: Arc<Node>, clock: Clock) -> Self {
        let (socket, write_half) = transport.split();
        let session = Session::new(Arc::clone(&node), peer, clock.now());
        let outbox = Arc::clone(session.outbox());
        let line = Arc::new(writer::Socket::new(write_half));
        outbox.set_direct_writer(Arc::<writer::Socket>::clone(&line));
        let writer = Writer { outbox: Arc::clone(&outbox), line: Some(line), task: None, clock: clock.clone() };
        let reader = Reader::new(socket, session);
        Self { reader, writer, node, outbox, clock, place: None }
    }

    /// Returns its outbox.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Keeps a place until the peer has logged in.
    pub fn take_place(&mut self, place: StrangerPlace) {
        self.place = Some(place);
    }

    /// Serves the connection to its end.
    pub async fn serve(mut self) {
        let hangup = self.run().await;
        // A future has room for each of its parts from the start: this one for a pointer instead.
        Box::pin(self.end(hangup)).await;
    }

    async fn end(mut self, hangup: Hangup) {
        tracing::debug!(reason = hangup.reason, "hangup");
        if let Some(place) = &mut self.place {
            place.fail_login();
        }
        while !self.reader.session.close_step(&hangup.reason) {
            tokio::task::yield_now().await;
        }
        let (last_write_ms, linger_ms) = match hangup.close {
            SocketClose::Now => (LAST_WRITE_MS, 0),
            SocketClose::Linger => (limits::LINGER_MS, limits::LINGER_MS),
            SocketClose::Silent => {
                self.keep_silent().await;
                (LAST_WRITE_MS, 0)
            }
        };
        // A peer that takes nothing is waited for by the system's clock, whatever drives the
        // broker.
        if timeout(Duration::from_millis(last_write_ms), self.writer.finish()).await.is_ok() {
            // Octets that nobody read would make the system reset the connection, and the last
            // answer could be lost.
            let _ = timeout(Duration::from_millis(linger_ms), self.reader.discard()).await;
        }
    }

    /// Lets time pass in which the peer learns nothing. That ends early if somebody else needs its
    /// place, or the broker ends, or if it cannot be told anything any more, as its socket has
    /// failed: one that has merely sent its last still listens.
    async fn keep_silent(&mut self) {
        let Self { reader, outbox, clock, .. } = self;
        let until_failed = async {
            if reader.discard().await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let until_asked = async {
            while outbox.lock().take_pending_actions().close.is_none() {
                outbox.owner_notified().await;
            }
        };
        let ended = async {
            tokio::select! {
                () = until_failed => {}
                () = until_asked => {}
            }
        };
        clock.timeout(limits::SILENT_CLOSE_MS, ended).await;
    }

    async fn run(&mut self) -> Hangup {
        let Self { reader, writer, node, outbox, clock, place } = self;
        let mut timer = clock.timer(Tick::NEVER);
        loop {
            let now = clock.now();
            let next = match reader.tick(now, clock) {
                Ok(next) => next,
                Err(hangup) => return hangup,
            };
            let gate = reader.session.read_gate();
            let look_ms = match gate {
                ReadGate::Alarm | ReadGate::Journal(_) => LOOK_MS,
                ReadGate::Rate(_) => LOOK_AT_STRANGER_MS,
                ReadGate::Open | ReadGate::Unprocessed | ReadGate::Outbox => Tick::NEVER.0,
            };
            let waits = look_ms != Tick::NEVER.0;
            let has_left = waits && Box::pin(reader.peer_has_left()).await;
            if has_left && gate == ReadGate::Alarm {
                // What it has sent besides was not taken, and is not: there is no room for it.
                return Hangup::now(LEFT_UNREAD);
            }
            if has_left && matches!(gate, ReadGate::Rate(_)) {
                return Hangup::now(CLOSED_BY_PEER);
            }
            let is_held = gate.is_closed() && !has_left;
            let next = next.min(now + look_ms);
            set_about(&mut timer, in_company(next, now));
            let has_unprocessed = gate == ReadGate::Unprocessed;
            let outcome = tokio::select! {
                read = poll_fn(|context| reader.poll(context, clock)), if !is_held && !has_unprocessed => read,
                () = tokio::task::yield_now(), if has_unprocessed => reader.take(clock),
                () = outbox.owner_notified() => {
                    writer.start_if_wanted();
                    reader.run_pending_actions(outbox, clock)
                }
                () = &mut timer => Ok(()),
                () = cleared(node), if gate == ReadGate::Alarm => reader.session.notified(clock.now()),
            };
            let owes = reader.session.uncommitted().is_some();
            if let Err(hangup) = outcome.and_then(|()| if owes { reader.serve_lone(clock) } else { Ok(()) }) {
                return hangup;
            }
            match place {
                Some(_) if reader.session.is_open() => *place = None,
                Some(place) if reader.session.is_started() => place.begin_login(),
                _ => {}
            }
            if reader.gives_way() {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Waits until alarms are over. Few connections ever do: the rest has room for a pointer.
async fn cleared(node: &Node) {
    Box::pin(node.alarms().cleared()).await;
}

/// Sets a timer to about `deadline`: it may elapse early, by less than it takes to set it every
/// time, and is set again then.
fn set_about(timer: &mut Timer, deadline: Tick) {
    const EARLY_MS: u64 = 200;
    let set = timer.deadline();
    if deadline < set || deadline > set + EARLY_MS || timer.has_elapsed() {
        timer.set(deadline);
    }
}

/// Returns when to do what is due at `next`. What has time is done a little later, together with
/// what is due for other connections by then: thousands of idle ones with their heartbeats would
/// else wake this process for each.
fn in_company(next: Tick, now: Tick) -> Tick {
    const HAS_TIME_MS: u64 = 2_000;
    const TOGETHER_MS: u64 = 128;
    if next == Tick::NEVER || next.since(now) < HAS_TIME_MS { next } else { Tick(next.0.next_multiple_of(TOGETHER_MS)) }
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
