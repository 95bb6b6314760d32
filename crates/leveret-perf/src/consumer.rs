//! A connection that consumes: it looks at the heads of frames and at the stamp a body begins with,
//! and acknowledges. One thread.

use crate::connection::{CLOSED, ClientConnection};
use crate::incoming::Filled;
use crate::latency::Recorder;
use crate::layout::{LoadLayout, StreamShare};
use crate::method::{self, FieldReader, close_text};
use crate::options::{Ack, LoadOptions};
use crate::producer::write;
use crate::run::{GLANCE, RunStage, RunState};
use crate::stamp::{self, Stamp};
use crate::track::Track;
use leveret_wire::encode_content::{ack, heartbeat};
use leveret_wire::frame::{Frame, FrameKind};
use leveret_wire::method::id_of;
use leveret_wire::method_id::*;
use std::net::TcpStream;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::{Duration, Instant};

/// Octets read at once.
const BUFFER: usize = 256 * 1024;
/// How long close-ok is waited for.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// No share.
const NONE: u32 = u32::MAX;

/// Messages of one producer that a connection received from one queue.
#[derive(Debug)]
pub struct Seen {
    /// The queue's number.
    pub queue: usize,
    /// The producer's.
    pub producer: usize,
    /// Which messages came.
    pub track: Track,
}

/// Everything a connection saw.
#[derive(Default, Debug)]
pub struct Consumed {
    /// By queue and producer.
    pub seen: Vec<Seen>,
    /// Messages that no producer of this run can have sent to that queue.
    pub foreign: u64,
    /// Deliveries with the redelivered flag.
    pub redelivered: u64,
}

/// Connects, consumes until the run ends.
///
/// # Errors
/// What went wrong, in words.
pub fn consume(run: &RunState, options: &LoadOptions, layout: &LoadLayout, number: usize) -> Result<Consumed, String> {
    let name = format!("leveret perf consumer {number}");
    let mut connection = ClientConnection::open(&options.url, &name, options.heartbeat.unwrap_or(60))?;
    let mut consumer = ConsumerLoop::new(run, options, layout, number);
    let mut out = Vec::new();
    for channel in 1..=options.channels {
        connection.open_channel(channel)?;
        if options.prefetch > 0 {
            out.clear();
            method::qos(&mut out, channel, options.prefetch);
            connection.call(&out, channel, BASIC_QOS_OK)?;
        }
    }
    out.clear();
    let no_ack = options.ack == Ack::Auto;
    for (tag, sink) in consumer.sinks.iter().enumerate() {
        let queue = layout.queues.get(sink.queue).map(Vec::as_slice).unwrap_or_default();
        method::consume(&mut out, sink.channel, queue, &tag_of(tag), no_ack);
    }
    connection.send(&out)?;
    connection.incoming.resize(BUFFER);
    let socket = &connection.socket;
    let timeouts = socket.set_read_timeout(Some(GLANCE)).and_then(|()| socket.set_write_timeout(Some(GLANCE)));
    timeouts.map_err(|error| error.to_string())?;
    consumer.heartbeat_after = u64::from(connection.heartbeat) * 500_000_000;
    consumer.serve(&mut connection)?;
    Ok(consumer.result())
}

/// One basic.consume.
struct ConsumerState {
    queue: usize,
    channel: u16,
    shares: Vec<(usize, StreamShare, Track)>,
    /// By producer: which of the shares.
    index: Vec<u32>,
}

/// State of a channel that consumes.
#[derive(Clone, Copy, Default)]
struct ConsumedChannel {
    sink: u16,
    tag: u64,
    /// Octets of body still to come.
    rest: u64,
    /// The next body frame is the first one.
    begins: bool,
    unacknowledged: u32,
}

struct ConsumerLoop<'a> {
    run: &'a RunState,
    ack: Ack,
    sized: bool,
    sinks: Vec<ConsumerState>,
    /// By number; 0 is not used.
    channels: Vec<ConsumedChannel>,
    recorder: Recorder<'a>,
    out: Vec<u8>,
    waits_for: usize,
    consumed: u64,
    foreign: u64,
    redelivered: u64,
    /// ns after the last write at which a heartbeat is due; 0: never.
    heartbeat_after: u64,
    written_at: u64,
}

impl<'a> ConsumerLoop<'a> {
    fn new(run: &'a RunState, options: &LoadOptions, layout: &LoadLayout, number: usize) -> ConsumerLoop<'a> {
        let queues = layout.consumed(number);
        let count = queues.len().max(options.channels.into());
        let sink = |at: usize| {
            let queue = queues.get(at % queues.len()).copied().unwrap_or_default();
            sink(layout, queue, 1 + (at % usize::from(options.channels)) as u16)
        };
        ConsumerLoop {
            run,
            ack: options.ack,
            sized: options.size >= stamp::SIZE,
            sinks: (0..count).map(sink).collect(),
            channels: vec![ConsumedChannel::default(); 1 + usize::from(options.channels)],
            recorder: Recorder::new(&run.latencies),
            out: Vec::new(),
            waits_for: count,
            consumed: 0,
            foreign: 0,
            redelivered: 0,
            heartbeat_after: 0,
            written_at: run.now(),
        }
    }

    fn result(mut self) -> Consumed {
        self.recorder.flush();
        let queue = |sink: ConsumerState| {
            let seen = move |(producer, _, track)| Seen { queue: sink.queue, producer, track };
            sink.shares.into_iter().map(seen)
        };
        let seen = self.sinks.into_iter().flat_map(queue).collect();
        Consumed { seen, foreign: self.foreign, redelivered: self.redelivered }
    }

    /// Consumes until the run ends, then closes.
    fn serve(&mut self, connection: &mut ClientConnection) -> Result<(), String> {
        let silence = 2_000_000_000 * u64::from(connection.heartbeat);
        let mut heard_at = self.run.now();
        let mut closing: Option<Instant> = None;
        loop {
            let filled = connection.incoming.fill(&connection.socket);
            if self.run.is_at(RunStage::Failed) {
                return Ok(());
            }
            let now = self.run.now();
            match filled {
                Ok(Filled::Some) => heard_at = now,
                Ok(Filled::Nothing) if silence > 0 && now - heard_at > silence => {
                    return Err("no heartbeat of the broker for two intervals".to_owned());
                }
                Ok(Filled::Nothing) => self.acknowledge_rest(),
                Ok(Filled::End) | Err(_) if closing.is_some() => return Ok(()),
                Ok(Filled::End) => return Err(CLOSED.to_owned()),
                Err(error) => return Err(format!("cannot read: {error}")),
            }
            while let Some(frame) = connection.incoming.next_frame()? {
                if self.frame(frame, now)? {
                    return Ok(());
                }
            }
            if closing.is_none() && self.run.is_at(RunStage::Ending) {
                self.acknowledge_rest();
                method::connection_close(&mut self.out);
                closing = Some(Instant::now());
            }
            self.end_batch(&connection.socket, now);
            if closing.is_some_and(|since| since.elapsed() > CLOSE_PATIENCE) {
                return Ok(());
            }
        }
    }

    /// Writes what is due; lets the others know.
    fn end_batch(&mut self, socket: &TcpStream, now: u64) {
        if self.consumed > 0 {
            self.run.meter.consumed.0.fetch_add(std::mem::take(&mut self.consumed), Relaxed);
            self.run.meter.last_consumed.fetch_max(now, Relaxed);
        }
        if self.heartbeat_after > 0 && now.saturating_sub(self.written_at) > self.heartbeat_after {
            heartbeat(&mut self.out);
        }
        if !self.out.is_empty() {
            write(self.run, socket, &self.out);
            self.written_at = now;
            self.out.clear();
        }
        self.recorder.flush_when_due(now);
    }

    /// Takes a frame; true if it is the last one.
    #[inline]
    fn frame(&mut self, frame: Frame<'_>, now: u64) -> Result<bool, String> {
        match frame.kind {
            FrameKind::Method if id_of(frame.payload) == BASIC_DELIVER => self.deliver(frame),
            FrameKind::Method => return self.method(frame),
            FrameKind::Header => {
                let size =
                    frame.payload.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |size| u64::from_be_bytes(*size));
                if let Some(channel) = self.channels.get_mut(usize::from(frame.channel)) {
                    (channel.rest, channel.begins) = (size, true);
                    if size == 0 {
                        self.delivered(frame.channel);
                    }
                }
            }
            FrameKind::Body => {
                let Some(channel) = self.channels.get_mut(usize::from(frame.channel)) else { return Ok(false) };
                channel.rest = channel.rest.saturating_sub(frame.payload.len() as u64);
                let (begins, ends) = (std::mem::take(&mut channel.begins), channel.rest == 0);
                let sink = channel.sink;
                if begins && self.sized {
                    self.stamped(sink, frame.payload, now);
                }
                if ends {
                    self.delivered(frame.channel);
                }
            }
            FrameKind::Heartbeat | FrameKind::Other(_) => {}
        }
        Ok(false)
    }

    #[inline]
    fn deliver(&mut self, frame: Frame<'_>) {
        let mut fields = FieldReader::of(frame.payload);
        let sink = fields.short().and_then(sink_of).unwrap_or(u16::MAX);
        let tag = fields.long_long().unwrap_or_default();
        self.redelivered += u64::from(fields.octet().unwrap_or_default() & 1);
        if let Some(channel) = self.channels.get_mut(usize::from(frame.channel)) {
            (channel.sink, channel.tag) = (sink, tag);
        }
    }

    /// A body begins.
    #[inline]
    fn stamped(&mut self, sink: u16, body: &[u8], now: u64) {
        let share = Stamp::read(body).zip(self.sinks.get_mut(usize::from(sink))).and_then(|(stamp, sink)| {
            let at = *sink.index.get(usize::from(stamp.producer))?;
            sink.shares.get_mut(at as usize).map(|share| (stamp, share))
        });
        let Some((stamp, (_, share, track))) = share else {
            self.foreign += 1;
            return;
        };
        if share.turns == 1 {
            track.see(stamp.sequence);
        } else if stamp.sequence % share.turns == share.turn {
            track.see(stamp.sequence / share.turns);
        } else {
            self.foreign += 1;
            return;
        }
        self.recorder.record(now.saturating_sub(stamp.time));
    }

    /// A message is complete.
    #[inline]
    fn delivered(&mut self, number: u16) {
        self.consumed += 1;
        let Some(channel) = self.channels.get_mut(usize::from(number)) else { return };
        match self.ack {
            Ack::Auto => {}
            Ack::Each => ack(&mut self.out, number, channel.tag, false),
            Ack::Batch(size) => {
                channel.unacknowledged += 1;
                if channel.unacknowledged >= size {
                    channel.unacknowledged = 0;
                    ack(&mut self.out, number, channel.tag, true);
                }
            }
        }
    }

    /// Acknowledges what is less than a batch.
    fn acknowledge_rest(&mut self) {
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if std::mem::take(&mut channel.unacknowledged) > 0 {
                ack(&mut self.out, number as u16, channel.tag, true);
            }
        }
    }

    #[cold]
    fn method(&mut self, frame: Frame<'_>) -> Result<bool, String> {
        match id_of(frame.payload) {
            BASIC_CONSUME_OK => {
                self.waits_for = self.waits_for.saturating_sub(1);
                if self.waits_for == 0 {
                    self.run.ready.fetch_add(1, AcqRel);
                }
            }
            BASIC_CANCEL => return Err("the broker cancelled a consumer: was its queue deleted?".to_owned()),
            CONNECTION_CLOSE => return Err(format!("the broker closed the connection: {}", close_text(frame.payload))),
            CHANNEL_CLOSE => return Err(format!("the broker closed the channel: {}", close_text(frame.payload))),
            CHANNEL_FLOW => {
                let active = FieldReader::of(frame.payload).octet().unwrap_or(1) & 1 != 0;
                method::flow_ok(&mut self.out, frame.channel, active);
            }
            CONNECTION_CLOSE_OK => return Ok(true),
            _ => {}
        }
        Ok(false)
    }
}

fn sink(layout: &LoadLayout, queue: usize, channel: u16) -> ConsumerState {
    let mut sink = ConsumerState { queue, channel, shares: Vec::new(), index: Vec::new() };
    for producer in 0..layout.producers() {
        sink.index.push(match layout.share_of(producer, queue) {
            Some(share) => {
                sink.shares.push((producer, share, Track::default()));
                (sink.shares.len() - 1) as u32
            }
            None => NONE,
        });
    }
    sink
}

/// A consumer tag: four hexadecimal digits, so that it costs nothing to find the sink again.
fn tag_of(sink: usize) -> [u8; 4] {
    let digit = |shift: usize| char::from_digit((sink >> shift & 15) as u32, 16).map_or(b'0', |digit| digit as u8);
    [digit(12), digit(8), digit(4), digit(0)]
}

#[inline]
fn sink_of(tag: &[u8]) -> Option<u16> {
    let digits: &[u8; 4] = tag.try_into().ok()?;
    let value = |octet: u8| u16::from(if octet >= b'a' { octet - b'a' + 10 } else { octet.wrapping_sub(b'0') });
    Some(digits.iter().fold(0, |sum, octet| sum << 4 | value(*octet) & 15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::encode_content::{Content, Copied, deliver};
    use leveret_wire::frame::{FrameScan, scan};

    fn feed(consumer: &mut ConsumerLoop<'_>, sink: usize, stamp: Option<Stamp>, size: usize) {
        let mut body = stamp.map_or(Vec::new(), |stamp| stamp.octets().to_vec());
        body.resize(size, b'x');
        let mut octets = Vec::new();
        let content = Content { route: b"\0\x01q", properties: &[0, 0], body: &body };
        deliver(&mut octets, 1, 4096, &tag_of(sink), 9, false, content, &mut Copied);
        let mut rest = &octets[..];
        while let Ok(FrameScan::Frame(frame, used)) = scan(rest, 0) {
            consumer.frame(frame, 5_000).unwrap();
            rest = &rest[used..];
        }
    }

    fn stamp(producer: u16, sequence: u64) -> Option<Stamp> {
        Some(Stamp { producer, sequence, time: 1_000 })
    }

    fn options() -> LoadOptions {
        LoadOptions::new("amqp://".parse().unwrap())
    }

    #[test]
    fn tags_lead_back_to_sinks() {
        for sink in [0, 1, 9, 10, 255, 0xabcd, 65_535] {
            assert_eq!(sink_of(&tag_of(sink)), Some(sink as u16));
        }
        assert_eq!(sink_of(b"abc"), None);
    }

    #[test]
    fn sees_loss_duplicates_disorder_and_strangers() {
        let mut options = options();
        (options.size, options.queues) = (10_000, 2);
        let (run, layout) = (RunState::default(), LoadLayout::new(&options, "x"));
        let mut consumer = ConsumerLoop::new(&run, &options, &layout, 0);
        // One producer takes turns over two queues: even numbers go to the first one.
        for sequence in [0, 2, 2, 8, 4] {
            feed(&mut consumer, 0, stamp(0, sequence), 10_000);
        }
        feed(&mut consumer, 0, stamp(0, 3), 10_000);
        feed(&mut consumer, 0, stamp(7, 0), 10_000);
        feed(&mut consumer, 0, None, 10);
        assert_eq!(consumer.consumed, 8);
        let consumed = consumer.result();
        let track = &consumed.seen[0].track;
        assert_eq!((track.duplicated, track.disordered, track.missing(5)), (1, 1, 1));
        assert_eq!((consumed.foreign, consumed.seen[1].track.missing(3)), (3, 3));
    }

    #[test]
    fn acknowledges_as_told() {
        for (how, octets) in [(Ack::Auto, 0), (Ack::Each, 5 * 21), (Ack::Batch(2), 2 * 21)] {
            let options = LoadOptions { ack: how, ..options() };
            let (run, layout) = (RunState::default(), LoadLayout::new(&options, "x"));
            let mut consumer = ConsumerLoop::new(&run, &options, &layout, 0);
            for sequence in 0..5 {
                feed(&mut consumer, 0, stamp(0, sequence), 16);
            }
            assert_eq!(consumer.out.len(), octets, "{how:?}");
            consumer.acknowledge_rest();
            assert_eq!(consumer.out.len(), octets + if how == Ack::Batch(2) { 21 } else { 0 }, "{how:?}");
        }
    }
}
