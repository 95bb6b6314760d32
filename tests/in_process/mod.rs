//! A broker of the test program itself, for the conformance suite.

use std::net::SocketAddr;
use std::sync::Arc;

use leveret::{Broker, Config};
use leveret_journal::simulated::SimulatedDisk;
use tokio::sync::oneshot;

/// One that runs until it is dropped.
pub struct InProcess {
    address: SocketAddr,
    /// Sender whose end ends the broker.
    _end: oneshot::Sender<()>,
}

impl InProcess {
    /// Starts one with nothing in it.
    pub fn start() -> InProcess {
        let (told, address) = std::sync::mpsc::channel();
        let (end, is_over) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let bind = vec!["127.0.0.1:0".parse().expect("an address")];
                // What is persistent goes the whole way, to files that need no directory.
                // A small disk has small segments.
                let disk = Arc::new(SimulatedDisk::new(1, 1 << 26));
                let config = Config { bind, disk_free_limit: 0, ..Config::default() };
                let broker = Broker::start_on(config, disk).await.expect("a broker");
                told.send(broker.address()).expect("the address is waited for");
                let _dropped = is_over.await;
            });
            runtime.shutdown_background();
        });
        InProcess { address: address.recv().expect("the broker starts"), _end: end }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
