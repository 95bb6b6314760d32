//! Methods that a client sends, octet by octet. Shares nothing with the broker's own codec.

/// The protocol header of AMQP 0-9-1.
pub const HEADER: &[u8] = b"AMQP\0\0\x09\x01";

/// The arguments of a method, being written.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn octet(mut self, octet: u8) -> Self {
        self.0.push(octet);
        self
    }

    pub fn short(mut self, number: u16) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub fn long(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub fn long_long(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub fn name(mut self, octets: &[u8]) -> Self {
        self.0.push(octets.len() as u8);
        self.0.extend(octets);
        self
    }

    /// A long string, or a table by its octets.
    pub fn text(mut self, octets: &[u8]) -> Self {
        self.0.extend((octets.len() as u32).to_be_bytes());
        self.0.extend(octets);
        self
    }

    /// Up to eight bits, the first one lowest.
    pub fn bits(self, bits: &[bool]) -> Self {
        let octet = bits.iter().enumerate().fold(0, |octet, (at, bit)| octet | u8::from(*bit) << at);
        self.octet(octet)
    }

    /// The method frame with these arguments.
    pub fn method(self, channel: u16, class: u16, method: u16) -> Vec<u8> {
        let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
        frame(1, channel, &[ids, self.0].concat())
    }
}

/// A whole frame.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(0xce);
    out
}

/// Header and body frames; bodies in pieces of `frame_max` octets with head and end.
pub fn content(channel: u16, properties: &[u8], body: &[u8], frame_max: usize) -> Vec<u8> {
    let size = (body.len() as u64).to_be_bytes();
    let mut out = frame(2, channel, &[&[0, 60, 0, 0], &size[..], properties].concat());
    for piece in body.chunks(frame_max - 8) {
        out.extend(frame(3, channel, piece));
    }
    out
}

/// basic.publish with its content.
pub fn publish(channel: u16, exchange: &[u8], key: &[u8], mandatory: bool, content: &[u8]) -> Vec<u8> {
    let fields = Fields::new().short(0).name(exchange).name(key).bits(&[mandatory, false]);
    [fields.method(channel, 60, 40), content.to_vec()].concat()
}

/// queue.declare; `bits` are passive, durable, exclusive, auto-delete and no-wait.
pub fn declare(channel: u16, queue: &[u8], bits: &[bool; 5]) -> Vec<u8> {
    Fields::new().short(0).name(queue).bits(bits).text(b"").method(channel, 50, 10)
}

/// basic.consume; `bits` are no-local, no-ack, exclusive and no-wait.
pub fn consume(channel: u16, queue: &[u8], tag: &[u8], bits: &[bool; 4]) -> Vec<u8> {
    Fields::new().short(0).name(queue).name(tag).bits(bits).text(b"").method(channel, 60, 20)
}

/// basic.get.
pub fn get(channel: u16, queue: &[u8], no_ack: bool) -> Vec<u8> {
    Fields::new().short(0).name(queue).bits(&[no_ack]).method(channel, 60, 70)
}

/// basic.ack.
pub fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    Fields::new().long_long(tag).bits(&[multiple]).method(channel, 60, 80)
}

/// basic.nack.
pub fn nack(channel: u16, tag: u64, multiple: bool, requeue: bool) -> Vec<u8> {
    Fields::new().long_long(tag).bits(&[multiple, requeue]).method(channel, 60, 120)
}

/// A method without arguments.
pub fn bare(channel: u16, class: u16, method: u16) -> Vec<u8> {
    Fields::new().method(channel, class, method)
}

/// channel.open.
pub fn open(channel: u16) -> Vec<u8> {
    Fields::new().name(b"").method(channel, 20, 10)
}

/// channel.close.
pub fn close(channel: u16) -> Vec<u8> {
    Fields::new().short(200).name(b"bye").short(0).short(0).method(channel, 20, 40)
}

/// connection.close.
pub fn close_connection() -> Vec<u8> {
    Fields::new().short(200).name(b"bye").short(0).short(0).method(0, 10, 50)
}

/// From the protocol header to connection.open, as guest on `/`.
pub fn handshake(frame_max: u32, heartbeat: u16) -> Vec<u8> {
    let capabilities = b"\x16consumer_cancel_notifyt\x01\x12connection.blockedt\x01";
    let properties = Fields::new().name(b"capabilities").octet(b'F').text(capabilities).0;
    let start_ok = Fields::new().text(&properties).name(b"PLAIN").text(b"\0guest\0guest").name(b"en_US");
    let tune_ok = Fields::new().short(16).long(frame_max).short(heartbeat);
    let open = Fields::new().name(b"/").name(b"").octet(0);
    [HEADER.to_vec(), start_ok.method(0, 10, 11), tune_ok.method(0, 10, 31), open.method(0, 10, 40)].concat()
}
