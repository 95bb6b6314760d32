//! Every method and property of AMQP 0-9-1 with RabbitMQ's own, as one table, and the codec that
//! walks it.

use super::text::Fields;
use super::value::{Reader, Text, Value, table_octets};

/// Wire types of a field: octet, short, long, longlong, shortstr, longstr, bit, table, timestamp.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Octet,
    Short,
    Long,
    LongLong,
    ShortStr,
    LongStr,
    Bit,
    Table,
}

/// name, class, method, fields as `name:kind`.
type Row = (&'static str, u16, u16, &'static str);

#[rustfmt::skip]
const METHODS: &[Row] = &[
    ("connection.start", 10, 10, "version-major:o version-minor:o server-properties:T mechanisms:S locales:S"),
    ("connection.start-ok", 10, 11, "client-properties:T mechanism:s response:S locale:s"),
    ("connection.secure", 10, 20, "challenge:S"),
    ("connection.secure-ok", 10, 21, "response:S"),
    ("connection.tune", 10, 30, "channel-max:h frame-max:l heartbeat:h"),
    ("connection.tune-ok", 10, 31, "channel-max:h frame-max:l heartbeat:h"),
    ("connection.open", 10, 40, "virtual-host:s capabilities:s insist:b"),
    ("connection.open-ok", 10, 41, "known-hosts:s"),
    ("connection.close", 10, 50, "reply-code:h reply-text:s class-id:h method-id:h"),
    ("connection.close-ok", 10, 51, ""),
    ("connection.blocked", 10, 60, "reason:s"),
    ("connection.unblocked", 10, 61, ""),
    ("connection.update-secret", 10, 70, "new-secret:S reason:s"),
    ("connection.update-secret-ok", 10, 71, ""),
    ("channel.open", 20, 10, "out-of-band:s"),
    ("channel.open-ok", 20, 11, "channel-id:S"),
    ("channel.flow", 20, 20, "active:b"),
    ("channel.flow-ok", 20, 21, "active:b"),
    ("channel.close", 20, 40, "reply-code:h reply-text:s class-id:h method-id:h"),
    ("channel.close-ok", 20, 41, ""),
    ("access.request", 30, 10, "realm:s exclusive:b passive:b active:b write:b read:b"),
    ("access.request-ok", 30, 11, "ticket:h"),
    ("exchange.declare", 40, 10, "ticket:h exchange:s type:s passive:b durable:b auto-delete:b internal:b nowait:b arguments:T"),
    ("exchange.declare-ok", 40, 11, ""),
    ("exchange.delete", 40, 20, "ticket:h exchange:s if-unused:b nowait:b"),
    ("exchange.delete-ok", 40, 21, ""),
    ("exchange.bind", 40, 30, "ticket:h destination:s source:s routing-key:s nowait:b arguments:T"),
    ("exchange.bind-ok", 40, 31, ""),
    ("exchange.unbind", 40, 40, "ticket:h destination:s source:s routing-key:s nowait:b arguments:T"),
    ("exchange.unbind-ok", 40, 51, ""),
    ("queue.declare", 50, 10, "ticket:h queue:s passive:b durable:b exclusive:b auto-delete:b nowait:b arguments:T"),
    ("queue.declare-ok", 50, 11, "queue:s message-count:l consumer-count:l"),
    ("queue.bind", 50, 20, "ticket:h queue:s exchange:s routing-key:s nowait:b arguments:T"),
    ("queue.bind-ok", 50, 21, ""),
    ("queue.purge", 50, 30, "ticket:h queue:s nowait:b"),
    ("queue.purge-ok", 50, 31, "message-count:l"),
    ("queue.delete", 50, 40, "ticket:h queue:s if-unused:b if-empty:b nowait:b"),
    ("queue.delete-ok", 50, 41, "message-count:l"),
    ("queue.unbind", 50, 50, "ticket:h queue:s exchange:s routing-key:s arguments:T"),
    ("queue.unbind-ok", 50, 51, ""),
    ("basic.qos", 60, 10, "prefetch-size:l prefetch-count:h global:b"),
    ("basic.qos-ok", 60, 11, ""),
    ("basic.consume", 60, 20, "ticket:h queue:s consumer-tag:s no-local:b no-ack:b exclusive:b nowait:b arguments:T"),
    ("basic.consume-ok", 60, 21, "consumer-tag:s"),
    ("basic.cancel", 60, 30, "consumer-tag:s nowait:b"),
    ("basic.cancel-ok", 60, 31, "consumer-tag:s"),
    ("basic.publish", 60, 40, "ticket:h exchange:s routing-key:s mandatory:b immediate:b"),
    ("basic.return", 60, 50, "reply-code:h reply-text:s exchange:s routing-key:s"),
    ("basic.deliver", 60, 60, "consumer-tag:s delivery-tag:L redelivered:b exchange:s routing-key:s"),
    ("basic.get", 60, 70, "ticket:h queue:s no-ack:b"),
    ("basic.get-ok", 60, 71, "delivery-tag:L redelivered:b exchange:s routing-key:s message-count:l"),
    ("basic.get-empty", 60, 72, "cluster-id:s"),
    ("basic.ack", 60, 80, "delivery-tag:L multiple:b"),
    ("basic.reject", 60, 90, "delivery-tag:L requeue:b"),
    ("basic.recover-async", 60, 100, "requeue:b"),
    ("basic.recover", 60, 110, "requeue:b"),
    ("basic.recover-ok", 60, 111, ""),
    ("basic.nack", 60, 120, "delivery-tag:L multiple:b requeue:b"),
    ("confirm.select", 85, 10, "nowait:b"),
    ("confirm.select-ok", 85, 11, ""),
    ("tx.select", 90, 10, ""),
    ("tx.select-ok", 90, 11, ""),
    ("tx.commit", 90, 20, ""),
    ("tx.commit-ok", 90, 21, ""),
    ("tx.rollback", 90, 30, ""),
    ("tx.rollback-ok", 90, 31, ""),
];

/// The properties of class basic, highest flag first.
const PROPERTIES: &str = "content-type:s content-encoding:s headers:T delivery-mode:o priority:o \
    correlation-id:s reply-to:s expiration:s message-id:s timestamp:L type:s user-id:s app-id:s cluster-id:s";

/// Every method with its fields, for who asks what a suite covers.
pub fn methods() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    METHODS.iter().map(|row| (row.0, columns(row.3).map(|(name, _)| name).collect()))
}

/// Every property of a content, highest flag first.
pub fn properties() -> impl Iterator<Item = &'static str> {
    columns(PROPERTIES).map(|(name, _)| name)
}

fn columns(row: &'static str) -> impl Iterator<Item = (&'static str, Kind)> {
    row.split_ascii_whitespace().filter_map(|column| {
        let (name, kind) = column.split_once(':')?;
        let kind = match kind {
            "o" => Kind::Octet,
            "h" => Kind::Short,
            "l" => Kind::Long,
            "L" => Kind::LongLong,
            "s" => Kind::ShortStr,
            "S" => Kind::LongStr,
            "b" => Kind::Bit,
            _ => Kind::Table,
        };
        Some((name, kind))
    })
}

fn write(out: &mut Vec<u8>, kind: Kind, value: Option<&Value>) -> Result<(), String> {
    let number = match value {
        None => 0,
        Some(Value::Number(n)) => *n,
        _ => 0,
    };
    let text = match value {
        Some(Value::Str(text)) => text.clone(),
        Some(Value::Number(n)) => n.to_string().into_bytes(),
        Some(Value::Table(pairs)) => table_octets(pairs),
        Some(Value::Bytes(octets)) => octets.clone(),
        _ => Vec::new(),
    };
    match kind {
        Kind::Octet => out.push(number as u8),
        Kind::Short => out.extend((number as u16).to_be_bytes()),
        Kind::Long => out.extend((number as u32).to_be_bytes()),
        Kind::LongLong => out.extend((number as u64).to_be_bytes()),
        Kind::ShortStr => {
            let n = u8::try_from(text.len()).map_err(|_| "a shortstr over 255 octets")?;
            out.push(n);
            out.extend(text);
        }
        Kind::LongStr | Kind::Table => {
            out.extend((text.len() as u32).to_be_bytes());
            out.extend(text);
        }
        Kind::Bit => return Err("bits are packed by the caller".to_owned()),
    }
    Ok(())
}

fn read(reader: &mut Reader<'_>, kind: Kind) -> Result<Value, String> {
    Ok(match kind {
        Kind::Octet | Kind::Bit => Value::Number(reader.number(1)?.into()),
        Kind::Short => Value::Number(reader.number(2)?.into()),
        Kind::Long => Value::Number(reader.number(4)?.into()),
        Kind::LongLong => Value::Number(reader.number(8)?.into()),
        Kind::ShortStr => Value::Str(reader.shortstr()?),
        Kind::LongStr => Value::Str(reader.longstr()?.to_vec()),
        Kind::Table => reader.table()?,
    })
}

fn known(fields: &Fields, row: &'static str, what: &str) -> Result<(), String> {
    let unknown = |(name, _): &&(String, Value)| columns(row).all(|(column, _)| column != name);
    match fields.iter().find(unknown) {
        Some((name, _)) => Err(format!("{what} has no field `{name}`")),
        None => Ok(()),
    }
}

fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.iter().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// Payload of a method frame. Fields that are not named are zero or empty.
pub fn encode(name: &str, fields: &Fields) -> Result<Vec<u8>, String> {
    let row = METHODS.iter().find(|row| row.0 == name);
    let (_, class, method, row) = *row.ok_or_else(|| format!("no method `{name}`"))?;
    known(fields, row, name)?;
    let mut out = class.to_be_bytes().to_vec();
    out.extend(method.to_be_bytes());
    let mut bits = 0;
    for (column, kind) in columns(row) {
        let value = find(fields, column);
        if kind != Kind::Bit {
            bits = 0;
            write(&mut out, kind, value)?;
            continue;
        }
        if bits == 0 {
            out.push(0);
        }
        if matches!(value, Some(Value::Bool(true) | Value::Number(1)))
            && let Some(last) = out.last_mut()
        {
            *last |= 1 << bits;
        }
        bits += 1;
    }
    Ok(out)
}

/// A method frame's payload as name and fields. Octets left over are an error.
pub fn decode(payload: &[u8]) -> Result<(&'static str, Fields), String> {
    let mut reader = Reader(payload);
    let (class, method) = (reader.number(2)? as u16, reader.number(2)? as u16);
    let row = METHODS
        .iter()
        .find(|row| (row.1, row.2) == (class, method))
        .ok_or_else(|| format!("no method {class}.{method}"))?;
    let mut fields = Vec::new();
    let (mut bits, mut octet) = (0, 0);
    for (column, kind) in columns(row.3) {
        let value = if kind == Kind::Bit {
            if bits == 0 {
                octet = reader.number(1)?;
            }
            bits += 1;
            Value::Bool(octet >> (bits - 1) & 1 == 1)
        } else {
            bits = 0;
            read(&mut reader, kind)?
        };
        fields.push((column.to_owned(), value));
    }
    match reader.0 {
        [] => Ok((row.0, fields)),
        rest => Err(format!("{} has {} octets too many", row.0, rest.len())),
    }
}

/// Property flags and values of a content header.
pub fn encode_properties(fields: &Fields) -> Result<Vec<u8>, String> {
    known(fields, PROPERTIES, "content")?;
    let (mut flags, mut values) = (0u16, Vec::new());
    for (i, (column, kind)) in columns(PROPERTIES).enumerate() {
        if let Some(value) = find(fields, column) {
            flags |= 1 << (15 - i);
            write(&mut values, kind, Some(value))?;
        }
    }
    let mut out = flags.to_be_bytes().to_vec();
    out.extend(values);
    Ok(out)
}

/// The properties that are present, from the flags on.
pub fn decode_properties(octets: &[u8]) -> Result<Fields, String> {
    let mut reader = Reader(octets);
    let flags = reader.number(2)? as u16;
    let mut fields = Vec::new();
    for (i, (column, kind)) in columns(PROPERTIES).enumerate() {
        if flags >> (15 - i) & 1 == 1 {
            fields.push((column.to_owned(), read(&mut reader, kind)?));
        }
    }
    match reader.0 {
        [] => Ok(fields),
        rest => Err(format!("{} octets after the properties", rest.len())),
    }
}

/// ` name=value` for each field; a set bit is its name alone, a clear one is left out.
pub fn render(fields: &Fields) -> String {
    let field = |(name, value): &(String, Value)| match value {
        Value::Bool(true) => format!(" {name}"),
        Value::Bool(false) => String::new(),
        Value::Str(text) => format!(" {name}={}", Text(text)),
        other => format!(" {name}={other}"),
    };
    fields.iter().map(field).collect()
}
