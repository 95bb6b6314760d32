//! Why a broker did not start. Words only; it knows no socket.

use std::io;
use std::net::SocketAddr;

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
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the port is taken by another program")
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::NoAddress => write!(f, "no address to listen on"),
        }
    }
}

impl std::error::Error for StartError {}
