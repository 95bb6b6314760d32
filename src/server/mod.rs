//! The running broker: listeners, connections, shutdown. The only layer with sockets; it knows no
//! method and no queue.

pub mod connection;
pub mod data_dir;
pub mod descriptors;
pub mod disk_watch;
pub mod error;
mod inline_commit;
pub mod listener;
pub mod page_in_task;
pub mod reader;
pub mod storage;
mod store_check;
mod strangers;
pub mod transport;
pub mod writer;

use crate::broker::node::Node;
use crate::clock::Clock;
use crate::config::Config;
use crate::server::disk_watch::DiskWatch;
use crate::server::error::{ShutdownError, StartError};
use crate::server::listener::Listeners;
use crate::server::storage::BrokerStore;
use leveret_journal::disk::Disk;
use leveret_journal::recovery::Recovered;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::task::{JoinHandle, block_in_place};

/// The time within which memory is freed together, in ms.
const FREED_TOGETHER_MS: u64 = 1_000;
/// The time after which what was freed later is given back, in ms.
const FREED_LATER_MS: u64 = 2_000;

/// A broker that serves clients.
///
/// It runs on the tokio runtime that it was started on. When it is dropped without
/// [`Broker::shutdown`], its sockets are closed without a word to the clients, and what was
/// confirmed is recovered by the next start.
///
/// What is durable it keeps in `leveret-data` under the working directory, unless `config.data_dir`
/// says otherwise. Brokers that run at the same time need a directory each; one that is to leave
/// nothing behind, as in most tests, keeps all in memory: see below.
///
/// ```
/// use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
/// use lapin::types::FieldTable;
/// use lapin::{BasicProperties, Connection, ConnectionProperties};
/// use leveret::config::{StoreConfig, StoreKind};
/// use leveret::{Broker, Config};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = StoreConfig { kind: StoreKind::Memory, ..Config::default().store };
/// let config = Config { bind: vec!["127.0.0.1:0".parse()?], store, ..Config::default() };
/// let broker = Broker::start(config).await?;
/// let url = format!("amqp://guest:guest@{}/%2f", broker.address());
///
/// let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
/// let channel = connection.create_channel().await?;
/// let options = QueueDeclareOptions::default();
/// channel.queue_declare("hares".into(), options, FieldTable::default()).await?;
/// let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
/// channel.basic_publish("".into(), "hares".into(), options, b"Hazel", properties).await?;
/// let message = channel.basic_get("hares".into(), BasicGetOptions { no_ack: true }).await?;
/// assert_eq!(message.ok_or("the queue is empty")?.data, b"Hazel");
///
/// connection.close(200, "done".into()).await?;
/// broker.shutdown().await?;
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct Broker {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    node: Arc<Node>,
    store: Option<BrokerStore>,
    store_tasks: Option<StoreTasks>,
    clock: Clock,
    /// Memory was freed, and more may have been freed since.
    frees_more: AtomicBool,
}

/// The tasks that look after the store.
#[derive(Debug)]
struct StoreTasks {
    watching: JoinHandle<()>,
    reading: JoinHandle<()>,
}

/// Runs long work with the worker's place in the runtime given to another thread, where there is
/// one.
fn off_worker(work: &mut dyn FnMut()) {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// Starts work on a thread for blocking work, without waiting for it.
fn beside_workers(work: Box<dyn FnOnce() + Send>) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

impl Broker {
    /// Starts a broker. Port 0 in `config.bind` stands for any free port; see [`Broker::address`].
    ///
    /// What `config.data_dir` holds is read first; with `config.store.kind`
    /// [`StoreKind::Memory`](crate::config::StoreKind::Memory) nothing touches the disk. No two
    /// brokers can share a directory.
    ///
    /// # Errors
    /// An address cannot be listened on; the data directory is used by another broker; what is in
    /// it cannot be relied on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with_clock(config, Clock::system()).await
    }

    /// Starts a broker that takes all time from `clock`: heartbeats, time limits, times to live. By
    /// a [`Clock::manual`] they come when its hand is moved, and a test need not wait. Only what
    /// bounds the end of a socket and the work of the disk goes by the system's clock always.
    ///
    /// ```
    /// use leveret::clock::Clock;
    /// use leveret::config::{StoreConfig, StoreKind};
    /// use leveret::{Broker, Config};
    /// use std::io::Read;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let (clock, hand) = Clock::manual();
    /// let store = StoreConfig { kind: StoreKind::Memory, ..Config::default().store };
    /// let config = Config { bind: vec!["127.0.0.1:0".parse()?], store, ..Config::default() };
    /// let limit = config.handshake_timeout_ms;
    /// let broker = Broker::start_with_clock(config, clock).await?;
    ///
    /// // A client that says nothing is ended after ten seconds, which need not pass.
    /// let mut silent = std::net::TcpStream::connect(broker.address())?;
    /// while hand.next_deadline().is_none() {
    ///     tokio::task::yield_now().await;
    /// }
    /// hand.advance(limit + 128);
    /// assert_eq!(silent.read(&mut [0])?, 0);
    /// # broker.shutdown().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start_with_clock(config: Config, clock: Clock) -> Result<Self, StartError> {
        let open = tokio::task::spawn_blocking(move || BrokerStore::open(&config).map(|kept| (kept, config)));
        let (kept, config) = open.await.map_err(StartError::Opening)??;
        // Last: nobody connects before there is somebody to answer.
        let listeners = Listeners::bind(&config.bind).await?;
        Self::serve(listeners, config, kept, clock)
    }

    /// As [`Broker::start`], with what is durable on a disk that the caller brings along: for tests
    /// that have one fail.
    ///
    /// # Errors
    /// As [`Broker::start`].
    #[doc(hidden)]
    pub async fn start_on(config: Config, disk: Arc<dyn Disk>) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config.bind).await?;
        let refused = |error| StartError::store(&config.data_dir, error);
        let kept = BrokerStore::on_disk(disk, &config).map_err(refused)?;
        Self::serve(listeners, config, Some(kept), Clock::system())
    }

    fn serve(
        listeners: Listeners,
        config: Config,
        kept: Option<(BrokerStore, Recovered)>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let (node, store) = match kept {
            None => (Node::new(config), None),
            Some((store, recovered)) => {
                let directory = config.data_dir.clone();
                let node = Node::with_store(config, store.journal(), &recovered)
                    .map_err(|error| StartError::Store { directory, reason: error.to_string(), damaged: false })?;
                (node, Some(store))
            }
        };
        let node = Arc::new(node);
        node.context().set_wall_ms(clock.now(), clock.wall_ms());
        node.context().offload().set(off_worker, beside_workers);
        let store_tasks = store.as_ref().map(|store| {
            let watch = DiskWatch::new(Arc::clone(&node), Arc::clone(store.journal()), clock.clone());
            StoreTasks {
                watching: tokio::spawn(watch.run(store.failed())),
                reading: tokio::spawn(page_in_task::run(Arc::clone(&node))),
            }
        });
        let (stop, stopped) = watch::channel(false);
        let addresses = listeners.addresses();
        let serving = tokio::spawn(listeners.serve(Arc::clone(&node), clock.clone(), stopped));
        Ok(Self { addresses, stop, serving, node, store, store_tasks, clock, frees_more: AtomicBool::new(false) })
    }

    /// Waits until nothing becomes durable any more, because the disk has failed: why. The clients'
    /// connections are being closed then, and nothing that was not durable was confirmed. What
    /// remains is to shut down, and to start again.
    pub async fn failed(&self) -> String {
        let Some(store) = &self.store else { return std::future::pending().await };
        let mut failed = store.failed();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Waits until much of the memory that clients had the broker keep was freed, and a second
    /// longer, as connections seldom end alone: an allocator may hold on to it unless told to give
    /// it back. Returns once more two seconds later, for what takes longer to end.
    #[doc(hidden)]
    pub async fn memory_freed(&self) {
        if self.frees_more.swap(false, Ordering::Relaxed) {
            return self.clock.sleep(FREED_LATER_MS).await;
        }
        self.node.alarms().freed().await;
        self.clock.sleep(FREED_TOGETHER_MS).await;
        self.frees_more.store(true, Ordering::Relaxed);
    }

    /// Wakes the workers of the runtime that wait for work.
    #[doc(hidden)]
    pub fn wake_workers(&self) {
        let runtime = tokio::runtime::Handle::current();
        for _ in 0..2 * runtime.metrics().num_workers() {
            runtime.spawn(async {});
        }
    }

    /// Returns the broker without its sockets and tasks, whose numbers may be read at any time.
    #[doc(hidden)]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        // There is one, or it would not have started.
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// All addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes every connection with 320 (541 if the disk has failed) and every listener, and syncs
    /// what is durable. When it returns, nothing is left of the broker.
    ///
    /// # Errors
    /// What was not synced, or that the next start takes longer.
    pub async fn shutdown(mut self) -> Result<(), ShutdownError> {
        let has_failed = self.store.as_ref().is_some_and(|store| store.failed().borrow().is_some());
        let mut reading = None;
        if let Some(store_tasks) = self.store_tasks.take() {
            if !has_failed {
                store_tasks.watching.abort();
            }
            // If it has failed, this ends when everybody was told why, which nobody is to hear
            // differently.
            let _ = store_tasks.watching.await;
            reading = Some(store_tasks.reading);
        }
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the listeners ended badly");
        }
        if let Some(reading) = reading {
            reading.abort();
            let _ = reading.await;
        }
        let Some(store) = self.store.take() else { return Ok(()) };
        let stop = tokio::task::spawn_blocking(move || store.stop());
        stop.await.map_err(ShutdownError::Closing)?.map_err(ShutdownError::Store)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.serving.abort();
        if let Some(store_tasks) = &self.store_tasks {
            store_tasks.watching.abort();
            store_tasks.reading.abort();
        }
    }
}
