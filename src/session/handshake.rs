//! From start-ok to open, one type a stage (AMQP 0-9-1, 2.2.4). What RabbitMQ answers with silence before the client is
//! known, we answer with silence; it knows no channel.

use crate::broker::access::{Refusal, User};
use crate::broker::node::Node;
use crate::broker::vhost::Vhost;
use crate::limits;
use crate::session::hangup::Hangup;
use crate::wire::fault::{Code, Fault};
use crate::wire::frame::{self, Frame, Kind, Scan};
use crate::wire::method::{self, Method};
use crate::wire::table::{Table, Value};
use std::net::SocketAddr;
use std::sync::Arc;

/// A login under way.
#[derive(Debug)]
pub struct Handshake {
    peer: SocketAddr,
    frame_max: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    AwaitStartOk,
    AwaitTuneOk(Login),
    AwaitOpen(Login, Tuned),
    /// Refused: nothing more is due.
    Over,
}

/// Who has logged in with which client.
#[derive(Debug)]
struct Login {
    user: User,
    client: Client,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// `connection_name`, for the log.
    pub name: Option<String>,
    /// It understands basic.cancel from the server.
    pub consumer_cancel_notify: bool,
    /// It understands connection.blocked.
    pub blocked_notify: bool,
    authentication_failure_close: bool,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Tuned {
    /// Most channels open at a time.
    pub channel_max: u16,
    /// Largest frame, in octets.
    pub frame_max: u32,
    /// Heartbeat interval, in ms; 0: none.
    pub heartbeat_ms: u64,
}

/// An open connection.
#[derive(Debug)]
pub struct Opened {
    /// Who.
    pub user: User,
    /// With which client.
    pub client: Client,
    /// From where.
    pub peer: SocketAddr,
    /// Where to.
    pub vhost: Arc<Vhost>,
    /// On which terms.
    pub tuned: Tuned,
}

/// What a frame leads to.
#[derive(Debug)]
pub enum Step {
    /// Send connection.tune.
    Tune,
    /// Both sides agreed.
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
    /// Right after connection.start.
    pub fn new(peer: SocketAddr) -> Self {
        Self { peer, frame_max: limits::FRAME_SIZE_BEFORE_TUNE, stage: Stage::AwaitStartOk }
    }

    /// The heartbeat interval, in ms; 0 as long as none was agreed on.
    pub fn heartbeat_ms(&self) -> u64 {
        match &self.stage {
            Stage::AwaitOpen(_, tuned) => tuned.heartbeat_ms,
            _ => 0,
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// It is broken or too large.
    pub fn scan<'a>(&self, octets: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Hangup> {
        match frame::scan(octets, self.frame_max) {
            Ok(Scan::Frame(frame, used)) => Ok(Some((frame, used))),
            Ok(Scan::Partial { .. }) => Ok(None),
            Err(fault) => Err(silently(fault.text.as_str())),
        }
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// It is not what is due, or the login is refused and the client does not understand the refusal.
    pub fn take(&mut self, frame: &Frame<'_>, node: &Node) -> Result<Step, Hangup> {
        let is_opening = matches!(self.stage, Stage::AwaitOpen(..));
        if frame.kind != Kind::Method || frame.channel != 0 {
            let fault = match frame.kind {
                Kind::Other(_) => frame::unknown_frame(frame.kind, frame.payload),
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
        match (std::mem::replace(&mut self.stage, Stage::Over), method) {
            (Stage::AwaitStartOk, Method::StartOk { client_properties, mechanism, response, .. }) => {
                self.start_ok(client_properties, mechanism, response, node)
            }
            (Stage::AwaitTuneOk(login), Method::TuneOk { channel_max, frame_max, heartbeat }) => {
                let heartbeat_ms = u64::from(heartbeat) * 1000;
                self.tune_ok(login, Tuned { channel_max, frame_max, heartbeat_ms }, node)
            }
            (Stage::AwaitOpen(login, tuned), Method::ConnectionOpen { vhost }) => self.open(login, tuned, vhost, node),
            (stage, method) => {
                let (class, id) = method.id();
                let text = "unexpected method in connection state opening";
                let fault = Fault::new(Code::ChannelError, text).at(class, id);
                self.refuse(fault, matches!(stage, Stage::AwaitOpen(..)))
            }
        }
    }

    /// Before tune-ok nobody is told what was wrong; afterwards everybody is.
    fn refuse(&mut self, fault: Fault, is_opening: bool) -> Result<Step, Hangup> {
        self.stage = Stage::Over;
        if is_opening { Ok(Step::Refuse(fault)) } else { Err(silently(fault.text.as_str())) }
    }

    fn start_ok(
        &mut self,
        properties: Table<'_>,
        mechanism: &[u8],
        response: &[u8],
        node: &Node,
    ) -> Result<Step, Hangup> {
        let client = Client::read(properties);
        let from_loopback = self.peer.ip().to_canonical().is_loopback();
        let offered = node.access().mechanisms().split(' ').any(|offered| offered.as_bytes() == mechanism);
        if !offered {
            let name = String::from_utf8_lossy(mechanism);
            return Err(silently(&format!("unknown authentication mechanism '{name}'")));
        }
        let answer = match mechanism {
            b"ANONYMOUS" => node.access().anonymous(from_loopback),
            b"PLAIN" => plain(response).map(|(user, password)| node.access().login(user, password, from_loopback)),
            _ => amqplain(response).map(|(user, password)| node.access().login(user, password, from_loopback)),
        };
        match answer {
            None => Err(silently("malformed authentication response")),
            Some(Ok(user)) => {
                self.stage = Stage::AwaitTuneOk(Login { user, client });
                Ok(Step::Tune)
            }
            Some(Err(refusal)) => self.refused(&refusal, mechanism, &client),
        }
    }

    fn refused(&self, refusal: &Refusal, mechanism: &[u8], client: &Client) -> Result<Step, Hangup> {
        let mechanism = String::from_utf8_lossy(mechanism);
        let reason = format!("{mechanism} login refused: {refusal}");
        if !client.authentication_failure_close {
            return Err(silently(&reason));
        }
        tracing::warn!(peer = %self.peer, reason, "login refused");
        let text = format!(
            "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        );
        Ok(Step::Refuse(Fault::new(Code::AccessRefused, text).on_connection()))
    }

    fn tune_ok(&mut self, login: Login, tuned: Tuned, node: &Node) -> Result<Step, Hangup> {
        let config = node.config();
        let bounds = [
            ("frame_max", limits::FRAME_SIZE_MIN, tuned.frame_max, config.frame_max),
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
            return Ok(Step::Refuse(Fault::new(Code::NotAllowed, text).at(10, 30)));
        }
        self.frame_max = tuned.frame_max;
        self.stage = Stage::AwaitOpen(login, tuned);
        Ok(Step::Tuned { frame_max: tuned.frame_max, heartbeat_ms: tuned.heartbeat_ms })
    }

    fn open(&mut self, login: Login, tuned: Tuned, vhost: &[u8], node: &Node) -> Result<Step, Hangup> {
        let Some(vhost) = node.vhost(vhost) else {
            let name = String::from_utf8_lossy(vhost);
            return Ok(Step::Refuse(Fault::new(Code::NotAllowed, format_args!("vhost {name} not found")).at(10, 40)));
        };
        let Login { user, client } = login;
        Ok(Step::Open(Opened { user, client, peer: self.peer, vhost: Arc::clone(vhost), tuned }))
    }
}

impl Client {
    fn read(properties: Table<'_>) -> Self {
        let name = match properties.get(b"connection_name") {
            Some(Value::LongStr(name)) => Some(String::from_utf8_lossy(name).into_owned()),
            _ => None,
        };
        let Some(Value::Table(capabilities)) = properties.get(b"capabilities") else {
            return Self { name, ..Self::default() };
        };
        let has = |key: &[u8]| matches!(capabilities.get(key), Some(Value::Bool(true)));
        Self {
            name,
            consumer_cancel_notify: has(b"consumer_cancel_notify"),
            blocked_notify: has(b"connection.blocked"),
            authentication_failure_close: has(b"authentication_failure_close"),
        }
    }
}

/// PLAIN (RFC 4616): NUL, user, NUL, password. As in RabbitMQ nobody acts for another identity.
fn plain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = response.split(|octet| *octet == 0);
    let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    (identity.is_empty() && parts.next().is_none()).then_some((user, password))
}

/// AMQPLAIN: a field table without its length.
fn amqplain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let table = Table::check(response).ok()?;
    let text = |key: &[u8]| match table.get(key)? {
        Value::LongStr(octets) | Value::Bytes(octets) => Some(octets),
        _ => None,
    };
    Some((text(b"LOGIN")?, text(b"PASSWORD")?))
}

/// RabbitMQ lets those whom it does not trust wait, and tells them nothing.
fn silently(reason: &str) -> Hangup {
    Hangup { reason: reason.to_owned(), linger_ms: limits::SILENT_CLOSE_MS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::wire::table_builder::TableBuilder;

    #[test]
    fn plain_has_three_parts_and_no_identity() {
        assert_eq!(plain(b"\0user\0pass"), Some((&b"user"[..], &b"pass"[..])));
        assert_eq!(plain(b"\0user\0"), Some((&b"user"[..], &b""[..])));
        for bad in [&b""[..], b"user\0pass", b"\0user", b"admin\0user\0pass", b"\0user\0pass\0"] {
            assert_eq!(plain(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn amqplain_is_a_table_with_login_and_password() {
        let mut table = TableBuilder::new();
        table.put_long_str(b"PASSWORD", b"p").put_long_str(b"LOGIN", b"l");
        let octets = table.into_octets();
        assert_eq!(amqplain(&octets), Some((&b"l"[..], &b"p"[..])));
        assert_eq!(amqplain(&octets[1..]), None);
        let mut table = TableBuilder::new();
        table.put_long_str(b"LOGIN", b"l").put_i64(b"PASSWORD", 1);
        assert_eq!(amqplain(&table.into_octets()), None);
    }

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
    fn tuning_holds_to_the_bounds_of_both_sides() {
        let node = Node::new(Config::default());
        let (frame_max, channel_max) = (node.config().frame_max, node.config().channel_max);
        let tune = |frame_max, channel_max| {
            let user = User { name: String::new(), impersonator: false };
            let mut handshake = Handshake::new(([127, 0, 0, 1], 1).into());
            let tuned = Tuned { channel_max, frame_max, heartbeat_ms: 1000 };
            let step = handshake.tune_ok(Login { user, client: Client::default() }, tuned, &node);
            (matches!(step, Ok(Step::Tuned { .. })), handshake.heartbeat_ms())
        };
        assert_eq!(tune(frame_max, channel_max), (true, 1000));
        assert_eq!(tune(limits::FRAME_SIZE_MIN, 1), (true, 1000));
        for (frame_max, channel_max) in
            [(frame_max + 1, 1), (limits::FRAME_SIZE_MIN - 1, 1), (frame_max, channel_max + 1), (0, 1), (frame_max, 0)]
        {
            assert_eq!(tune(frame_max, channel_max), (false, 0), "{frame_max} {channel_max}");
        }
    }
}
