//! The protocol of one connection, sans-IO: octets in; octets, faults and a read gate out. No
//! socket, no task, no clock: each call is given the time.
//!
//! ```text
//!  Header --> Handshake (start-ok, tune-ok, open) --> Open --> Closed    the client closed
//!     |            |                                   |
//!     +------------+---- Hangup <----------------------+--> Closing      only close-ok counts
//! ```
//!
//! The connection's task calls [`Session::receive`] with octets that were read,
//! [`Session::notified`] when the outbox notified it or alarms are over, [`Session::tick`] at the
//! time that the last call named, and [`Session::close`] once. It reads the socket as long as
//! [`Session::read_gate`] says [`ReadGate::Open`].
//!
//! ```text
//!  OpenConnection (octets to frames) --> Dispatch (frames to channels, methods to parts)
//!      --> Publishing, Settling (one a connection); Consuming, Declaring (one a channel)
//!          --> Confirming, Channel
//! ```
//!
//! Each part owns its state; a `Turn` is passed down with the connection's identity and the
//! collected effects of the call.

pub mod channel;
pub mod content;
pub mod hangup;
pub mod read_gate;

mod blocking;
mod channels;
mod close;
mod confirming;
mod confirms;
mod consuming;
mod declaring;
mod dispatch;
mod handshake;
mod open_connection;
mod owned_queues;
mod publishing;
mod sasl;
mod settlement;
mod settling;
mod slots;
mod transaction;
mod turn;
mod work;

use crate::broker::node::Node;
use crate::clock::Tick;
use crate::escaped::Escaped;
use crate::limits;
use crate::outbox::{FlushSet, Outbox};
use crate::session::handshake::{Handshake, HandshakeStep};
use crate::session::hangup::Hangup;
use crate::session::open_connection::{OpenConnection, Stop};
use crate::session::read_gate::ReadGate;
use leveret_journal::journal::Journal;
use leveret_wire::fault::Fault;
use leveret_wire::frame::{self, FrameKind, FrameScan, ProtocolHeader};
use leveret_wire::method::{self, Method};
use leveret_wire::reply::Reply;
use std::net::SocketAddr;
use std::sync::Arc;

/// The reason for a connection whose socket the peer closed without connection.close.
pub const CLOSED_BY_PEER: &str = "the client closed the socket";

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    peer: SocketAddr,
    number: u64,
    state: ConnectionState,
    flush: FlushSet,
    /// When the peer last sent anything, or when reading last was held back.
    last_received: Tick,
    /// When a peer that is sending gets its next heartbeat; a silent one gets it a little later.
    next_heartbeat: Tick,
    inline_commit: bool,
}

#[derive(Debug)]
enum ConnectionState {
    /// The protocol header is expected.
    Header { until: Tick },
    /// The handshake is under way.
    Handshake { handshake: Box<Handshake>, until: Tick },
    /// Open.
    Open(Box<OpenConnection>),
    /// Not open any more: it gives back what it has, in steps.
    Ending { open: Box<OpenConnection>, reason: String, last: LastReply },
    /// connection.close was sent: close-ok is expected.
    Closing {
        until: Tick,
        reason: String,
        /// The handshake was refused: any frame but close-ok ends the connection.
        is_unauthenticated: bool,
    },
    /// connection.close was received and answered: the client is to close the socket.
    Closed { until: Tick },
}

/// Last reply of a connection that was open.
#[derive(Debug)]
enum LastReply {
    /// None: the socket is gone.
    None,
    /// The client closed.
    CloseOk,
    /// The broker closes.
    Close(Fault),
}

impl Drop for Session {
    fn drop(&mut self) {
        // A second panic during a panic would end the process, and with it all other connections.
        let end = std::panic::AssertUnwindSafe(|| self.close("its task ended"));
        if std::panic::catch_unwind(end).is_err() {
            tracing::error!(peer = %self.peer, "closing a connection panicked: its unacknowledged messages may stay unacknowledged until the next start");
        }
    }
}

impl Session {
    /// Creates the session of a connection from `peer` that was accepted at `now`.
    pub fn new(node: Arc<Node>, peer: SocketAddr, now: Tick) -> Self {
        let outbox = Arc::new(Outbox::new(node.context().memory()));
        let number = node.register(&outbox);
        let until = now + node.config().handshake_timeout_ms;
        Self {
            node,
            outbox,
            peer,
            number,
            state: ConnectionState::Header { until },
            flush: FlushSet::default(),
            last_received: now,
            next_heartbeat: Tick::NEVER,
            inline_commit: false,
        }
    }

    /// Returns the outbox, which holds the octets that wait to be written.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Processes octets that were read, and returns how many of them were used. The rest is a
    /// partial frame: call again with more behind it. If the read gate is [`ReadGate::Unprocessed`]
    /// afterwards, the rest may hold whole frames: call again with the same.
    ///
    /// # Errors
    /// The connection is over.
    pub fn receive(&mut self, octets: &[u8], now: Tick) -> Result<usize, Hangup> {
        self.last_received = now;
        self.node.context().tell(now);
        let is_little = octets.len() <= limits::DIRECT_READ;
        self.flush.allow_direct(is_little);
        if matches!(&self.state, ConnectionState::Open(open) if open.has_more_actions()) {
            self.notified(now)?;
            return Ok(0);
        }
        let mut at = 0;
        let outcome = loop {
            let rest = octets.get(at..).unwrap_or_default();
            let used = match &mut self.state {
                ConnectionState::Open(open) => {
                    let (used, stop) = open.receive(rest, is_little && self.inline_commit, &mut self.flush);
                    at += used;
                    match self.stopped(stop, now) {
                        Ok(true) => continue,
                        Ok(false) => break Ok(at),
                        Err(hangup) => break Err(hangup),
                    }
                }
                ConnectionState::Header { until } => {
                    let until = *until;
                    self.header(rest, until)
                }
                ConnectionState::Handshake { .. } => self.handshake(rest, now),
                ConnectionState::Ending { .. } => {
                    if self.go_on_ending(now) {
                        continue;
                    }
                    break Ok(at);
                }
                ConnectionState::Closing { .. } | ConnectionState::Closed { .. } => self.after_close(rest),
            };
            match used {
                Ok(0) => break Ok(at),
                Ok(used) => at += used,
                Err(hangup) => break Err(hangup),
            }
        };
        if now >= self.next_heartbeat {
            self.send_heartbeat(now);
        }
        self.flush.flush();
        outcome
    }

    /// Acts on the reason why an open connection processes no further frame; returns true if the
    /// octets behind are to be looked at all the same.
    fn stopped(&mut self, stop: Stop, now: Tick) -> Result<bool, Hangup> {
        match stop {
            Stop::NeedsMore => Ok(false),
            Stop::ClosedByClient => {
                self.end("closed by the client", LastReply::CloseOk, now);
                Ok(true)
            }
            Stop::Fault(fault) => {
                self.close_on_fault(fault, now);
                Ok(true)
            }
            Stop::Garbled(fault) => {
                let reason = fault.to_string();
                self.close_on_fault(fault, now);
                Err(Hangup::linger(reason))
            }
        }
    }

    /// Sets whether the driver commits inline from now on, whenever [`Session::uncommitted`]
    /// returns the journal, or leaves commits to the journal's thread.
    pub fn set_inline_commit(&mut self, inline_commit: bool) {
        self.inline_commit = inline_commit;
    }

    /// Returns the journal if the driver is to commit inline; it calls [`Session::notified`]
    /// afterwards.
    pub fn uncommitted(&self) -> Option<&Arc<Journal>> {
        self.node.context().journal().filter(|journal| self.inline_commit && journal.has_inline_commit())
    }

    /// Hands a commit that was to be made inline over to the journal's thread.
    pub fn hand_over_commit(&self) {
        self.node.context().journal().into_iter().for_each(|journal| journal.hand_over_commit());
    }

    /// Returns true if publisher confirms wait for the journal.
    pub fn awaits(&self) -> bool {
        matches!(&self.state, ConnectionState::Open(open) if open.awaits_confirms())
    }

    /// Returns whether the socket may be read, or why not.
    pub fn read_gate(&self) -> ReadGate {
        match &self.state {
            ConnectionState::Ending { .. } => return ReadGate::Unprocessed,
            // That goes on whether the client reads or not.
            ConnectionState::Open(open) if open.has_work() => return ReadGate::Unprocessed,
            _ if self.outbox.lock().holds_reader() => return ReadGate::Outbox,
            _ => {}
        }
        match &self.state {
            ConnectionState::Open(open) => open.read_gate(),
            ConnectionState::Handshake { handshake, .. } => handshake.read_gate(),
            _ => ReadGate::Open,
        }
    }

    /// Performs the pending actions that others left in the outbox, and goes on if alarms are over.
    ///
    /// # Errors
    /// The connection is over.
    pub fn notified(&mut self, now: Tick) -> Result<(), Hangup> {
        self.flush.allow_direct(true);
        let actions = self.outbox.lock().take_pending_actions();
        if let ConnectionState::Open(open) = &mut self.state {
            open.notified(&actions, &mut self.flush);
        }
        if let Some(fault) = actions.close {
            match &self.state {
                ConnectionState::Open(_) => self.close_on_fault(fault, now),
                ConnectionState::Ending { .. } | ConnectionState::Closing { .. } => {}
                _ => return Err(Hangup::now(fault.text.as_str())),
            }
        }
        self.flush.flush();
        Ok(())
    }

    /// Does what is due at `now`; returns when to call again.
    ///
    /// # Errors
    /// The connection is over.
    pub fn tick(&mut self, now: Tick) -> Result<Tick, Hangup> {
        if let ConnectionState::Handshake { handshake, .. } = &mut self.state {
            handshake.tick(now);
        }
        let (until, interval_ms, reason) = match &self.state {
            ConnectionState::Header { until } => (*until, 0, "handshake timeout"),
            ConnectionState::Handshake { handshake, until } => (*until, handshake.heartbeat_ms(), "handshake timeout"),
            ConnectionState::Open(open) => (Tick::NEVER, open.heartbeat_ms(), ""),
            ConnectionState::Ending { .. } => (Tick::NEVER, 0, ""),
            ConnectionState::Closing { until, reason, .. } => (*until, 0, reason.as_str()),
            ConnectionState::Closed { until } => (*until, 0, "closed by the client"),
        };
        if now >= until {
            return Err(Hangup::now(reason));
        }
        let until = match self.read_gate() {
            ReadGate::Rate(next) => next.min(until),
            _ => until,
        };
        self.flush.allow_direct(true);
        let next = self.heartbeats(interval_ms, now)?.min(until);
        self.flush.flush();
        Ok(next)
    }

    /// Returns true if the client has logged in and opened a virtual host.
    pub fn is_open(&self) -> bool {
        matches!(self.state, ConnectionState::Open(_))
    }

    /// Returns true if the client has sent a protocol header.
    pub fn is_started(&self) -> bool {
        !matches!(self.state, ConnectionState::Header { .. })
    }

    /// Ends the session when its socket is or will be gone: requeues unacked deliveries, cancels
    /// consumers, deletes exclusive queues. A session that is dropped, as when its task panics, is
    /// closed first.
    pub fn close(&mut self, reason: &str) {
        while !self.close_step(reason) {}
    }

    /// Does a part of [`Session::close`], and returns whether that was the last: others get the
    /// thread between the steps.
    pub fn close_step(&mut self, reason: &str) -> bool {
        match &self.state {
            // A port scan or a health check.
            ConnectionState::Header { .. } if reason == CLOSED_BY_PEER => {
                tracing::debug!(peer = %self.peer, "connection closed without sending anything");
            }
            ConnectionState::Header { .. } => {
                tracing::info!(peer = %self.peer, reason = ?Escaped::text(reason), "connection closed before the handshake");
            }
            ConnectionState::Handshake { .. } => {
                tracing::warn!(peer = %self.peer, reason = ?Escaped::text(reason), "connection closed during the handshake");
            }
            ConnectionState::Open(_)
            | ConnectionState::Ending { .. }
            | ConnectionState::Closing { .. }
            | ConnectionState::Closed { .. } => {}
        }
        let is_done = self.end(reason, LastReply::None, Tick::default());
        if is_done {
            self.state = ConnectionState::Closed { until: Tick::default() };
            self.hand_over_commit();
            self.node.deregister(self.number);
        }
        self.flush.flush();
        is_done
    }

    fn handshake(&mut self, octets: &[u8], now: Tick) -> Result<usize, Hangup> {
        let ConnectionState::Handshake { handshake, .. } = &mut self.state else { return Ok(0) };
        let Some((frame, used)) = handshake.scan(octets)? else { return Ok(0) };
        if handshake.is_delayed(&self.node, now) {
            return Ok(0);
        }
        if !matches!(frame.kind, FrameKind::Heartbeat) || frame.channel != 0 {
            let step = handshake.take(&frame, &self.node, now)?;
            self.advance(step, now);
        }
        Ok(used)
    }

    /// Processes the protocol header (AMQP 0-9-1, 4.2.2).
    fn header(&mut self, octets: &[u8], until: Tick) -> Result<usize, Hangup> {
        let refuse = |answer: [u8; 8], what: &str| {
            let mut inner = self.outbox.lock();
            inner.octets(&answer);
            Err(Hangup::linger(what))
        };
        match frame::protocol_header(octets) {
            ProtocolHeader::Partial => return Ok(0),
            ProtocolHeader::Amqp091 | ProtocolHeader::Amqp09 => {}
            ProtocolHeader::OtherAmqp => return refuse(frame::HEADER_AMQP_091, "another version of AMQP"),
            ProtocolHeader::OtherAmqpSasl => return refuse(frame::HEADER_AMQP_SASL, "AMQP 1.0, not supported"),
            ProtocolHeader::Http => return refuse(frame::HEADER_AMQP_SASL, "an HTTP request on the AMQP port"),
            ProtocolHeader::Tls => return refuse(frame::HEADER_AMQP_SASL, "a TLS client hello on the plain AMQP port"),
            ProtocolHeader::Foreign => return refuse(frame::HEADER_AMQP_SASL, "not AMQP"),
        }
        let node = Arc::clone(&self.node);
        let start = Reply::Start {
            server_properties: node.server_properties(),
            mechanisms: node.access().mechanisms().as_bytes(),
            locales: b"en_US",
        };
        self.send(&start);
        let handshake = Box::new(Handshake::new(self.peer));
        self.state = ConnectionState::Handshake { handshake, until };
        Ok(frame::HEADER_AMQP_091.len())
    }

    fn advance(&mut self, step: HandshakeStep, now: Tick) {
        match step {
            HandshakeStep::Tune => {
                let config = self.node.config();
                let (channel_max, frame_max, heartbeat) = (config.channel_max, config.frame_max, config.heartbeat);
                self.send(&Reply::Tune { channel_max, frame_max, heartbeat });
            }
            HandshakeStep::Tuned { frame_max, heartbeat_ms } => {
                self.outbox.lock().set_frame_max(frame_max);
                self.next_heartbeat = if heartbeat_ms == 0 { Tick::NEVER } else { now + heartbeat_delay(heartbeat_ms) };
            }
            HandshakeStep::Open(opened) => {
                let open = OpenConnection::new(opened, Arc::clone(&self.node), Arc::clone(&self.outbox), self.number);
                self.state = ConnectionState::Open(Box::new(open));
                self.send(&Reply::OpenOk);
            }
            HandshakeStep::Refuse(fault) => {
                let reason = fault.to_string();
                self.send_close(&fault);
                tracing::warn!(peer = %self.peer, reason = ?Escaped::text(&reason), "connection refused");
                let until = now + limits::SILENT_CLOSE_MS;
                self.state = ConnectionState::Closing { until, reason, is_unauthenticated: true };
            }
        }
    }

    /// Ends what is open, and goes on with that until all is done, which is returned, or the step
    /// is spent. Then `last` is sent.
    fn end(&mut self, reason: &str, last: LastReply, now: Tick) -> bool {
        let over = ConnectionState::Closed { until: Tick::default() };
        match std::mem::replace(&mut self.state, over) {
            ConnectionState::Open(open) => {
                self.state = ConnectionState::Ending { open, reason: reason.to_owned(), last };
            }
            other => self.state = other,
        }
        self.go_on_ending(now)
    }

    /// Goes on with the end of what was open; see [`Session::end`].
    fn go_on_ending(&mut self, now: Tick) -> bool {
        let ConnectionState::Ending { open, reason, last } = &mut self.state else { return true };
        if !open.close(reason, &mut self.flush) {
            return false;
        }
        let (reason, last) = (std::mem::take(reason), std::mem::replace(last, LastReply::None));
        let until = now + limits::CLOSE_OK_TIMEOUT_MS;
        self.state = ConnectionState::Closed { until };
        match last {
            LastReply::None => {}
            LastReply::CloseOk => self.send(&Reply::ConnectionCloseOk),
            LastReply::Close(fault) => {
                self.send_close(&fault);
                self.state = ConnectionState::Closing { until, reason, is_unauthenticated: false };
            }
        }
        true
    }

    /// Closes the connection on a hard fault: ends its channels and sends connection.close.
    fn close_on_fault(&mut self, fault: Fault, now: Tick) {
        self.end(&fault.to_string(), LastReply::Close(fault), now);
    }

    /// Processes a frame after a close from either side: only close and close-ok count.
    fn after_close(&mut self, octets: &[u8]) -> Result<usize, Hangup> {
        let (frame, used) = match frame::scan(octets, self.node.config().frame_max) {
            Ok(FrameScan::Frame(frame, used)) => (frame, used),
            Ok(FrameScan::Partial { .. }) => return Ok(0),
            Err(_) => return Ok(octets.len()),
        };
        match frame.kind {
            FrameKind::Method if frame.channel == 0 => match (method::parse(frame.payload), &self.state) {
                (Ok(Method::ConnectionClose { .. }), _) => self.send(&Reply::ConnectionCloseOk),
                (Ok(Method::ConnectionCloseOk), ConnectionState::Closing { reason, .. })
                | (_, ConnectionState::Closing { reason, is_unauthenticated: true, .. }) => {
                    return Err(Hangup::now(reason.clone()));
                }
                _ => {}
            },
            _ => {}
        }
        Ok(used)
    }

    /// Sends a heartbeat when one is due, and ends a connection whose peer was silent for two
    /// intervals (AMQP 0-9-1, 4.2.7). Returns when to look again.
    fn heartbeats(&mut self, interval_ms: u64, now: Tick) -> Result<Tick, Hangup> {
        if interval_ms == 0 {
            return Ok(Tick::NEVER);
        }
        let patience = interval_ms / 8;
        if now >= self.next_heartbeat + patience {
            self.send_heartbeat(now);
        }
        if self.read_gate().is_closed() {
            // A peer that is not read is not silent.
            self.last_received = now;
        }
        let silent_until = self.last_received + 2 * interval_ms;
        if now >= silent_until {
            let seconds = interval_ms / 1000;
            let reason = format!("missed heartbeats from client, timeout: {seconds}s");
            return Err(Hangup::now(reason));
        }
        Ok(silent_until.min(self.next_heartbeat + patience))
    }

    fn send_heartbeat(&mut self, now: Tick) {
        let interval_ms = match &self.state {
            ConnectionState::Handshake { handshake, .. } => handshake.heartbeat_ms(),
            ConnectionState::Open(open) => open.heartbeat_ms(),
            ConnectionState::Header { .. }
            | ConnectionState::Ending { .. }
            | ConnectionState::Closing { .. }
            | ConnectionState::Closed { .. } => return,
        };
        let mut inner = self.outbox.lock();
        inner.heartbeat();
        self.flush.add(&self.outbox, &mut inner);
        self.next_heartbeat = now + heartbeat_delay(interval_ms);
    }

    fn send_close(&mut self, fault: &Fault) {
        let (code, text) = (fault.code.number(), fault.text.as_octets());
        self.send(&Reply::ConnectionClose { code, text, class: fault.class, method: fault.method });
    }

    fn send(&mut self, reply: &Reply<'_>) {
        let mut inner = self.outbox.lock();
        inner.reply(0, reply);
        self.flush.add(&self.outbox, &mut inner);
    }
}

/// Returns the milliseconds until the next heartbeat. One is due every half interval, from the peer
/// as well: mostly the peer's comes within an eighth of that, before or after. Then it is answered
/// at once, and one wake-up serves both directions.
fn heartbeat_delay(interval_ms: u64) -> u64 {
    interval_ms / 2 - interval_ms / 16
}

mod tests;
