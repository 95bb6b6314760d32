//! How a queue, an exchange or a virtual host is named in a reply text. Words only.

use std::fmt::{self, Display, Formatter};

/// `queue 'q' in vhost '/'`, `exchange 'x' in vhost '/'`.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// Its name; octets that are no UTF-8 are shown as replacement characters.
    pub name: &'a [u8],
    /// The virtual host's name.
    pub vhost: &'a [u8],
}

impl Display for Resource<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} '{}' in vhost '{}'",
            self.kind,
            String::from_utf8_lossy(self.name),
            String::from_utf8_lossy(self.vhost)
        )
    }
}
