//! The socket of a connection, whatever protects it: nothing else of the server names a stream, and
//! only here are descriptors of sockets read past the runtime. Knows no frame.

use crate::server::descriptors;
use bytes::BytesMut;
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// A socket of a client.
#[derive(Debug)]
pub enum Transport {
    /// TCP without protection.
    Plain(TcpStream),
}

impl Transport {
    /// Creates the transport of an accepted TCP connection.
    pub fn plain(stream: TcpStream) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        Self::Plain(stream)
    }

    /// Returns true if the socket has one of the descriptors that are kept back.
    pub fn is_over_limit(&self) -> bool {
        match self {
            Self::Plain(stream) => descriptors::is_reserved(stream),
        }
    }

    /// Splits the socket between the task that reads and whoever writes.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(stream) => {
                let (reads, writes) = stream.into_split();
                (ReadHalf::Plain(reads), WriteHalf::Plain(writes))
            }
        }
    }
}

/// The half of a transport that is read.
#[derive(Debug)]
pub enum ReadHalf {
    /// The half of a plain TCP connection.
    Plain(OwnedReadHalf),
}

impl ReadHalf {
    /// Reads what has come, into the free part of `buffer`; nothing read is the end of the stream.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => Pin::new(half).poll_read(context, buffer),
        }
    }

    /// Reads what has come, behind what `buffer` has, as much as fits; returns how much.
    pub fn poll_read_buf(&mut self, context: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(half) => pin!(half.read_buf(buffer)).poll(context),
        }
    }

    /// Reads what has come, even if the runtime has not heard of it yet. `None`: nothing has come.
    ///
    /// # Errors
    /// The socket fails.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(half) => {
                // The runtime believes a socket empty only when it found it so itself: it misses
                // nothing by this.
                let stream: &TcpStream = half.as_ref();
                match rustix::io::read(stream, buffer) {
                    Ok(read) => Ok(Some(read)),
                    Err(Errno::AGAIN | Errno::INTR) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Returns the descriptor on which input can be awaited outside of the runtime; `None`: what is
    /// readable there may be no octets of the protocol.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Plain(half) => {
                let stream: &TcpStream = half.as_ref();
                Some(stream.as_fd())
            }
        }
    }

    /// Returns true if the peer has closed its side. A socket that is not read does not tell by
    /// itself.
    pub async fn is_closed_by_peer(&self) -> bool {
        match self {
            Self::Plain(half) => {
                let ready = timeout(Duration::ZERO, half.ready(Interest::READABLE)).await;
                matches!(ready, Ok(Ok(ready)) if ready.is_read_closed())
            }
        }
    }

    /// Reads and drops whatever comes, so many octets at a time, until the stream ends.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn discard(&mut self, octets: usize) -> io::Result<()> {
        let Self::Plain(half) = self;
        let mut buffer = vec![0; octets];
        loop {
            half.readable().await?;
            match half.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The half of a transport that is written to. When it is dropped, the peer sees the end of the
/// stream.
#[derive(Debug)]
pub enum WriteHalf {
    /// The half of a plain TCP connection.
    Plain(OwnedWriteHalf),
}

impl WriteHalf {
    /// Writes as much as the socket takes at once.
    ///
    /// # Errors
    /// The socket fails, or takes nothing now (`WouldBlock`).
    pub fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_write(octets),
        }
    }

    /// Writes as much of several slices as the socket takes at once.
    ///
    /// # Errors
    /// As [`WriteHalf::try_write`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_write_vectored(slices),
        }
    }

    /// Waits until the socket takes more.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.writable().await,
        }
    }
}
