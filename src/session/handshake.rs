//! The handshake from start-ok to open (AMQP 0-9-1, 2.2.4). Like RabbitMQ, the broker tells an
//! unauthenticated client nothing. Names no channel.

use crate::broker::access::{Refusal, User};
use crate::broker::node::Node;
use crate::broker::vhost::Vhost;
use crate::clock::Tick;
use crate::escaped::Escaped;
use crate::limits;
use crate::session::hangup::Hangup;
use crate::session::read_gate::ReadGate;
use crate::session::sasl;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::frame::{self, Frame, FrameKind, FrameScan};
use leveret_wire::method::{self, Method};
use leveret_wire::table::{Table, Value};
use std::net::SocketAddr;
use std::sync::Arc;

/// The state of a handshake, from connection.start to connection.open.
#[derive(Debug)]
pub struct Handshake {
    peer: SocketAddr,
    frame_max: u32,
    state: HandshakeState,
    delay: Delay,
}

/// The wait of a login before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delay {
    /// No whole frame has come.
    Unknown,
    /// The login waits, and the socket is not read.
    Until(Tick),
    /// The login has waited, and its octets are to be processed.
    Elapsed,
    /// There was no wait, or it is over.
    Over,
}

#[derive(Debug)]
enum HandshakeState {
    AwaitStartOk,
    AwaitTuneOk(Login),
    AwaitOpen(Login, Tuned),
    /// The connection was refused: no frame is expected.
    Over,
}

/// An authenticated user, and the client program.
#[derive(Debug)]
struct Login {
    user: User,
    client: Client,
}

/// Name and capabilities of a client, from the client properties of start-ok.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// `connection_name`, for logs and management.
    pub name: Option<String>,
    /// The capability `consumer_cancel_notify`: understands basic.cancel from the server.
    pub consumer_cancel_notify: bool,
    /// The capability `connection.blocked`: understands connection.blocked.
    pub blocked_notify: bool,
    authentication_failure_close: bool,
    /// All client properties, encoded as a table without its length.
    pub properties: Box<[u8]>,
}

/// The limits that client and broker agreed on in connection.tune.
#[derive(Clone, Copy, Debug)]
pub struct Tuned {
    /// Most channels open at a time; 0 is no limit.
    pub channel_max: u16,
    /// Largest frame, in octets.
    pub frame_max: u32,
    /// Heartbeat interval, in ms; 0: none.
    pub heartbeat_ms: u64,
}

/// An open connection: the result of a handshake.
#[derive(Debug)]
pub struct Opened {
    /// The authenticated user.
    pub user: User,
    /// The client.
    pub client: Client,
    /// The client's socket address.
    pub peer: SocketAddr,
    /// The virtual host of connection.open.
    pub vhost: Arc<Vhost>,
    /// Limits that both sides agreed on.
    pub tuned: Tuned,
}

/// The action that a frame of the handshake asks for.
#[derive(Debug)]
pub enum HandshakeStep {
    /// Send connection.tune.
    Tune,
    /// Tune-ok was received: these limits are in force.
    Tuned {
        /// Largest frame, in octets.
        frame_max: u32,
        /// Heartbeat interval, in ms; 0: none.
        heartbeat_ms: u64,
    },
    /// Send connection.open-ok.
    Open(Opened),
    /// Send connection.close.
    Refuse(Fault),
}

impl Handshake {
    /// Creates the handshake of a client to which connection.start was sent.
    pub fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            frame_max: limits::FRAME_SIZE_BEFORE_TUNE,
            state: HandshakeState::AwaitStartOk,
            delay: Delay::Unknown,
        }
    }

    /// Returns the heartbeat interval, in ms; 0 before tune-ok or if heartbeats are off.
    pub fn heartbeat_ms(&self) -> u64 {
        match &self.state {
            HandshakeState::AwaitOpen(_, tuned) => tuned.heartbeat_ms,
            _ => 0,
        }
    }

    /// Returns whether the socket may be read, or why not.
    pub fn read_gate(&self) -> ReadGate {
        match self.delay {
            Delay::Unknown | Delay::Over => ReadGate::Open,
            Delay::Until(until) => ReadGate::Rate(until),
            Delay::Elapsed => ReadGate::Unprocessed,
        }
    }

    /// Ends the wait if it is over at `now`.
    pub fn tick(&mut self, now: Tick) {
        if matches!(self.delay, Delay::Until(until) if until <= now) {
            self.delay = Delay::Elapsed;
        }
    }

    /// Returns true if the frame that has come is not to be processed yet.
    pub fn is_delayed(&mut self, node: &Node, now: Tick) -> bool {
        self.delay = match self.delay {
            Delay::Unknown => match node.failed_logins().delay_ms(self.peer.ip(), now) {
                0 => Delay::Over,
                delay_ms => Delay::Until(now + delay_ms.min(node.config().handshake_timeout_ms / 2)),
            },
            Delay::Elapsed => Delay::Over,
            delay => delay,
        };
        self.delay != Delay::Over
    }

    /// Scans the next frame; returns none if it is not whole.
    ///
    /// # Errors
    /// The frame is malformed or too large.
    pub fn scan<'a>(&self, octets: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Hangup> {
        match frame::scan(octets, self.frame_max) {
            Ok(FrameScan::Frame(frame, used)) => Ok(Some((frame, used))),
            Ok(FrameScan::Partial { .. }) => Ok(None),
            Err(fault) => Err(Hangup::silent(fault.text.as_str())),
        }
    }

    /// Processes a frame.
    ///
    /// # Errors
    /// The frame is unexpected, or the login is refused and the client lacks the capability
    /// `authentication_failure_close`.
    pub fn take(&mut self, frame: &Frame<'_>, node: &Node, now: Tick) -> Result<HandshakeStep, Hangup> {
        let is_opening = matches!(self.state, HandshakeState::AwaitOpen(..));
        if frame.kind != FrameKind::Method || frame.channel != 0 {
            let fault = match frame.kind {
                FrameKind::Other(_) => frame::unknown_frame(frame.kind, frame.payload),
                _ => frame::unexpected_frame(frame.kind, frame.payload),
            };
            return self.refuse(fault.on_connection(), is_opening);
        }
        let method = match method::parse(frame.payload) {
            Ok(method) => method,
            Err(fault) => {
                let (class, id) = method::id_of(frame.payload);
                return self.refuse(fault.at(class, id), is_opening);
            }
        };
        match (std::mem::replace(&mut self.state, HandshakeState::Over), method) {
            (HandshakeState::AwaitStartOk, Method::StartOk { client_properties, mechanism, response, .. }) => {
                self.start_ok(client_properties, mechanism, response, node, now)
            }
            (HandshakeState::AwaitTuneOk(login), Method::TuneOk { channel_max, frame_max, heartbeat }) => {
                let heartbeat_ms = u64::from(heartbeat) * 1000;
                self.tune_ok(login, Tuned { channel_max, frame_max, heartbeat_ms }, node)
            }
            (HandshakeState::AwaitOpen(login, tuned), Method::ConnectionOpen { vhost, .. }) => {
                self.open(login, tuned, vhost, node)
            }
            (state, method) => {
                let (class, id) = method.id();
                let text = "unexpected method in connection state opening";
                let fault = Fault::new(Code::ChannelError, text).at(class, id);
                self.refuse(fault, matches!(state, HandshakeState::AwaitOpen(..)))
            }
        }
    }

    /// Refuses the connection. The client is told the reason only from tune-ok on.
    fn refuse(&mut self, fault: Fault, is_opening: bool) -> Result<HandshakeStep, Hangup> {
        self.state = HandshakeState::Over;
        if is_opening { Ok(HandshakeStep::Refuse(fault)) } else { Err(Hangup::silent(fault.text.as_str())) }
    }

    fn start_ok(
        &mut self,
        properties: Table<'_>,
        mechanism: &[u8],
        response: &[u8],
        node: &Node,
        now: Tick,
    ) -> Result<HandshakeStep, Hangup> {
        let client = Client::read(properties);
        let from_loopback = self.peer.ip().to_canonical().is_loopback();
        let offered = node.access().mechanisms().split(' ').any(|offered| offered.as_bytes() == mechanism);
        if !offered {
            let name = Escaped::name(mechanism);
            return Err(Hangup::silent(format!("unknown authentication mechanism '{name}'")));
        }
        let answer = match mechanism {
            b"ANONYMOUS" => node.access().anonymous(from_loopback),
            _ => sasl::credentials(mechanism, response)
                .map(|(user, password)| node.access().login(user, password, from_loopback)),
        };
        match answer {
            None => Err(Hangup::silent("malformed authentication response")),
            Some(Ok(user)) => {
                self.state = HandshakeState::AwaitTuneOk(Login { user, client });
                Ok(HandshakeStep::Tune)
            }
            Some(Err(refusal)) => {
                if node.failed_logins().add(self.peer.ip(), now) {
                    let address = self.peer.ip();
                    tracing::warn!(%address, "logins from this address fail again and again: they are slowed down");
                }
                self.refused(&refusal, mechanism, &client)
            }
        }
    }

    fn refused(&self, refusal: &Refusal, mechanism: &[u8], client: &Client) -> Result<HandshakeStep, Hangup> {
        let mechanism = String::from_utf8_lossy(mechanism);
        let reason = format!("{mechanism} login refused: {refusal}");
        if !client.authentication_failure_close {
            return Err(Hangup::silent(reason));
        }
        tracing::warn!(peer = %self.peer, reason = ?Escaped::text(&reason), "login refused");
        let text = format!(
            "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        );
        Ok(HandshakeStep::Refuse(Fault::new(Code::AccessRefused, text).on_connection()))
    }

    fn tune_ok(&mut self, login: Login, tuned: Tuned, node: &Node) -> Result<HandshakeStep, Hangup> {
        let config = node.config();
        let bounds = [
            ("frame_max", leveret_wire::limits::FRAME_SIZE_MIN, tuned.frame_max, config.frame_max),
            ("channel_max", 1, u32::from(tuned.channel_max), u32::from(config.channel_max)),
        ];
        for (name, min, asked, max) in bounds {
            let complaint = if asked != 0 && asked < min {
                ("lower", "minimum", min)
            } else if max != 0 && (asked == 0 || asked > max) {
                ("higher", "maximum", max)
            } else {
                continue;
            };
            let (than, bound, limit) = complaint;
            let text = format!("negotiated {name} = {asked} is {than} than the {bound} allowed value ({limit})");
            return Ok(HandshakeStep::Refuse(Fault::new(Code::NotAllowed, text).at(10, 30)));
        }
        self.frame_max = tuned.frame_max;
        self.state = HandshakeState::AwaitOpen(login, tuned);
        Ok(HandshakeStep::Tuned { frame_max: tuned.frame_max, heartbeat_ms: tuned.heartbeat_ms })
    }

    fn open(&mut self, login: Login, tuned: Tuned, vhost: &[u8], node: &Node) -> Result<HandshakeStep, Hangup> {
        let Some(vhost) = node.vhost(vhost) else {
            let name = String::from_utf8_lossy(vhost);
            return Ok(HandshakeStep::Refuse(
                Fault::new(Code::NotAllowed, format_args!("vhost {name} not found")).at(10, 40),
            ));
        };
        let Login { user, client } = login;
        Ok(HandshakeStep::Open(Opened { user, client, peer: self.peer, vhost, tuned }))
    }
}

impl Client {
    /// Returns the client's `connection_name` for the log; empty if it has none.
    pub fn shown_name(&self) -> Escaped<'_> {
        Escaped::name(self.name.as_deref().unwrap_or_default().as_bytes())
    }

    fn read(properties: Table<'_>) -> Self {
        let name = match properties.get(b"connection_name") {
            Some(Value::LongStr(name)) => Some(String::from_utf8_lossy(name).into_owned()),
            _ => None,
        };
        let Some(Value::Table(capabilities)) = properties.get(b"capabilities") else {
            return Self { name, properties: properties.octets().into(), ..Self::default() };
        };
        let has = |key: &[u8]| matches!(capabilities.get(key), Some(Value::Bool(true)));
        Self {
            name,
            consumer_cancel_notify: has(b"consumer_cancel_notify"),
            blocked_notify: has(b"connection.blocked"),
            authentication_failure_close: has(b"authentication_failure_close"),
            properties: properties.octets().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use leveret_wire::table_builder::TableBuilder;

    #[test]
    fn a_client_says_what_it_understands() {
        let mut capabilities = TableBuilder::new();
        capabilities.put_bool(b"connection.blocked", true).put_bool(b"consumer_cancel_notify", false);
        let mut properties = TableBuilder::new();
        properties.put_long_str(b"connection_name", b"mine").put_table(b"capabilities", capabilities.as_table());
        let client = Client::read(properties.as_table());
        assert_eq!(client.name.as_deref(), Some("mine"));
        assert!(client.blocked_notify && !client.consumer_cancel_notify && !client.authentication_failure_close);
        assert!(!Client::read(Table::empty()).blocked_notify);
    }

    #[test]
    fn a_user_of_this_machine_comes_from_a_loopback_address() {
        let node = Node::new(Config::default());
        for (peer, is_let_in) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.1:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            let mut handshake = Handshake::new(peer.parse().unwrap());
            let step = handshake.start_ok(Table::empty(), b"PLAIN", b"\0guest\0guest", &node, Tick(0));
            assert_eq!(matches!(step, Ok(HandshakeStep::Tune)), is_let_in, "{peer}");
        }
    }

    #[test]
    fn tuning_holds_to_the_bounds_of_both_sides() {
        let node = Node::new(Config::default());
        let (frame_max, channel_max) = (node.config().frame_max, node.config().channel_max);
        let tune = |frame_max, channel_max| {
            let user = User { name: String::new(), impersonator: false };
            let mut handshake = Handshake::new(([127, 0, 0, 1], 1).into());
            let tuned = Tuned { channel_max, frame_max, heartbeat_ms: 1000 };
            let step = handshake.tune_ok(Login { user, client: Client::default() }, tuned, &node);
            (matches!(step, Ok(HandshakeStep::Tuned { .. })), handshake.heartbeat_ms())
        };
        assert_eq!(tune(frame_max, channel_max), (true, 1000));
        assert_eq!(tune(leveret_wire::limits::FRAME_SIZE_MIN, 1), (true, 1000));
        for (frame_max, channel_max) in [
            (frame_max + 1, 1),
            (leveret_wire::limits::FRAME_SIZE_MIN - 1, 1),
            (frame_max, channel_max + 1),
            (0, 1),
            (frame_max, 0),
        ] {
            assert_eq!(tune(frame_max, channel_max), (false, 0), "{frame_max} {channel_max}");
        }
    }
}
