//! One session without a socket: octets in, in pieces of any size; what it emits is heard. It knows no queue.

use crate::model::ear::{Ear, Heard};
use leveret::broker::exchanges::strip_cr_lf;
use leveret::broker::node::Node;
use leveret::clock::Tick;
use leveret::outbox::Taken;
use leveret::session::Session;
use leveret::wire::frame::{self, Scan};
use leveret::wire::method::{self, Method};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What an outbox may hold beyond what it was asked for, in octets.
const OUTBOX_SLACK: usize = 4 << 20;

/// A session and its peer.
pub struct Line {
    session: Session,
    pub ear: Ear,
    /// What was sent and not yet used.
    unused: Vec<u8>,
    /// All that was sent.
    transcript: Vec<u8>,
    /// The session said that it is over.
    pub over: bool,
}

impl Line {
    pub fn new(node: &Arc<Node>, now: Tick) -> Self {
        let session = Session::new(Arc::clone(node), ([127, 0, 0, 1], 1).into(), now);
        Self { session, ear: Ear::default(), unused: Vec::new(), transcript: Vec::new(), over: false }
    }

    /// Sends octets in pieces of `piece` (0: at once); drops them when the session is over.
    ///
    /// # Panics
    /// If the session uses more than it got.
    pub fn send(&mut self, octets: &[u8], piece: usize, now: Tick) -> Vec<Heard> {
        let mut heard = Vec::new();
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
            heard.extend(self.listen());
        }
        heard
    }

    /// What waits in the outbox.
    ///
    /// # Panics
    /// If that breaks the protocol, or is more than a session may let pile up.
    pub fn listen(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut octets = Vec::new();
        while self.session.outbox().take(&mut octets) == Taken::Octets {
            assert!(octets.len() <= OUTBOX_SLACK + 64 * self.transcript.len(), "{} octets wait", octets.len());
            heard.extend(self.ear.hear(&octets));
            octets.clear();
        }
        heard
    }

    /// Runs its errands. An alarm never lasts.
    pub fn ring(&mut self, now: Tick) -> Vec<Heard> {
        self.over |= self.session.ring(now).is_err();
        if self.session.is_blocked() {
            self.session.unblock();
        }
        self.listen()
    }

    /// Tells it the time.
    pub fn tick(&mut self, now: Tick) -> Vec<Heard> {
        match self.session.tick(now) {
            Ok(next) => assert!(next > now, "to be called again at once"),
            Err(_) => self.over = true,
        }
        self.listen()
    }

    /// The socket is gone; what it had emitted before is heard.
    pub fn end(&mut self) -> Vec<Heard> {
        self.over = true;
        self.session.end("the test is over");
        let heard = self.listen();
        self.session.outbox().die();
        heard
    }

    /// Every queue that it may have declared by name.
    pub fn queues_named(&self) -> BTreeSet<Vec<u8>> {
        let mut names = BTreeSet::new();
        let mut rest = self.transcript.get(8..).unwrap_or_default();
        while let Ok(Scan::Frame(frame, used)) = frame::scan(rest, 0) {
            if let Ok(Method::QueueDeclare { queue, .. }) = method::parse(frame.payload) {
                names.insert(strip_cr_lf(queue));
            }
            rest = &rest[used..];
        }
        names
    }
}
