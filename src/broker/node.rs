//! What all connections share: configuration, virtual hosts, users, alarms, and the list of connections. It opens no
//! socket and starts no task.

use crate::broker::access::Access;
use crate::broker::alarms::Alarms;
use crate::broker::restore::Definitions;
use crate::broker::vhost::Vhost;
use crate::config::Config;
use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::queue::shared::Shared;
use crate::store::journal::Journal;
use crate::store::recovery::Recovered;
use crate::wire::fault::Fault;
use crate::wire::name::Name;
use crate::wire::table_builder::TableBuilder;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;

/// The nine capabilities that RabbitMQ announces; clients look some of them up.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// A broker without its sockets.
#[derive(Debug)]
pub struct Node {
    config: Config,
    shared: Arc<Shared>,
    vhosts: HashMap<Name, Arc<Vhost>>,
    access: Access,
    alarms: Alarms,
    server_properties: Vec<u8>,
    connections: Mutex<HashMap<u64, Arc<Outbox>>>,
}

impl Node {
    /// The broker that `config` describes.
    pub fn new(config: Config) -> Self {
        Self::sharing(config, Shared::default())
    }

    /// The broker that `config` describes, with what a journal has kept; what is durable goes to that journal.
    ///
    /// # Errors
    /// If a definition is not understood; the text says which.
    pub fn with_store(config: Config, journal: &Arc<Journal>, recovered: &Recovered) -> Result<Self, String> {
        let definitions = Definitions::read(recovered)?;
        let high = config.memory_high_watermark;
        let shared = Shared::with_journal(Arc::default(), Arc::clone(journal), definitions.last_number);
        let mut node = Self::sharing(config, shared.paging_below(high));
        for name in definitions.vhosts() {
            let shared = &node.shared;
            node.vhosts.entry(name.clone()).or_insert_with(|| Arc::new(Vhost::new(name.clone(), Arc::clone(shared))));
        }
        definitions.restore(&node.vhosts, &node.shared, recovered);
        node.vhosts.values().for_each(|vhost| vhost.keep_changes());
        Ok(node)
    }

    fn sharing(config: Config, shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let mut vhosts = HashMap::new();
        for name in std::iter::once(&config.default_vhost).chain(&config.vhosts) {
            if let Some(name) = Name::new(name.as_bytes()) {
                let vhost = Vhost::new(name.clone(), Arc::clone(&shared));
                vhosts.entry(name).or_insert_with(|| Arc::new(vhost));
            }
        }
        Self {
            access: Access::new(&config),
            alarms: Alarms::new(Arc::clone(shared.counters()), config.memory_high_watermark),
            server_properties: server_properties(&config),
            vhosts,
            shared,
            config,
            connections: Mutex::default(),
        }
    }

    /// What all queues share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        self.shared.counters()
    }

    /// Users.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Alarms.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The virtual host of that name.
    pub fn vhost(&self, name: &[u8]) -> Option<&Arc<Vhost>> {
        self.vhosts.get(name)
    }

    /// `server-properties` of connection.start: the octets of a table.
    pub fn server_properties(&self) -> &[u8] {
        &self.server_properties
    }

    /// Puts a connection on the list; its number.
    pub fn enlist(&self, outbox: &Arc<Outbox>) -> u64 {
        let number = self.shared.counters().next_connection();
        self.connections.lock().insert(number, Arc::clone(outbox));
        number
    }

    /// Takes a connection off the list.
    pub fn strike(&self, number: u64) {
        self.connections.lock().remove(&number);
    }

    /// Asks every connection to close.
    pub fn close_all(&self, fault: &Fault) {
        let outboxes: Vec<_> = self.connections.lock().values().cloned().collect();
        for outbox in outboxes {
            outbox.ask_to_close(fault.clone());
        }
    }
}

fn server_properties(config: &Config) -> Vec<u8> {
    let mut capabilities = TableBuilder::new();
    for name in CAPABILITIES {
        capabilities.put_bool(name.as_bytes(), true);
    }
    let mut properties = TableBuilder::new();
    properties.put_table(b"capabilities", capabilities.as_table());
    for (key, text) in [
        ("cluster_name", config.cluster_name.as_str()),
        ("copyright", "Copyright (c) the Leveret authors"),
        ("information", "Licensed under the Apache License 2.0"),
        ("leveret", env!("CARGO_PKG_VERSION")),
        ("platform", concat!("Rust ", env!("CARGO_PKG_RUST_VERSION"))),
        // Clients look these two up to decide what they may use.
        ("product", "RabbitMQ"),
        ("version", config.server_version.as_str()),
    ] {
        properties.put_long_str(key.as_bytes(), text.as_bytes());
    }
    properties.into_octets()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fault::Code;
    use crate::wire::table::{Table, Value};

    #[test]
    fn it_has_the_virtual_hosts_that_are_configured() {
        let node = Node::new(Config { vhosts: vec!["other".to_owned()], ..Config::default() });
        assert!(node.vhost(b"/").is_some() && node.vhost(b"other").is_some() && node.vhost(b"").is_none());
    }

    #[test]
    fn clients_find_what_they_look_for_in_the_server_properties() {
        let node = Node::new(Config::default());
        let properties = Table::check(node.server_properties()).unwrap();
        assert_eq!(properties.get(b"product"), Some(Value::LongStr(b"RabbitMQ")));
        let version = node.config().server_version.as_bytes();
        assert_eq!(properties.get(b"version"), Some(Value::LongStr(version)));
        let own = env!("CARGO_PKG_VERSION").as_bytes();
        assert_eq!(properties.get(b"leveret"), Some(Value::LongStr(own)));
        let Some(Value::Table(capabilities)) = properties.get(b"capabilities") else { panic!() };
        assert!(capabilities.iter().count() == 9 && capabilities.iter().all(|(_, value)| value == Value::Bool(true)));
    }

    #[test]
    fn connections_are_asked_to_close_as_long_as_they_are_on_the_list() {
        let node = Node::new(Config::default());
        let outboxes = [Arc::new(Outbox::default()), Arc::new(Outbox::default())];
        let [first, second] = outboxes.each_ref().map(|outbox| node.enlist(outbox));
        assert_ne!(first, second);
        node.strike(first);
        node.close_all(&Fault::new(Code::ConnectionForced, "x"));
        let asked = outboxes.each_ref().map(|outbox| outbox.lock().take_errands().close.is_some());
        assert_eq!(asked, [false, true]);
    }
}
