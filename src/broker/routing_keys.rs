//! The routing keys of a publication: its own one, and those of its CC and BCC headers (RabbitMQ's
//! sender-selected distribution). Routes nothing.

use leveret_wire::fault::{Code, Fault};
use leveret_wire::properties::{self, Properties};
use leveret_wire::table::{Table, Value};

/// Returns true if headers may add routing keys.
pub fn add_keys(headers: Table<'_>) -> bool {
    headers.iter().any(|(name, _)| matches!(name, b"CC" | b"BCC"))
}

/// The routing keys of one publication.
#[derive(Debug)]
pub struct RoutingKeys<'a> {
    own: [&'a [u8]; 1],
    /// All keys, if there are more.
    all: Vec<&'a [u8]>,
    /// The headers, if one of them is BCC.
    with_bcc: Option<Table<'a>>,
}

impl<'a> RoutingKeys<'a> {
    /// Returns `key` and those that headers add.
    ///
    /// # Errors
    /// 406 if CC or BCC is no array.
    pub fn new(key: &'a [u8], headers: Option<Table<'a>>) -> Result<Self, Fault> {
        let mut keys = Self { own: [key], all: Vec::new(), with_bcc: None };
        let Some(headers) = headers.filter(|headers| add_keys(*headers)) else { return Ok(keys) };
        keys.all.push(key);
        for name in ["CC", "BCC"] {
            match headers.get(name.as_bytes()) {
                None => {}
                // Elements of other types are skipped, as in RabbitMQ.
                Some(Value::Array(array)) => keys.all.extend(array.iter().filter_map(|value| value.as_long_str())),
                Some(other) => {
                    let kind = other.type_name();
                    let text = format_args!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
                    return Err(Fault::new(Code::PreconditionFailed, text));
                }
            }
        }
        keys.with_bcc = headers.get(b"BCC").map(|_| headers);
        Ok(keys)
    }

    /// Returns all keys, the publication's own one first.
    pub fn as_slice(&self) -> &[&'a [u8]] {
        if self.all.is_empty() { &self.own } else { &self.all }
    }

    /// Returns `properties` without the header BCC, which nobody is to see; `None` if there is
    /// none.
    pub fn without_bcc(&self, properties: Properties<'_>) -> Option<Vec<u8>> {
        let kept = properties::headers_without(self.with_bcc?, b"BCC");
        Some(properties.with_headers(Some(&kept)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(octets: &[u8]) -> Vec<u8> {
        [&(octets.len() as u32).to_be_bytes(), octets].concat()
    }

    fn array(keys: &[&str]) -> Vec<u8> {
        // An element of another type is in between.
        let elements = keys.iter().map(|key| [b"S", &long(key.as_bytes())[..], b"V"].concat());
        [&b"A"[..], &long(&elements.collect::<Vec<_>>().concat())].concat()
    }

    fn properties(headers: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let entry = |(name, value): &(&str, Vec<u8>)| [&[name.len() as u8], name.as_bytes(), value].concat();
        [&b"\x20\0"[..], &long(&headers.iter().map(entry).collect::<Vec<_>>().concat())].concat()
    }

    fn keys<'a>(octets: &'a [u8]) -> Result<RoutingKeys<'a>, Fault> {
        RoutingKeys::new(b"own", Properties::check(octets).unwrap().headers())
    }

    #[test]
    fn headers_add_keys_and_bcc_is_cut_out() {
        let other = || ("other", b"V".to_vec());
        for plain in [&b"\0\0"[..], &properties(&[]), &properties(&[other(), ("cc", array(&["no"]))])] {
            let keys = keys(plain).unwrap();
            assert_eq!(keys.as_slice(), [b"own"]);
            assert_eq!(keys.without_bcc(Properties::from_checked(plain)), None);
        }
        let cc = properties(&[("CC", array(&["a", "b"])), other()]);
        let found = keys(&cc).unwrap();
        assert_eq!(found.as_slice(), [&b"own"[..], b"a", b"b"]);
        assert_eq!(found.without_bcc(Properties::from_checked(&cc)), None);
        let both = properties(&[("BCC", array(&["c"])), other(), ("CC", array(&["a"]))]);
        let found = keys(&both).unwrap();
        assert_eq!(found.as_slice(), [&b"own"[..], b"a", b"c"]);
        let kept = properties(&[other(), ("CC", array(&["a"]))]);
        assert_eq!(found.without_bcc(Properties::from_checked(&both)), Some(kept));
    }

    #[test]
    fn only_arrays_add_keys() {
        for name in ["CC", "BCC"] {
            let octets = properties(&[(name, [&b"S"[..], &long(b"a")].concat())]);
            let text = format!(
                "406 PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{name}\",longstr}}"
            );
            assert_eq!(keys(&octets).unwrap_err().to_string(), text);
        }
    }
}
