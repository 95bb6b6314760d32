//! The broker's configuration: defaults, then a TOML file, then `LEVERET_` variables. Knows nobody who uses it and holds no value
//! that is out of range.
//!
//! File and variables go through one setter, so that a rule is written once and every error can name the place, the key, what
//! was found and what was expected. `config.toml` documents each key and holds exactly the defaults.

mod error;
mod memory;
mod value;

pub use crate::config::error::ConfigError;
use crate::config::error::{Mismatch, place};
use crate::config::value::Value;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::de::DeTable;
use tracing_subscriber::filter::Targets;

/// Smallest frame that a peer must be able to receive, in octets (AMQP 0-9-1, 4.2.3).
const FRAME_MIN: u32 = 4096;
const FRAME_MAX: u32 = 16 << 20;
/// RabbitMQ's cap, in octets.
const MESSAGE_MAX: u64 = 512 << 20;
const HOUR_MS: u64 = 3_600_000;

/// Names the file when no path is given.
const FILE_VARIABLE: &str = "LEVERET_CONFIG";
/// What the names of our variables begin with.
pub const PREFIX: &str = "LEVERET_";
/// Variables that are none of ours: the project's tests', and what Kubernetes sets in every pod beside a service of this name.
const FOREIGN: [&str; 4] = ["LEVERET_TEST_", "LEVERET_STEPS_", "LEVERET_SERVICE_", "LEVERET_PORT_"];

/// Every key, in the order of config.toml.
const KEYS: [&str; 22] = [
    "bind",
    "data_dir",
    "log",
    "heartbeat",
    "channel_max",
    "frame_max",
    "handshake_timeout_ms",
    "max_message_size",
    "memory_high_watermark",
    "disk_free_limit",
    "server_version",
    "cluster_name",
    "default_vhost",
    "vhosts",
    "default_user",
    "default_pass",
    "users",
    "loopback_users",
    "anonymous_user",
    "store.kind",
    "store.sync",
    "store.sync_interval_ms",
];
/// What stands before the dot of a key is a table of the file.
const SECTIONS: [&str; 1] = ["store"];
const USER_KEYS: [&str; 3] = ["name", "password", "impersonator"];

const NAME: &str = "a name of 1 to 255 octets";

/// How the broker is set up. A key's rule is said at its field and in config.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on, at least one; port 0 lets the system choose.
    pub bind: Vec<SocketAddr>,
    /// Directory of everything durable, relative to the working directory.
    pub data_dir: PathBuf,
    /// What is logged: targets and levels of tracing, such as `info` or `info,leveret::session=debug`.
    pub log: String,
    /// Offered heartbeat interval in seconds; 0 offers none.
    pub heartbeat: u16,
    /// Most channels a connection may have open, 1 to 65535.
    pub channel_max: u16,
    /// Largest frame in octets with its head and end, 4096 to 16777216.
    pub frame_max: u32,
    /// Time from accept to connection.open, in milliseconds, 1 to 3600000.
    pub handshake_timeout_ms: u64,
    /// Largest body of a message in octets, 1 to 536870912.
    pub max_message_size: u64,
    /// Octets held in messages at which publishers are held back, at least 1. The default is half of what this process may use.
    pub memory_high_watermark: u64,
    /// Octets that are to stay free on the disk of `data_dir` beside the journal's next segment, or publishers are held back; 0: they
    /// never are.
    pub disk_free_limit: u64,
    /// How what is durable is kept.
    pub store: Store,
    /// The RabbitMQ version that clients are told, three numbers and perhaps more.
    pub server_version: String,
    /// The cluster name that clients are told.
    pub cluster_name: String,
    /// The virtual host a client gets that names none; always one of `vhosts`.
    pub default_vhost: String,
    /// Virtual hosts that exist.
    pub vhosts: Vec<String>,
    /// Name of the first user.
    pub default_user: String,
    /// Password of the first user.
    pub default_pass: Password,
    /// Further users; no two users have one name.
    pub users: Vec<User>,
    /// Users that may log in over loopback only. They need not exist.
    pub loopback_users: Vec<String>,
    /// The user that an ANONYMOUS login becomes, one that exists; `None`: the mechanism is not offered.
    pub anonymous_user: Option<String>,
}

/// How what is durable is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where.
    pub kind: StoreKind,
    /// When the disk is made to keep what was written.
    pub sync: SyncKind,
    /// With [`SyncKind::Interval`]: at most so many milliseconds later, 1 to 60000.
    pub sync_interval_ms: u64,
}

/// Where what is durable is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// In `data_dir`.
    Disk,
    /// In memory: it ends with the broker, and nothing touches the disk.
    Memory,
}

/// When the disk is made to keep what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Before anything is confirmed; what comes meanwhile shares the next time.
    Group,
    /// A bounded time after it was confirmed: that much a loss of power may take away, the end of the process nothing.
    Interval,
    /// When the operating system likes, as RabbitMQ's classic queues do; the end of the process takes nothing away.
    Os,
}

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name, 1 to 255 octets.
    pub name: String,
    /// Not empty.
    pub password: Password,
    /// May publish with another user's name in the property `user-id`.
    pub impersonator: bool,
}

/// A password, which its `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Keeps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Password(text.into())
    }

    /// Whether this is what a client sent; takes the same time wherever the two differ.
    pub fn matches(&self, sent: &[u8]) -> bool {
        let held = self.0.as_bytes();
        let differs = held.iter().zip(sent).fold(0, |differs, (a, b)| differs | (a ^ b));
        differs == 0 && held.len() == sent.len()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            bind: vec![SocketAddr::from(([127, 0, 0, 1], 5672)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 5672))],
            data_dir: "leveret-data".into(),
            log: "info".to_owned(),
            heartbeat: 60,
            channel_max: 2047,
            frame_max: 131_072,
            handshake_timeout_ms: 10_000,
            max_message_size: 16 << 20,
            memory_high_watermark: memory::percent(50),
            disk_free_limit: 50_000_000,
            store: Store { kind: StoreKind::Disk, sync: SyncKind::Group, sync_interval_ms: 100 },
            server_version: "4.2.9".to_owned(),
            cluster_name: "leveret@localhost".to_owned(),
            default_vhost: "/".to_owned(),
            vhosts: vec!["/".to_owned()],
            default_user: "guest".to_owned(),
            default_pass: Password::new("guest"),
            users: Vec::new(),
            loopback_users: vec!["guest".to_owned()],
            anonymous_user: None,
        }
    }
}

impl Config {
    /// The defaults, overridden by a file's text. `origin` names the file in errors.
    ///
    /// # Errors
    /// Broken TOML, an unknown key, or a value that breaks its key's rule.
    pub fn from_toml(text: &str, origin: &str) -> Result<Config, ConfigError> {
        let mut loader = Loader::default();
        loader.file(text, origin)?;
        loader.finish()
    }

    /// The defaults, overridden by a file, overridden by variables of the environment: `LEVERET_BIND` for `bind` and so on, with
    /// commas between the elements of a list. The file is `path`, else what `LEVERET_CONFIG` names, else `config.toml` in the
    /// working directory if it is there.
    ///
    /// # Errors
    /// As [`Config::from_toml`], for `LEVERET_` variables too; and a file that cannot be read.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
        let mut variables: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort_unstable();
        let named = variables.iter().find(|(name, path)| name == FILE_VARIABLE && !path.is_empty());
        let named = path.or(named.map(|(_, path)| Path::new(path)));

        let mut loader = Loader::default();
        let path = named.unwrap_or(Path::new("config.toml"));
        match fs::read_to_string(path) {
            Ok(text) => loader.file(&text, &path.display().to_string())?,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {}
            Err(error) => {
                return Err(ConfigError::said(path.display().to_string(), &format!("cannot be read: {error}")));
            }
        }
        for (name, text) in &variables {
            loader.variable(name, text)?;
        }
        loader.finish()
    }

    /// Sets one key of [`KEYS`].
    fn set(&mut self, key: &str, value: &Value<'_>) -> Result<(), Mismatch> {
        match key {
            "bind" => self.bind = addresses(value)?,
            "data_dir" => {
                self.data_dir = value.text("the path of a directory", |text| filled(text).map(PathBuf::from))?;
            }
            "log" => self.log = value.text("a directive such as \"info\" or \"info,leveret=debug\"", directive)?,
            "heartbeat" => self.heartbeat = value.whole(0..=u16::MAX, "seconds, 0 for no heartbeats")?,
            "channel_max" => self.channel_max = value.whole(1..=u16::MAX, "channels of a connection")?,
            "frame_max" => self.frame_max = value.whole(FRAME_MIN..=FRAME_MAX, "octets")?,
            "handshake_timeout_ms" => self.handshake_timeout_ms = value.whole(1..=HOUR_MS, "milliseconds")?,
            "max_message_size" => self.max_message_size = value.whole(1..=MESSAGE_MAX, "octets")?,
            "memory_high_watermark" => self.memory_high_watermark = value.size()?,
            "disk_free_limit" => self.disk_free_limit = value.disk_size()?,
            "store.kind" => {
                self.store.kind = value.text("\"disk\" or \"memory\"", |text| match text {
                    "disk" => Some(StoreKind::Disk),
                    "memory" => Some(StoreKind::Memory),
                    _ => None,
                })?;
            }
            "store.sync" => {
                self.store.sync = value.text("\"group\", \"interval\" or \"os\"", |text| match text {
                    "group" => Some(SyncKind::Group),
                    "interval" => Some(SyncKind::Interval),
                    "os" => Some(SyncKind::Os),
                    _ => None,
                })?;
            }
            "store.sync_interval_ms" => {
                self.store.sync_interval_ms = value.whole(1..=60_000, "milliseconds")?;
            }
            "server_version" => self.server_version = value.text("a version such as \"4.2.9\"", version)?,
            "cluster_name" => self.cluster_name = value.text(NAME, name)?,
            "default_vhost" => self.default_vhost = value.text(NAME, name)?,
            "vhosts" => self.vhosts = value.list(NAME, name)?,
            "default_user" => self.default_user = value.text(NAME, name)?,
            "default_pass" => self.default_pass = password(value)?,
            "users" => self.users = value.tables()?.into_iter().map(user).collect::<Result<_, _>>()?,
            "loopback_users" => self.loopback_users = value.list(NAME, name)?,
            "anonymous_user" => {
                let expected = "the name of a user, or \"\" to offer no anonymous login";
                self.anonymous_user = value.text(expected, |text| match text {
                    "" => Some(None),
                    text => name(text).map(Some),
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn user_names(&self) -> impl Iterator<Item = &str> {
        [self.default_user.as_str()].into_iter().chain(self.users.iter().map(|user| user.name.as_str()))
    }
}

fn addresses(value: &Value<'_>) -> Result<Vec<SocketAddr>, Mismatch> {
    let address = "an address such as \"127.0.0.1:5672\" or \"[::1]:5672\"";
    let addresses = value.list(address, |text| text.parse().ok())?;
    if addresses.is_empty() {
        return Err(Mismatch { found: "none".to_owned(), ..value.mismatch("at least one address") });
    }
    Ok(addresses)
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A shortstr that is not empty.
fn name(text: &str) -> Option<String> {
    filled(text).filter(|text| text.len() <= 255).map(str::to_owned)
}

fn directive(text: &str) -> Option<String> {
    text.parse::<Targets>().ok().map(|_| text.to_owned())
}

/// Clients split it at dots and read numbers: a patch number may be followed by more, as in `4.2.9-rc.1`.
fn version(text: &str) -> Option<String> {
    let mut parts = text.splitn(3, '.');
    let number = |part: &str| part.parse::<u32>().ok();
    number(parts.next()?)?;
    number(parts.next()?)?;
    parts.next()?.starts_with(|first: char| first.is_ascii_digit()).then(|| text.to_owned())
}

fn password(value: &Value<'_>) -> Result<Password, Mismatch> {
    value.secret("a password that is not empty", |text| filled(text).map(Password::new))
}

fn user((table, whole): (&DeTable<'_>, Value<'_>)) -> Result<User, Mismatch> {
    for key in table.keys() {
        if !USER_KEYS.contains(&key.get_ref().as_ref()) {
            let mut unknown = whole.mismatch(&USER_KEYS.join(", "));
            unknown.found = format!("the unknown key {:?}", key.get_ref());
            return Err(Mismatch { at: key.span(), ..unknown });
        }
    }
    let field = |key: &str| table.get(key).map(Value::toml);
    let of = |key: &str, mismatch| Mismatch { field: Some(key.to_owned()), ..mismatch };
    let missing = |key: &str| Mismatch { found: "none".to_owned(), ..of(key, whole.mismatch("one in every user")) };

    let name_of = field("name").ok_or_else(|| missing("name"))?;
    let password_of = field("password").ok_or_else(|| missing("password"))?;
    let impersonator = field("impersonator").map_or(Ok(false), |value| value.boolean());
    Ok(User {
        name: name_of.text(NAME, name).map_err(|mismatch| of("name", mismatch))?,
        password: password(&password_of).map_err(|mismatch| of("password", mismatch))?,
        impersonator: impersonator.map_err(|mismatch| of("impersonator", mismatch))?,
    })
}

/// A configuration in the making.
#[derive(Default)]
struct Loader {
    config: Config,
    /// Where each key got its value, for rules over several keys.
    places: Vec<(&'static str, String)>,
}

impl Loader {
    fn file(&mut self, text: &str, origin: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            ConfigError::said(place(origin, text, at), error.message())
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let place_of = |at| place(origin, text, at);
        for (key, value) in entries {
            let section = value.get_ref().as_table().filter(|_| SECTIONS.contains(&key.get_ref().as_ref()));
            let Some(section) = section else {
                self.set(key.get_ref(), &Value::toml(value), place_of(key.span().start), place_of)?;
                continue;
            };
            let mut entries: Vec<_> = section.iter().collect();
            entries.sort_by_key(|(key, _)| key.span().start);
            for (inner, value) in entries {
                let name = format!("{}.{}", key.get_ref(), inner.get_ref());
                self.set(&name, &Value::toml(value), place_of(inner.span().start), place_of)?;
            }
        }
        Ok(())
    }

    fn variable(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let is_service = name == "LEVERET_PORT" && text.starts_with("tcp://");
        if name == FILE_VARIABLE || is_service || FOREIGN.iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(());
        }
        let place = format!("environment variable {name}");
        let upper = name.strip_prefix(PREFIX).unwrap_or(name);
        match KEYS.into_iter().find(|key| key.replace('.', "_").to_ascii_uppercase() == upper) {
            Some(key) => self.set(key, &Value::variable(text), place.clone(), |_| place.clone()),
            None => Err(ConfigError::unknown(place, upper, &KEYS)),
        }
    }

    /// `key_place` is where the key stands, `place_of` where an octet of its value does.
    fn set(
        &mut self,
        key: &str,
        value: &Value<'_>,
        key_place: String,
        place_of: impl Fn(usize) -> String,
    ) -> Result<(), ConfigError> {
        let Some(key) = KEYS.into_iter().find(|known| *known == key) else {
            return Err(ConfigError::unknown(key_place, key, &KEYS));
        };
        self.config.set(key, value).map_err(|mismatch| {
            let place = place_of(mismatch.at.start);
            ConfigError::mismatch(place, key, mismatch)
        })?;
        self.places.push((key, key_place));
        Ok(())
    }

    /// Applies the rules over several keys.
    fn finish(self) -> Result<Config, ConfigError> {
        let Loader { mut config, places } = self;
        let broken = |key: &str, found: &str, expected: &str| {
            let set = places.iter().rfind(|(set, _)| *set == key);
            let place = set.map_or("defaults", |(_, place)| place.as_str());
            let mismatch =
                Mismatch { found: format!("{found:?}"), expected: expected.to_owned(), field: None, at: 0..0 };
            Err(ConfigError::mismatch(place.to_owned(), key, mismatch))
        };
        for user in &config.users {
            if config.user_names().filter(|name| *name == user.name).count() > 1 {
                return broken("users", &user.name, "a name that no other user has, default_user included");
            }
        }
        if let Some(name) = &config.anonymous_user
            && !config.user_names().any(|user| user == name)
        {
            return broken("anonymous_user", name, "the name of a user that exists");
        }
        if !config.vhosts.contains(&config.default_vhost) {
            config.vhosts.insert(0, config.default_vhost.clone());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::from_toml(text, "f.toml").map_err(|error| error.to_string())
    }

    fn load(env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Config::load(None, env).map_err(|error| error.to_string())
    }

    /// A file of its own for a test; the test's name keeps it apart from others.
    fn file(test: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("leveret-{}-{test}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_shipped_file_holds_exactly_the_defaults() {
        let text = include_str!("../../config.toml");
        assert_eq!(parse(text), Ok(Config::default()));
        let table = DeTable::parse(text).unwrap();
        for key in KEYS {
            let in_section = key.split_once('.').and_then(|(section, key)| {
                table.get_ref().get(section)?.get_ref().as_table().map(|table| table.contains_key(key))
            });
            let set = in_section.unwrap_or(table.get_ref().contains_key(key));
            assert!(set || (key == "users" && text.contains("# [[users]]")), "{key} is not in config.toml");
        }
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_can_be_set() {
        let config = parse(
            r#"
            bind = ["0.0.0.0:1"]
            data_dir = "d"
            log = "warn,leveret=trace"
            heartbeat = 0
            channel_max = 1
            frame_max = 0x1000
            handshake_timeout_ms = 1_000
            max_message_size = 536870912
            memory_high_watermark = 77
            disk_free_limit = 0
            server_version = "3.13.7"
            cluster_name = "c"
            default_vhost = "v"
            vhosts = ["w"]
            default_user = "u"
            default_pass = "p"
            loopback_users = []
            anonymous_user = "x"
            [store]
            kind = "memory"
            sync = "interval"
            sync_interval_ms = 7
            [[users]]
            name = "x"
            password = "y"
            impersonator = true
            [[users]]
            name = "z"
            password = "y"
            "#,
        );
        let user =
            |name: &str, impersonator| User { name: name.to_owned(), password: Password::new("y"), impersonator };
        let expected = Config {
            bind: vec!["0.0.0.0:1".parse().unwrap()],
            data_dir: "d".into(),
            log: "warn,leveret=trace".into(),
            heartbeat: 0,
            channel_max: 1,
            frame_max: 4096,
            handshake_timeout_ms: 1000,
            max_message_size: 536_870_912,
            memory_high_watermark: 77,
            disk_free_limit: 0,
            store: Store { kind: StoreKind::Memory, sync: SyncKind::Interval, sync_interval_ms: 7 },
            server_version: "3.13.7".into(),
            cluster_name: "c".into(),
            default_vhost: "v".into(),
            vhosts: vec!["v".into(), "w".into()],
            default_user: "u".into(),
            default_pass: Password::new("p"),
            users: vec![user("x", true), user("z", false)],
            loopback_users: vec![],
            anonymous_user: Some("x".into()),
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn values_out_of_their_rule_are_refused() {
        for (text, error) in [
            (
                "\nheartbeat = 70000",
                "f.toml:2:13: heartbeat: found 70000, expected a whole number from 0 to 65535 (seconds, 0 for no heartbeats)",
            ),
            (
                "heartbeat = \"1\"",
                "f.toml:1:13: heartbeat: found \"1\", expected a whole number from 0 to 65535 (seconds, 0 for no heartbeats)",
            ),
            (
                "channel_max = 0",
                "f.toml:1:15: channel_max: found 0, expected a whole number from 1 to 65535 (channels of a connection)",
            ),
            (
                "frame_max = 0",
                "f.toml:1:13: frame_max: found 0, expected a whole number from 4096 to 16777216 (octets)",
            ),
            (
                "handshake_timeout_ms = 1.5",
                "f.toml:1:24: handshake_timeout_ms: found 1.5, expected a whole number from 1 to 3600000 (milliseconds)",
            ),
            (
                "max_message_size = 536870913",
                "f.toml:1:20: max_message_size: found 536870913, expected a whole number from 1 to 536870912 (octets)",
            ),
            (
                "bind = [\"127.0.0.1:1\", \"localhost\"]",
                "f.toml:1:24: bind: found \"localhost\", expected an address such as \"127.0.0.1:5672\" or \"[::1]:5672\"",
            ),
            (
                "bind = 5672",
                "f.toml:1:8: bind: found 5672, expected a list, each element an address such as \"127.0.0.1:5672\" or \"[::1]:5672\"",
            ),
            (
                "disk_free_limit = -1",
                "f.toml:1:19: disk_free_limit: found -1, expected a number of octets, or a text such as \"50MB\" or \"1GiB\"",
            ),
            (
                "[store]\nsync = \"never\"",
                "f.toml:2:8: store.sync: found \"never\", expected \"group\", \"interval\" or \"os\"",
            ),
            ("store = 1", "f.toml:1:1: store: unknown key, expected one of KEYS"),
            ("[store]\n kin = 1", "f.toml:2:2: store.kin: unknown key, expected one of KEYS"),
            ("bind = []", "f.toml:1:8: bind: found none, expected at least one address"),
            ("data_dir = \"\"", "f.toml:1:12: data_dir: found \"\", expected the path of a directory"),
            (
                "log = \"a=b=c\"",
                "f.toml:1:7: log: found \"a=b=c\", expected a directive such as \"info\" or \"info,leveret=debug\"",
            ),
            (
                "server_version = \"4.2\"",
                "f.toml:1:18: server_version: found \"4.2\", expected a version such as \"4.2.9\"",
            ),
            ("vhosts = [\"a\", \"\"]", "f.toml:1:16: vhosts: found \"\", expected a name of 1 to 255 octets"),
            ("default_user = {}", "f.toml:1:16: default_user: found a table, expected a name of 1 to 255 octets"),
            (
                "memory_high_watermark = \"1MB\"",
                "f.toml:1:25: memory_high_watermark: found \"1MB\", expected a number of octets above 0, or a text such as \"512MiB\", \"2GiB\" or \"50%\"",
            ),
        ] {
            assert_eq!(parse(text), Err(error.replace("KEYS", &KEYS.join(", "))));
        }
        assert!(parse("memory_high_watermark = 0").is_err());
        assert!(parse("memory_high_watermark = -1").is_err());
        assert!(parse(&format!("default_vhost = {:?}", "v".repeat(256))).is_err());
    }

    #[test]
    fn unknown_keys_are_refused_with_the_known_ones() {
        let error = parse("log = \"info\"\n  hartbeat = 1").unwrap_err();
        assert_eq!(error, format!("f.toml:2:3: hartbeat: unknown key, expected one of {}", KEYS.join(", ")));
        let error = parse("[server]\nbind = []").unwrap_err();
        assert!(error.starts_with("f.toml:1:2: server: unknown key"), "{error}");
    }

    #[test]
    fn broken_toml_names_its_place() {
        let error = parse("log = \"info\"\nbind = [").unwrap_err();
        assert!(error.starts_with("f.toml:2:9: ") && !error.contains('\n'), "{error}");
        let error = parse("log = \"a\"\nlog = \"b\"").unwrap_err();
        assert!(error.starts_with("f.toml:2:1: "), "{error}");
    }

    #[test]
    fn users_are_whole_and_their_names_differ() {
        for (text, error) in [
            ("[[users]]\npassword = \"p\"", "f.toml:1:1: users.name: found none, expected one in every user"),
            ("[[users]]\nname = \"u\"", "f.toml:1:1: users.password: found none, expected one in every user"),
            (
                "[[users]]\nname = \"u\"\npasword = \"p\"",
                "f.toml:3:1: users: found the unknown key \"pasword\", expected name, password, impersonator",
            ),
            (
                "[[users]]\nname = 1\npassword = \"p\"",
                "f.toml:2:8: users.name: found 1, expected a name of 1 to 255 octets",
            ),
            (
                "[[users]]\nname = \"u\"\npassword = \"p\"\nimpersonator = 1",
                "f.toml:4:16: users.impersonator: found 1, expected true or false",
            ),
            ("users = [1]", "f.toml:1:10: users: found 1, expected a table"),
            (
                "[[users]]\nname = \"guest\"\npassword = \"p\"",
                "f.toml:1:3: users: found \"guest\", expected a name that no other user has, default_user included",
            ),
            (
                "log = \"info\"\nanonymous_user = \"nobody\"",
                "f.toml:2:1: anonymous_user: found \"nobody\", expected the name of a user that exists",
            ),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn passwords_are_shown_to_nobody() {
        let config = parse("default_pass = \"hunter2\"\n[[users]]\nname = \"u\"\npassword = \"hunter2\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for text in
            ["default_pass = 772277", "default_pass = [\"772277\"]", "[[users]]\nname = \"u\"\npassword = 772277"]
        {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("772277") && error.contains("expected a password that is not empty"), "{error}");
        }
        assert!(parse("default_pass = \"\"").is_err());
    }

    #[test]
    fn passwords_match_whole() {
        let password = Password::new("guest");
        assert!(password.matches(b"guest"));
        for sent in [&b""[..], b"gues", b"guest1", b"Guest"] {
            assert!(!password.matches(sent));
        }
    }

    #[test]
    fn variables_override_the_file() {
        let path = file("override", "heartbeat = 5\nchannel_max = 6");
        let env = [("LEVERET_HEARTBEAT".to_owned(), " 7".to_owned())];
        let config = Config::load(Some(&path), env.into_iter()).unwrap();
        assert_eq!((config.heartbeat, config.channel_max), (7, 6));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_key_but_users_can_be_a_variable() {
        let config = load(&[
            ("LEVERET_BIND", "127.0.0.1:0, [::1]:0"),
            ("LEVERET_DEFAULT_USER", "u"),
            ("LEVERET_DEFAULT_PASS", "p"),
            ("LEVERET_LOOPBACK_USERS", ""),
            ("LEVERET_ANONYMOUS_USER", "u"),
            ("LEVERET_MEMORY_HIGH_WATERMARK", "1GiB"),
            ("LEVERET_VHOSTS", "/,b"),
            ("LEVERET_STORE_SYNC", "os"),
            ("LEVERET_DISK_FREE_LIMIT", "1GB"),
        ]);
        let expected = Config {
            bind: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
            default_user: "u".into(),
            default_pass: Password::new("p"),
            loopback_users: vec![],
            anonymous_user: Some("u".into()),
            memory_high_watermark: 1 << 30,
            disk_free_limit: 1_000_000_000,
            store: Store { sync: SyncKind::Os, ..Config::default().store },
            vhosts: vec!["/".into(), "b".into()],
            ..Config::default()
        };
        assert_eq!(config, Ok(expected));
        for key in KEYS.into_iter().filter(|key| *key != "users") {
            let error =
                load(&[(&format!("LEVERET_{}", key.replace('.', "_").to_ascii_uppercase()), &"\u{1}=".repeat(200))]);
            let allowed = ["data_dir", "default_pass"].contains(&key);
            assert_eq!(error.is_ok(), allowed, "{key}: {error:?}");
        }
        assert_eq!(
            load(&[("LEVERET_USERS", "u")]).unwrap_err(),
            "environment variable LEVERET_USERS: users: found \"u\", expected a list of tables, in the configuration file"
        );
    }

    #[test]
    fn unknown_variables_are_refused_but_for_the_tests_own() {
        let error = load(&[("LEVERET_HARTBEAT", "1")]).unwrap_err();
        let expected = "environment variable LEVERET_HARTBEAT: HARTBEAT: unknown key, expected one of bind, ";
        assert!(error.starts_with(expected), "{error}");
        assert!(load(&[("LEVERET_heartbeat", "1")]).is_err());
        let foreign = [
            ("LEVERET_TEST_X", "1"),
            ("LEVERET_STEPS_X", "1"),
            ("OTHER", "1"),
            ("LEVERET_CONFIG", ""),
            ("LEVERET_SERVICE_HOST", "10.0.0.1"),
            ("LEVERET_PORT", "tcp://10.0.0.1:5672"),
            ("LEVERET_PORT_5672_TCP_ADDR", "10.0.0.1"),
        ];
        assert_eq!(load(&foreign), Ok(Config::default()));
    }

    #[test]
    fn a_named_file_must_be_there() {
        let absent = "/nowhere/leveret.toml";
        let error = Config::load(Some(Path::new(absent)), [].into_iter()).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/leveret.toml: cannot be read: "), "{error}");
        assert_eq!(load(&[("LEVERET_CONFIG", absent)]), Err(error));
    }

    #[test]
    fn a_path_goes_before_the_variable() {
        let path = file("path", "heartbeat = 5");
        let env = [("LEVERET_CONFIG".to_owned(), "/nowhere/leveret.toml".to_owned())];
        assert_eq!(Config::load(Some(&path), env.into_iter()).unwrap().heartbeat, 5);
        let env = [("LEVERET_CONFIG".to_owned(), path.display().to_string())];
        assert_eq!(Config::load(None, env.into_iter()).unwrap().heartbeat, 5);
        fs::remove_file(path).unwrap();
    }
}
