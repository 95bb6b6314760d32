//! Methods as a client writes them, and the fields of those it hears. It knows no socket and no state.

use crate::limits::SHORT_STRING_MAX;
use crate::wire::frame::{FRAME_END, METHOD};
use crate::wire::method_id::*;
use crate::wire::table::Table;

/// Appends a method frame whose fields `put` writes.
pub fn put(out: &mut Vec<u8>, channel: u16, id: (u16, u16), put: impl FnOnce(&mut Vec<u8>)) {
    let [c1, c2] = channel.to_be_bytes();
    out.extend_from_slice(&[METHOD, c1, c2]);
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(&id.1.to_be_bytes());
    put(out);
    let size = (out.len() - size_at - 4) as u32;
    if let Some(place) = out.get_mut(size_at..size_at + 4) {
        place.copy_from_slice(&size.to_be_bytes());
    }
    out.push(FRAME_END);
}

/// Appends a short string; it must not be longer than 255 octets.
pub fn put_short(out: &mut Vec<u8>, octets: &[u8]) {
    debug_assert!(octets.len() <= SHORT_STRING_MAX);
    out.push(octets.len() as u8);
    out.extend_from_slice(octets);
}

/// Appends a long string.
pub fn put_long(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend_from_slice(&(octets.len() as u32).to_be_bytes());
    out.extend_from_slice(octets);
}

/// Bit of queue.declare and exchange.declare.
pub const PASSIVE: u8 = 1;
/// Bit of queue.declare and exchange.declare.
pub const DURABLE: u8 = 2;
/// Bit of queue.declare.
pub const EXCLUSIVE: u8 = 4;
/// Bit of queue.declare.
pub const AUTO_DELETE: u8 = 8;
/// Bit of queue.declare and exchange.declare.
pub const NO_WAIT: u8 = 16;
/// Bit of basic.consume.
pub const NO_ACK: u8 = 2;

/// Appends channel.open.
pub fn channel_open(out: &mut Vec<u8>, channel: u16) {
    put(out, channel, CHANNEL_OPEN, |out| put_short(out, b""));
}

/// Appends channel.close.
pub fn channel_close(out: &mut Vec<u8>, channel: u16) {
    put(out, channel, CHANNEL_CLOSE, put_close);
}

/// Appends connection.close.
pub fn connection_close(out: &mut Vec<u8>) {
    put(out, 0, CONNECTION_CLOSE, put_close);
}

/// Code 200, `done`, because of no method.
fn put_close(out: &mut Vec<u8>) {
    out.extend_from_slice(&200u16.to_be_bytes());
    put_short(out, b"done");
    out.extend_from_slice(&[0; 4]);
}

/// Appends confirm.select.
pub fn confirm_select(out: &mut Vec<u8>, channel: u16) {
    put(out, channel, CONFIRM_SELECT, |out| out.push(0));
}

/// Appends basic.qos for each consumer of the channel.
pub fn qos(out: &mut Vec<u8>, channel: u16, prefetch: u16) {
    put(out, channel, BASIC_QOS, |out| {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&prefetch.to_be_bytes());
        out.push(0);
    });
}

/// Appends queue.declare.
pub fn queue_declare(out: &mut Vec<u8>, channel: u16, queue: &[u8], bits: u8, arguments: Table<'_>) {
    put(out, channel, QUEUE_DECLARE, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, queue);
        out.push(bits);
        put_long(out, arguments.octets());
    });
}

/// Appends queue.delete.
pub fn queue_delete(out: &mut Vec<u8>, channel: u16, queue: &[u8], no_wait: bool) {
    put(out, channel, QUEUE_DELETE, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, queue);
        out.push(u8::from(no_wait) << 2);
    });
}

/// Appends queue.bind.
pub fn queue_bind(
    out: &mut Vec<u8>,
    channel: u16,
    queue: &[u8],
    exchange: &[u8],
    key: &[u8],
    no_wait: bool,
    arguments: Table<'_>,
) {
    put(out, channel, QUEUE_BIND, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, queue);
        put_short(out, exchange);
        put_short(out, key);
        out.push(no_wait.into());
        put_long(out, arguments.octets());
    });
}

/// Appends queue.unbind.
pub fn queue_unbind(out: &mut Vec<u8>, channel: u16, queue: &[u8], exchange: &[u8], key: &[u8]) {
    put(out, channel, QUEUE_UNBIND, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, queue);
        put_short(out, exchange);
        put_short(out, key);
        put_long(out, &[]);
    });
}

/// Appends exchange.declare.
pub fn exchange_declare(out: &mut Vec<u8>, channel: u16, exchange: &[u8], kind: &[u8], bits: u8) {
    put(out, channel, EXCHANGE_DECLARE, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, exchange);
        put_short(out, kind);
        out.push(bits);
        put_long(out, &[]);
    });
}

/// Appends exchange.delete.
pub fn exchange_delete(out: &mut Vec<u8>, channel: u16, exchange: &[u8]) {
    put(out, channel, EXCHANGE_DELETE, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, exchange);
        out.push(0);
    });
}

/// Appends basic.consume.
pub fn consume(out: &mut Vec<u8>, channel: u16, queue: &[u8], tag: &[u8], bits: u8) {
    put(out, channel, BASIC_CONSUME, |out| {
        out.extend_from_slice(&[0; 2]);
        put_short(out, queue);
        put_short(out, tag);
        out.push(bits);
        put_long(out, &[]);
    });
}

/// The fields of a method that were not read yet.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those behind the ids of a method frame's payload.
    pub fn of(payload: &'a [u8]) -> Fields<'a> {
        Fields(payload.get(4..).unwrap_or_default())
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

    /// A long integer.
    pub fn long_int(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
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

    /// A long string, or the octets of a table.
    pub fn long(&mut self) -> Option<&'a [u8]> {
        let size = self.long_int()?;
        self.slice(size as usize)
    }
}

/// What connection.close, channel.close or basic.return says: `404 NOT_FOUND - ...`.
pub fn close_text(payload: &[u8]) -> String {
    let mut fields = Fields::of(payload);
    let code = fields.short_int().unwrap_or_default();
    format!("{code} {}", String::from_utf8_lossy(fields.short().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{self, Kind, Scan};
    use crate::wire::method::{Method, parse};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        match frame::scan(&out, 0) {
            Ok(Scan::Frame(frame, used)) => {
                assert_eq!((frame.kind, frame.channel, used), (Kind::Method, 7, out.len()));
                frame.payload.to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn methods_are_what_a_server_reads() {
        let arguments = Table::empty();
        let payload = written(|out| queue_declare(out, 7, b"q", DURABLE | NO_WAIT, arguments));
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
        let payload = written(|out| exchange_declare(out, 7, b"x", b"topic", DURABLE));
        assert!(matches!(parse(&payload), Ok(Method::ExchangeDeclare { kind: b"topic", durable: true, .. })));
        let payload = written(|out| exchange_delete(out, 7, b"x"));
        assert!(matches!(parse(&payload), Ok(Method::ExchangeDelete { exchange: b"x", .. })));
        let payload = written(|out| consume(out, 7, b"q", b"t", NO_ACK));
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
        let mut fields = Fields::of(&payload);
        assert_eq!(fields.short_int(), Some(320));
        assert_eq!(fields.short(), Some(&b"hi"[..]));
        assert_eq!(fields.long(), None);
        assert_eq!(Fields::of(&[1]).octet(), None);
        assert_eq!(close_text(&[]), "0 ");
    }
}
