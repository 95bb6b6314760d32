//! The broker's configuration: defaults, overridden by a TOML file, overridden by `LEVERET_`
//! variables.
//!
//! Each key is a field here, with its rule, and an entry of `config.toml`, which documents it and
//! holds its default. A loaded [`Config`] has only valid values.

pub mod error;
mod memory;
mod source;
mod value;

pub use crate::config::error::{ConfigError, Origin};
use crate::config::source::{PREFIX, Sources};
use serde::de::{Deserialize, Deserializer};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// The variable that names the file when no path is given.
const FILE_VARIABLE: &str = "LEVERET_CONFIG";
/// Prefixes of variables that are no keys: those of the project's tests, and those that Kubernetes
/// sets in every pod beside a service of this name.
const FOREIGN: [&str; 4] = ["LEVERET_TEST_", "LEVERET_STEPS_", "LEVERET_SERVICE_", "LEVERET_PORT_"];

/// The settings of a broker. Each field states its key's rule, as does config.toml.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on, at least one; port 0 lets the system choose.
    #[serde(deserialize_with = "value::bind")]
    pub bind: Vec<SocketAddr>,
    /// Directory of everything durable, relative to the working directory.
    #[serde(deserialize_with = "value::data_dir")]
    pub data_dir: PathBuf,
    /// Log filter: targets and levels of tracing, such as `info` or `info,leveret::session=debug`.
    #[serde(deserialize_with = "value::log")]
    pub log: String,
    /// Offered heartbeat interval in seconds; 0 offers none.
    #[serde(deserialize_with = "value::heartbeat")]
    pub heartbeat: u16,
    /// Most channels a connection may have open, 1 to 65535.
    #[serde(deserialize_with = "value::channel_max")]
    pub channel_max: u16,
    /// Largest frame in octets with its head and end, 4096 to 16777216.
    #[serde(deserialize_with = "value::frame_max")]
    pub frame_max: u32,
    /// Time from accept to connection.open, in milliseconds, 1 to 3600000.
    #[serde(deserialize_with = "value::handshake_timeout_ms")]
    pub handshake_timeout_ms: u64,
    /// Largest body of a message in octets, 1 to 536870912.
    #[serde(deserialize_with = "value::max_message_size")]
    pub max_message_size: u64,
    /// Octets kept in memory at which publishers are blocked, at least 1. The default is half of
    /// the memory that this process may use.
    #[serde(deserialize_with = "value::memory_size")]
    pub memory_high_watermark: u64,
    /// Octets to stay free on the disk of `data_dir` beside the journal's next segment; with less,
    /// publishers are blocked. 0 turns the disk alarm off.
    #[serde(deserialize_with = "value::disk_size")]
    pub disk_free_limit: u64,
    /// Storage of durable definitions and messages.
    pub store: StoreConfig,
    /// The version of RabbitMQ reported to clients: three numbers and perhaps more.
    #[serde(deserialize_with = "value::server_version")]
    pub server_version: String,
    /// The cluster name reported to clients.
    #[serde(deserialize_with = "value::name")]
    pub cluster_name: String,
    /// The virtual host of a connection.open that names none; always one of `vhosts`.
    #[serde(deserialize_with = "value::name")]
    pub default_vhost: String,
    /// The virtual hosts.
    #[serde(deserialize_with = "value::names")]
    pub vhosts: Vec<String>,
    /// The name of the first user.
    #[serde(deserialize_with = "value::name")]
    pub default_user: String,
    /// The password of the first user.
    pub default_pass: Password,
    /// Further users; no two users have the same name.
    pub users: Vec<UserConfig>,
    /// Users that may only log in over the loopback interface. They need not exist.
    #[serde(deserialize_with = "value::names")]
    pub loopback_users: Vec<String>,
    /// The existing user of an ANONYMOUS login; `None` disables the mechanism.
    #[serde(deserialize_with = "value::anonymous_user")]
    pub anonymous_user: Option<String>,
}

/// Storage of durable definitions and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct StoreConfig {
    /// The journal's place.
    pub kind: StoreKind,
    /// When writes are synced.
    pub sync: SyncKind,
    /// With [`SyncKind::Interval`]: the longest time from a write to its sync, 1 to 60000
    /// milliseconds.
    #[serde(deserialize_with = "value::sync_interval_ms")]
    pub sync_interval_ms: u64,
    /// Repair at start: a start that finds damage gives up what cannot be read, logs it and goes
    /// on, as `leveret store repair --yes` does. Otherwise it fails.
    pub repair: bool,
}

/// The journal's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Files in `data_dir`.
    Disk,
    /// Memory: everything ends with the broker, and nothing touches the disk.
    Memory,
}

/// When the journal's writes are synced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Before a confirm: writes that arrive during one sync share the next one (group commit).
    Group,
    /// At most `sync_interval_ms` after a confirm. A power failure may lose so much, the end of the
    /// process nothing.
    Interval,
    /// When the operating system does it, as with RabbitMQ's classic queues. The end of the process
    /// loses nothing.
    Os,
}

/// A user account.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, in the configuration file")]
pub struct UserConfig {
    /// Login name, 1 to 255 octets.
    #[serde(deserialize_with = "value::name")]
    pub name: String,
    /// Password, not empty.
    pub password: Password,
    /// The tag `impersonator`: may publish with any user's name in the property `user-id`.
    #[serde(default)]
    pub impersonator: bool,
}

impl<'de> Deserialize<'de> for StoreKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StoreKind, D::Error> {
        value::text(deserializer, "\"disk\" or \"memory\"", |text| match text {
            "disk" => Some(StoreKind::Disk),
            "memory" => Some(StoreKind::Memory),
            _ => None,
        })
    }
}

impl<'de> Deserialize<'de> for SyncKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SyncKind, D::Error> {
        value::text(deserializer, "\"group\", \"interval\" or \"os\"", |text| match text {
            "group" => Some(SyncKind::Group),
            "interval" => Some(SyncKind::Interval),
            "os" => Some(SyncKind::Os),
            _ => None,
        })
    }
}

/// A password, which its `Debug` does not show.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Password(#[serde(deserialize_with = "value::secret")] String);

impl Password {
    /// Creates a password.
    pub fn new(text: impl Into<String>) -> Self {
        Password(text.into())
    }

    /// Compares with the octets that a client sent, in a time that depends on the two lengths only.
    pub fn matches(&self, sent: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(sent).into()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { kind: StoreKind::Disk, sync: SyncKind::Group, sync_interval_ms: 100, repair: false }
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
            store: StoreConfig::default(),
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
    /// Loads the defaults, overridden by a file, overridden by environment variables:
    /// `LEVERET_BIND` for `bind` and so on, with commas between the elements of a list. The file is
    /// `path`, else the one that `LEVERET_CONFIG` names, else `config.toml` in the working
    /// directory if it exists.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key or variable, or a value that
    /// breaks its key's rule.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigError> {
        let mut named = None;
        let mut variables = Vec::new();
        for (name, value) in env {
            match name.into_string() {
                Ok(name) if name == FILE_VARIABLE => named = Some(PathBuf::from(value)),
                Ok(name) if name.starts_with(PREFIX) && !is_foreign(&name, &value) => match value.into_string() {
                    Ok(text) => variables.push((name, text)),
                    Err(_) => return Err(ConfigError::NotUnicode { variable: name }),
                },
                _ => {}
            }
        }
        variables.sort_unstable();
        let named = path.or(named.as_deref().filter(|path| !path.as_os_str().is_empty()));
        let path = named.unwrap_or(Path::new("config.toml"));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => String::new(),
            Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        };
        Config::read(&path.display().to_string(), &text, &variables)
    }

    /// Deserialises a file's text, overridden by variables and their texts.
    fn read(path: &str, text: &str, variables: &[(String, String)]) -> Result<Config, ConfigError> {
        let mut sources = Sources::file(path, text)?;
        for (name, text) in variables {
            sources.variable(name, text)?;
        }
        let mut config: Config = sources.deserialize()?;
        config.complete(&sources)?;
        Ok(config)
    }

    /// Applies the rules that concern several keys.
    fn complete(&mut self, sources: &Sources<'_>) -> Result<(), ConfigError> {
        for (index, UserConfig { name, .. }) in self.users.iter().enumerate() {
            let mut before = self.users.iter().take(index);
            if *name == self.default_user || before.any(|other| other.name == *name) {
                let expected = "a name that no other user has, default_user included";
                return Err(sources.invalid(&format!("users.{index}.name"), name, expected));
            }
        }
        if let Some(name) = &self.anonymous_user
            && *name != self.default_user
            && self.users.iter().all(|user| user.name != *name)
        {
            return Err(sources.invalid("anonymous_user", name, "the name of a user that exists"));
        }
        if !self.vhosts.contains(&self.default_vhost) {
            self.vhosts.insert(0, self.default_vhost.clone());
        }
        Ok(())
    }
}

fn is_foreign(name: &str, value: &OsStr) -> bool {
    let is_service = name == "LEVERET_PORT" && value.as_encoded_bytes().starts_with(b"tcp://");
    is_service || FOREIGN.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::read("f.toml", text, &[]).map_err(|error| error.to_string())
    }

    fn load(env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, text)| (name.into(), text.into()));
        Config::load(None, env).map_err(|error| error.to_string())
    }

    /// Creates a file for a test, named after it.
    fn file(test: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("leveret-{}-{test}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_shipped_file_holds_exactly_the_defaults() {
        assert_eq!(parse(include_str!("../../config.toml")), Ok(Config::default()));
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
            repair = true
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
            |name: &str, impersonator| UserConfig { name: name.to_owned(), password: Password::new("y"), impersonator };
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
            store: StoreConfig { kind: StoreKind::Memory, sync: SyncKind::Interval, sync_interval_ms: 7, repair: true },
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
                "f.toml:2:13: heartbeat: found integer `70000`, expected a whole number from 0 to 65535 (seconds, 0 for no heartbeats)",
            ),
            (
                "heartbeat = \"1\"",
                "f.toml:1:13: heartbeat: found string \"1\", expected a whole number from 0 to 65535 (seconds, 0 for no heartbeats)",
            ),
            (
                "channel_max = 0",
                "f.toml:1:15: channel_max: found integer `0`, expected a whole number from 1 to 65535 (channels of a connection)",
            ),
            (
                "frame_max = 0",
                "f.toml:1:13: frame_max: found integer `0`, expected a whole number from 4096 to 16777216 (octets)",
            ),
            (
                "handshake_timeout_ms = 1.5",
                "f.toml:1:24: handshake_timeout_ms: found floating point `1.5`, expected a whole number from 1 to 3600000 (milliseconds)",
            ),
            (
                "max_message_size = 536870913",
                "f.toml:1:20: max_message_size: found integer `536870913`, expected a whole number from 1 to 536870912 (octets)",
            ),
            (
                "bind = [\"127.0.0.1:1\", \"localhost\"]",
                "f.toml:1:24: bind: found string \"localhost\", expected an address such as \"127.0.0.1:5672\" or \"[::1]:5672\"",
            ),
            (
                "bind = 5672",
                "f.toml:1:8: bind: found integer `5672`, expected a list, each element an address such as \"127.0.0.1:5672\" or \"[::1]:5672\"",
            ),
            (
                "disk_free_limit = -1",
                "f.toml:1:19: disk_free_limit: found integer `-1`, expected a number of octets, or a text such as \"50MB\" or \"1GiB\"",
            ),
            (
                "[store]\nsync = \"never\"",
                "f.toml:2:8: store.sync: found string \"never\", expected \"group\", \"interval\" or \"os\"",
            ),
            ("store = 1", "f.toml:1:9: store: expected a table"),
            (
                "[store]\n kin = 1",
                "f.toml:2:2: store.kin: unknown key, did you mean store.kind? Expected one of store.kind, store.repair, store.sync, store.sync_interval_ms",
            ),
            ("bind = []", "f.toml:1:8: bind: found 0, expected at least one address"),
            ("data_dir = \"\"", "f.toml:1:12: data_dir: found string \"\", expected the path of a directory"),
            (
                "log = \"a=b=c\"",
                "f.toml:1:7: log: found string \"a=b=c\", expected a directive such as \"info\" or \"info,leveret=debug\"",
            ),
            (
                "server_version = \"4.2\"",
                "f.toml:1:18: server_version: found string \"4.2\", expected a version such as \"4.2.9\"",
            ),
            ("vhosts = [\"a\", \"\"]", "f.toml:1:16: vhosts: found string \"\", expected a name of 1 to 255 octets"),
            ("default_user = {}", "f.toml:1:16: default_user: found a table, expected a name of 1 to 255 octets"),
            (
                "memory_high_watermark = \"1MB\"",
                "f.toml:1:25: memory_high_watermark: found string \"1MB\", expected a number of octets above 0, or a text such as \"512MiB\", \"2GiB\" or \"50%\"",
            ),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
        assert!(parse("memory_high_watermark = 0").is_err());
        assert!(parse("memory_high_watermark = -1").is_err());
        assert!(parse(&format!("default_vhost = {:?}", "v".repeat(256))).is_err());
    }

    #[test]
    fn unknown_keys_are_refused_with_the_known_ones() {
        let error = parse("log = \"info\"\n  hartbeat = 1").unwrap_err();
        let expected =
            "f.toml:2:3: hartbeat: unknown key, did you mean heartbeat? Expected one of anonymous_user, bind, ";
        assert!(error.starts_with(expected) && error.ends_with("users, vhosts"), "{error}");
        let error = parse("\"a\\nb\" = 1").unwrap_err();
        assert!(error.starts_with("f.toml:1:1: a\\nb: unknown key, expected one of anonymous_user, "), "{error}");
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
            ("[[users]]\npassword = \"p\"", "f.toml:1:1: users: missing field `name`"),
            ("[[users]]\nname = \"u\"", "f.toml:1:1: users: missing field `password`"),
            (
                "[[users]]\nname = \"u\"\npasword = \"p\"",
                "f.toml:3:1: users.pasword: unknown key, did you mean users.password? Expected one of users.impersonator, users.name, users.password",
            ),
            (
                "[[users]]\nname = 1\npassword = \"p\"",
                "f.toml:2:8: users.name: found integer `1`, expected a name of 1 to 255 octets",
            ),
            (
                "[[users]]\nname = \"u\"\npassword = \"p\"\nimpersonator = 1",
                "f.toml:4:16: users.impersonator: found integer `1`, expected a boolean",
            ),
            ("users = [1]", "f.toml:1:10: users: expected a table, in the configuration file"),
            (
                "[[users]]\nname = \"guest\"\npassword = \"p\"",
                "f.toml:2:8: users.name: found \"guest\", expected a name that no other user has, default_user included",
            ),
            (
                "log = \"info\"\nanonymous_user = \"nobody\"",
                "f.toml:2:18: anonymous_user: found \"nobody\", expected the name of a user that exists",
            ),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn passwords_are_shown_to_nobody() {
        let config = parse("default_pass = \"hunter2\"\n[[users]]\nname = \"u\"\npassword = \"hunter2\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for text in [
            "default_pass = 772277",
            "default_pass = 7.72277",
            "default_pass = 772277772277772277772277",
            "default_pass = [\"772277\"]",
            "[[users]]\nname = \"u\"\npassword = 772277",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("772277") && error.contains("expected a password that is not empty"), "{error}");
        }
        for text in ["default_pass = 772277x", "users = [\"u:772277\"]", "default_pass = \"\"\"772277"] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("772277"), "{error}");
        }
        assert!(!load(&[("LEVERET_USERS", "u:772277")]).unwrap_err().contains("772277"));
        assert!(parse("default_pass = \"\"").is_err());
    }

    #[test]
    fn variables_that_are_not_utf_8_are_not_shown() {
        use std::os::unix::ffi::OsStringExt;
        let env = |name: &str| [(name.into(), OsString::from_vec(b"772277\xff".to_vec()))];
        let error = Config::load(None, env("LEVERET_DEFAULT_PASS")).unwrap_err();
        let expected = "environment variable LEVERET_DEFAULT_PASS: found octets that are not UTF-8, expected text";
        assert_eq!(error.to_string(), expected);
        assert!(!format!("{error:?}").contains("772277"));
        assert!(Config::load(None, env("OTHER")).is_ok() && Config::load(None, env("LEVERET_TEST_X")).is_ok());
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
        let env = [("LEVERET_HEARTBEAT".into(), " 7".into())];
        let config = Config::load(Some(&path), env).unwrap();
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
            store: StoreConfig { sync: SyncKind::Os, ..Config::default().store },
            vhosts: vec!["/".into(), "b".into()],
            ..Config::default()
        };
        assert_eq!(config, Ok(expected));
        let known = match Config::load(None, [("LEVERET_X".into(), "".into())]) {
            Err(ConfigError::UnknownKey { known, .. }) => known,
            other => panic!("{other:?}"),
        };
        assert!(known.len() > 20, "{known:?}");
        for name in known {
            let error = load(&[(&name, &"\u{1}=".repeat(200))]);
            let allowed = ["LEVERET_DATA_DIR", "LEVERET_DEFAULT_PASS"].contains(&name.as_str());
            assert_eq!(error.is_ok(), allowed, "{name}: {error:?}");
        }
        assert_eq!(
            load(&[("LEVERET_USERS", "u")]).unwrap_err(),
            "environment variable LEVERET_USERS: users: expected a list of tables, in the configuration file"
        );
    }

    #[test]
    fn unknown_variables_are_refused_but_for_the_tests_own() {
        let error = load(&[("LEVERET_HARTBEAT", "1")]).unwrap_err();
        let expected =
            "environment variable LEVERET_HARTBEAT: LEVERET_HARTBEAT: unknown key, did you mean LEVERET_HEARTBEAT? ";
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
        let error = Config::load(Some(Path::new(absent)), []).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/leveret.toml: cannot be read: "), "{error}");
        assert_eq!(load(&[("LEVERET_CONFIG", absent)]), Err(error));
    }

    #[test]
    fn a_path_goes_before_the_variable() {
        let path = file("path", "heartbeat = 5");
        let env = [("LEVERET_CONFIG".into(), "/nowhere/leveret.toml".into())];
        assert_eq!(Config::load(Some(&path), env).unwrap().heartbeat, 5);
        let env = [("LEVERET_CONFIG".into(), path.clone().into())];
        assert_eq!(Config::load(None, env).unwrap().heartbeat, 5);
        fs::remove_file(path).unwrap();
    }
}
