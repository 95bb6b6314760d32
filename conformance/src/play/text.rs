//! The operands of steps, from text.

use crate::peer::Heard;
use crate::peer::text::{Cursor, Fields, fields, hex, number};
use crate::peer::value::Value;

/// `k=v ...` as fields, for steps that take nothing else.
pub(super) fn all_fields(cursor: &Cursor<'_>) -> Result<Fields, String> {
    fields(cursor.rest())
}

/// `on CH`, or any channel.
pub(super) fn channel_of(cursor: &mut Cursor<'_>) -> Result<Option<u16>, String> {
    match cursor.item() {
        "" => Ok(None),
        "on" => number(cursor.item()).map(Some),
        other => Err(format!("`on CH` expected, not `{other}`")),
    }
}

/// Returns true if nothing can be received any more.
pub(super) fn is_over(heard: &Heard) -> bool {
    matches!(heard, Heard::Closed | Heard::Timeout)
}

/// A write to a socket that was closed says so only at the second write, or never: it is not heard.
pub(super) fn sent_or_closed(sent: Result<(), String>) -> Result<(), String> {
    match sent {
        Err(why) if !why.starts_with("write:") => Err(why),
        _ => Ok(()),
    }
}

/// A value as the octets that were written.
pub(super) fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Str(text) => text.clone(),
        other => other.to_string().into_bytes(),
    }
}

/// Octets as hexadecimal words and quoted strings, up to the first `name=value`.
pub(super) fn octets(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while !cursor.is_done() {
        if cursor.rest().starts_with('"') {
            out.extend(cursor.string()?);
        } else if cursor.rest().starts_with("end=") || cursor.rest().starts_with("size=") {
            break;
        } else {
            out.extend(hex(cursor.word())?);
        }
        cursor.item_end();
    }
    Ok(out)
}

/// `exchange=e key=k props={..} body=".."` as fields of the method, properties and body.
pub(super) fn publication(text: &str) -> Result<(Fields, Fields, Vec<u8>), String> {
    let (mut method, mut properties, mut body) = (Fields::new(), Fields::new(), Vec::new());
    for (name, value) in fields(text)? {
        match (name.as_str(), value) {
            ("props", value) => properties = properties_of(value)?,
            ("body", Value::Str(text)) => body = text,
            ("body", other) => body = other.to_string().into_bytes(),
            ("key", value) => method.push(("routing-key".to_owned(), value)),
            (_, value) => method.push((name, value)),
        }
    }
    Ok((method, properties, body))
}

/// `{..}` as properties.
pub(super) fn properties_of(value: Value) -> Result<Fields, String> {
    match value {
        Value::Table(pairs) => {
            Ok(pairs.into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value)).collect())
        }
        _ => Err("props={..} expected".to_owned()),
    }
}
