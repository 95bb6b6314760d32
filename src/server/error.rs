//! The reasons why a broker did not start, or did not stop as it should.

use crate::server::data_dir::DataDirError;
use leveret_journal::error::StoreError;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::task::JoinError;

/// The reason why a broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The configuration names no address.
    NoAddress,
    /// The data directory cannot be used.
    DataDir(DataDirError),
    /// The thread that opens the store ended without a result.
    Opening(JoinError),
    /// The store is damaged, or cannot be read.
    Store {
        /// The data directory.
        directory: PathBuf,
        /// A description of the fault.
        reason: String,
        /// True if the store is damaged: `leveret store check` tells more.
        damaged: bool,
    },
}

impl StartError {
    /// Returns the error of a store in `directory` that did not open.
    pub fn store(directory: &Path, error: StoreError) -> Self {
        let damaged = matches!(error, StoreError::Corrupt { .. } | StoreError::Missing { .. });
        Self::Store { directory: directory.to_owned(), reason: error.to_string(), damaged }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the port is taken by another program: stop it, or change `bind`")
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::DataDir(reason) => reason.fmt(f),
            Self::Opening(reason) => write!(f, "the thread that opens the store ended without a result: {reason}"),
            Self::Store { directory, reason, damaged } => {
                let directory = directory.display();
                write!(f, "data directory {directory}: {reason}")?;
                if *damaged {
                    write!(f, "; nothing was changed: see `leveret store check --dir {directory}`")?;
                }
                Ok(())
            }
            Self::NoAddress => write!(f, "no address to listen on: set `bind`"),
        }
    }
}

impl std::error::Error for StartError {}

/// The reason why a broker did not stop as it should: what was not synced is lost, or the next
/// start takes longer.
#[derive(Debug)]
pub enum ShutdownError {
    /// The store was not synced, or its checkpoint not written.
    Store(StoreError),
    /// The thread that closes the store ended without a result.
    Closing(JoinError),
}

impl std::fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Closing(error) => write!(f, "the thread that closes the store ended without a result: {error}"),
        }
    }
}

impl std::error::Error for ShutdownError {}
