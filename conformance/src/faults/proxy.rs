//! The proxy: it listens on a port of its own, connects to the broker for each client, and passes
//! frames on in both directions, with a fault or without. What is no whole frame passes as it is.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use super::fault::Fault;
use super::frame::{Contents, Frame, PROTOCOL, Unit};
use super::link::{Link, Side};

/// How long the rest of a client's frame is awaited before its beginning is passed on: it may be
/// all there is.
const PARTIAL: Duration = Duration::from_millis(50);
/// The same for a broker, which sends whole frames.
const PARTIAL_OF_BROKER: Duration = Duration::from_secs(2);
/// How long a fault may hold back what it waits to mix with something else.
const HELD: Duration = Duration::from_millis(500);
/// A frame that says it is larger is none; nothing is looked at behind it.
const LARGEST: usize = 16 << 20;
/// Octets read at once.
const READ: usize = 65_536;

/// A proxy that runs until it is dropped. Connections that are open then end with their clients.
pub struct Proxy {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface.
    pub fn start(broker: SocketAddr, fault: Option<&'static Fault>) -> io::Result<Proxy> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let (address, over) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let is_over = over.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                // A client that cannot be served is dropped, and sees that.
                let _served = client.and_then(|client| serve(client, broker, fault));
            }
        });
        Ok(Proxy { address, over })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(self.address);
    }
}

/// A connection with what both of its directions share.
struct Shared {
    fault: Option<&'static Fault>,
    playing: Mutex<(Link, Contents)>,
    client: Mutex<TcpStream>,
    broker: Mutex<TcpStream>,
}

fn serve(client: TcpStream, broker: SocketAddr, fault: Option<&'static Fault>) -> io::Result<()> {
    let broker = TcpStream::connect(broker)?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let readers = [
        (Side::Client, Pieces::new(client.try_clone()?, PARTIAL)),
        (Side::Broker, Pieces::new(broker.try_clone()?, PARTIAL_OF_BROKER)),
    ];
    let shared =
        Arc::new(Shared { fault, playing: Mutex::default(), client: Mutex::new(client), broker: Mutex::new(broker) });
    for (side, mut pieces) in readers {
        let shared = shared.clone();
        thread::spawn(move || shared.pump(side, &mut pieces));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn pump(&self, from: Side, pieces: &mut Pieces) {
        loop {
            let holds = from == Side::Broker && lock(&self.playing).0.is_holding();
            let is_end = self.piece(from, pieces.next(holds));
            // What came at once goes on at once.
            while pieces.has_frame() {
                self.piece(from, pieces.next(false));
            }
            self.write(from);
            if is_end {
                let _gone = self.other(from).shutdown(Shutdown::Write);
                return;
            }
        }
    }

    /// Where that side's words go.
    fn other(&self, from: Side) -> MutexGuard<'_, TcpStream> {
        match from {
            Side::Client => lock(&self.broker),
            Side::Broker => lock(&self.client),
        }
    }

    /// Plays the fault on what came; whether it was the end.
    fn piece(&self, from: Side, piece: Piece) -> bool {
        let mut playing = lock(&self.playing);
        let (link, contents) = &mut *playing;
        let units = match piece {
            Piece::Frame(frame) if from == Side::Broker => contents.take(frame),
            Piece::Frame(frame) => vec![Unit::new(frame)],
            Piece::Quiet => {
                link.release();
                return false;
            }
            Piece::End => {
                contents.rest().iter().for_each(|unit| link.pass(from, unit));
                link.release();
                return true;
            }
            Piece::Octets(octets) => {
                if from == Side::Broker {
                    contents.rest().iter().for_each(|unit| link.pass(from, unit));
                    link.release();
                }
                link.pass_octets(from, &octets);
                return false;
            }
        };
        for unit in units {
            match self.fault {
                Some(fault) => fault.play(link, from, unit),
                None => link.pass(from, &unit),
            }
        }
        false
    }

    /// Writes what that side said, and what a fault said to it. Whom nobody can write to is found
    /// out by who reads.
    fn write(&self, from: Side) {
        let has_told = from == Side::Client && lock(&self.playing).0.has_told();
        for (stream, side) in [(&self.broker, Side::Client), (&self.client, Side::Broker)] {
            if side == from || has_told {
                // The stream first: octets go in the order in which they are taken.
                let mut stream = lock(stream);
                let octets = lock(&self.playing).0.take(side);
                let _written = stream.write_all(&octets);
            }
        }
    }
}

/// Result of a read.
enum Piece {
    Frame(Frame),
    /// Octets that are no frame, or belong to one of which a part has been passed on.
    Octets(Vec<u8>),
    /// Nothing came for a while.
    Quiet,
    End,
}

/// Reads a socket frame by frame.
struct Pieces {
    stream: TcpStream,
    /// How long the rest of a frame is awaited.
    patience: Duration,
    unread: Vec<u8>,
    /// Octets of `unread` that were passed on before their frame was whole.
    passed: usize,
    /// True once the octets are no longer AMQP.
    is_lost: bool,
}

impl Pieces {
    fn new(stream: TcpStream, patience: Duration) -> Pieces {
        Pieces { stream, patience, unread: Vec::new(), passed: 0, is_lost: false }
    }

    /// The next piece. `Quiet` comes only where somebody waits for it.
    fn next(&mut self, wants_quiet: bool) -> Piece {
        loop {
            if let Some(piece) = self.take() {
                return piece;
            }
            let is_partial = self.unread.len() > self.passed;
            let patience = match (is_partial, wants_quiet) {
                (true, _) => Some(self.patience),
                (false, true) => Some(HELD),
                (false, false) => None,
            };
            if self.stream.set_read_timeout(patience).is_err() {
                return Piece::End;
            }
            let mut buffer = vec![0; READ];
            match self.stream.read(&mut buffer) {
                Ok(0) if is_partial => return self.pass_partial(),
                Ok(0) => return Piece::End,
                Ok(n) => self.unread.extend(buffer.iter().take(n)),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if is_partial => return self.pass_partial(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Piece::Quiet,
                    _ => return Piece::End,
                },
            }
        }
    }

    fn pass_partial(&mut self) -> Piece {
        let octets = self.unread.get(self.passed..).unwrap_or(&[]).to_vec();
        self.passed = self.unread.len();
        Piece::Octets(octets)
    }

    /// Octets of the frame or protocol header at the front, when its size can be read.
    fn length(&self) -> Option<usize> {
        if self.unread.starts_with(b"AMQP") {
            return Some(8);
        }
        let size = self.unread.get(3..7)?.iter().fold(0, |size: usize, octet| size << 8 | usize::from(*octet));
        Some(size + 8)
    }

    fn has_frame(&self) -> bool {
        self.length().is_some_and(|length| self.unread.len() >= length)
    }

    fn take(&mut self) -> Option<Piece> {
        let mut length = self.length().unwrap_or(usize::MAX);
        self.is_lost |= length > LARGEST && length < usize::MAX;
        if self.is_lost {
            length = self.unread.len();
        }
        if self.unread.is_empty() || self.unread.len() < length {
            return None;
        }
        let octets: Vec<u8> = self.unread.drain(..length).collect();
        let passed = std::mem::take(&mut self.passed);
        match frame(&octets) {
            Some(frame) if passed == 0 && !self.is_lost => Some(Piece::Frame(frame)),
            _ => Some(Piece::Octets(octets.get(passed..).unwrap_or(&[]).to_vec())),
        }
    }
}

fn frame(octets: &[u8]) -> Option<Frame> {
    if octets.starts_with(b"AMQP") {
        return Some(Frame { kind: PROTOCOL, channel: 0, payload: octets.to_vec() });
    }
    let [kind @ (1 | 2 | 3 | 8), high, low, _, _, _, _, payload @ .., 0xce] = octets else { return None };
    Some(Frame { kind: *kind, channel: u16::from_be_bytes([*high, *low]), payload: payload.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Heard, Peer};
    use std::time::Instant;

    /// A broker that says back what it hears, and the proxy before it.
    fn echo(fault: Option<&'static str>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut reader, _) = listener.accept().unwrap();
            let mut writer = reader.try_clone().unwrap();
            io::copy(&mut reader, &mut writer).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let fault = fault.map(|name| crate::faults::all().find(|fault| fault.name == name).unwrap());
        Proxy::start(address, fault).unwrap()
    }

    fn peer(fault: Option<&'static str>) -> (Proxy, Peer) {
        let proxy = echo(fault);
        let peer = Peer::connect(proxy.address()).unwrap();
        (proxy, peer)
    }

    #[test]
    fn octets_pass_as_they_are() {
        let frame = |payload: &[u8]| crate::peer::frame(1, 1, payload);
        let mut no_end = frame(b"\0\x14\0\x0a\0");
        no_end.pop();
        no_end.push(0);
        let huge = crate::peer::frame(3, 1, &vec![7; 300_000]);
        let no_method = frame(b"\xff\xff\xff\xff");
        let endless = b"\x03\0\x01\xff\xff\xff\xff and more".to_vec();
        let all = [b"AMQP\0\0\x09\x01".to_vec(), no_end, huge, no_method, endless].concat();
        let proxy = echo(None);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sent = all.clone();
        thread::spawn(move || {
            // In pieces that end anywhere.
            sent.chunks(70_001).for_each(|piece| writer.write_all(piece).unwrap());
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard == all, "{} octets of {}", heard.len(), all.len());
    }

    #[test]
    fn a_frame_that_is_never_whole_passes_too() {
        let (_proxy, mut peer) = peer(None);
        peer.send_octets(b"\x01\0\x01\0\0").unwrap();
        assert_eq!(peer.read(Instant::now() + PARTIAL * 2), Heard::Timeout);
        peer.send_octets(b"\0\x04\0\x14\0\x29\xce").unwrap();
        assert_eq!(peer.recv().to_string(), "1 channel.close-ok");
        peer.send(2, "channel.close-ok", "").unwrap();
        assert_eq!(peer.recv().to_string(), "2 channel.close-ok");
    }

    #[test]
    fn a_fault_is_played() {
        let (_proxy, mut peer) = peer(Some("return-after-confirm"));
        for channel in [1, 2] {
            let publication = ("exchange=e routing-key=k", Vec::new());
            peer.send(channel, "basic.return", publication.0).unwrap();
            peer.send_octets(&crate::peer::header(channel, 60, 0, 1, &publication.1).unwrap()).unwrap();
            peer.send_octets(&crate::peer::frame(3, channel, b"x")).unwrap();
        }
        peer.send(1, "basic.ack", "delivery-tag=1").unwrap();
        let heard: Vec<String> = (0..7).map(|_| peer.recv().to_string()).collect();
        assert_eq!(heard[0], "1 basic.ack delivery-tag=1");
        assert_eq!(heard[6], "2 body \"x\"");
        // What waits for something that does not come is not lost.
        peer.send(1, "basic.return", "").unwrap();
        peer.send_octets(&crate::peer::header(1, 60, 0, 0, &Vec::new()).unwrap()).unwrap();
        assert_eq!(peer.recv().method(), Some("basic.return"));
    }

    #[test]
    fn the_proxy_answers_in_the_brokers_place() {
        let (_proxy, mut peer) = peer(Some("purge-ignored"));
        let heard = peer.call(3, "queue.purge", "queue=q").unwrap();
        assert_eq!(heard.to_string(), "3 queue.purge-ok message-count=0");
        peer.send(3, "queue.purge", "queue=q nowait").unwrap();
        assert_eq!(peer.call(3, "queue.delete", "queue=q").unwrap().method(), Some("queue.delete"));
    }
}
