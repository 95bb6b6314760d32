//! Unguessable names: of server-named queues, consumer tags and reply channels.

use crate::broker::replies::REPLY_PREFIX;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use leveret_wire::name::Name;

/// The part of a reply name that encodes the node in RabbitMQ.
const REPLY_NODE: &[u8] = b"bGV2ZXJldA";

/// Returns `prefix` followed by 22 characters that encode 128 random bits.
pub fn generated(prefix: &'static str) -> Name {
    let mut bits = [0; 16];
    if getrandom::fill(&mut bits).is_err() {
        // Without an entropy source, names are still unique, but guessable.
        bits = fallback();
    }
    let mut name = Vec::with_capacity(prefix.len() + 22);
    name.extend_from_slice(prefix.as_bytes());
    name.extend_from_slice(URL_SAFE_NO_PAD.encode(bits).as_bytes());
    Name::new(&name).unwrap_or_default()
}

/// Returns a new reply name in RabbitMQ's shape: two parts in Base64, of which the second is
/// random. Clients treat it as opaque.
pub fn reply_name() -> Name {
    let random = generated("");
    let name = [REPLY_PREFIX, REPLY_NODE, b".", random.as_octets(), b"=="].concat();
    Name::new(&name).unwrap_or_default()
}

/// Returns true if a name has the shape of [`reply_name`]'s.
pub fn is_reply_name(name: &[u8]) -> bool {
    let random = name.strip_prefix(REPLY_PREFIX).and_then(|rest| rest.strip_prefix(REPLY_NODE));
    random.and_then(|rest| rest.strip_prefix(b".")).is_some_and(|rest| rest.len() == 24 && rest.ends_with(b"=="))
}

fn fallback() -> [u8; 16] {
    use std::hash::BuildHasher;
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let hash = std::hash::RandomState::new().hash_one(count);
    let mut bits = [0; 16];
    let (first, last) = bits.split_at_mut(8);
    first.copy_from_slice(&hash.to_be_bytes());
    last.copy_from_slice(&count.to_be_bytes());
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_have_rabbitmqs_shape() {
        let (one, other) = (generated("amq.gen-"), generated("amq.gen-"));
        assert_ne!(one, other);
        assert_eq!(one.as_octets().len(), "amq.gen-".len() + 22);
        assert_ne!(fallback(), fallback());
        assert!(is_reply_name(reply_name().as_octets()));
        assert!(!is_reply_name(b"amq.rabbitmq.reply-to.nonsense"));
    }
}
