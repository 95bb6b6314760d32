//! Every bound of the broker, named with its unit. It knows no module that obeys one.

/// How deep tables and arrays may nest, in levels; the outermost table is level 1. Deeper ones are refused before
/// anything walks them.
pub const TABLE_DEPTH_MAX: usize = 64;

/// The longest short string, in octets (AMQP 0-9-1 section 4.2.5.3).
pub const SHORT_STRING_MAX: usize = 255;

/// Octets in front of a frame's payload: type, channel and size (AMQP 0-9-1 section 4.2.3).
pub const FRAME_HEAD_SIZE: usize = 7;

/// What a frame adds to its payload, in octets: the head and the end octet.
pub const FRAME_OVERHEAD: usize = FRAME_HEAD_SIZE + 1;

/// The smallest frame size that may be negotiated, in octets (as RabbitMQ since 4.1).
pub const FRAME_SIZE_MIN: u32 = 8_192;

/// The largest body a content header may announce, in octets. RabbitMQ's fixed cap, above any `max_message_size`.
pub const BODY_SIZE_MAX: u64 = 536_870_912;

const _: () = assert!(FRAME_SIZE_MIN as usize > FRAME_OVERHEAD + 4 * (SHORT_STRING_MAX + 1));
const _: () = assert!(TABLE_DEPTH_MAX >= 16);
