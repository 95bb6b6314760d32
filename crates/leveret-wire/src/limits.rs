//! Bounds of the protocol's octets, each with its unit.

/// How deep tables and arrays may nest, in levels; the outermost table is level 1. Deeper ones are
/// refused before anything walks them.
pub const TABLE_DEPTH_MAX: usize = 256;

/// The longest short string, in octets (AMQP 0-9-1 section 4.2.5.3).
pub const SHORT_STRING_MAX: usize = 255;

/// Octets in front of a frame's payload: type, channel and size (AMQP 0-9-1 section 4.2.3).
pub const FRAME_HEAD_SIZE: usize = 7;

/// Octets that a frame adds to its payload: the head and the end octet.
pub const FRAME_OVERHEAD: usize = FRAME_HEAD_SIZE + 1;

/// The smallest frame size that may be negotiated, in octets (AMQP 0-9-1, frame-min-size). RabbitMQ
/// asks for 8192 since 4.1, which keeps old clients out.
pub const FRAME_SIZE_MIN: u32 = 4_096;

/// The largest body a content header may announce, in octets. RabbitMQ's fixed cap, above any
/// `max_message_size`.
pub const BODY_SIZE_MAX: u64 = 536_870_912;

const _: () = assert!(FRAME_SIZE_MIN as usize > FRAME_OVERHEAD + 4 * (SHORT_STRING_MAX + 1));
const _: () = assert!(TABLE_DEPTH_MAX >= 16);
