//! A short string that is kept: the name of a thing, a key, a tag.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::limits::SHORT_STRING_MAX;

/// A short string of AMQP: at most 255 octets, any octets (section 4.2.5.3). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Copies the octets; `None` if there are more than 255.
    pub fn new(octets: &[u8]) -> Option<Name> {
        (octets.len() <= SHORT_STRING_MAX).then(|| Name(octets.into()))
    }

    /// A name known at compile time; what is longer than 255 octets is cut.
    pub fn from_static(text: &'static str) -> Name {
        Name(clip(text.as_bytes()).into())
    }

    /// The octets, without the length.
    pub fn as_octets(&self) -> &[u8] {
        &self.0
    }

    /// Returns true for the empty name, which in AMQP often means the default.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Name {
    fn default() -> Name {
        Name::from_static("")
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// The first 255 octets: what fits into a short string.
pub(crate) fn clip(octets: &[u8]) -> &[u8] {
    octets.get(..SHORT_STRING_MAX).unwrap_or(octets)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn holds_any_255_octets_and_no_more() {
        assert_eq!(Name::new(&[0xff; 255]).map(|name| name.as_octets().len()), Some(255));
        assert_eq!(Name::new(&[b'a'; 256]), None);
        assert!(Name::default().is_empty());
    }

    #[test]
    fn is_found_by_its_octets() {
        let map = HashMap::from([(Name::from_static("orders"), 1)]);
        assert_eq!(map.get(&b"orders"[..]), Some(&1));
    }

    #[test]
    fn shows_octets_that_are_not_utf8() {
        assert_eq!(Name::new(b"a\xffb").unwrap().to_string(), "a\u{fffd}b");
    }
}
