//! Why a broker did not start. Words only; it knows no socket.

use crate::store::error::StoreError;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why a broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration names no address.
    NoAddress,
    /// The data directory cannot be had; the text says why, and who has it.
    DataDir(String),
    /// What was kept cannot be relied on, or cannot be read.
    Store {
        /// The data directory.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
        /// It is damaged: `leveret store check` tells more.
        damaged: bool,
    },
}

impl StartError {
    /// The store in `directory` did not open.
    pub fn store(directory: &Path, error: StoreError) -> Self {
        let damaged = matches!(error, StoreError::Corrupt { .. } | StoreError::Missing { .. });
        Self::Store { directory: directory.to_owned(), reason: error.to_string(), damaged }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the port is taken by another program")
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::DataDir(reason) => f.write_str(reason),
            Self::Store { directory, reason, damaged } => {
                let directory = directory.display();
                write!(f, "data directory {directory}: {reason}")?;
                if *damaged {
                    write!(f, "; nothing was changed: see `leveret store check --dir {directory}`")?;
                }
                Ok(())
            }
            Self::NoAddress => write!(f, "no address to listen on"),
        }
    }
}

impl std::error::Error for StartError {}
