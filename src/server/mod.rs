//! The running broker: listeners, connections, shutdown. The only floor with sockets; it knows no method and no queue.

pub mod connection;
pub mod data_dir;
pub mod keeping;
pub mod listener;
mod lone;
pub mod start_error;
pub mod writer;

use crate::broker::node::Node;
use crate::clock::Clock;
use crate::config::Config;
use crate::server::keeping::{Keeping, Watch};
use crate::server::listener::Listeners;
use crate::server::start_error::StartError;
use crate::store::disk::Disk;
use crate::store::recovery::Recovered;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A broker that serves clients.
///
/// It runs on the tokio runtime that it was started on. When it is dropped without [`Broker::shutdown`], its sockets are
/// closed without a word to the clients, and what was confirmed is recovered by the next start.
///
/// What is durable it keeps in `leveret-data` under the working directory, unless `config.data_dir` says otherwise. Brokers that
/// run at the same time need a directory each; one that is to leave nothing behind, as in most tests, keeps all in memory: see
/// below.
///
/// ```
/// use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
/// use lapin::types::FieldTable;
/// use lapin::{BasicProperties, Connection, ConnectionProperties};
/// use leveret::config::{Store, StoreKind};
/// use leveret::{Broker, Config};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = Store { kind: StoreKind::Memory, ..Config::default().store };
/// let config = Config { bind: vec!["127.0.0.1:0".parse()?], store, ..Config::default() };
/// let broker = Broker::start(config).await?;
/// let url = format!("amqp://guest:guest@{}/%2f", broker.address());
///
/// let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
/// let channel = connection.create_channel().await?;
/// channel.queue_declare("hares".into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
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
    keeping: Option<Keeping>,
    /// What looks after the store.
    keepers: Option<Keepers>,
}

/// The tasks that look after the store.
#[derive(Debug)]
struct Keepers {
    watching: JoinHandle<()>,
    reading: JoinHandle<()>,
}

impl Broker {
    /// Starts a broker. Port 0 in `config.bind` stands for any free port; see [`Broker::address`].
    ///
    /// What `config.data_dir` holds is read first; with `config.store.kind` [`StoreKind::Memory`](crate::config::StoreKind::Memory)
    /// nothing touches the disk. No two brokers can share a directory.
    ///
    /// # Errors
    /// An address cannot be listened on; the data directory is used by another broker; what is in it cannot be relied on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let open = tokio::task::spawn_blocking(move || Keeping::open(&config).map(|kept| (kept, config)));
        let (kept, config) = open.await.map_err(|error| StartError::DataDir(error.to_string()))??;
        // Last: nobody connects before there is somebody to answer.
        let listeners = Listeners::bind(&config.bind).await?;
        Self::serve(listeners, config, kept)
    }

    /// As [`Broker::start`], with what is durable on a disk that the caller brings along: for tests that have one fail.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start_on(config: Config, disk: Arc<dyn Disk>) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config.bind).await?;
        let refused = |error| StartError::store(&config.data_dir, error);
        let kept = Keeping::on_disk(disk, &config).map_err(refused)?;
        Self::serve(listeners, config, Some(kept))
    }

    fn serve(listeners: Listeners, config: Config, kept: Option<(Keeping, Recovered)>) -> Result<Self, StartError> {
        let clock = Clock::system();
        let (node, keeping) = match kept {
            None => (Node::new(config), None),
            Some((keeping, recovered)) => {
                let directory = config.data_dir.clone();
                let node = Node::with_store(config, keeping.journal(), &recovered)
                    .map_err(|reason| StartError::Store { directory, reason, damaged: false })?;
                (node, Some(keeping))
            }
        };
        let node = Arc::new(node);
        node.shared().set_wall_ms(clock.now(), clock.wall_ms());
        let keepers = keeping.as_ref().map(|keeping| {
            let watch = Watch::new(Arc::clone(&node), Arc::clone(keeping.journal()));
            Keepers {
                watching: tokio::spawn(watch.run(keeping.failed())),
                reading: tokio::spawn(keeping::read_back(Arc::clone(&node))),
            }
        });
        let (stop, stopped) = watch::channel(false);
        let addresses = listeners.addresses();
        let serving = tokio::spawn(listeners.serve(node, clock, stopped));
        Ok(Self { addresses, stop, serving, keeping, keepers })
    }

    /// Waits until nothing becomes durable any more, because the disk has failed: why. The clients' connections are being closed
    /// then, and nothing that was not durable was confirmed. What remains is to shut down, and to start again.
    pub async fn failed(&self) -> String {
        let Some(keeping) = &self.keeping else { return std::future::pending().await };
        let mut failed = keeping.failed();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
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

    /// Closes every connection with 320 (541 if the disk has failed) and every listener, and syncs what is durable. When it
    /// returns, nothing is left of the broker.
    ///
    /// # Errors
    /// What was not synced, or that the next start takes longer.
    pub async fn shutdown(mut self) -> Result<(), String> {
        let has_failed = self.keeping.as_ref().is_some_and(|keeping| keeping.failed().borrow().is_some());
        let mut reading = None;
        if let Some(keepers) = self.keepers.take() {
            if !has_failed {
                keepers.watching.abort();
            }
            // If it has failed, this ends when everybody was told why, which nobody is to hear differently.
            let _ = keepers.watching.await;
            reading = Some(keepers.reading);
        }
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the listeners ended badly");
        }
        if let Some(reading) = reading {
            reading.abort();
            let _ = reading.await;
        }
        let Some(keeping) = self.keeping.take() else { return Ok(()) };
        let stop = tokio::task::spawn_blocking(move || keeping.stop());
        stop.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.serving.abort();
        if let Some(keepers) = &self.keepers {
            keepers.watching.abort();
            keepers.reading.abort();
        }
    }
}
