//! Numbers of connections and channels that any thread may read at any time, without asking the
//! connection's task: relaxed atomics, and facts that do not change. No decision depends on them.

use leveret_wire::name::Name;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};

/// A counter with one writer, which need not be atomic to it: no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds a number. Only one thread at a time may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Returns the sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The mode of a channel: how publications and settlements take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Plain,
    /// At once, with publisher confirms.
    Confirm,
    /// At tx.commit.
    Transaction,
}

/// The numbers of one channel, written by its connection's task.
#[derive(Debug, Default)]
pub struct ChannelStats {
    /// Messages published.
    pub published: Counter,
    /// Publications confirmed by basic.ack.
    pub confirmed: Counter,
    /// Publications refused by basic.nack.
    pub rejected: Counter,
    /// Deliveries acknowledged.
    pub acked: Counter,
    /// Deliveries put back into their queues.
    pub requeued: Counter,
    /// Deliveries rejected without requeue.
    pub refused: Counter,
    mode: AtomicU8,
    /// `published` when the mode was set.
    published_before: Counter,
    prefetch: AtomicU16,
}

impl ChannelStats {
    /// Sets the mode.
    pub fn set_mode(&self, mode: Mode) {
        self.published_before.add(self.published.get() - self.published_before.get());
        self.mode.store(mode as u8, Relaxed);
    }

    /// Returns the number of publications that wait for a confirm.
    pub fn unconfirmed(&self) -> u64 {
        let answered = self.published_before.get() + self.confirmed.get() + self.rejected.get();
        if self.mode() == Mode::Confirm { self.published.get().saturating_sub(answered) } else { 0 }
    }

    /// Returns the mode.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Relaxed) {
            0 => Mode::Plain,
            1 => Mode::Confirm,
            _ => Mode::Transaction,
        }
    }

    /// Sets the prefetch of new consumers; 0: no limit.
    pub fn set_prefetch(&self, prefetch: u16) {
        self.prefetch.store(prefetch, Relaxed);
    }

    /// Returns the prefetch of new consumers; 0: no limit.
    pub fn prefetch(&self) -> u16 {
        self.prefetch.load(Relaxed)
    }
}

/// The facts of an open connection that do not change, and its numbers.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The connection's number.
    pub number: u64,
    /// The client's socket address.
    pub peer: SocketAddr,
    /// The authenticated user.
    pub user: String,
    /// The virtual host.
    pub vhost: Name,
    /// `client-properties` of start-ok, encoded as a table without its length.
    pub client_properties: Box<[u8]>,
    /// The largest frame, in octets.
    pub frame_max: u32,
    /// Most channels open at a time; 0 is no limit.
    pub channel_max: u16,
    /// The heartbeat interval, in ms; 0: none.
    pub heartbeat_ms: u64,
    /// The wall time of connection.open, in ms since 1970.
    pub connected_at_ms: u64,
    /// Octets of frames processed.
    pub octets_in: Counter,
    /// The connection is held back by an alarm.
    pub is_blocked: AtomicBool,
    /// The open channels.
    pub channels: OpenChannels,
}

/// The open channels of a connection.
#[derive(Debug, Default)]
pub struct OpenChannels(Mutex<BTreeMap<u16, Arc<ChannelStats>>>);

impl OpenChannels {
    /// Adds an open channel.
    pub fn add(&self, number: u16, stats: &Arc<ChannelStats>) {
        self.0.lock().insert(number, Arc::clone(stats));
    }

    /// Removes a channel that was closed.
    pub fn remove(&self, number: u16) {
        self.0.lock().remove(&number);
    }

    /// Returns the number of open channels.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Returns the open channels by number.
    pub fn list(&self) -> Vec<(u16, Arc<ChannelStats>)> {
        self.0.lock().iter().map(|(number, stats)| (*number, Arc::clone(stats))).collect()
    }
}

/// The messages that went through one queue since the start, written under its lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages enqueued.
    pub published: u64,
    /// Deliveries to consumers that acknowledge.
    pub delivered: u64,
    /// Deliveries to consumers that do not acknowledge.
    pub delivered_no_ack: u64,
    /// Messages fetched by basic.get that wait for an acknowledgement.
    pub got: u64,
    /// Messages fetched by basic.get without acknowledgement.
    pub got_no_ack: u64,
    /// Deliveries and fetches that were not a message's first.
    pub redelivered: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages put back.
    pub requeued: u64,
    /// Messages rejected without requeue.
    pub refused: u64,
}

/// The messages that went through one exchange since the start. Its writers are many.
#[derive(Debug, Default)]
pub struct ExchangeCounts {
    published: AtomicU64,
    routed: AtomicU64,
}

impl ExchangeCounts {
    /// Counts messages published to the exchange, and the queues that they went to.
    pub fn add(&self, published: u64, routed: u64) {
        self.published.fetch_add(published, Relaxed);
        self.routed.fetch_add(routed, Relaxed);
    }

    /// Returns the number of messages published to the exchange.
    pub fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// Returns the number of times that one of these messages went to a queue.
    pub fn routed(&self) -> u64 {
        self.routed.load(Relaxed)
    }
}
