//! One session without a socket: octets in, in pieces of any size; what it emits is heard. It knows
//! no queue.

use crate::model::decoder::{Decoder, Received};
use leveret::broker::names::strip_cr_lf;
use leveret::broker::node::Node;
use leveret::clock::Tick;
use leveret::outbox::Drained;
use leveret::session::Session;
use leveret_wire::frame::{self, FrameScan};
use leveret_wire::method::{self, Method};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Octets that an outbox may hold beyond its limit.
const OUTBOX_SLACK: usize = 4 << 20;

/// A session and its peer.
pub struct Client {
    session: Session,
    pub decoder: Decoder,
    /// Octets that were sent and not yet used.
    unused: Vec<u8>,
    /// All that was sent.
    transcript: Vec<u8>,
    /// The session said that it is over.
    pub over: bool,
}

impl Client {
    pub fn new(node: &Arc<Node>, now: Tick) -> Self {
        let session = Session::new(Arc::clone(node), ([127, 0, 0, 1], 1).into(), now);
        Self { session, decoder: Decoder::default(), unused: Vec::new(), transcript: Vec::new(), over: false }
    }

    /// Sends octets in pieces of `piece` (0: at once); drops them when the session is over.
    ///
    /// # Panics
    /// If the session uses more than it got.
    pub fn send(&mut self, octets: &[u8], piece: usize, now: Tick) -> Vec<Received> {
        let mut received = Vec::new();
        self.transcript.extend_from_slice(octets);
        for piece in octets.chunks(if piece == 0 { octets.len().max(1) } else { piece }) {
            if self.over {
                break;
            }
            self.unused.extend_from_slice(piece);
            match self.session.receive(&self.unused, now) {
                Ok(used) => drop(self.unused.drain(..used)),
                Err(_) => self.over = true,
            }
            received.extend(self.listen());
        }
        received
    }

    /// Takes what waits in the outbox.
    ///
    /// # Panics
    /// If that breaks the protocol, or is more than a session may let pile up.
    pub fn listen(&mut self) -> Vec<Received> {
        let mut received = Vec::new();
        let mut octets = Vec::new();
        while self.session.outbox().take_octets(&mut octets) == Drained::Octets {
            assert!(octets.len() <= OUTBOX_SLACK + 64 * self.transcript.len(), "{} octets wait", octets.len());
            received.extend(self.decoder.hear(&octets));
            octets.clear();
        }
        received
    }

    /// Runs its errands.
    pub fn ring(&mut self, now: Tick) -> Vec<Received> {
        self.over |= self.session.notified(now).is_err();
        self.listen()
    }

    /// Tells it the time.
    pub fn tick(&mut self, now: Tick) -> Vec<Received> {
        match self.session.tick(now) {
            Ok(next) => assert!(next > now, "to be called again at once"),
            Err(_) => self.over = true,
        }
        self.listen()
    }

    /// The socket is gone; what it had emitted before is heard.
    pub fn end(&mut self) -> Vec<Received> {
        self.over = true;
        self.session.close("the test is over");
        let received = self.listen();
        self.session.outbox().disconnect("closed");
        received
    }

    /// Every queue that it may have declared by name.
    pub fn queues_named(&self) -> BTreeSet<Vec<u8>> {
        let mut names = BTreeSet::new();
        let mut rest = self.transcript.get(8..).unwrap_or_default();
        while let Ok(FrameScan::Frame(frame, used)) = frame::scan(rest, 0) {
            if let Ok(Method::QueueDeclare { queue, .. }) = method::parse(frame.payload) {
                names.insert(strip_cr_lf(queue));
            }
            rest = &rest[used..];
        }
        names
    }
}
