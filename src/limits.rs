//! Every bound of the broker, named with its unit. It knows no module that obeys one.

/// How deep tables and arrays may nest, in levels; the outermost table is level 1. Deeper ones are refused before
/// anything walks them.
pub const TABLE_DEPTH_MAX: usize = 256;

/// The longest short string, in octets (AMQP 0-9-1 section 4.2.5.3).
pub const SHORT_STRING_MAX: usize = 255;

/// Octets in front of a frame's payload: type, channel and size (AMQP 0-9-1 section 4.2.3).
pub const FRAME_HEAD_SIZE: usize = 7;

/// What a frame adds to its payload, in octets: the head and the end octet.
pub const FRAME_OVERHEAD: usize = FRAME_HEAD_SIZE + 1;

/// The smallest frame size that may be negotiated, in octets (AMQP 0-9-1, frame-min-size). RabbitMQ asks for 8192 since 4.1,
/// which keeps old clients out.
pub const FRAME_SIZE_MIN: u32 = 4_096;

/// The largest body a content header may announce, in octets. RabbitMQ's fixed cap, above any `max_message_size`.
pub const BODY_SIZE_MAX: u64 = 536_870_912;

const _: () = assert!(FRAME_SIZE_MIN as usize > FRAME_OVERHEAD + 4 * (SHORT_STRING_MAX + 1));
const _: () = assert!(TABLE_DEPTH_MAX >= 16);

/// Largest frame before tune-ok, in octets: room for client properties.
pub const FRAME_SIZE_BEFORE_TUNE: u32 = 131_072;

/// Octets asked of the socket in one read before the connection is open.
pub const READ_CHUNK_BEFORE_OPEN: usize = 4 * 1024;

/// Octets asked of the socket in one read.
pub const READ_CHUNK: usize = 64 * 1024;

/// Octets asked of a socket that has had as much as was asked for several times: large messages are cheaper in bulk.
pub const READ_CHUNK_MAX: usize = 256 * 1024;

/// A consumer's connection takes no more deliveries while so many octets wait to be written.
pub const STALL_AT: usize = 512 * 1024;

/// Stalled consumers go on when no more than so many octets wait.
pub const RESUME_AT: usize = 128 * 1024;

/// Most octets that are written by whoever appended them, not by the connection's writing task.
pub const DIRECT_OCTETS: usize = 8 * 1024;

/// A batch of work writes by itself if no more than so many octets were read: there is little to do, and somebody waits.
pub const DIRECT_READ: usize = 8 * 1024;

/// Most connections that one batch of work writes to by itself.
pub const DIRECT_OUTBOXES: usize = 4;

/// A connection is not read while so many octets of answers wait to be written: a client that asks and never reads.
pub const HOLD_READER_AT: usize = 16 * 1024 * 1024;

/// A write buffer that grew beyond this many octets for one big message is given back.
pub const KEEP_BUFFER: usize = 2 * STALL_AT;

/// Most deliveries under one hold of a queue's lock.
pub const PUMP_RUN: usize = 256;

/// Most messages gathered from one connection before they are handed to their queues.
pub const RUN_MESSAGES: usize = 512;

/// Most queues that messages are gathered for at a time.
pub const RUN_QUEUES: usize = 16;

/// Messages that the journal has for good stay in memory as well up to so many charged octets a queue: what is read soon need not
/// be read back.
pub const RESIDENT_MAX: u64 = 2 * 1024 * 1024;

/// The same while all messages of the broker together are charged with more than [`RESIDENT_ALL`] octets.
pub const RESIDENT_MIN: u64 = 64 * 1024;

/// See [`RESIDENT_MIN`].
pub const RESIDENT_ALL: u64 = 64 * 1024 * 1024;

/// Messages that are not kept for good go to the journal, too, while all messages of the broker are charged with more octets than
/// this, or than half of the memory alarm's mark.
pub const PAGE_AT: u64 = 128 * 1024 * 1024;

/// Most octets of a transaction where there is a journal: it is one record there.
pub const TRANSACTION_OCTETS: u64 = 192 * 1024 * 1024;

/// Octets read back from the journal at a time.
pub const RAISE_OCTETS: u64 = 512 * 1024;

/// Most messages read back at a time.
pub const RAISE_MESSAGES: usize = 8 * 1024;

const _: () = assert!(RESIDENT_MIN < RAISE_OCTETS && RAISE_OCTETS * 2 < RESIDENT_MAX && RESIDENT_ALL < PAGE_AT);

/// Most durable definitions that change in one record of the journal.
pub const DEFINITIONS_AT_ONCE: usize = 50_000;

/// Most octets of keys and values in it, unless one alone has more: far from what the journal does not take, whatever arguments
/// clients give to how many bindings.
pub const DEFINITIONS_OCTETS: usize = 16 * 1024 * 1024;

/// Most queues taken out under one hold of a virtual host's names.
pub const END_RUN: usize = 64;

/// Most (exchange, key) pairs that a connection remembers the queues of.
pub const ROUTE_CACHE_ENTRIES: usize = 1_024;

/// Most octets of exchanges, keys and references to queues that a connection remembers.
pub const ROUTE_CACHE_OCTETS: usize = 256 * 1024;

/// Ten years, in ms: the longest time to live (RabbitMQ's check_expiry).
pub const EXPIRY_MAX_MS: i64 = 315_360_000_000;

/// How long a peer that is not trusted waits for the end of its connection, in ms (RabbitMQ's SILENT_CLOSE_DELAY).
pub const SILENT_CLOSE_MS: u64 = 3_000;

/// How long the socket stays open after the last octets were written, so that they arrive, in ms.
pub const LINGER_MS: u64 = 1_000;

/// How long close-ok is waited for, in ms.
pub const CLOSE_OK_TIMEOUT_MS: u64 = 10_000;

const _: () = assert!(RESUME_AT < STALL_AT && STALL_AT < HOLD_READER_AT);
const _: () = assert!(FRAME_SIZE_BEFORE_TUNE >= FRAME_SIZE_MIN);
