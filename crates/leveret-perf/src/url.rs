//! The address of a broker, read from `amqp://user:password@host:port/vhost`.

use percent_encoding::percent_decode_str;
use std::fmt::{self, Display};
use std::str::FromStr;
use url::{ParseError, Url};

const EXPECTED: &str = "expected amqp://user:password@host:port/vhost";
const DEFAULT_PORT: u16 = 5672;

/// A broker's address and the login to use there. Parts that the URL leaves out become `guest`,
/// `guest`, `localhost`, 5672 and `/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerUrl {
    /// User name, percent-decoded.
    pub user: String,
    /// Password, percent-decoded.
    pub password: String,
    /// Name or address of the host, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Virtual host, percent-decoded; `/` for an empty path.
    pub vhost: String,
}

/// A text that is no URL of a broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UrlError {
    /// Not a URL at all.
    Syntax(ParseError),
    /// A scheme other than `amqp`, or none of the form `amqp://`.
    Scheme,
    /// LoadOptions behind `?`, or a fragment.
    LoadOptions,
    /// A `%` without two hexadecimal digits behind it in this part.
    BarePercent(&'static str),
    /// Percent-encoding of this part that gives no UTF-8.
    NotUtf8(&'static str),
}

impl Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Syntax(error) => write!(f, "{error}, {EXPECTED}"),
            UrlError::Scheme => f.write_str(EXPECTED),
            UrlError::LoadOptions => {
                f.write_str("options behind ? or # are not supported; write a literal ? as %3F and # as %23")
            }
            UrlError::BarePercent(part) => write!(f, "the {part} has a bare %, expected %25"),
            UrlError::NotUtf8(part) => write!(f, "the {part} is not UTF-8 once percent-decoded"),
        }
    }
}

impl std::error::Error for UrlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UrlError::Syntax(error) => Some(error),
            _ => None,
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<BrokerUrl, UrlError> {
        let url = Url::parse(text).map_err(UrlError::Syntax)?;
        if url.scheme() != "amqp" || url.cannot_be_a_base() {
            return Err(UrlError::Scheme);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::LoadOptions);
        }
        let guest = || "guest".to_owned();
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let host = Some(host).filter(|host| !host.is_empty());
        let vhost = url.path().strip_prefix('/').filter(|path| !path.is_empty());
        Ok(BrokerUrl {
            user: user.map_or_else(|| Ok(guest()), |user| decode(user, "user name"))?,
            password: url.password().map_or_else(|| Ok(guest()), |password| decode(password, "password"))?,
            host: host.map_or_else(|| Ok("localhost".to_owned()), |host| decode(host, "host"))?,
            port: url.port().unwrap_or(DEFAULT_PORT),
            vhost: vhost.map_or_else(|| Ok("/".to_owned()), |vhost| decode(vhost, "virtual host"))?,
        })
    }
}

fn decode(text: &str, part: &'static str) -> Result<String, UrlError> {
    let is_octet =
        |behind: &str| behind.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_octet) {
        return Err(UrlError::BarePercent(part));
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| UrlError::NotUtf8(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String, u16, String) {
        let url: BrokerUrl = text.parse().unwrap();
        (url.user, url.password, url.host, url.port, url.vhost)
    }

    fn strings(
        user: &str,
        password: &str,
        host: &str,
        port: u16,
        vhost: &str,
    ) -> (String, String, String, u16, String) {
        (user.into(), password.into(), host.into(), port, vhost.into())
    }

    #[test]
    fn takes_urls_apart() {
        assert_eq!(parts("amqp://"), strings("guest", "guest", "localhost", 5672, "/"));
        assert_eq!(parts("amqp://h"), strings("guest", "guest", "h", 5672, "/"));
        assert_eq!(parts("amqp://h:1/"), strings("guest", "guest", "h", 1, "/"));
        assert_eq!(parts("amqp://u:p@h:5673/v"), strings("u", "p", "h", 5673, "v"));
        assert_eq!(parts("amqp://u:p@h/%2F"), strings("u", "p", "h", 5672, "/"));
        assert_eq!(parts("amqp://u%40x:p%3a%2f@h/a%25b"), strings("u@x", "p:/", "h", 5672, "a%b"));
        assert_eq!(parts("amqp://u@[::1]:5673"), strings("u", "guest", "::1", 5673, "/"));
        assert_eq!(parts("amqp://[::1]"), strings("guest", "guest", "::1", 5672, "/"));
        assert_eq!(parts("amqp://p%C3%A4@h"), strings("pä", "guest", "h", 5672, "/"));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in
            ["", "h:5672", "amqps://h", "amqp://h:x", "amqp://h:70000", "amqp://[::1", "amqp://[::1]x", "amqp://u%4@h"]
        {
            assert!(text.parse::<BrokerUrl>().is_err(), "{text}");
        }
        assert!("amqp://h/%ff".parse::<BrokerUrl>().is_err());
        assert!("amqp://h/v?heartbeat=1".parse::<BrokerUrl>().is_err());
    }
}
