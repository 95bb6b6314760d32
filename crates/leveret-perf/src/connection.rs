//! A client's connection: TCP, login, calls and the close.

use crate::incoming::{Filled, Incoming};
use crate::method::{self, close_text};
use crate::url::BrokerUrl;
use leveret_wire::frame::{FrameKind, HEADER_AMQP_091};
use leveret_wire::limits::FRAME_SIZE_MIN;
use leveret_wire::method::{Method, id_of};
use leveret_wire::method_id::*;
use leveret_wire::reply::{self, Reply};
use leveret_wire::table::{Table, Value};
use leveret_wire::table_builder::TableBuilder;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The largest frame that is agreed to, in octets.
const FRAME_MAX: u32 = 131_072;
/// Octets read at once before anything is known of the load.
const SMALL_BUFFER: usize = 4096;
/// How long the answer to a call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open connection. Dropped without [`ClientConnection::close`] it just goes.
#[derive(Debug)]
pub struct ClientConnection {
    /// The socket, blocking, with TCP_NODELAY.
    pub socket: TcpStream,
    /// Octets that were read and not parsed yet.
    pub incoming: Incoming,
    /// Largest frame in octets.
    pub frame_max: u32,
    /// Agreed interval in seconds; 0: no heartbeats.
    pub heartbeat: u16,
    /// The broker's product and version.
    pub broker: String,
    patience: Duration,
}

impl ClientConnection {
    /// Connects, logs in, opens the virtual host. `name` is what the broker shows, `heartbeat` the
    /// interval asked for.
    ///
    /// # Errors
    /// What went wrong, in words that name the broker's address or its own reason.
    pub fn open(url: &BrokerUrl, name: &str, heartbeat: u16) -> Result<ClientConnection, String> {
        let (host, port) = (url.host.as_str(), url.port);
        let socket =
            TcpStream::connect((host, port)).map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
        let set = socket.set_nodelay(true).and_then(|()| socket.set_read_timeout(Some(PATIENCE)));
        set.and_then(|()| socket.set_write_timeout(Some(PATIENCE))).map_err(|error| error.to_string())?;
        let incoming = Incoming::new(SMALL_BUFFER, FRAME_MAX);
        let broker = String::new();
        let mut connection =
            ClientConnection { socket, incoming, frame_max: FRAME_MAX, heartbeat, broker, patience: PATIENCE };
        connection.login(url, name).map_err(|why| format!("{host}:{port}: {why}"))?;
        Ok(connection)
    }

    fn login(&mut self, url: &BrokerUrl, name: &str) -> Result<(), String> {
        self.send(&HEADER_AMQP_091)?;
        let start = self.answer(0, CONNECTION_START).map_err(|why| match self.incoming.total {
            0 => format!("{why} before connection.start"),
            _ => why,
        })?;
        self.broker = product(&start);
        let mut out = Vec::new();
        let (properties, response) = (properties(name), format!("\0{}\0{}", url.user, url.password));
        let start_ok = Method::StartOk {
            client_properties: properties.as_table(),
            mechanism: b"PLAIN",
            response: response.as_bytes(),
            locale: b"en_US",
        };
        start_ok.put(&mut out, 0);
        self.send(&out)?;
        let tune = self.answer(0, CONNECTION_TUNE).map_err(|why| match why.as_str() {
            CLOSED => format!("the broker refuses the login of {:?}", url.user),
            _ => why,
        })?;
        let Some(Reply::Tune { channel_max, frame_max, heartbeat }) = reply::parse(&tune) else {
            return Err("malformed connection.tune".to_owned());
        };
        self.frame_max = match frame_max {
            0 => FRAME_MAX,
            offered => offered.clamp(FRAME_SIZE_MIN, FRAME_MAX),
        };
        self.incoming.frame_max = self.frame_max;
        self.heartbeat = match (self.heartbeat, heartbeat) {
            (asked, 0) => asked,
            (asked, offered) => asked.min(offered),
        };
        out.clear();
        Method::TuneOk { channel_max, frame_max: self.frame_max, heartbeat: self.heartbeat }.put(&mut out, 0);
        let vhost = url.vhost.as_bytes();
        Method::ConnectionOpen { vhost, capabilities: b"", insist: false }.put(&mut out, 0);
        self.send(&out)?;
        self.answer(0, CONNECTION_OPEN_OK).map(drop)
    }

    /// How long answers may take from now on.
    pub fn be_patient(&mut self, patience: Duration) -> Result<(), String> {
        self.patience = patience;
        self.socket.set_write_timeout(Some(patience)).map_err(|error| error.to_string())
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The socket is gone, or takes nothing for too long.
    pub fn send(&mut self, octets: &[u8]) -> Result<(), String> {
        self.socket.write_all(octets).map_err(|error| format!("cannot write: {error}"))
    }

    /// Sends a method and awaits its answer's payload.
    ///
    /// # Errors
    /// As [`ClientConnection::answer`].
    pub fn call(&mut self, octets: &[u8], channel: u16, id: (u16, u16)) -> Result<Vec<u8>, String> {
        // A broker that refuses may close before it read everything: what it says is worth more
        // than the failed write.
        let sent = self.send(octets);
        self.answer(channel, id).map_err(|why| match (sent, why.as_str()) {
            (Err(write), CLOSED) => write,
            _ => why,
        })
    }

    /// Awaits a method; heartbeats, connection.blocked and the like are passed over.
    ///
    /// # Errors
    /// The broker closes, says something else, or nothing for too long.
    pub fn answer(&mut self, channel: u16, id: (u16, u16)) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + self.patience;
        loop {
            while let Some(frame) = self.incoming.next_frame()? {
                if frame.kind != FrameKind::Method {
                    continue;
                }
                match id_of(frame.payload) {
                    found if (frame.channel, found) == (channel, id) => return Ok(frame.payload.to_vec()),
                    CONNECTION_CLOSE => {
                        return Err(format!("the broker closed the connection: {}", close_text(frame.payload)));
                    }
                    CHANNEL_CLOSE => {
                        return Err(format!("the broker closed the channel: {}", close_text(frame.payload)));
                    }
                    CONNECTION_BLOCKED | CONNECTION_UNBLOCKED => {}
                    (class, method) => {
                        return Err(format!("unexpected method {class}.{method}, expected {}.{}", id.0, id.1));
                    }
                }
            }
            match self.incoming.fill(&self.socket) {
                Ok(Filled::Some) => {}
                Ok(Filled::Nothing) if Instant::now() < deadline => {}
                Ok(Filled::Nothing) => return Err(format!("no answer within {} s", self.patience.as_secs())),
                Ok(Filled::End) => return Err(CLOSED.to_owned()),
                Err(error) => return Err(format!("cannot read: {error}")),
            }
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// As [`ClientConnection::answer`].
    pub fn open_channel(&mut self, channel: u16) -> Result<(), String> {
        let mut out = Vec::new();
        method::channel_open(&mut out, channel);
        self.call(&out, channel, CHANNEL_OPEN_OK).map(drop)
    }

    /// Closes and awaits close-ok.
    ///
    /// # Errors
    /// As [`ClientConnection::answer`].
    pub fn close(mut self) -> Result<(), String> {
        let mut out = Vec::new();
        method::connection_close(&mut out);
        self.call(&out, 0, CONNECTION_CLOSE_OK).map(drop)
    }
}

/// The broker ended the connection without a word.
pub const CLOSED: &str = "the broker closed the socket";

/// Returns the client properties of connection.start-ok.
fn properties(name: &str) -> TableBuilder {
    let mut capabilities = TableBuilder::new();
    for capability in [
        "publisher_confirms",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "authentication_failure_close",
    ] {
        capabilities.put_bool(capability.as_bytes(), true);
    }
    let mut properties = TableBuilder::new();
    properties.put_long_str(b"product", b"leveret perf");
    properties.put_long_str(b"version", env!("CARGO_PKG_VERSION").as_bytes());
    properties.put_long_str(b"connection_name", name.as_bytes());
    properties.put_table(b"capabilities", capabilities.as_table());
    properties
}

/// Product and version out of connection.start.
fn product(start: &[u8]) -> String {
    let Some(Reply::Start { server_properties, .. }) = reply::parse(start) else { return "unknown".to_owned() };
    let Ok(table) = Table::check(server_properties) else { return "unknown".to_owned() };
    let text = |key: &[u8]| match table.get(key) {
        Some(Value::LongStr(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => "unknown".to_owned(),
    };
    let told = format!("{} {}", text(b"product"), text(b"version"));
    // Leveret calls itself RabbitMQ, for clients that look; who measures wants to know better.
    match table.get(b"leveret") {
        Some(Value::LongStr(version)) => format!("Leveret {}, as {told}", String::from_utf8_lossy(version)),
        _ => told,
    }
}
