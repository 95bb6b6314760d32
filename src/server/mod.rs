//! The running broker: listeners, connections, shutdown. The only floor with sockets; it knows no method and no queue.

pub mod connection;
pub mod listener;
pub mod start_error;
pub mod writer;

use crate::broker::node::Node;
use crate::clock::Clock;
use crate::config::Config;
use crate::server::listener::Listeners;
use crate::server::start_error::StartError;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A broker that serves clients.
///
/// It runs on the tokio runtime that it was started on. When it is dropped without [`Broker::shutdown`], its sockets are
/// closed without a word to the clients.
///
/// ```
/// use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
/// use lapin::types::FieldTable;
/// use lapin::{BasicProperties, Connection, ConnectionProperties};
/// use leveret::{Broker, Config};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let config = Config { bind: vec!["127.0.0.1:0".parse()?], ..Config::default() };
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
/// broker.shutdown().await;
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct Broker {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Broker {
    /// Starts a broker. Port 0 in `config.bind` stands for any free port; see [`Broker::address`].
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config.bind).await?;
        let addresses = listeners.addresses();
        let node = Arc::new(Node::new(config));
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(listeners.serve(node, Clock::system(), stopped));
        Ok(Self { addresses, stop, serving })
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

    /// Closes every connection with 320 and every listener. When it returns, nothing is left of the broker.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the listeners ended badly");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
