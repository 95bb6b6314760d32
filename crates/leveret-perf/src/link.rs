//! The state that both threads of a producer connection share, and the thread that reads: confirms,
//! returns, blocked, flow, close. It never writes to the socket. Where one message at a time is
//! confirmed, the publisher reads itself.

use crate::confirms::{ConfirmTracker, UnconfirmedPublishes};
use crate::connection::CLOSED;
use crate::incoming::{Filled, Incoming};
use crate::latency::Recorder;
use crate::method::{FieldReader, close_text, flow_ok};
use crate::run::{RunStage, RunState};
use crate::stamp::Stamp;
use leveret_wire::frame::{Frame, FrameKind};
use leveret_wire::method::id_of;
use leveret_wire::method_id::*;
use parking_lot::Mutex;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long close-ok is waited for.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// State that both threads of a producer connection share.
#[derive(Debug)]
pub struct Link {
    /// One a channel; empty without confirms.
    pub confirms: Vec<UnconfirmedPublishes>,
    /// The broker wants no publications on this connection, or on one of its channels.
    pub held: AtomicBool,
    /// Channels that are not closed.
    pub open_channels: AtomicU64,
    /// The publisher asked for the close.
    pub closing: AtomicBool,
    /// The broker asked for it.
    pub closed: AtomicBool,
    /// Octets that the publisher shall write between two batches.
    pub pending_replies: Mutex<Vec<u8>>,
    /// The publisher sleeps until there is room.
    waiting: AtomicBool,
    /// How much room wakes it.
    threshold: u64,
    publisher: Thread,
}

impl Link {
    /// For the calling thread, which publishes.
    pub fn new(window: Option<u64>, channels: u16, steady: bool) -> Link {
        let confirms: Vec<UnconfirmedPublishes> =
            window.map_or(Vec::new(), |window| (0..channels).map(|_| UnconfirmedPublishes::new(window)).collect());
        // To be woken for every single confirm would cost more than it brings, unless the rate is
        // the point.
        let threshold = if steady { 1 } else { (window.unwrap_or(1) * u64::from(channels) / 4).max(1) };
        Link {
            confirms,
            held: AtomicBool::new(false),
            open_channels: AtomicU64::new(channels.into()),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pending_replies: Mutex::new(Vec::new()),
            waiting: AtomicBool::new(false),
            threshold,
            publisher: std::thread::current(),
        }
    }

    /// How many messages may be published, in turn over all channels.
    pub fn room(&self) -> u64 {
        let channels = self.confirms.len() as u64;
        self.confirms
            .iter()
            .map(UnconfirmedPublishes::room)
            .min()
            .map_or(u64::MAX, |room| room.saturating_mul(channels))
    }

    /// Unconfirmed messages.
    pub fn outstanding(&self) -> u64 {
        self.confirms.iter().map(UnconfirmedPublishes::outstanding).sum()
    }

    /// The room, after a sleep of at most so long if it is not worth a write.
    pub fn wait_for_room(&self, patience: Duration) -> u64 {
        let room = self.room();
        if room >= self.threshold {
            return room;
        }
        self.waiting.store(true, Ordering::SeqCst);
        if self.room() < self.threshold {
            std::thread::park_timeout(patience);
        }
        self.waiting.store(false, Ordering::SeqCst);
        self.room()
    }

    fn wake(&self) {
        let quiet = self.outstanding() == 0;
        if self.waiting.load(Ordering::SeqCst) && (quiet || self.room() >= self.threshold) {
            self.publisher.unpark();
        }
    }
}

/// Results of the reading thread.
#[derive(Default, Debug)]
pub struct Heard {
    /// Refused or returned publications by channel: not to be missed.
    pub excused: Vec<Vec<u64>>,
}

/// The thread that listens.
pub struct Listener<'a> {
    run: &'a RunState,
    link: &'a Link,
    settling: Vec<ConfirmTracker>,
    returned: Vec<Vec<u64>>,
    /// Channels whose returned message's body is on its way.
    returning: Vec<bool>,
    /// True for whoever holds publications back: index 0 is the connection, then each channel.
    holds: Vec<bool>,
    recorder: Recorder<'a>,
    heard_at: u64,
    closing_since: Option<Instant>,
    /// ns without a sign of life that are too many; 0: any number is fine.
    silence: u64,
}

impl<'a> Listener<'a> {
    /// Listens for that many channels.
    pub fn new(run: &'a RunState, link: &'a Link, channels: u16, heartbeat: u16) -> Listener<'a> {
        Listener {
            run,
            link,
            settling: link.confirms.iter().map(ConfirmTracker::new).collect(),
            returned: vec![Vec::new(); channels.into()],
            returning: vec![false; channels.into()],
            holds: vec![false; 1 + usize::from(channels)],
            recorder: Recorder::new(&run.confirm_latencies),
            heard_at: run.now(),
            closing_since: None,
            silence: 2_000_000_000 * u64::from(heartbeat),
        }
    }

    /// Listens until the connection ends. An error that matters fails the run.
    pub fn listen(mut self, socket: &TcpStream, mut incoming: Incoming) -> Heard {
        while self.hear(socket, &mut incoming) {}
        self.tell();
        self.recorder.flush();
        if self.link.held.swap(false, Ordering::AcqRel) {
            self.run.meter.blocked.fetch_sub(1, Ordering::Relaxed);
        }
        let nacked = self.settling.into_iter().map(|settling| settling.nacked).chain(std::iter::repeat(Vec::new()));
        let excused = self.returned.into_iter().zip(nacked).map(|(returned, nacked)| [returned, nacked].concat());
        Heard { excused: excused.collect() }
    }

    /// Reads once, and takes what has come. False: nothing more will; an error that matters has
    /// failed the run.
    pub fn hear(&mut self, socket: &TcpStream, incoming: &mut Incoming) -> bool {
        self.hear_once(socket, incoming).unwrap_or_else(|why| {
            self.run.fail(why);
            false
        })
    }

    fn hear_once(&mut self, socket: &TcpStream, incoming: &mut Incoming) -> Result<bool, String> {
        let filled = incoming.fill(socket);
        let closing = self.link.closing.load(Ordering::Acquire);
        if self.run.is_at(RunStage::Failed) {
            return Ok(false);
        }
        let now = self.run.now();
        match filled {
            Ok(Filled::Some) => self.heard_at = now,
            Ok(Filled::Nothing) if self.silence > 0 && now - self.heard_at > self.silence => {
                return Err("no heartbeat of the broker for two intervals".to_owned());
            }
            Ok(Filled::Nothing) => {}
            Ok(Filled::End) | Err(_) if closing => return Ok(false),
            Ok(Filled::End) => return Err(CLOSED.to_owned()),
            Err(error) => return Err(format!("cannot read: {error}")),
        }
        while let Some(frame) = incoming.next_frame()? {
            if self.frame(frame, now)? {
                return Ok(false);
            }
        }
        self.tell();
        self.recorder.flush_when_due(now);
        let since = closing.then(|| *self.closing_since.get_or_insert_with(Instant::now));
        Ok(since.is_none_or(|since| since.elapsed() <= CLOSE_PATIENCE))
    }

    fn tell(&self) {
        for (settling, confirms) in self.settling.iter().zip(&self.link.confirms) {
            settling.tell(confirms);
        }
        self.link.wake();
    }

    /// Takes a frame; true if it is the last one.
    fn frame(&mut self, frame: Frame<'_>, now: u64) -> Result<bool, String> {
        if frame.channel > 0 && frame.kind == FrameKind::Body {
            self.body(frame);
        }
        if frame.kind != FrameKind::Method {
            return Ok(false);
        }
        match id_of(frame.payload) {
            BASIC_ACK => self.settle(frame, false, now)?,
            BASIC_NACK => self.settle(frame, true, now)?,
            BASIC_RETURN => {
                self.run.meter.returned.fetch_add(1, Ordering::Relaxed);
                if let Some(returning) = self.returning.get_mut(usize::from(frame.channel).wrapping_sub(1)) {
                    *returning = true;
                }
            }
            CONNECTION_BLOCKED => self.hold(0, true),
            CONNECTION_UNBLOCKED => self.hold(0, false),
            CHANNEL_FLOW => {
                let active = FieldReader::of(frame.payload).octet().unwrap_or(1) & 1 != 0;
                flow_ok(&mut self.link.pending_replies.lock(), frame.channel, active);
                self.hold(frame.channel, !active);
            }
            CONNECTION_CLOSE => {
                self.link.closed.store(true, Ordering::Release);
                return Err(format!("the broker closed the connection: {}", close_text(frame.payload)));
            }
            CHANNEL_CLOSE => return Err(format!("the broker closed the channel: {}", close_text(frame.payload))),
            CHANNEL_CLOSE_OK => {
                self.link.open_channels.fetch_sub(1, Ordering::AcqRel);
                self.link.publisher.unpark();
            }
            CONNECTION_CLOSE_OK => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn hold(&mut self, channel: u16, hold: bool) {
        if let Some(place) = self.holds.get_mut(usize::from(channel)) {
            *place = hold;
        }
        let held = self.holds.contains(&true);
        if self.link.held.swap(held, Ordering::AcqRel) != held {
            let blocked = &self.run.meter.blocked;
            if held {
                blocked.fetch_add(1, Ordering::Relaxed)
            } else {
                blocked.fetch_sub(1, Ordering::Relaxed)
            };
            self.link.publisher.unpark();
        }
    }

    fn settle(&mut self, frame: Frame<'_>, nack: bool, now: u64) -> Result<(), String> {
        let mut fields = FieldReader::of(frame.payload);
        let (tag, flags) = (fields.long_long().unwrap_or(0), fields.octet().unwrap_or(0));
        let channel = usize::from(frame.channel).wrapping_sub(1);
        let (Some(settling), Some(confirms)) = (self.settling.get_mut(channel), self.link.confirms.get(channel)) else {
            return Err("a confirm on a channel without confirms".to_owned());
        };
        let recorder = &mut self.recorder;
        let heard = |time| recorder.record(now.saturating_sub(time));
        let settled = settling.settle(confirms, tag, flags & 1 != 0, nack, heard)?;
        let meter = &self.run.meter;
        let counter = if nack { &meter.nacked } else { &meter.confirmed.0 };
        counter.fetch_add(settled, Ordering::Relaxed);
        Ok(())
    }

    fn body(&mut self, frame: Frame<'_>) {
        let channel = usize::from(frame.channel) - 1;
        let Some(returning) = self.returning.get_mut(channel) else { return };
        if std::mem::take(returning)
            && let (Some(stamp), Some(returned)) = (Stamp::read(frame.payload), self.returned.get_mut(channel))
        {
            returned.push(stamp.sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::encode_content::{Content, Copied, ack, basic_return, nack};
    use leveret_wire::method::Method;
    use std::io::Write;
    use std::net::TcpListener;

    /// Returns what a listener makes of the octets that a broker sends.
    fn hear(link: &Link, run: &RunState, octets: &[u8]) -> Heard {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        let (mut broker, _) = listening.accept().unwrap();
        broker.write_all(octets).unwrap();
        drop(broker);
        Listener::new(run, link, 2, 0).listen(&socket, Incoming::new(64, 4096))
    }

    fn link() -> Link {
        let link = Link::new(Some(10), 2, false);
        (0..5).for_each(|_| link.confirms[0].publish(0));
        link
    }

    #[test]
    fn confirms_refusals_and_returns_are_counted() {
        let (run, link) = (RunState::default(), link());
        let mut octets = Vec::new();
        let body = Stamp { producer: 0, sequence: 1, time: 0 }.octets();
        let content = Content { route: b"\0\x01q", properties: &[0, 0], body: &body };
        basic_return(&mut octets, 1, 4096, 312, b"NO_ROUTE", content, &mut Copied);
        ack(&mut octets, 1, 2, true);
        nack(&mut octets, 1, 4, false);
        ack(&mut octets, 1, 3, false);
        Method::ConnectionCloseOk.put(&mut octets, 0);
        let heard = hear(&link, &run, &octets);
        assert_eq!((run.failure(), heard.excused), (None, vec![vec![1, 3], Vec::new()]));
        assert_eq!((link.outstanding(), link.room()), (1, 18));
        let meter = &run.meter;
        let counters =
            [&meter.confirmed.0, &meter.nacked, &meter.returned].map(|counter| counter.load(Ordering::Relaxed));
        assert_eq!((counters, run.confirm_latencies.whole().count), ([3, 1, 1], 4));
    }

    #[test]
    fn blocked_and_flow_hold_until_both_end() {
        let blocked = |octets: &mut Vec<u8>| Method::Blocked { reason: b"memory" }.put(octets, 0);
        let unblocked = |octets: &mut Vec<u8>| Method::Unblocked.put(octets, 0);
        let flow = |octets: &mut Vec<u8>, active| Method::Flow { active }.put(octets, 2);
        let (run, link) = (RunState::default(), link());
        let mut octets = Vec::new();
        blocked(&mut octets);
        flow(&mut octets, false);
        unblocked(&mut octets);
        let mut listener = Listener::new(&run, &link, 2, 0);
        let mut incoming = Incoming::new(256, 4096);
        let mut hear = |octets: &[u8]| {
            incoming.fill(octets).unwrap();
            while let Some(frame) = incoming.next_frame().unwrap() {
                listener.frame(frame, 0).unwrap();
            }
            link.held.load(Ordering::Acquire)
        };
        assert!(hear(&octets));
        assert_eq!(run.meter.blocked.load(Ordering::Relaxed), 1);
        octets.clear();
        flow(&mut octets, true);
        assert!(!hear(&octets));
        assert_eq!(run.meter.blocked.load(Ordering::Relaxed), 0);
        assert_eq!(link.pending_replies.lock().len(), 2 * 13);
    }

    #[test]
    fn an_end_that_nobody_asked_for_fails_the_run() {
        let (run, link) = (RunState::default(), link());
        hear(&link, &run, &[]);
        assert_eq!(run.failure().as_deref(), Some(CLOSED));
        let (run, link) = (RunState::default(), self::link());
        let mut octets = Vec::new();
        let close = Method::ConnectionClose { code: 320, text: b"CONNECTION_FORCED - bye", class: 0, method: 0 };
        close.put(&mut octets, 0);
        hear(&link, &run, &octets);
        let why = run.failure().unwrap_or_default();
        assert_eq!(why, "the broker closed the connection: 320 CONNECTION_FORCED - bye");
        assert!(link.closed.load(Ordering::Acquire));
    }
}
