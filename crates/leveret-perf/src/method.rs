//! Methods that a client writes, and the fields of those it reads.

use leveret_wire::method::Method;
use leveret_wire::table::Table;

/// Bits of queue.declare and exchange.declare.
#[derive(Clone, Copy, Default, Debug)]
pub struct DeclareFlags {
    /// Only look whether it exists.
    pub passive: bool,
    /// Survive a restart.
    pub durable: bool,
    /// Belong to this connection (queues only).
    pub exclusive: bool,
    /// Go with the last consumer (queues only).
    pub auto_delete: bool,
    /// Ask for no answer.
    pub no_wait: bool,
}

/// Appends channel.open.
pub fn channel_open(out: &mut Vec<u8>, channel: u16) {
    Method::ChannelOpen.put(out, channel);
}

/// Appends channel.close with code 200, `done`.
pub fn channel_close(out: &mut Vec<u8>, channel: u16) {
    Method::ChannelClose { code: 200, text: b"done", class: 0, method: 0 }.put(out, channel);
}

/// Appends connection.close with code 200, `done`.
pub fn connection_close(out: &mut Vec<u8>) {
    Method::ConnectionClose { code: 200, text: b"done", class: 0, method: 0 }.put(out, 0);
}

/// Appends confirm.select.
pub fn confirm_select(out: &mut Vec<u8>, channel: u16) {
    Method::ConfirmSelect { no_wait: false }.put(out, channel);
}

/// Appends basic.qos for each consumer of the channel.
pub fn qos(out: &mut Vec<u8>, channel: u16, prefetch: u16) {
    Method::Qos { prefetch_size: 0, prefetch_count: prefetch, global: false }.put(out, channel);
}

/// Appends channel.flow-ok.
pub fn flow_ok(out: &mut Vec<u8>, channel: u16, active: bool) {
    Method::FlowOk { active }.put(out, channel);
}

/// Appends queue.declare.
pub fn queue_declare(out: &mut Vec<u8>, channel: u16, queue: &[u8], flags: DeclareFlags, arguments: Table<'_>) {
    let DeclareFlags { passive, durable, exclusive, auto_delete, no_wait } = flags;
    Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, no_wait, arguments }.put(out, channel);
}

/// Appends queue.delete.
pub fn queue_delete(out: &mut Vec<u8>, channel: u16, queue: &[u8], no_wait: bool) {
    Method::QueueDelete { queue, if_unused: false, if_empty: false, no_wait }.put(out, channel);
}

/// Appends queue.bind.
pub fn queue_bind(
    out: &mut Vec<u8>,
    channel: u16,
    queue: &[u8],
    exchange: &[u8],
    routing_key: &[u8],
    no_wait: bool,
    arguments: Table<'_>,
) {
    Method::QueueBind { queue, exchange, routing_key, no_wait, arguments }.put(out, channel);
}

/// Appends queue.unbind.
pub fn queue_unbind(out: &mut Vec<u8>, channel: u16, queue: &[u8], exchange: &[u8], routing_key: &[u8]) {
    Method::QueueUnbind { queue, exchange, routing_key, arguments: Table::empty() }.put(out, channel);
}

/// Appends exchange.declare.
pub fn exchange_declare(out: &mut Vec<u8>, channel: u16, exchange: &[u8], kind: &[u8], flags: DeclareFlags) {
    let DeclareFlags { passive, durable, auto_delete, no_wait, .. } = flags;
    let arguments = Table::empty();
    Method::ExchangeDeclare { exchange, kind, passive, durable, auto_delete, internal: false, no_wait, arguments }
        .put(out, channel);
}

/// Appends exchange.delete.
pub fn exchange_delete(out: &mut Vec<u8>, channel: u16, exchange: &[u8]) {
    Method::ExchangeDelete { exchange, if_unused: false, no_wait: false }.put(out, channel);
}

/// Appends basic.consume.
pub fn consume(out: &mut Vec<u8>, channel: u16, queue: &[u8], tag: &[u8], no_ack: bool) {
    let (no_local, exclusive, no_wait, arguments) = (false, false, false, Table::empty());
    Method::Consume { queue, tag, no_local, no_ack, exclusive, no_wait, arguments }.put(out, channel);
}

/// Fields of a method that were not read yet.
#[derive(Clone, Copy, Debug)]
pub struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    /// Begins behind the ids of a method frame's payload.
    pub fn of(payload: &'a [u8]) -> FieldReader<'a> {
        FieldReader(payload.get(4..).unwrap_or_default())
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn slice(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    /// An octet.
    pub fn octet(&mut self) -> Option<u8> {
        self.take::<1>().map(|[octet]| octet)
    }

    /// A short integer.
    pub fn short_int(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    /// A long long integer, such as a delivery tag.
    pub fn long_long(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// A short string.
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let size = self.octet()?;
        self.slice(size.into())
    }
}

/// Returns code and text of connection.close, channel.close or basic.return: `404 NOT_FOUND - ...`.
pub fn close_text(payload: &[u8]) -> String {
    let mut fields = FieldReader::of(payload);
    let code = fields.short_int().unwrap_or_default();
    format!("{code} {}", String::from_utf8_lossy(fields.short().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::frame::{self, FrameKind, FrameScan};
    use leveret_wire::method::{Method, parse};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        match frame::scan(&out, 0) {
            Ok(FrameScan::Frame(frame, used)) => {
                assert_eq!((frame.kind, frame.channel, used), (FrameKind::Method, 7, out.len()));
                frame.payload.to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn methods_are_what_a_server_reads() {
        let arguments = Table::empty();
        let payload = written(|out| {
            queue_declare(
                out,
                7,
                b"q",
                DeclareFlags { durable: true, no_wait: true, ..DeclareFlags::default() },
                arguments,
            )
        });
        assert!(matches!(
            parse(&payload),
            Ok(Method::QueueDeclare { queue: b"q", durable: true, no_wait: true, auto_delete: false, .. })
        ));
        let payload = written(|out| queue_bind(out, 7, b"q", b"x", b"k", true, arguments));
        assert!(matches!(parse(&payload), Ok(Method::QueueBind { queue: b"q", exchange: b"x", no_wait: true, .. })));
        let payload = written(|out| queue_unbind(out, 7, b"q", b"x", b"k"));
        assert!(matches!(parse(&payload), Ok(Method::QueueUnbind { routing_key: b"k", .. })));
        let payload = written(|out| queue_delete(out, 7, b"q", true));
        assert!(matches!(parse(&payload), Ok(Method::QueueDelete { no_wait: true, if_empty: false, .. })));
        let payload = written(|out| {
            exchange_declare(out, 7, b"x", b"topic", DeclareFlags { durable: true, ..DeclareFlags::default() })
        });
        assert!(matches!(parse(&payload), Ok(Method::ExchangeDeclare { kind: b"topic", durable: true, .. })));
        let payload = written(|out| exchange_delete(out, 7, b"x"));
        assert!(matches!(parse(&payload), Ok(Method::ExchangeDelete { exchange: b"x", .. })));
        let payload = written(|out| consume(out, 7, b"q", b"t", true));
        assert!(matches!(parse(&payload), Ok(Method::Consume { queue: b"q", tag: b"t", no_ack: true, .. })));
        let payload = written(|out| qos(out, 7, 300));
        assert!(matches!(parse(&payload), Ok(Method::Qos { prefetch_count: 300, global: false, .. })));
        let payload = written(|out| confirm_select(out, 7));
        assert!(matches!(parse(&payload), Ok(Method::ConfirmSelect { no_wait: false })));
        assert!(matches!(parse(&written(|out| channel_open(out, 7))), Ok(Method::ChannelOpen)));
        let payload = written(|out| channel_close(out, 7));
        assert!(matches!(parse(&payload), Ok(Method::ChannelClose { code: 200, text: b"done", .. })));
        assert_eq!(close_text(&payload), "200 done");
    }

    #[test]
    fn fields_end_where_the_octets_end() {
        let payload = [0, 10, 0, 50, 1, 64, 2, b'h', b'i', 0];
        let mut fields = FieldReader::of(&payload);
        assert_eq!(fields.short_int(), Some(320));
        assert_eq!(fields.short(), Some(&b"hi"[..]));
        assert_eq!(fields.long_long(), None);
        assert_eq!(FieldReader::of(&[1]).octet(), None);
        assert_eq!(close_text(&[]), "0 ");
    }
}
