//! The end of a connection, as a message to the task that owns its socket.

/// The order to end a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hangup {
    /// The reason, for the log.
    pub reason: String,
    /// The way in which the socket is closed.
    pub close: SocketClose,
}

/// A way to close a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketClose {
    /// Close it when what waits is written.
    Now,
    /// Keep it after the last write until the peer closes, for [`limits::LINGER_MS`] at most: else
    /// the last write might not reach the peer.
    ///
    /// [`limits::LINGER_MS`]: crate::limits::LINGER_MS
    Linger,
    /// Tell the peer nothing, neither octets nor the end of the stream, for
    /// [`limits::SILENT_CLOSE_MS`]: so guessing passwords takes time.
    ///
    /// [`limits::SILENT_CLOSE_MS`]: crate::limits::SILENT_CLOSE_MS
    Silent,
}

impl Hangup {
    /// Creates the order to close the socket when what waits is written.
    pub fn now(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), close: SocketClose::Now }
    }

    /// Creates the order to close the socket when the last write has reached the peer.
    pub fn linger(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), close: SocketClose::Linger }
    }

    /// Creates the order to close the socket in silence.
    pub fn silent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), close: SocketClose::Silent }
    }
}
