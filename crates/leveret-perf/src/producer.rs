//! A connection that publishes. This thread writes, and it alone; another one listens
//! ([`crate::link`]), unless there is only one message to confirm at a time: then a second thread
//! would have to be woken for each.

use crate::batch::{EncodedBatch, Shape};
use crate::connection::ClientConnection;
use crate::incoming::Incoming;
use crate::layout::LoadLayout;
use crate::link::{Link, Listener};
use crate::method;
use crate::options::LoadOptions;
use crate::pace::Pace;
use crate::run::{GLANCE, RunStage, RunState, spawn};
use crate::stamp::Stamp;
use leveret_wire::encode_content::heartbeat;
use leveret_wire::method::Method;
use leveret_wire::method_id::CONFIRM_SELECT_OK;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

/// Octets read at once: confirms are small.
const BUFFER: usize = 16 * 1024;
/// How long a channel may take to close: there may be much on its way to it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for a backlog to shrink before looking again.
const BACKLOG_GLANCE: Duration = Duration::from_micros(300);

/// Results of one producer connection.
#[derive(Debug)]
pub struct Published {
    /// Messages by channel.
    pub messages: Vec<u64>,
    /// Numbers, by channel, of messages that were refused or returned.
    pub excused: Vec<Vec<u64>>,
    /// Messages whose confirm did not come.
    pub unconfirmed: u64,
    /// How long the broker held it back by connection.blocked or channel.flow.
    pub held: Duration,
}

/// Connects, waits for the run to begin, publishes until its end.
///
/// # Errors
/// What went wrong before the run began; later errors fail the run.
pub fn produce(run: &RunState, options: &LoadOptions, layout: &LoadLayout, number: usize) -> Result<Published, String> {
    let name = format!("leveret perf producer {number}");
    let mut connection = ClientConnection::open(&options.url, &name, options.heartbeat.unwrap_or(60))?;
    for channel in 1..=options.channels {
        connection.open_channel(channel)?;
        if options.confirm.is_some() {
            let mut out = Vec::new();
            method::confirm_select(&mut out, channel);
            connection.call(&out, channel, CONFIRM_SELECT_OK)?;
        }
    }
    let shape = Shape {
        size: options.size,
        persistent: options.persistent,
        mandatory: options.mandatory,
        frame_max: connection.frame_max,
    };
    let batch = EncodedBatch::new(options.channels, &layout.targets(number), shape)?;
    let link = Link::new(options.confirm, options.channels, options.rate > 0.0);
    let ClientConnection { socket, mut incoming, heartbeat, .. } = connection;
    incoming.resize(BUFFER);
    let timeouts = socket.set_read_timeout(Some(GLANCE)).and_then(|()| socket.set_write_timeout(Some(GLANCE)));
    timeouts.map_err(|error| error.to_string())?;
    std::thread::scope(|scope| {
        let listener = Listener::new(run, &link, options.channels, heartbeat);
        let (mut ear, mut listening) = (None, None);
        if listens_itself(options) {
            ear = Some((listener, incoming));
        } else {
            listening = Some(spawn(scope, || listener.listen(&socket, incoming))?);
        }
        run.ready.fetch_add(1, AcqRel);
        if !run.wait_for(RunStage::Publishing) {
            return Err("the run failed before it began".to_owned());
        }
        let mut publisher = ProducerRun::new(run, options, layout, &link, &socket, batch, number);
        publisher.interval = u64::from(heartbeat) * 500_000_000;
        publisher.publish(&mut ear);
        run.published_all.fetch_add(1, AcqRel);
        if let Some((listener, incoming)) = ear {
            listening = Some(spawn(scope, || listener.listen(&socket, incoming))?);
        }
        publisher.finish();
        let heard = listening.and_then(|listening| listening.join().ok()).unwrap_or_default();
        if link.closed.load(Acquire) {
            let mut out = Vec::new();
            Method::ConnectionCloseOk.put(&mut out, 0);
            publisher.write(&out);
        }
        let _ = socket.shutdown(Shutdown::Both);
        Ok(Published {
            messages: (0..options.channels.into()).map(|channel| publisher.sent_on(channel)).collect(),
            excused: heard.excused,
            unconfirmed: link.outstanding(),
            held: Duration::from_nanos(publisher.held),
        })
    })
}

/// Returns true if the publisher has nothing to do but to wait while its message is unconfirmed.
fn listens_itself(options: &LoadOptions) -> bool {
    let is_bounded = options.backlog > 0 && options.consumers > 0 && !options.consume_after;
    options.confirm == Some(1) && options.channels == 1 && options.rate == 0.0 && !is_bounded
}

/// A listener and the octets that it has read.
type Ear<'a> = (Listener<'a>, Incoming);

struct ProducerRun<'a> {
    run: &'a RunState,
    options: &'a LoadOptions,
    link: &'a Link,
    socket: &'a TcpStream,
    batch: EncodedBatch,
    pace: Pace,
    /// Messages of all channels together; they take turns.
    sent: u64,
    slot: usize,
    quota: u64,
    first_producer: u16,
    copies: u64,
    backlog: u64,
    /// ns after the last write at which a heartbeat is due; 0: never.
    interval: u64,
    written_at: u64,
    held: u64,
}

impl<'a> ProducerRun<'a> {
    fn new(
        run: &'a RunState,
        options: &'a LoadOptions,
        layout: &LoadLayout,
        link: &'a Link,
        socket: &'a TcpStream,
        batch: EncodedBatch,
        number: usize,
    ) -> ProducerRun<'a> {
        let producers = options.producers as u64;
        let quota = options.count.map_or(u64::MAX, |count| (count + producers - 1 - number as u64) / producers);
        let bounded = options.backlog > 0 && options.consumers > 0 && !options.consume_after;
        let now = run.now();
        ProducerRun {
            run,
            options,
            link,
            socket,
            batch,
            pace: Pace::new(options.rate, now),
            sent: 0,
            slot: 0,
            quota,
            first_producer: (number * usize::from(options.channels)) as u16,
            copies: layout.copies(),
            backlog: if bounded { options.backlog } else { u64::MAX },
            interval: 0,
            written_at: now,
            held: 0,
        }
    }

    fn sent_on(&self, channel: u64) -> u64 {
        let channels = u64::from(self.options.channels);
        (self.sent + channels - 1 - channel) / channels
    }

    /// Publishes until time or count is reached, or the run fails.
    fn publish(&mut self, ear: &mut Option<Ear<'_>>) {
        while !self.run.is_at(RunStage::Draining) && self.sent < self.quota {
            self.settle_debts();
            if self.link.held.load(Acquire) {
                let since = self.run.now();
                match ear {
                    None => std::thread::park_timeout(GLANCE),
                    Some((listener, incoming)) => {
                        if !listener.hear(self.socket, incoming) {
                            return;
                        }
                    }
                }
                self.held += self.run.now() - since;
                continue;
            }
            let room = match ear {
                None => self.link.wait_for_room(GLANCE),
                Some((listener, incoming)) => {
                    if self.link.room() == 0 && !listener.hear(self.socket, incoming) {
                        return;
                    }
                    self.link.room()
                }
            };
            if room == 0 {
                continue;
            }
            let now = self.run.now();
            let due = self.pace.open(self.sent, now);
            if due == 0 {
                let wait = self.pace.due(self.sent).saturating_sub(now);
                std::thread::sleep(Duration::from_nanos(wait).min(GLANCE));
                continue;
            }
            if self.backlog != u64::MAX && self.run.backlog(self.copies) >= self.backlog {
                std::thread::sleep(BACKLOG_GLANCE);
                continue;
            }
            let slots = (self.batch.slots() - self.slot) as u64;
            let count = room.min(due).min(self.quota - self.sent).min(slots);
            if !self.send(count as usize, now) {
                return;
            }
        }
    }

    /// Stamps and writes the next publications; false if the run failed meanwhile.
    fn send(&mut self, count: usize, now: u64) -> bool {
        let channels = u64::from(self.options.channels);
        let (mut channel, mut sequence) = (self.sent % channels, self.sent / channels);
        for step in 0..count {
            let time = self.pace.time(self.sent + step as u64, now);
            let producer = self.first_producer + channel as u16;
            self.batch.stamp(self.slot + step, Stamp { producer, sequence, time });
            if let Some(confirms) = self.link.confirms.get(channel as usize) {
                confirms.publish(time);
            }
            channel += 1;
            if channel == channels {
                (channel, sequence) = (0, sequence + 1);
            }
        }
        let written = write(self.run, self.socket, self.batch.octets(self.slot, count));
        self.written_at = self.run.now();
        self.sent += count as u64;
        self.slot = (self.slot + count) % self.batch.slots();
        self.run.meter.published.0.fetch_add(count as u64, Relaxed);
        written
    }

    fn write(&mut self, octets: &[u8]) -> bool {
        self.written_at = self.run.now();
        write(self.run, self.socket, octets)
    }

    /// Answers of the listener, and heartbeats.
    fn settle_debts(&mut self) {
        let mut out = std::mem::take(&mut *self.link.pending_replies.lock());
        if self.interval > 0 && self.run.now() - self.written_at > self.interval {
            heartbeat(&mut out);
        }
        if !out.is_empty() {
            self.write(&out);
        }
    }

    /// Waits for the confirms that are due, then closes channels and connection.
    fn finish(&mut self) {
        self.wait_while(Link::outstanding, self.options.drain);
        let mut out = Vec::new();
        // A channel closes behind its last publication; a connection may close before (RabbitMQ's
        // reader does not wait for what its channels have not done yet), and then messages would be
        // missing that were never published.
        (1..=self.options.channels).for_each(|channel| method::channel_close(&mut out, channel));
        if !self.run.is_at(RunStage::Failed) && self.write(&out) {
            self.wait_while(|link| link.open_channels.load(Acquire), CLOSE_PATIENCE);
            out.clear();
            method::connection_close(&mut out);
            self.link.closing.store(true, Release);
            self.write(&out);
        }
    }

    /// Waits until there are none left, for as long as they become fewer.
    fn wait_while(&mut self, count: impl Fn(&Link) -> u64, patience: Duration) {
        let (mut left, mut progress_at) = (count(self.link), self.run.now());
        while left > 0 && !self.run.is_at(RunStage::Failed) {
            self.settle_debts();
            std::thread::park_timeout(Duration::from_millis(1));
            let now = self.run.now();
            match count(self.link) {
                fewer if fewer < left => (left, progress_at) = (fewer, now),
                _ if now - progress_at > patience.as_nanos() as u64 => break,
                _ => {}
            }
        }
    }
}

/// Writes all of it, however long the broker takes; false if the run failed meanwhile, perhaps by
/// this.
pub fn write(run: &RunState, mut socket: &TcpStream, octets: &[u8]) -> bool {
    let mut rest = octets;
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                    if run.is_at(RunStage::Failed) {
                        return false;
                    }
                }
                _ => {
                    // Whoever listens may be about to read why.
                    std::thread::sleep(4 * GLANCE);
                    run.fail(format!("cannot write: {error}"));
                    return false;
                }
            },
        }
    }
    true
}
