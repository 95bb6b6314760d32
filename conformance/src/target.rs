//! The broker under test: its URLs, how to log in, its management API and how to restart it. It
//! knows no case.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;
use url::Url;

use crate::peer::value::Value;
use crate::peer::{Account, HEADER, Heard, PATIENCE, Peer};

/// How long an answer over HTTP may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a restart may take until the broker is back.
const RESTART_TIMEOUT: Duration = Duration::from_secs(120);

/// Where a broker is and who may log in.
#[derive(Debug)]
pub struct Target {
    /// Where it speaks AMQP.
    pub address: SocketAddr,
    /// Login, from the URL.
    pub account: Account,
    /// The URL as given.
    pub url: String,
    http: Option<String>,
    restart: Option<String>,
}

/// Product and version that a broker announces.
#[derive(Clone, Debug, PartialEq)]
pub struct Introduction {
    /// `product` of its server-properties.
    pub product: String,
    /// `version` of its server-properties.
    pub version: String,
}

impl Target {
    /// Takes `amqp://user:password@host:port/vhost` apart; what is not there is RabbitMQ's default.
    pub fn new(url: &str, http: Option<&str>, restart: Option<&str>) -> Result<Target, String> {
        let parsed = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
        if parsed.scheme() != "amqp" {
            return Err(format!("{url}: only amqp:// is spoken here"));
        }
        let host = parsed.host_str().filter(|host| !host.is_empty()).unwrap_or("127.0.0.1");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = parsed.port().unwrap_or(5672);
        let found = (host, port).to_socket_addrs().map_err(|error| format!("{host}:{port}: {error}"))?;
        let address = listening(found.collect()).ok_or_else(|| format!("{host}: no address"))?;
        let mut account = Account::default();
        if !parsed.username().is_empty() {
            account.user = unescaped(parsed.username());
            account.password = unescaped(parsed.password().unwrap_or(""));
        }
        if let Some(vhost) = parsed.path().strip_prefix('/').filter(|vhost| !vhost.is_empty()) {
            account.vhost = unescaped(vhost);
        }
        let http = http.map(|http| http.trim_end_matches('/').trim_end_matches("/api").to_owned());
        Ok(Target { address, account, url: url.to_owned(), http, restart: restart.map(str::to_owned) })
    }

    /// A connection that is open, with the account of the URL.
    pub fn login(&self) -> Result<Peer, String> {
        let mut peer = Peer::connect(self.address).map_err(|error| format!("{}: {error}", self.address))?;
        peer.account = self.account.clone();
        peer.login("")?;
        Ok(peer)
    }

    /// Returns the product and version of connection.start.
    pub fn introduction(&self) -> Result<Introduction, String> {
        let mut peer = Peer::connect(self.address).map_err(|error| format!("{}: {error}", self.address))?;
        peer.send_octets(HEADER)?;
        let start = peer.recv();
        let text = |name: &str| match start.field("server-properties") {
            Some(Value::Table(pairs)) => match pairs.iter().find(|(key, _)| key == name.as_bytes()) {
                Some((_, Value::Str(text))) => String::from_utf8_lossy(text).into_owned(),
                _ => "unknown".to_owned(),
            },
            _ => "unknown".to_owned(),
        };
        match start {
            Heard::Method(0, "connection.start", _) => {
                Ok(Introduction { product: text("product"), version: text("version") })
            }
            other => Err(format!("{}: connection.start expected, heard: {other}{}", self.address, peer.unread())),
        }
    }

    /// Returns true if a management API was named.
    pub fn has_http(&self) -> bool {
        self.http.is_some()
    }

    /// Returns true if a way to restart the broker was named.
    pub fn can_restart(&self) -> bool {
        self.restart.is_some()
    }

    /// One request to the management API: its status and its JSON, or null.
    pub fn http(&self, method: &str, path: &str, body: Option<&Json>) -> Result<(u16, Json), String> {
        let base = self.http.as_ref().ok_or("no --http was given")?;
        let config = ureq::Agent::config_builder().timeout_global(Some(HTTP_TIMEOUT)).http_status_as_error(false);
        let agent = config.build().new_agent();
        let credentials = format!("{}:{}", self.account.user, self.account.password);
        let credentials = base64::engine::general_purpose::STANDARD.encode(credentials);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header("authorization", format!("Basic {credentials}"))
            .header("content-type", "application/json");
        let body = body.map_or_else(String::new, Json::to_string);
        let request = request.body(body).map_err(|error| format!("{method} {path}: {error}"))?;
        let mut answer = agent.run(request).map_err(|error| format!("{method} {path}: {error}"))?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        Ok((status, serde_json::from_str(&text).unwrap_or(Json::Null)))
    }

    /// Runs the restart command and waits until the broker lets this account log in.
    pub fn restart(&self) -> Result<(), String> {
        let command = self.restart.as_ref().ok_or("no --restart-cmd was given")?;
        let deadline = Instant::now() + RESTART_TIMEOUT;
        obey(command, deadline).map_err(|why| format!("{command}: {why}"))?;
        loop {
            match self.login() {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() > deadline => return Err(format!("not back after a restart: {why}")),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Checks that the management API answers, if one was named.
    pub fn check_http(&self) -> Result<(), String> {
        match &self.http {
            Some(base) => self.http("GET", "/api/overview", None).map(drop).map_err(|why| format!("{base}: {why}")),
            None => Ok(()),
        }
    }
}

/// The address of a name where somebody listens; if nobody does, the first, an IPv4 one if there is
/// any.
fn listening(mut found: Vec<SocketAddr>) -> Option<SocketAddr> {
    found.sort_by_key(SocketAddr::is_ipv6);
    let several = found.len() > 1;
    let there = |address: &&SocketAddr| TcpStream::connect_timeout(address, PATIENCE).is_ok();
    found.iter().filter(|_| several).find(there).or(found.first()).copied()
}

/// Runs a shell command, whose words go nowhere but to standard error: a broker that it starts may
/// outlive this program.
fn obey(command: &str, deadline: Instant) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = shell.spawn().map_err(|error| error.to_string())?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(status.to_string()),
            Ok(None) if Instant::now() > deadline => {
                let _ended = child.kill().and_then(|()| child.wait());
                return Err("does not return".to_owned());
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Percent-encoded octets of a URL as text.
fn unescaped(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_or_does_not_return_says_so() {
        let soon = || Instant::now() + Duration::from_secs(20);
        assert_eq!(obey("true", soon()), Ok(()));
        assert!(obey("exit 3", soon()).unwrap_err().contains('3'));
        assert_eq!(obey("exec sleep 60", Instant::now()), Err("does not return".to_owned()));
    }

    #[test]
    fn of_several_addresses_the_one_that_listens_is_taken() {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else { return };
        let six = listener.local_addr().unwrap();
        let four = SocketAddr::from(([127, 0, 0, 1], six.port()));
        assert_eq!(listening(vec![six, four]), Some(six));
        drop(listener);
        assert_eq!(listening(vec![six, four]), Some(four));
    }

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::new("amqp://a%40b:c%2Fd@127.0.0.1:5999/%2Fx", Some("http://h:1/api/"), None).unwrap();
        let account = Account { user: "a@b".to_owned(), password: "c/d".to_owned(), vhost: "/x".to_owned() };
        assert_eq!((target.account, target.address.port()), (account, 5999));
        assert_eq!(target.http.as_deref(), Some("http://h:1"));
        let plain = Target::new("amqp://127.0.0.1", None, None).unwrap();
        assert_eq!((plain.account, plain.address.port()), (Account::default(), 5672));
        assert!(Target::new("http://x", None, None).is_err());
    }
}
