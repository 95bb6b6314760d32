//! Where a broker is: `amqp://user:password@host:port/vhost` taken apart. It knows no socket.

use std::str::FromStr;

/// Where a broker is and who asks. Parts that are not given: `guest`, `guest`, `localhost`, 5672, `/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// Decoded.
    pub user: String,
    /// Decoded.
    pub password: String,
    /// A name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Decoded; `/` also for a path that is empty or missing.
    pub vhost: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        let rest = text.strip_prefix("amqp://").ok_or("expected amqp://user:password@host:port/vhost")?;
        if rest.contains(['?', '#']) {
            return Err("options behind ? are not known; put a literal ? or # as %3F or %23".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (decode(user)?, decode(password)?),
            None if login.is_empty() => ("guest".to_owned(), "guest".to_owned()),
            None => (decode(login)?, "guest".to_owned()),
        };
        let (host, port) = host_and_port(place)?;
        let vhost = if path.is_empty() { "/".to_owned() } else { decode(path)? };
        Ok(Url { user, password, host, port, vhost })
    }
}

fn host_and_port(place: &str) -> Result<(String, u16), String> {
    const PORT: u16 = 5672;
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("expected ] behind the IPv6 address")?;
            (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some(rest) }))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None => PORT,
        Some(port) => port.parse().map_err(|_| format!("found port {port:?}, expected 1 to 65535"))?,
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { decode(host)? };
    Ok((host, port))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, behind)) = rest.split_first() {
        rest = behind;
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let digits = rest.split_at_checked(2);
        let value = digits.and_then(|(digits, _)| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        let (Some((_, behind)), Some(value)) = (digits, value) else {
            return Err(format!("found a bare % in {text:?}, expected %25"));
        };
        octets.push(value);
        rest = behind;
    }
    String::from_utf8(octets).map_err(|_| format!("{text:?} is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String, u16, String) {
        let url: Url = text.parse().unwrap();
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
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
        assert!("amqp://h/%ff".parse::<Url>().is_err());
        assert!("amqp://h/v?heartbeat=1".parse::<Url>().is_err());
    }
}
