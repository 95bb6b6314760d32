//! How a queue, an exchange or a virtual host is named in a reply text. Words only.

use std::fmt::{self, Display, Formatter, Write};

/// `queue 'q' in vhost '/'`, `exchange 'x' in vhost '/'`.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'a [u8],
    /// The virtual host's name.
    pub vhost: &'a [u8],
}

impl Display for Resource<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, Text(self.name), Text(self.vhost))
    }
}

/// Octets as text: UTF-8, or where they are none each octet as the Latin-1 character it would be, as RabbitMQ shows them.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(pub &'a [u8]);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => self.0.iter().try_for_each(|octet| f.write_char(char::from(*octet))),
        }
    }
}
