//! A broker of the test program itself, for the conformance suite. It knows no case.

use std::net::SocketAddr;
use std::sync::Arc;

use leveret::store::simulated::SimulatedDisk;
use leveret::{Broker, Config};
use tokio::sync::oneshot;

/// One that runs until it is dropped.
pub struct InProcess {
    address: SocketAddr,
    /// What it waits for is that this goes.
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
                let disk = Arc::new(SimulatedDisk::new(1, 1 << 28));
                let broker = Broker::start_on(Config { bind, ..Config::default() }, disk).await.expect("a broker");
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
