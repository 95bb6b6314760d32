//! SASL responses of the mechanisms that carry a user and a password.

use leveret_wire::table::{Table, Value};

/// Returns user and password from a response to `mechanism`; none if it is malformed.
pub fn credentials<'a>(mechanism: &[u8], response: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    if mechanism == b"PLAIN" { plain(response) } else { amqplain(response) }
}

/// Decodes PLAIN (RFC 4616): NUL, user, NUL, password. As in RabbitMQ, the authorization identity
/// has to be empty.
fn plain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = response.split(|octet| *octet == 0);
    let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    (identity.is_empty() && parts.next().is_none()).then_some((user, password))
}

/// Decodes AMQPLAIN: a field table without its length, with LOGIN and PASSWORD.
fn amqplain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let table = Table::check(response).ok()?;
    let text = |key: &[u8]| match table.get(key)? {
        Value::LongStr(octets) | Value::Bytes(octets) => Some(octets),
        _ => None,
    };
    Some((text(b"LOGIN")?, text(b"PASSWORD")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::table_builder::TableBuilder;

    #[test]
    fn plain_has_three_parts_and_no_identity() {
        assert_eq!(plain(b"\0user\0pass"), Some((&b"user"[..], &b"pass"[..])));
        assert_eq!(plain(b"\0user\0"), Some((&b"user"[..], &b""[..])));
        for bad in [&b""[..], b"user\0pass", b"\0user", b"admin\0user\0pass", b"\0user\0pass\0"] {
            assert_eq!(plain(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn amqplain_is_a_table_with_login_and_password() {
        let mut table = TableBuilder::new();
        table.put_long_str(b"PASSWORD", b"p").put_long_str(b"LOGIN", b"l");
        let octets = table.into_octets();
        assert_eq!(amqplain(&octets), Some((&b"l"[..], &b"p"[..])));
        assert_eq!(amqplain(&octets[1..]), None);
        let mut table = TableBuilder::new();
        table.put_long_str(b"LOGIN", b"l").put_i64(b"PASSWORD", 1);
        assert_eq!(amqplain(&table.into_octets()), None);
    }
}
