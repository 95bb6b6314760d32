//! Any octets, given to every parser of the wire: none panics, and what is read and written again
//! is the same.
#![no_main]

use leveret_wire::encode_content::{self, Content, Copied};
use leveret_wire::frame::{self, FrameScan};
use leveret_wire::method;
use leveret_wire::properties::{self, Properties};
use leveret_wire::table::{OwnedTable, Table, Value};
use leveret_wire::table_builder::{ArrayBuilder, TableBuilder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Some((&which, octets)) = octets.split_first() else { return };
    match which % 5 {
        0 => method(octets),
        1 => head(octets),
        2 => table(octets),
        3 => frames(octets),
        _ => written(octets),
    }
});

fn method(octets: &[u8]) {
    match method::parse(octets) {
        Ok(method) => {
            let _ = (method.id(), method.has_content(), format!("{method:?}"));
            assert_eq!(method::parse(octets), Ok(method));
        }
        Err(fault) => assert!(fault.text.as_octets().len() <= 255),
    }
}

fn head(octets: &[u8]) {
    walk_properties(Properties::from_checked(octets));
    match properties::content_head(octets) {
        Ok(head) => {
            walk_properties(head.properties);
            for rewritten in [
                head.properties.with_reply_to(b"there"),
                head.properties.without_expiration(),
                head.properties.with_headers(Some(b"\x01kV")),
                head.properties.with_headers(None),
            ] {
                let checked = Properties::check(&rewritten).expect("a rewrite is well-formed");
                assert_eq!(checked.message_id(), head.properties.message_id());
                assert_eq!(checked.cluster_id(), head.properties.cluster_id());
                assert_eq!(checked.content_type(), head.properties.content_type());
            }
            let same = match head.properties.reply_to() {
                Some(reply_to) => head.properties.with_reply_to(reply_to),
                None => head.properties.octets().to_vec(),
            };
            assert_eq!(same.get(2..), head.properties.octets().get(2..));
        }
        Err(fault) => assert!(fault.text.as_octets().len() <= 255),
    }
}

fn walk_properties(p: Properties<'_>) {
    let _ = (p.is_plain(), p.is_persistent(), p.delivery_mode(), p.priority(), p.timestamp());
    let _ = (p.content_type(), p.content_encoding(), p.correlation_id(), p.reply_to(), p.expiration());
    let _ = (p.message_id(), p.kind(), p.user_id(), p.app_id(), p.cluster_id());
    let _ = (p.with_reply_to(b"x"), p.without_expiration(), p.with_headers(None), format!("{p:?}"));
    if let Some(headers) = p.headers() {
        let _ = (properties::headers_without(headers, b"BCC"), headers.iter().count());
    }
}

fn table(octets: &[u8]) {
    let unchecked = Table::from_checked(octets);
    let _ = (unchecked.iter().count(), unchecked.get(b"k"), unchecked.without(b"k"));
    let Ok(table) = Table::check(octets) else { return };
    let _ = format!("{table:?} {}", Value::Table(table));
    let mut builder = TableBuilder::new();
    let mut array = ArrayBuilder::new();
    for (key, value) in table.iter() {
        let _ = (value.type_name(), value.as_integer(), value.as_long_str());
        builder.put(key, value);
        array.push(value);
        assert!(table.get(key).is_some());
        assert_eq!(Table::check(&table.without(key)).map(|left| left.get(key)), Ok(None));
    }
    let again = builder.into_octets();
    assert_eq!(Table::check(&again), Ok(table));
    assert!(array.as_array().iter().eq(table.iter().map(|(_, value)| value)));
    assert_eq!(OwnedTable::from(table), OwnedTable::from(Table::from_checked(&again)));
}

fn frames(octets: &[u8]) {
    let _ = frame::protocol_header(octets);
    for limit in [0, 16, 4096] {
        let mut rest = octets;
        loop {
            match frame::scan(rest, limit) {
                Ok(FrameScan::Frame(frame, used)) => {
                    assert!(used <= rest.len() && frame.payload.len() + 8 == used);
                    assert_eq!(frame::length(rest), used);
                    let faults = [
                        frame::unknown_frame(frame.kind, frame.payload),
                        frame::unexpected_frame(frame.kind, frame.payload),
                    ];
                    assert!(faults.iter().all(|fault| fault.text.as_octets().len() <= 255));
                    rest = &rest[used..];
                }
                Ok(FrameScan::Partial { needed }) => {
                    assert!(needed > rest.len());
                    break;
                }
                Err(_) => break,
            }
        }
    }
}

/// Reads back whole what is written for a consumer.
fn written(octets: &[u8]) {
    let Some((&[size, frame_max], body)) = octets.split_first_chunk() else { return };
    let mut out = Vec::new();
    let frame_max = u32::from(frame_max);
    let tag = body.get(..usize::from(size)).unwrap_or(body);
    let content = Content { route: b"\x01x\x01k", properties: b"\0\0", body };
    encode_content::deliver(&mut out, 7, frame_max, tag, 9, true, content, &mut Copied);
    let mut rest = &out[..];
    let mut read = Vec::new();
    let mut count = 0;
    while let Ok(FrameScan::Frame(frame, used)) = frame::scan(rest, 0) {
        assert_eq!(frame.channel, 7);
        if count > 1 {
            assert!(frame_max < 9 || used <= frame_max as usize);
            read.extend_from_slice(frame.payload);
        }
        count += 1;
        rest = &rest[used..];
    }
    assert!(rest.is_empty() && read == body);
}
