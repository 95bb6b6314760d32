//! Numbers of a broker at one time, for management: read page by page, without asking the task of
//! any connection. No lock is held for more than a page. Changes nothing.

use crate::broker::node::Node;
use crate::broker::vhost::Vhost;
use crate::metrics::{ChannelStats, ConnectionInfo, Mode};
use crate::outbox::Outbox;
use crate::queue::{Queue, QueueStats};
use leveret_wire::name::Name;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The totals of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTotals {
    /// Open connections.
    pub connections: usize,
    /// Open channels.
    pub channels: usize,
    /// Queues of all virtual hosts.
    pub queues: usize,
    /// Exchanges of all virtual hosts, each host's default exchange included.
    pub exchanges: usize,
    /// Consumers.
    pub consumers: usize,
    /// Ready messages.
    pub ready: usize,
    /// Messages delivered and not settled.
    pub unacked: usize,
    /// Octets charged to the memory account.
    pub memory: u64,
    /// Octets charged at which the memory alarm is raised.
    pub memory_limit: u64,
    /// An alarm is raised.
    pub has_alarm: bool,
    /// Octets free on the disk; `None` without a store.
    pub disk_free: Option<u64>,
    /// Connections accepted since the start.
    pub connections_accepted: u64,
}

/// The numbers of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VhostTotals {
    /// Queues.
    pub queues: usize,
    /// Exchanges, the default one included.
    pub exchanges: usize,
    /// Consumers.
    pub consumers: usize,
    /// Ready messages.
    pub ready: usize,
    /// Messages delivered and not settled.
    pub unacked: usize,
}

/// The numbers of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionStats {
    /// The facts of the connection, and its counters.
    pub info: Arc<ConnectionInfo>,
    /// Octets of frames processed.
    pub octets_in: u64,
    /// Octets written to the socket.
    pub octets_out: u64,
    /// The connection is held back by an alarm.
    pub is_blocked: bool,
    /// Its open channels.
    pub channels: usize,
}

/// The numbers of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTotals {
    /// The number of the connection.
    pub connection: u64,
    /// The channel's number.
    pub number: u16,
    /// How publications and settlements take effect.
    pub mode: Mode,
    /// The prefetch of new consumers; 0: no limit.
    pub prefetch: u16,
    /// The most unacked deliveries of all consumers together; 0: no limit.
    pub prefetch_of_all: u32,
    /// Deliveries that are not settled.
    pub unacked: usize,
    /// Publications that are not confirmed.
    pub unconfirmed: u64,
    /// Messages published.
    pub published: u64,
    /// Publications confirmed by basic.ack.
    pub confirmed: u64,
    /// Publications refused by basic.nack.
    pub rejected: u64,
    /// Publications returned as unroutable.
    pub returned: u64,
    /// Deliveries to consumers.
    pub delivered: u64,
    /// Messages fetched by basic.get.
    pub fetched: u64,
    /// Deliveries acknowledged.
    pub acked: u64,
    /// Deliveries put back.
    pub requeued: u64,
    /// Deliveries rejected without requeue.
    pub refused: u64,
}

/// The numbers of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeTotals {
    /// The name; empty for the default exchange.
    pub name: Name,
    /// Bindings of which it is the source; the default exchange has none.
    pub bindings: usize,
    /// Messages published to it.
    pub published: u64,
    /// Queues that they went to, added up.
    pub routed: u64,
}

impl ConnectionStats {
    /// Reads the numbers of a connection.
    pub fn read(info: Arc<ConnectionInfo>, outbox: &Outbox) -> Self {
        Self {
            octets_in: info.octets_in.get(),
            octets_out: outbox.lock().octets_out(),
            is_blocked: info.is_blocked.load(Ordering::Relaxed),
            channels: info.channels.count(),
            info,
        }
    }
}

impl ChannelTotals {
    fn read(connection: u64, number: u16, stats: &ChannelStats, outbox: &Outbox) -> Option<Self> {
        let mut inner = outbox.lock();
        let deliveries = inner.unacked(number)?;
        let (tags, unacked, fetched) = (deliveries.last_tag(), deliveries.len(), deliveries.fetched());
        let (returned, prefetch_of_all) = (deliveries.returned(), deliveries.limit());
        drop(inner);
        Some(Self {
            connection,
            number,
            mode: stats.mode(),
            prefetch: stats.prefetch(),
            prefetch_of_all,
            unacked,
            unconfirmed: stats.unconfirmed(),
            published: stats.published.get(),
            confirmed: stats.confirmed.get(),
            rejected: stats.rejected.get(),
            returned,
            delivered: tags - fetched,
            fetched,
            acked: stats.acked.get(),
            requeued: stats.requeued.get(),
            refused: stats.refused.get(),
        })
    }
}

/// Entries read under one hold of a lock.
const PAGE: usize = 256;

impl Node {
    /// Returns the numbers of at most `most` open connections behind number `after`, ascending.
    pub fn connection_stats(&self, after: u64, most: usize) -> Vec<ConnectionStats> {
        let page = self.connections(after, most).into_iter();
        page.map(|(info, outbox)| ConnectionStats::read(info, &outbox)).collect()
    }

    /// Returns the numbers of the open channels of a connection, by number.
    pub fn channel_totals(&self, connection: u64) -> Vec<ChannelTotals> {
        let found = self.connections(connection.saturating_sub(1), 1).into_iter();
        let found = found.filter(|(info, _)| info.number == connection);
        found
            .flat_map(|(info, outbox)| {
                let channels = info.channels.list().into_iter();
                channels.filter_map(move |(number, stats)| ChannelTotals::read(connection, number, &stats, &outbox))
            })
            .collect()
    }

    /// Returns the totals of the broker. Reads every queue and connection, a page at a time.
    pub fn totals(&self) -> NodeTotals {
        let context = self.context();
        let disk_free = context.journal().and_then(|journal| journal.free_space().ok());
        let mut totals = NodeTotals {
            memory: context.memory().used(),
            memory_limit: self.alarms().memory_limit(),
            has_alarm: self.alarms().is_raised(),
            disk_free,
            connections_accepted: self.counters().connections(),
            ..NodeTotals::default()
        };
        for vhost in self.vhosts() {
            let VhostTotals { queues, exchanges, consumers, ready, unacked } = vhost.totals();
            totals.queues += queues;
            totals.exchanges += exchanges;
            totals.consumers += consumers;
            totals.ready += ready;
            totals.unacked += unacked;
        }
        let mut after = 0;
        loop {
            let page = self.connections(after, PAGE);
            let Some((last, _)) = page.last() else { return totals };
            after = last.number;
            totals.connections += page.len();
            totals.channels += page.iter().map(|(info, _)| info.channels.count()).sum::<usize>();
        }
    }
}

impl Vhost {
    /// Returns at most `most` queues from an index on, with their numbers; an empty page is the
    /// end. A queue that is declared or deleted between two pages may be missing or come twice.
    pub fn queue_stats(&self, at: usize, most: usize) -> Vec<(Arc<Queue>, QueueStats)> {
        let page: Vec<Arc<Queue>> = self.names().queues_from(at, most.min(PAGE)).cloned().collect();
        page.into_iter().map(|queue| (Arc::clone(&queue), queue.stats())).collect()
    }

    /// Returns the numbers of the default exchange, then at most `most` others from an index on.
    pub fn exchange_totals(&self, at: usize, most: usize) -> Vec<ExchangeTotals> {
        let names = self.names();
        let default = (at == 0).then(|| (Name::default(), 0)).into_iter();
        let others = names.exchanges_from(at, most.min(PAGE));
        let all = default.chain(others.map(|(name, exchange)| (name.clone(), exchange.binding_count())));
        all.filter_map(|(name, bindings)| {
            let counts = names.exchange_counts(name.as_octets())?;
            let (published, routed) = (counts.published(), counts.routed());
            Some(ExchangeTotals { name, bindings, published, routed })
        })
        .collect()
    }

    /// Returns the totals of the virtual host. Reads every queue, a page at a time.
    pub fn totals(&self) -> VhostTotals {
        let (queues, exchanges) = self.names().sizes();
        let mut totals = VhostTotals { queues, exchanges: exchanges + 1, ..VhostTotals::default() };
        let mut at = 0;
        loop {
            let page = self.queue_stats(at, PAGE);
            if page.is_empty() {
                return totals;
            }
            at += page.len();
            for (_, QueueStats { ready, unacked, consumers, .. }) in page {
                totals.ready += ready;
                totals.unacked += unacked;
                totals.consumers += consumers;
            }
        }
    }
}
