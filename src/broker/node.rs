//! The state that all connections of a broker share: configuration, virtual hosts, users, alarms,
//! and the list of connections. Opens no socket and starts no task.

use crate::broker::access::Access;
use crate::broker::alarms::Alarms;
use crate::broker::definitions::DefinitionError;
use crate::broker::failed_logins::FailedLogins;
use crate::broker::restore::Definitions;
use crate::broker::snapshot::Snapshot;
use crate::broker::vhost::Vhost;
use crate::config::Config;
use crate::counters::Counters;
use crate::limits;
use crate::metrics::ConnectionInfo;
use crate::outbox::Outbox;
use crate::queue::context::QueueContext;
use hashbrown::HashMap;
use leveret_journal::journal::Journal;
use leveret_journal::recovery::Recovered;
use leveret_wire::fault::Fault;
use leveret_wire::name::Name;
use leveret_wire::table_builder::TableBuilder;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The nine capabilities that RabbitMQ announces in server-properties; clients look some of them
/// up.
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

/// The state of a broker, without its sockets and tasks.
#[derive(Debug)]
pub struct Node {
    config: Config,
    context: Arc<QueueContext>,
    vhosts: Snapshot<HashMap<Name, Arc<Vhost>>>,
    access: Snapshot<Access>,
    failed_logins: FailedLogins,
    alarms: Alarms,
    server_properties: Vec<u8>,
    connections: Mutex<HashMap<u64, Arc<Outbox>>>,
    /// Those of them that are open, with their numbers.
    open: Mutex<BTreeMap<u64, ListedConnection>>,
}

/// The numbers of an open connection, and its outbox.
pub type ListedConnection = (Arc<ConnectionInfo>, Arc<Outbox>);

/// Most connections returned by one call.
pub const CONNECTIONS_PAGE: usize = 256;

impl Node {
    /// Creates the node that `config` describes, without a journal.
    pub fn new(config: Config) -> Self {
        Self::sharing(config, QueueContext::default())
    }

    /// Creates the node that `config` describes, with the definitions and queues recovered from
    /// `journal`, to which durable changes are appended.
    ///
    /// # Errors
    /// A definition in the journal is of a later version or kind, or malformed.
    pub fn with_store(config: Config, journal: &Arc<Journal>, recovered: &Recovered) -> Result<Self, DefinitionError> {
        let definitions = Definitions::read(recovered)?;
        let high = config.memory_high_watermark;
        let context = QueueContext::with_journal(Arc::default(), Arc::clone(journal), definitions.last_number);
        let node = Self::sharing(config, context.paging_below(high));
        node.vhosts.update(|vhosts| {
            let mut vhosts = vhosts.clone();
            for name in definitions.vhosts() {
                let new = || Arc::new(Vhost::new(name.clone(), Arc::clone(&node.context)));
                vhosts.entry(name.clone()).or_insert_with(new);
            }
            vhosts
        });
        let vhosts = node.vhosts.load();
        definitions.restore(&vhosts, &node.context, recovered);
        vhosts.values().for_each(|vhost| vhost.record_changes());
        Ok(node)
    }

    fn sharing(config: Config, context: QueueContext) -> Self {
        let high = config.memory_high_watermark;
        let context = Arc::new(context.definitions_below(high).caches_below(high));
        let mut vhosts = HashMap::new();
        for name in std::iter::once(&config.default_vhost).chain(&config.vhosts) {
            if let Some(name) = Name::new(name.as_bytes()) {
                let vhost = Vhost::new(name.clone(), Arc::clone(&context));
                vhosts.entry(name).or_insert_with(|| Arc::new(vhost));
            }
        }
        Self {
            access: Snapshot::new(Access::new(&config)),
            failed_logins: FailedLogins::default(),
            alarms: Alarms::new(context.memory(), limits::charged_below(config.memory_high_watermark)),
            server_properties: server_properties(&config),
            vhosts: Snapshot::new(vhosts),
            context,
            config,
            connections: Mutex::default(),
            open: Mutex::default(),
        }
    }

    /// Returns the context that all queues of the broker share.
    pub fn context(&self) -> &Arc<QueueContext> {
        &self.context
    }

    /// Returns the failed logins by address.
    pub fn failed_logins(&self) -> &FailedLogins {
        &self.failed_logins
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        self.context.counters()
    }

    /// Returns a snapshot of the users.
    pub fn access(&self) -> Arc<Access> {
        self.access.load()
    }

    /// Returns the alarms.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Returns the virtual host `name`.
    pub fn vhost(&self, name: &[u8]) -> Option<Arc<Vhost>> {
        self.vhosts.load().get(name).cloned()
    }

    /// Returns `server-properties` of connection.start, encoded as a table.
    pub fn server_properties(&self) -> &[u8] {
        &self.server_properties
    }

    /// Adds a connection to the list, and returns its number.
    pub fn register(&self, outbox: &Arc<Outbox>) -> u64 {
        let number = self.context.counters().next_connection();
        outbox.set_connection(number);
        self.connections.lock().insert(number, Arc::clone(outbox));
        number
    }

    /// Adds the numbers of a connection that was opened.
    pub fn opened(&self, info: &Arc<ConnectionInfo>, outbox: &Arc<Outbox>) {
        self.open.lock().insert(info.number, (Arc::clone(info), Arc::clone(outbox)));
    }

    /// Returns open connections by ascending number, of those behind `after` at most `most` and at
    /// most [`CONNECTIONS_PAGE`].
    pub fn connections(&self, after: u64, most: usize) -> Vec<ListedConnection> {
        let open = self.open.lock();
        let behind = open.range((Bound::Excluded(after), Bound::Unbounded)).take(most.min(CONNECTIONS_PAGE));
        behind.map(|(_, (info, outbox))| (Arc::clone(info), Arc::clone(outbox))).collect()
    }

    /// Returns all virtual hosts.
    pub fn vhosts(&self) -> Vec<Arc<Vhost>> {
        self.vhosts.load().values().cloned().collect()
    }

    /// Removes the connection `number` from the list.
    pub fn deregister(&self, number: u64) {
        self.connections.lock().remove(&number);
        let open = self.open.lock().remove(&number);
        drop(open);
    }

    /// Requests the end of every connection.
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
        // Clients compare these two to decide which features to use.
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
    use leveret_wire::fault::Code;
    use leveret_wire::table::{Table, Value};

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
        let [first, second] = outboxes.each_ref().map(|outbox| node.register(outbox));
        assert_ne!(first, second);
        node.deregister(first);
        node.close_all(&Fault::new(Code::ConnectionForced, "x"));
        let asked = outboxes.each_ref().map(|outbox| outbox.lock().take_pending_actions().close.is_some());
        assert_eq!(asked, [false, true]);
    }
}
