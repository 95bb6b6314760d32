//! A small AMQP 0-9-1 peer for tests: a blocking socket, readable frames, and the freedom to send
//! anything.

pub mod method;
pub mod text;
pub mod value;

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use text::{Fields, fields};
use value::{Quoted, Reader, Sum, Value};

/// How long a frame is awaited unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The protocol header of 0-9-1.
pub const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Client properties that the common clients announce.
pub const CLIENT_PROPERTIES: &str = "{product: \"steps\", capabilities: {publisher_confirms: true, \
    exchange_exchange_bindings: true, basic.nack: true, consumer_cancel_notify: true, \
    connection.blocked: true, authentication_failure_close: true}}";

/// Outcome of a receive.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Channel, name and fields.
    Method(u16, &'static str, Fields),
    /// Channel, class, body size in octets, properties.
    Header(u16, u16, u64, Fields),
    /// Channel and octets.
    Body(u16, Vec<u8>),
    /// Channel, which is 0 unless the broker errs.
    Heartbeat(u16),
    /// The eight octets of a protocol header.
    ProtocolHeader(Vec<u8>),
    /// A frame that does not parse: why, and its octets.
    Malformed(String, Vec<u8>),
    /// The broker closed the socket.
    Closed,
    /// Nothing came for as long as the peer is patient.
    Timeout,
}

impl Heard {
    /// The channel of a frame.
    pub fn channel(&self) -> Option<u16> {
        match self {
            Heard::Method(channel, ..) | Heard::Header(channel, ..) => Some(*channel),
            Heard::Body(channel, _) | Heard::Heartbeat(channel) => Some(*channel),
            _ => None,
        }
    }

    /// The name of a method.
    pub fn method(&self) -> Option<&'static str> {
        match self {
            Heard::Method(_, name, _) => Some(name),
            _ => None,
        }
    }

    /// A field of a method or a property of a header.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Heard::Method(_, _, fields) | Heard::Header(_, _, _, fields) => {
                fields.iter().find(|(n, _)| n == name).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// Returns the value at a path: a field, or an entry in it, as `headers/x-death/0/count`.
    pub fn at(&self, path: &str) -> Option<&Value> {
        let mut path = path.split('/');
        let first = self.field(path.next().unwrap_or(""));
        path.fold(first, |value, part| match value {
            Some(Value::Table(pairs)) => pairs.iter().find(|(name, _)| name == part.as_bytes()).map(|(_, v)| v),
            Some(Value::Array(items)) => part.parse().ok().and_then(|i: usize| items.get(i)),
            _ => None,
        })
    }

    /// The payload of one frame.
    pub(crate) fn parse(kind: u8, channel: u16, payload: &[u8]) -> Result<Heard, String> {
        Ok(match kind {
            1 => {
                let (name, fields) = method::decode(payload)?;
                Heard::Method(channel, name, fields)
            }
            2 => {
                let mut reader = Reader(payload);
                let class = reader.number(2)? as u16;
                if reader.number(2)? != 0 {
                    return Err("weight is not 0".to_owned());
                }
                let size = reader.number(8)?;
                Heard::Header(channel, class, size, method::decode_properties(reader.0)?)
            }
            3 => Heard::Body(channel, payload.to_vec()),
            8 => Heard::Heartbeat(channel),
            other => return Err(format!("frame type {other}")),
        })
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heard::Method(channel, name, fields) => {
                write!(f, "{channel} {name}{}", method::render(fields))
            }
            Heard::Header(channel, class, size, properties) => {
                let properties = method::render(properties);
                write!(f, "{channel} header class={class} size={size}{properties}")
            }
            Heard::Body(channel, octets) if octets.len() > 200 => {
                write!(f, "{channel} body {}", Sum(octets))
            }
            Heard::Body(channel, octets) => write!(f, "{channel} body {}", Quoted(octets)),
            Heard::Heartbeat(channel) => write!(f, "{channel} heartbeat"),
            Heard::ProtocolHeader(octets) => write!(f, "protocol header {}", Quoted(octets)),
            Heard::Malformed(why, octets) => write!(f, "MALFORMED {why}: {}", Beginning(octets)),
            Heard::Closed => f.write_str("closed"),
            Heard::Timeout => f.write_str("TIMEOUT"),
        }
    }
}

/// Octets in hexadecimal, as many as a line has room for.
pub(crate) struct Beginning<'a>(pub &'a [u8]);

impl fmt::Display for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..64) {
            Some(shown) if shown.len() < self.0.len() => {
                write!(f, "{}... of {} octets", value::Hex(shown), self.0.len())
            }
            _ => value::Hex(self.0).fmt(f),
        }
    }
}

/// A whole frame. The end octet is 0xce unless a test wants another.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(0xce);
    out
}

/// One connection to a broker.
pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Frames that were heard while another channel was awaited.
    waiting: Vec<Heard>,
    /// How long a frame is awaited.
    pub patience: Duration,
    /// Largest frame that `publish` sends, in octets with head and end.
    pub frame_max: usize,
    /// Whom `login` names unless told otherwise.
    pub account: Account,
    listener: Option<Box<dyn Listener>>,
}

/// An observer of the frames that a connection sends and receives.
pub trait Listener: Send {
    /// Octets that are about to be sent.
    fn sent(&self, octets: &[u8]);
    /// Called with everything that was received from the broker.
    fn heard(&self, heard: &Heard);
}

/// Login and virtual host.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Name of the user.
    pub user: String,
    /// In the clear.
    pub password: String,
    /// The virtual host.
    pub vhost: String,
}

impl Default for Account {
    /// `guest` on `/`.
    fn default() -> Account {
        let guest = || "guest".to_owned();
        Account { user: guest(), password: guest(), vhost: "/".to_owned() }
    }
}

impl Peer {
    /// A socket on which nothing has been sent.
    pub fn connect(address: SocketAddr) -> std::io::Result<Peer> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(Peer {
            stream,
            unread: Vec::new(),
            waiting: Vec::new(),
            patience: PATIENCE,
            frame_max: 131_072,
            account: Account::default(),
            listener: None,
        })
    }

    /// A connection as guest on `/`, tuned as told, heartbeats off.
    pub fn open(address: SocketAddr) -> Result<Peer, String> {
        let mut peer = Peer::connect(address).map_err(|error| error.to_string())?;
        peer.login("")?;
        Ok(peer)
    }

    /// Attaches an observer of every frame from here on.
    pub fn heard_by(mut self, listener: Box<dyn Listener>) -> Peer {
        self.listener = Some(listener);
        self
    }

    /// The whole handshake. `options` may hold `user`, `password`, `vhost`, `channel-max`,
    /// `frame-max`, `heartbeat` and `client-properties`.
    pub fn login(&mut self, options: &str) -> Result<(), String> {
        let options = fields(options)?;
        let option = |name: &str, otherwise: Value| {
            let found = options.iter().find(|(n, _)| n == name);
            found.map_or(otherwise, |(_, value)| value.clone())
        };
        let word = |name: &str, otherwise: &str| match option(name, Value::str(otherwise)) {
            Value::Str(text) => text,
            other => other.to_string().into_bytes(),
        };
        self.send_octets(HEADER)?;
        self.await_method("connection.start")?;
        let mut response = b"\0".to_vec();
        response.extend(word("user", &self.account.user));
        response.push(0);
        response.extend(word("password", &self.account.password));
        let properties = text::Cursor::new(CLIENT_PROPERTIES).table()?;
        let start_ok = vec![
            ("client-properties".to_owned(), option("client-properties", properties)),
            ("mechanism".to_owned(), Value::str("PLAIN")),
            ("response".to_owned(), Value::Str(response)),
            ("locale".to_owned(), Value::str("en_US")),
        ];
        self.send_fields(0, "connection.start-ok", &start_ok)?;
        let tune = self.await_method("connection.tune")?;
        let mut tune_ok = Vec::new();
        for name in ["channel-max", "frame-max"] {
            let told = tune.field(name).cloned().unwrap_or(Value::Number(0));
            tune_ok.push((name.to_owned(), option(name, told)));
        }
        tune_ok.push(("heartbeat".to_owned(), option("heartbeat", Value::Number(0))));
        if let Some((_, Value::Number(octets))) = tune_ok.iter().find(|(n, _)| n == "frame-max") {
            self.frame_max = if *octets == 0 { 131_072 } else { *octets as usize };
        }
        self.send_fields(0, "connection.tune-ok", &tune_ok)?;
        let open = vec![("virtual-host".to_owned(), Value::Str(word("vhost", &self.account.vhost)))];
        self.send_fields(0, "connection.open", &open)?;
        self.await_method("connection.open-ok")?;
        Ok(())
    }

    fn await_method(&mut self, name: &str) -> Result<Heard, String> {
        let heard = self.recv();
        match heard.method() {
            Some(method) if method == name => Ok(heard),
            _ => Err(format!("{name} expected, heard: {heard}{}", self.unread())),
        }
    }

    /// Describes the octets received that are no whole frame; empty if there are none.
    pub fn unread(&self) -> String {
        match self.unread.as_slice() {
            [] => String::new(),
            octets => format!(", after {} octets that are no frame: {}", octets.len(), Beginning(octets)),
        }
    }

    /// Where the broker sees it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Octets as they are.
    pub fn send_octets(&mut self, octets: &[u8]) -> Result<(), String> {
        if let Some(listener) = &self.listener {
            listener.sent(octets);
        }
        self.stream.write_all(octets).map_err(|error| format!("write: {:?}", error.kind()))
    }

    /// A method with its fields as text: `peer.send(1, "queue.declare", "queue=q durable")`.
    pub fn send(&mut self, channel: u16, method: &str, text: &str) -> Result<(), String> {
        self.send_fields(channel, method, &fields(text)?)
    }

    /// A method with its fields as values.
    pub fn send_fields(&mut self, channel: u16, name: &str, fields: &Fields) -> Result<(), String> {
        self.send_octets(&frame(1, channel, &method::encode(name, fields)?))
    }

    /// Sends a method and awaits one frame on its channel.
    pub fn call(&mut self, channel: u16, method: &str, text: &str) -> Result<Heard, String> {
        self.send(channel, method, text)?;
        Ok(self.recv_on(channel))
    }

    /// A publication in as many frames as `frame_max` asks for.
    pub fn publish(
        &mut self,
        channel: u16,
        method_fields: &Fields,
        properties: &Fields,
        body: &[u8],
    ) -> Result<(), String> {
        let mut octets = frame(1, channel, &method::encode("basic.publish", method_fields)?);
        octets.extend(header(channel, 60, 0, body.len() as u64, properties)?);
        for part in body.chunks(self.frame_max.saturating_sub(8).max(1)) {
            octets.extend(frame(3, channel, part));
        }
        self.send_octets(&octets)
    }

    /// The next frame on any channel.
    pub fn recv(&mut self) -> Heard {
        if !self.waiting.is_empty() {
            return self.waiting.remove(0);
        }
        self.read(Instant::now() + self.patience)
    }

    /// The next frame on one channel; those of other channels wait. A frame on channel 0 counts
    /// too, but no heartbeat.
    pub fn recv_on(&mut self, channel: u16) -> Heard {
        let here = |heard: &Heard| match heard {
            Heard::Heartbeat(0) => channel == 0,
            heard => !matches!(heard.channel(), Some(c) if c != channel && c != 0),
        };
        if let Some(i) = self.waiting.iter().position(here) {
            return self.waiting.remove(i);
        }
        let deadline = Instant::now() + self.patience;
        loop {
            let heard = self.read(deadline);
            if here(&heard) {
                return heard;
            }
            self.waiting.push(heard);
        }
    }

    /// The next frame, or what else happens until the deadline.
    pub fn read(&mut self, deadline: Instant) -> Heard {
        let heard = self.read_on(deadline);
        if let Some(listener) = &self.listener {
            listener.heard(&heard);
        }
        heard
    }

    fn read_on(&mut self, deadline: Instant) -> Heard {
        loop {
            if let Some(heard) = self.take_frame() {
                return heard;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Heard::Timeout;
            }
            let mut buffer = [0; 16_384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::Closed,
                Ok(n) => self.unread.extend(buffer.iter().take(n)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Heard::Closed,
                },
            }
        }
    }

    fn take_frame(&mut self) -> Option<Heard> {
        if self.unread.starts_with(b"AMQP") {
            let octets = self.unread.get(..8)?.to_vec();
            self.unread.drain(..8);
            return Some(Heard::ProtocolHeader(octets));
        }
        let head = self.unread.get(..7)?;
        let mut reader = Reader(head);
        let (kind, channel, size) =
            (reader.number(1).ok()? as u8, reader.number(2).ok()? as u16, reader.number(4).ok()? as usize);
        let whole: Vec<u8> = self.unread.get(..size + 8)?.to_vec();
        self.unread.drain(..size + 8);
        let heard = match whole.split_last() {
            Some((0xce, rest)) => Heard::parse(kind, channel, rest.get(7..).unwrap_or(&[])),
            _ => Err("wrong end octet".to_owned()),
        };
        Some(heard.unwrap_or_else(|why| Heard::Malformed(why, whole)))
    }
}

/// A content header frame of any class, weight and size.
pub fn header(channel: u16, class: u16, weight: u16, size: u64, properties: &Fields) -> Result<Vec<u8>, String> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(weight.to_be_bytes());
    payload.extend(size.to_be_bytes());
    payload.extend(method::encode_properties(properties)?);
    Ok(frame(2, channel, &payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_goes_into_tables_and_arrays() {
        let entry = Value::Table(vec![(b"count".to_vec(), Value::I64(2))]);
        let headers = Value::Table(vec![(b"x-death".to_vec(), Value::Array(vec![entry]))]);
        let heard = Heard::Header(1, 60, 0, vec![("headers".to_owned(), headers)]);
        assert_eq!(heard.at("headers/x-death/0/count"), Some(&Value::I64(2)));
        assert_eq!(heard.at("headers/x-death/1/count"), None);
        assert_eq!(heard.at("headers/x-death/0/count/more"), None);
        assert_eq!(heard.at("other"), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(Value::Timestamp),
            any::<(u8, u32)>().prop_map(|(scale, n)| Value::Decimal(scale, n)),
            any::<Vec<u8>>().prop_map(Value::Str),
            any::<Vec<u8>>().prop_map(Value::Bytes),
            Just(Value::Void),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((any::<[u8; 3]>().prop_map(|k| k.to_vec()), inner), 0..4).prop_map(Value::Table),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_table_survives_octets_and_text(value in value()) {
            let table = Value::Table(vec![(b"k".to_vec(), value)]);
            let fields = vec![("arguments".to_owned(), table.clone())];
            let octets = method::encode("queue.bind", &fields).unwrap();
            let (name, decoded) = method::decode(&octets).unwrap();
            prop_assert_eq!(name, "queue.bind");
            prop_assert_eq!(decoded.last(), Some(&fields[0]));
            prop_assert_eq!(text::Cursor::new(&table.to_string()).table().unwrap(), table);
        }
    }

    #[test]
    fn bits_share_an_octet() {
        let fields = fields("queue=q durable auto-delete").unwrap();
        let octets = method::encode("queue.declare", &fields).unwrap();
        assert_eq!(octets, [0, 50, 0, 10, 0, 0, 1, b'q', 0b01010, 0, 0, 0, 0]);
    }
}
