//! How a connection ends, told to whoever has its socket. It knows no reason of its own.

/// The connection is over: write what waits, linger, close the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hangup {
    /// For the log.
    pub reason: String,
    /// How long to keep the socket open, in ms, with whatever comes discarded: so that the last octets reach the peer, or
    /// so that guessing passwords takes time.
    pub linger_ms: u64,
}
