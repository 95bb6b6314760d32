//! One connection through the proxy as a fault sees it: where units go, what is held back, what is
//! remembered.

use std::collections::BTreeMap;

use super::frame::Unit;

/// Sender of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Broker,
}

/// State of a fault on one connection.
#[derive(Default)]
pub(super) struct Link {
    to_broker: Vec<u8>,
    to_client: Vec<u8>,
    has_told: bool,
    held: Vec<Unit>,
    counts: BTreeMap<(u16, &'static str), u64>,
    kept: BTreeMap<(u16, &'static str), Unit>,
}

impl Link {
    /// Passes a unit on to the other side.
    pub(super) fn pass(&mut self, from: Side, unit: &Unit) {
        self.pass_octets(from, &unit.octets());
    }

    /// Octets that are no frame.
    pub(super) fn pass_octets(&mut self, from: Side, octets: &[u8]) {
        match from {
            Side::Client => self.to_broker.extend(octets),
            Side::Broker => self.to_client.extend(octets),
        }
    }

    /// Answers the client in the broker's place.
    pub(super) fn tell(&mut self, unit: &Unit) {
        self.has_told = true;
        self.pass(Side::Broker, unit);
    }

    /// Returns true if the client was answered since the last call.
    pub(super) fn has_told(&mut self) -> bool {
        std::mem::take(&mut self.has_told)
    }

    /// Holds back what the broker said, until it is released or nothing more comes.
    pub(super) fn hold(&mut self, unit: Unit) {
        self.held.push(unit);
    }

    /// Returns true if anything is held back.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns true if a unit of this name is held back for this channel.
    pub(super) fn holds(&self, channel: u16, name: &str) -> bool {
        self.held.iter().any(|unit| unit.channel() == channel && unit.is(name))
    }

    /// Lets the client have what is held back.
    pub(super) fn release(&mut self) {
        for unit in std::mem::take(&mut self.held) {
            self.pass(Side::Broker, &unit);
        }
    }

    /// Counts from 1, on a channel, what has that name.
    pub(super) fn count(&mut self, channel: u16, what: &'static str) -> u64 {
        let count = self.counts.entry((channel, what)).or_default();
        *count += 1;
        *count
    }

    /// How far it has been counted.
    pub(super) fn counted(&self, channel: u16, what: &'static str) -> u64 {
        self.counts.get(&(channel, what)).copied().unwrap_or_default()
    }

    /// Forgets a count, and says whether there was one.
    pub(super) fn forget(&mut self, channel: u16, what: &'static str) -> bool {
        self.counts.remove(&(channel, what)).is_some()
    }

    /// Keeps a copy for later.
    pub(super) fn keep(&mut self, what: &'static str, unit: &Unit) {
        self.kept.insert((unit.channel(), what), unit.clone());
    }

    /// Takes the copy back.
    pub(super) fn kept(&mut self, channel: u16, what: &'static str) -> Option<Unit> {
        self.kept.remove(&(channel, what))
    }

    /// Octets that one side said, since the last time.
    pub(super) fn take(&mut self, from: Side) -> Vec<u8> {
        match from {
            Side::Client => std::mem::take(&mut self.to_broker),
            Side::Broker => std::mem::take(&mut self.to_client),
        }
    }
}
