//! A client's connection: TCP, login, calls and the close. It knows no load.

use crate::limits::FRAME_SIZE_MIN;
use crate::perf::incoming::{Filled, Incoming};
use crate::perf::method::{self, Fields, close_text, put_long, put_short};
use crate::perf::url::Url;
use crate::wire::frame::{HEADER_AMQP_091, Kind};
use crate::wire::method::id_of;
use crate::wire::method_id::*;
use crate::wire::table::{Table, Value};
use crate::wire::table_builder::TableBuilder;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The largest frame that is agreed to, in octets.
const FRAME_MAX: u32 = 131_072;
/// Octets read at once before anything is known of the load.
const SMALL_BUFFER: usize = 4096;
/// How long the answer to a call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open connection. Dropped without [`Connection::close`] it just goes.
#[derive(Debug)]
pub struct Connection {
    /// The socket, blocking, with TCP_NODELAY.
    pub socket: TcpStream,
    /// What came and was not looked at.
    pub incoming: Incoming,
    /// Largest frame in octets.
    pub frame_max: u32,
    /// Agreed interval in seconds; 0: no heartbeats.
    pub heartbeat: u16,
    /// The broker's product and version.
    pub broker: String,
    patience: Duration,
}

impl Connection {
    /// Connects, logs in, opens the virtual host. `name` is what the broker shows, `heartbeat` the interval asked for.
    ///
    /// # Errors
    /// What went wrong, in words that name the broker's address or its own reason.
    pub fn open(url: &Url, name: &str, heartbeat: u16) -> Result<Connection, String> {
        let (host, port) = (url.host.as_str(), url.port);
        let socket =
            TcpStream::connect((host, port)).map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
        let set = socket.set_nodelay(true).and_then(|()| socket.set_read_timeout(Some(PATIENCE)));
        set.and_then(|()| socket.set_write_timeout(Some(PATIENCE))).map_err(|error| error.to_string())?;
        let incoming = Incoming::new(SMALL_BUFFER, FRAME_MAX);
        let broker = String::new();
        let mut connection =
            Connection { socket, incoming, frame_max: FRAME_MAX, heartbeat, broker, patience: PATIENCE };
        connection.login(url, name).map_err(|why| format!("{host}:{port}: {why}"))?;
        Ok(connection)
    }

    fn login(&mut self, url: &Url, name: &str) -> Result<(), String> {
        self.send(&HEADER_AMQP_091)?;
        let start = self.answer(0, CONNECTION_START).map_err(|why| match self.incoming.total {
            0 => format!("{why} before connection.start"),
            _ => why,
        })?;
        self.broker = product(&start);
        let mut out = Vec::new();
        method::put(&mut out, 0, CONNECTION_START_OK, |out| {
            put_long(out, properties(name).as_table().octets());
            put_short(out, b"PLAIN");
            put_long(out, format!("\0{}\0{}", url.user, url.password).as_bytes());
            put_short(out, b"en_US");
        });
        self.send(&out)?;
        let tune = self.answer(0, CONNECTION_TUNE).map_err(|why| match why.as_str() {
            CLOSED => format!("the broker refuses the login of {:?}", url.user),
            _ => why,
        })?;
        let mut fields = Fields::of(&tune);
        let channel_max = fields.short_int().unwrap_or_default();
        self.frame_max = match fields.long_int().unwrap_or_default() {
            0 => FRAME_MAX,
            offered => offered.clamp(FRAME_SIZE_MIN, FRAME_MAX),
        };
        self.incoming.frame_max = self.frame_max;
        self.heartbeat = match (self.heartbeat, fields.short_int().unwrap_or_default()) {
            (asked, 0) => asked,
            (asked, offered) => asked.min(offered),
        };
        out.clear();
        method::put(&mut out, 0, CONNECTION_TUNE_OK, |out| {
            out.extend_from_slice(&channel_max.to_be_bytes());
            out.extend_from_slice(&self.frame_max.to_be_bytes());
            out.extend_from_slice(&self.heartbeat.to_be_bytes());
        });
        method::put(&mut out, 0, CONNECTION_OPEN, |out| {
            put_short(out, url.vhost.as_bytes());
            out.extend_from_slice(&[0, 0]);
        });
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
    /// As [`Connection::answer`].
    pub fn call(&mut self, octets: &[u8], channel: u16, id: (u16, u16)) -> Result<Vec<u8>, String> {
        // A broker that refuses may close before it read everything: what it says is worth more than the failed write.
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
                if frame.kind != Kind::Method {
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
    /// As [`Connection::answer`].
    pub fn open_channel(&mut self, channel: u16) -> Result<(), String> {
        let mut out = Vec::new();
        method::channel_open(&mut out, channel);
        self.call(&out, channel, CHANNEL_OPEN_OK).map(drop)
    }

    /// Closes and awaits close-ok.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub fn close(mut self) -> Result<(), String> {
        let mut out = Vec::new();
        method::connection_close(&mut out);
        self.call(&out, 0, CONNECTION_CLOSE_OK).map(drop)
    }
}

/// The broker ended the connection without a word.
pub const CLOSED: &str = "the broker closed the socket";

/// What a client says of itself.
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
    let mut fields = Fields::of(start);
    let octets = fields.short_int().and_then(|_version| fields.long()).unwrap_or_default();
    let Ok(table) = Table::check(octets) else { return "unknown".to_owned() };
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
