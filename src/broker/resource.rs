//! The display names of queues, exchanges and virtual hosts in reply texts.

use std::fmt::{self, Display, Formatter, Write};

/// The display name `queue 'q' in vhost '/'` or `exchange 'x' in vhost '/'`.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The kind of resource: `queue` or `exchange`.
    pub kind: &'static str,
    /// The resource's name.
    pub name: &'a [u8],
    /// The virtual host's name.
    pub vhost: &'a [u8],
}

impl Display for Resource<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, Text(self.name), Text(self.vhost))
    }
}

/// Octets displayed as text: UTF-8, or if they are not valid, each as a Latin-1 character, as in
/// RabbitMQ.
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
