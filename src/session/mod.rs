//! The protocol of one connection: octets in; octets, faults and wishes out. No socket, no task, no clock: time is told.
//!
//! ```text
//!  Header --> Handshake (start-ok, tune-ok, open) --> Running --> Ended    the client closed
//!     |            |                                     |
//!     +------------+---- Hangup <------------------------+--> Closing      we closed; only the handshake's end counts
//! ```
//!
//! Whoever drives it calls [`Session::receive`] with what was read, [`Session::ring`] when the outbox's owner bell rang,
//! [`Session::tick`] when the time has come that the last call named, and [`Session::end`] once.

pub mod channel;
pub mod content;
pub mod hangup;
pub mod routes;
pub mod runs;

mod awaited;
mod basic;
mod batch;
mod declare;
mod durable;
mod gathered;
mod handshake;
mod publish;
mod running;
mod settle;

use crate::broker::node::Node;
use crate::clock::Tick;
use crate::limits;
use crate::outbox::{Outbox, Touched};
use crate::session::handshake::{Handshake, Step};
use crate::session::hangup::Hangup;
use crate::session::running::{Progress, Running};
use crate::store::journal::Journal;
use crate::wire::encode_reply::Reply;
use crate::wire::fault::Fault;
use crate::wire::frame::{self, Kind, ProtocolHeader, Scan};
use crate::wire::method::{self, Method};
use std::net::SocketAddr;
use std::sync::Arc;

/// The reason of a connection whose socket the peer closed without the protocol's farewell.
pub const CLOSED_BY_PEER: &str = "the client closed the socket";

/// One connection.
#[derive(Debug)]
pub struct Session {
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    peer: SocketAddr,
    number: u64,
    stage: Stage,
    touched: Touched,
    /// When the peer last sent anything.
    heard: Tick,
    /// From when on a peer that is heard gets a heartbeat; one that is not gets it a little later.
    next_heartbeat: Tick,
    held: bool,
    attends: bool,
}

#[derive(Debug)]
enum Stage {
    /// The protocol header is due.
    Header { until: Tick },
    /// Logging in.
    Handshake { handshake: Box<Handshake>, until: Tick },
    /// Open.
    Running(Box<Running>),
    /// We closed: close-ok is due.
    Closing {
        until: Tick,
        reason: String,
        /// The client never got in: anything but close-ok ends it.
        stranger: bool,
    },
    /// The client closed, and has our close-ok: it closes the socket.
    Ended { until: Tick },
}

impl Drop for Session {
    fn drop(&mut self) {
        // In a panic a second one would end the process, and with it everybody else's connections.
        let end = std::panic::AssertUnwindSafe(|| self.end("its task ended"));
        if std::panic::catch_unwind(end).is_err() {
            tracing::error!("a connection could not give back what it had");
        }
    }
}

impl Session {
    /// A connection from `peer` that was accepted at `now`.
    pub fn new(node: Arc<Node>, peer: SocketAddr, now: Tick) -> Self {
        let outbox = Arc::new(Outbox::default());
        let number = node.enlist(&outbox);
        let until = now + node.config().handshake_timeout_ms;
        Self {
            node,
            outbox,
            peer,
            number,
            stage: Stage::Header { until },
            touched: Touched::default(),
            heard: now,
            next_heartbeat: Tick::NEVER,
            held: false,
            attends: false,
        }
    }

    /// Where its octets wait to be written.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Takes octets that were read; says how many it has used. The rest is a partial frame: call again with more behind it.
    /// If it [`Session::has_paused`], the rest may hold whole frames: call again with the same once reading is not held back.
    ///
    /// # Errors
    /// The connection is over.
    pub fn receive(&mut self, octets: &[u8], now: Tick) -> Result<usize, Hangup> {
        self.heard = now;
        self.node.shared().tell(now);
        let is_little = octets.len() <= limits::DIRECT_READ;
        self.touched.allow_direct(is_little);
        let mut at = 0;
        if let Stage::Running(running) = &mut self.stage {
            running.paused = false;
            running.batch.runs.attended(is_little && self.attends);
        }
        let outcome = loop {
            if self.has_paused() {
                break Ok(at);
            }
            let rest = octets.get(at..).unwrap_or_default();
            match self.step(rest, now) {
                Ok(0) => break Ok(at),
                Ok(used) => at += used,
                Err(hangup) => break Err(hangup),
            }
        };
        if let Stage::Running(running) = &mut self.stage {
            let settled = running.end_read(&mut self.touched);
            self.touched.wake();
            if let Err(fault) = settled {
                self.close(fault, now);
            }
        }
        if now >= self.next_heartbeat {
            self.beat(now);
        }
        self.touched.wake();
        outcome
    }

    /// Says whether its driver attends to the journal from now on, or leaves it, whenever that is [`Session::owed`].
    pub fn attend(&mut self, attends: bool) {
        self.attends = attends;
    }

    /// The journal, if it is to be attended to: the driver calls [`Session::ring`] then.
    pub fn owed(&self) -> Option<&Arc<Journal>> {
        self.node.shared().journal().filter(|journal| self.attends && journal.is_owed())
    }

    /// Whatever is owed is left to the journal's thread.
    pub fn leave(&self) {
        self.node.shared().journal().into_iter().for_each(|journal| journal.leave());
    }

    /// Whether confirms wait for the journal.
    pub fn awaits(&self) -> bool {
        matches!(&self.stage, Stage::Running(running) if running.awaits())
    }

    /// Whether nothing holds its peer back.
    pub fn takes_more(&self) -> bool {
        let is_free = |running: &Running| !(running.is_blocked() || running.is_crowded() || running.paused);
        matches!(&self.stage, Stage::Running(running) if is_free(running)) && !self.outbox.lock().holds_reader()
    }

    /// Runs the errands that others have left in the outbox.
    ///
    /// # Errors
    /// The connection is over.
    pub fn ring(&mut self, now: Tick) -> Result<(), Hangup> {
        self.touched.allow_direct(true);
        let errands = self.outbox.lock().take_errands();
        if let Stage::Running(running) = &mut self.stage {
            running.run_errands(&errands, &mut self.touched);
        }
        if let Some(fault) = errands.close {
            match &self.stage {
                Stage::Running(_) => self.close(fault, now),
                Stage::Closing { .. } => {}
                _ => return Err(Hangup { reason: fault.text.as_str().to_owned(), linger_ms: 0 }),
            }
        }
        self.touched.wake();
        Ok(())
    }

    /// Does what is due at `now`; says when to call again.
    ///
    /// # Errors
    /// The connection is over.
    pub fn tick(&mut self, now: Tick) -> Result<Tick, Hangup> {
        let (until, interval_ms, reason) = match &self.stage {
            Stage::Header { until } => (*until, 0, "handshake timeout"),
            Stage::Handshake { handshake, until } => (*until, handshake.heartbeat_ms(), "handshake timeout"),
            Stage::Running(running) => (Tick::NEVER, running.heartbeat_ms(), ""),
            Stage::Closing { until, reason, .. } => (*until, 0, reason.as_str()),
            Stage::Ended { until } => (*until, 0, "closed by the client"),
        };
        if now >= until {
            return Err(Hangup { reason: reason.to_owned(), linger_ms: 0 });
        }
        self.touched.allow_direct(true);
        let next = self.heartbeats(interval_ms, now)?.min(until);
        self.touched.wake();
        Ok(next)
    }

    /// Whether the client has logged in and opened a virtual host.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    /// Whether publishers are held back and this connection has published: it is not to be read until alarms are over.
    pub fn is_blocked(&self) -> bool {
        matches!(&self.stage, Stage::Running(running) if running.is_blocked())
    }

    /// Whether the journal cannot follow: it is not to be read until the owner's bell has rung and this is over.
    pub fn is_crowded(&self) -> bool {
        matches!(&self.stage, Stage::Running(running) if running.is_crowded())
    }

    /// Whether the last octets were not taken to the end because too many answers wait to be written.
    pub fn has_paused(&self) -> bool {
        matches!(&self.stage, Stage::Running(running) if running.paused)
    }

    /// Alarms are over: tells the client so.
    pub fn unblock(&mut self) {
        if let Stage::Running(running) = &mut self.stage {
            running.unblock(&mut self.touched);
        }
        self.touched.wake();
    }

    /// Reading is held back (or goes on): a peer that is not read cannot be heard.
    pub fn hold(&mut self, held: bool, now: Tick) {
        self.held = held;
        if held {
            self.heard = now;
        }
    }

    /// The socket is gone, or is about to be: gives everything back that this connection has. What ends without it (its
    /// task is aborted, or panics) is given back when the session is dropped.
    pub fn end(&mut self, reason: &str) {
        match &mut self.stage {
            // Somebody looked whether the port is open.
            Stage::Header { .. } if reason == CLOSED_BY_PEER => tracing::debug!(peer = %self.peer, "port probed"),
            Stage::Header { .. } => tracing::info!(peer = %self.peer, reason, "connection closed before a login"),
            Stage::Handshake { .. } => tracing::warn!(peer = %self.peer, reason, "connection closed during its login"),
            Stage::Running(running) => running.end(reason, &mut self.touched),
            Stage::Closing { .. } | Stage::Ended { .. } => {}
        }
        self.stage = Stage::Ended { until: Tick::default() };
        self.leave();
        self.node.strike(self.number);
        self.touched.wake();
    }

    fn step(&mut self, octets: &[u8], now: Tick) -> Result<usize, Hangup> {
        match &mut self.stage {
            Stage::Header { until } => {
                let until = *until;
                self.header(octets, until)
            }
            Stage::Handshake { handshake, .. } => {
                let Some((frame, used)) = handshake.scan(octets)? else { return Ok(0) };
                if matches!(frame.kind, Kind::Heartbeat) && frame.channel == 0 {
                    return Ok(used);
                }
                let step = handshake.take(&frame, &self.node)?;
                self.advance(step, now);
                Ok(used)
            }
            Stage::Running(running) => match running.take(octets, &mut self.touched) {
                Ok(Progress::Used(used)) => Ok(used),
                Ok(Progress::Closed(used)) => {
                    self.ended_by_client(now);
                    Ok(used)
                }
                Err(fault) => {
                    let (is_lost, reason) = (running.is_lost(), fault.to_string());
                    self.close(fault, now);
                    // Out of step with the peer: nothing that follows can be understood.
                    if is_lost {
                        Err(Hangup { reason, linger_ms: limits::LINGER_MS })
                    } else {
                        Ok(frame::length(octets))
                    }
                }
            },
            Stage::Closing { .. } | Stage::Ended { .. } => self.farewell(octets),
        }
    }

    /// The protocol header (AMQP 0-9-1, 4.2.2).
    fn header(&mut self, octets: &[u8], until: Tick) -> Result<usize, Hangup> {
        let refuse = |answer: [u8; 8], what: &str| {
            let mut inner = self.outbox.lock();
            inner.octets(&answer);
            Err(Hangup { reason: what.to_owned(), linger_ms: limits::LINGER_MS })
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
        self.say(&start);
        let handshake = Box::new(Handshake::new(self.peer));
        self.stage = Stage::Handshake { handshake, until };
        Ok(frame::HEADER_AMQP_091.len())
    }

    fn advance(&mut self, step: Step, now: Tick) {
        match step {
            Step::Tune => {
                let config = self.node.config();
                let (channel_max, frame_max, heartbeat) = (config.channel_max, config.frame_max, config.heartbeat);
                self.say(&Reply::Tune { channel_max, frame_max, heartbeat });
            }
            Step::Tuned { frame_max, heartbeat_ms } => {
                self.outbox.lock().set_frame_max(frame_max);
                self.next_heartbeat = if heartbeat_ms == 0 { Tick::NEVER } else { now + beat_after(heartbeat_ms) };
            }
            Step::Open(opened) => {
                let running = Running::new(opened, Arc::clone(&self.node), Arc::clone(&self.outbox), self.number);
                self.stage = Stage::Running(Box::new(running));
                self.say(&Reply::OpenOk);
            }
            Step::Refuse(fault) => {
                let reason = fault.to_string();
                self.say_close(&fault);
                tracing::warn!(peer = %self.peer, reason, "connection refused");
                self.stage = Stage::Closing { until: now + limits::SILENT_CLOSE_MS, reason, stranger: true };
            }
        }
    }

    /// A hard fault: gives everything back, and tells the client.
    fn close(&mut self, fault: Fault, now: Tick) {
        let reason = fault.to_string();
        if let Stage::Running(running) = &mut self.stage {
            running.end(&reason, &mut self.touched);
        }
        self.say_close(&fault);
        self.stage = Stage::Closing { until: now + limits::CLOSE_OK_TIMEOUT_MS, reason, stranger: false };
    }

    fn ended_by_client(&mut self, now: Tick) {
        if let Stage::Running(running) = &mut self.stage {
            running.end("closed by the client", &mut self.touched);
        }
        self.say(&Reply::ConnectionCloseOk);
        self.stage = Stage::Ended { until: now + limits::CLOSE_OK_TIMEOUT_MS };
    }

    /// After a close from either side only close and close-ok count.
    fn farewell(&mut self, octets: &[u8]) -> Result<usize, Hangup> {
        let (frame, used) = match frame::scan(octets, self.node.config().frame_max) {
            Ok(Scan::Frame(frame, used)) => (frame, used),
            Ok(Scan::Partial { .. }) => return Ok(0),
            Err(_) => return Ok(octets.len()),
        };
        match frame.kind {
            Kind::Method if frame.channel == 0 => match (method::parse(frame.payload), &self.stage) {
                (Ok(Method::ConnectionClose { .. }), _) => self.say(&Reply::ConnectionCloseOk),
                (Ok(Method::ConnectionCloseOk), Stage::Closing { reason, .. })
                | (_, Stage::Closing { reason, stranger: true, .. }) => {
                    return Err(Hangup { reason: reason.clone(), linger_ms: 0 });
                }
                _ => {}
            },
            _ => {}
        }
        Ok(used)
    }

    /// Sends a heartbeat when one is due, and ends a connection whose peer has been silent for two intervals (AMQP 0-9-1,
    /// 4.2.7). Says when to look again.
    fn heartbeats(&mut self, interval_ms: u64, now: Tick) -> Result<Tick, Hangup> {
        if interval_ms == 0 {
            return Ok(Tick::NEVER);
        }
        let patience = interval_ms / 8;
        if now >= self.next_heartbeat + patience {
            self.beat(now);
        }
        if self.held {
            self.heard = now;
        }
        let silent_until = self.heard + 2 * interval_ms;
        if now >= silent_until {
            let seconds = interval_ms / 1000;
            let reason = format!("missed heartbeats from client, timeout: {seconds}s");
            return Err(Hangup { reason, linger_ms: 0 });
        }
        Ok(silent_until.min(self.next_heartbeat + patience))
    }

    fn beat(&mut self, now: Tick) {
        let interval_ms = match &self.stage {
            Stage::Handshake { handshake, .. } => handshake.heartbeat_ms(),
            Stage::Running(running) => running.heartbeat_ms(),
            Stage::Header { .. } | Stage::Closing { .. } | Stage::Ended { .. } => return,
        };
        let mut inner = self.outbox.lock();
        inner.heartbeat();
        self.touched.add(&self.outbox, &mut inner);
        self.next_heartbeat = now + beat_after(interval_ms);
    }

    fn say_close(&mut self, fault: &Fault) {
        let (code, text) = (fault.code.number(), fault.text.as_octets());
        self.say(&Reply::ConnectionClose { code, text, class: fault.class, method: fault.method });
    }

    fn say(&mut self, reply: &Reply<'_>) {
        let mut inner = self.outbox.lock();
        inner.reply(0, reply);
        self.touched.add(&self.outbox, &mut inner);
    }
}

/// How long after a heartbeat the next may go out, in ms. It is due every half interval, and so is the peer's, which mostly is
/// heard an eighth of that before or after: then it is answered, and one wake serves both ways.
fn beat_after(interval_ms: u64) -> u64 {
    interval_ms / 2 - interval_ms / 16
}

mod tests;
