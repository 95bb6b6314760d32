//! Users: authentication, and the rights of an authenticated user.

use crate::config::{Config, Password};
use crate::escaped::Escaped;
use hashbrown::HashMap;

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The tag `impersonator`: may set any `user-id` on messages.
    pub impersonator: bool,
}

/// The configured users and their passwords.
pub struct Access {
    users: HashMap<String, Account>,
    loopback_only: Vec<String>,
    anonymous: Option<String>,
}

struct Account {
    password: Password,
    impersonator: bool,
}

/// The reason why a login was refused; for the log, never for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such user, or a wrong password.
    InvalidCredentials(String),
    /// The user may only connect from this machine (RabbitMQ's `loopback_users`).
    NotFromLoopback(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InvalidCredentials(user) => {
                write!(f, "user '{}' - invalid credentials", Escaped::name(user.as_bytes()))
            }
            Self::NotFromLoopback(user) => {
                write!(f, "user '{}' can only connect via localhost", Escaped::name(user.as_bytes()))
            }
        }
    }
}

impl Access {
    /// Creates the users that the configuration names.
    pub fn new(config: &Config) -> Self {
        let mut users = HashMap::new();
        let first = Account { password: config.default_pass.clone(), impersonator: false };
        users.insert(config.default_user.clone(), first);
        for user in &config.users {
            let account = Account { password: user.password.clone(), impersonator: user.impersonator };
            users.insert(user.name.clone(), account);
        }
        Self { users, loopback_only: config.loopback_users.clone(), anonymous: config.anonymous_user.clone() }
    }

    /// Returns the SASL mechanisms offered in connection.start, separated by blanks.
    pub fn mechanisms(&self) -> &'static str {
        if self.anonymous.is_some() { "AMQPLAIN ANONYMOUS PLAIN" } else { "AMQPLAIN PLAIN" }
    }

    /// Authenticates a user by name and password.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn login(&self, name: &[u8], password: &[u8], from_loopback: bool) -> Result<User, Refusal> {
        let refused = || Refusal::InvalidCredentials(String::from_utf8_lossy(name).into_owned());
        let name = std::str::from_utf8(name).map_err(|_| refused())?;
        let account = self.users.get(name).ok_or_else(refused)?;
        if !account.password.matches(password) {
            return Err(refused());
        }
        self.admit(name, account, from_loopback)
    }

    fn admit(&self, name: &str, account: &Account, from_loopback: bool) -> Result<User, Refusal> {
        if !from_loopback && self.loopback_only.iter().any(|user| user == name) {
            return Err(Refusal::NotFromLoopback(name.to_owned()));
        }
        Ok(User { name: name.to_owned(), impersonator: account.impersonator })
    }

    /// Returns the user of an anonymous login; `None` where `anonymous_user` is not set.
    pub fn anonymous(&self, from_loopback: bool) -> Option<Result<User, Refusal>> {
        let name = self.anonymous.as_ref()?;
        let account = self.users.get(name)?;
        Some(self.admit(name, account, from_loopback))
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("users", &self.users.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UserConfig;

    fn access(anonymous: Option<&str>) -> Access {
        let user = |name: &str| UserConfig {
            name: name.to_owned(),
            password: Password::new("secret"),
            impersonator: name == "relay",
        };
        let users = vec![user("relay"), user("alice")];
        Access::new(&Config { users, anonymous_user: anonymous.map(str::to_owned), ..Config::default() })
    }

    #[test]
    fn guest_comes_from_this_machine_only() {
        let access = access(None);
        assert!(access.login(b"guest", b"guest", true).is_ok());
        let refused = access.login(b"guest", b"guest", false);
        assert_eq!(refused, Err(Refusal::NotFromLoopback("guest".to_owned())));
        assert!(access.login(b"alice", b"secret", false).is_ok_and(|user| !user.impersonator));
        assert!(access.login(b"relay", b"secret", false).is_ok_and(|user| user.impersonator));
    }

    #[test]
    fn unknown_users_and_wrong_passwords_are_refused_alike() {
        let access = access(None);
        for (name, password) in
            [(&b"alice"[..], &b"Secret"[..]), (b"alice", b""), (b"nobody", b"secret"), (b"\xff", b"")]
        {
            let name_shown = String::from_utf8_lossy(name).into_owned();
            assert_eq!(access.login(name, password, true), Err(Refusal::InvalidCredentials(name_shown)));
        }
    }

    #[test]
    fn anonymous_is_offered_where_it_is_a_user() {
        assert_eq!((access(None).mechanisms(), access(None).anonymous(true)), ("AMQPLAIN PLAIN", None));
        let access = access(Some("alice"));
        assert_eq!(access.mechanisms(), "AMQPLAIN ANONYMOUS PLAIN");
        assert!(access.anonymous(false).is_some_and(|login| login.is_ok_and(|user| user.name == "alice")));
    }
}
