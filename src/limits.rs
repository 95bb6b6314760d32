//! Every bound of the broker, named with its unit.

/// Largest frame payload before tune-ok, in octets: room for client properties, and all that is
/// buffered of a peer that has not logged in (RabbitMQ 4.3).
pub const FRAME_SIZE_BEFORE_TUNE: u32 = 8_192;

/// Largest `frame_max` that may be configured, in octets.
pub const FRAME_SIZE_MAX: u32 = 16 * 1024 * 1024;

/// Longest `handshake_timeout` that may be configured, in ms.
pub const HANDSHAKE_TIMEOUT_MAX_MS: u64 = 3_600_000;

/// Longest interval between two syncs of the journal that may be configured, in ms.
pub const SYNC_INTERVAL_MAX_MS: u64 = 60_000;

/// Octets requested from the socket in one read before connection.open.
pub const READ_CHUNK_BEFORE_OPEN: usize = 4 * 1024;

/// Octets that are buffered of a peer before connection.open: a frame with its head and end. Only
/// frames that were agreed on may need more.
pub const LEFT_BY_STRANGER: usize = FRAME_SIZE_BEFORE_TUNE as usize + 8;

/// Octets requested from the socket in one read.
pub const READ_CHUNK: usize = 64 * 1024;

/// Octets requested in one read after several reads that filled their buffer: large messages are
/// cheaper in bulk.
pub const READ_CHUNK_MAX: usize = 256 * 1024;

/// Octets waiting to be written at which a consumer's connection takes no more deliveries.
pub const STALL_AT: usize = 512 * 1024;

/// Octets waiting to be written at or below which stalled consumers go on.
pub const RESUME_AT: usize = 128 * 1024;

/// Most octets that the appending task writes to the socket itself; more is left to the
/// connection's writer task.
pub const DIRECT_OCTETS: usize = 8 * 1024;

/// Most octets of a read batch after which the reading task writes to sockets itself: there is
/// little to do, and a peer waits for the answer.
pub const DIRECT_READ: usize = 8 * 1024;

/// Most connections that one read batch writes to by itself.
pub const DIRECT_OUTBOXES: usize = 4;

/// [`STALL_AT`] while the memory alarm is on.
pub const STALL_AT_SCARCE: usize = 64 * 1024;

/// Bodies of so many octets or more are written from their message, not copied into connections'
/// write buffers.
pub const BODY_BY_REFERENCE: usize = 16 * 1024;

/// Octets of replies waiting to be written at which a connection is not read: its client asks and
/// does not read.
pub const HOLD_READER_AT: usize = 4 * 1024 * 1024;

/// [`HOLD_READER_AT`] while the memory alarm is on.
pub const HOLD_READER_AT_SCARCE: usize = 64 * 1024;

/// Octets of a write buffer that are not charged to memory.
pub const BUFFER_UNCHARGED: usize = 4 * 1024;

/// Most slices in one vectored write.
pub const WRITE_SLICES: usize = 64;

/// Capacity in octets beyond which an emptied write buffer is freed.
pub const KEEP_BUFFER: usize = 2 * STALL_AT;

/// Most deliveries under one hold of a queue's lock.
pub const DELIVERIES_PER_HOLD: usize = 256;

/// Most delivery tags that are looked up under one hold of an outbox's lock.
pub const SETTLE_RUN: usize = 4096;

/// Work of one step of a connection before other tasks get the thread, in messages enqueued or
/// settled: at most 5 ms.
pub const STEP_WORK: usize = 16_384;

/// Most consumers of one connection that are resumed, or told of the end of their queue, in one
/// step.
pub const CONSUMERS_PER_STEP: usize = 1_024;

/// Work of a method that changes or reads one queue or consumer, in the units of [`STEP_WORK`].
pub const METHOD_WORK: usize = 8;

/// Work of a method that declares, binds or deletes, in the units of [`STEP_WORK`].
pub const DEFINITION_WORK: usize = 64;

/// Most messages settled under one hold of a queue's lock.
pub const SETTLES_PER_HOLD: usize = 1_024;

/// Most routing keys that are looked up under one hold of a virtual host's names.
pub const KEYS_PER_HOLD: usize = 16;

/// Steps of routing (nodes of a trie, criteria) that count as one unit of [`STEP_WORK`].
pub const ROUTING_STEPS: usize = 8;

/// Most queues that one message is published to on the runtime's worker: more of them take long.
pub const QUEUES_IN_PLACE: usize = 2_048;

/// Most messages of a transaction that are enqueued under one hold of a queue's lock.
pub const ENQUEUES_PER_HOLD: usize = 1_024;

/// Most messages freed where a purge or a deletion took them out of their queue.
pub const FREED_AT_ONCE: usize = 1_024;

/// Most messages gathered from one connection before they are handed to their queues.
pub const RUN_MESSAGES: usize = 512;

/// Most queues for which messages are gathered at a time.
pub const RUN_QUEUES: usize = 16;

/// Durable messages of a queue stay in memory, too, up to so many charged octets: most are read
/// soon.
pub const RESIDENT_MAX: u64 = 2 * 1024 * 1024;

/// [`RESIDENT_MAX`] while all messages of the broker together are charged with more than
/// [`RESIDENT_ALL`] octets.
pub const RESIDENT_MIN: u64 = 64 * 1024;

/// Charged octets of all messages from which a queue keeps [`RESIDENT_MIN`] in memory.
pub const RESIDENT_ALL: u64 = 64 * 1024 * 1024;

/// Charged octets of all messages from which transient messages are spilled to the journal, too; or
/// half of `memory_high_watermark`, if that is less.
pub const PAGE_AT: u64 = 128 * 1024 * 1024;

/// Most places that a connection keeps in each of its lists of settlements while there are none.
pub const KEEP_SETTLEMENTS: usize = 512;

/// Most octets of a transaction where there is a journal: it becomes one record.
pub const TRANSACTION_OCTETS: u64 = 192 * 1024 * 1024;

/// Octets read back from the journal at a time.
pub const PAGE_IN_OCTETS: u64 = 512 * 1024;

/// [`PAGE_IN_OCTETS`] while the memory alarm is on.
pub const PAGE_IN_OCTETS_MIN: u64 = 16 * 1024;

/// Most messages read back from the journal at a time.
pub const PAGE_IN_MESSAGES: usize = 8 * 1024;

const _: () = assert!(RESIDENT_MIN < PAGE_IN_OCTETS && PAGE_IN_OCTETS * 2 < RESIDENT_MAX && RESIDENT_ALL < PAGE_AT);

/// Octets that are not charged: the journal's batches, and buffers that are copied as they grow.
const UNCHARGED: u64 = 8 * 1024 * 1024;

/// Returns the octets charged at which resident memory is near `resident`: an allocator takes about
/// an eighth more than it is asked for, and [`UNCHARGED`] octets come on top, for which a mark of
/// a few MiB has no room.
pub const fn charged_below(resident: u64) -> u64 {
    let room = resident.saturating_sub(2 * UNCHARGED) / 6;
    resident - resident / 8 - if room < UNCHARGED { room } else { UNCHARGED }
}

/// A connection's unfinished bodies, and likewise its messages that wait for tx.commit, take at
/// most this part of the memory alarm's mark, or as much as one message: no connection alone raises
/// the alarm that would keep it from finishing them.
pub const UNFINISHED_PART: u64 = 2;

/// Octets charged for a message that waits for tx.commit, beside the message itself.
pub const HELD_OCTETS: u64 = 64;

/// Octets charged for a queue beside its name and arguments: its state and its places in the
/// topology.
pub const QUEUE_OCTETS: u64 = 1_536;

/// Octets charged for an exchange beside its name and arguments.
pub const EXCHANGE_OCTETS: u64 = 768;

/// Octets charged for a binding beside its names, key and arguments: its places in two sets, and a
/// route.
pub const BINDING_OCTETS: u64 = 512;

/// Most durable definitions changed by one record of the journal.
pub const DEFINITIONS_AT_ONCE: usize = 50_000;

/// Most octets of keys and values in such a record, unless a single one has more: far below the
/// largest record.
pub const DEFINITIONS_OCTETS: usize = 16 * 1024 * 1024;

/// Most bindings removed under one hold of a virtual host's lock, each in some microseconds.
pub const UNBINDS_PER_HOLD: usize = 128;

/// Most queues removed under one hold of a virtual host's lock.
pub const DELETES_PER_HOLD: usize = 64;

/// Most (exchange, key) pairs in a connection's route cache.
pub const ROUTE_CACHE_ENTRIES: usize = 1_024;

/// Most octets of exchanges, keys and references to queues in a connection's route cache.
pub const ROUTE_CACHE_OCTETS: usize = 256 * 1024;

/// The route caches of all connections together take at most this part of the memory alarm's mark.
pub const CACHES_PART: u64 = 8;

/// Octets charged for an entry of a route cache beside its exchange, key and queues: its place, and
/// the allocator's rounding.
pub const ROUTE_OCTETS: usize = 96;

/// Most places that a connection keeps for the exchanges that one message comes to.
pub const KEEP_EXCHANGES: usize = 64;

/// Ten years, in ms: the longest time to live (RabbitMQ's check_expiry).
pub const EXPIRY_MAX_MS: i64 = 315_360_000_000;

/// Most octets shown in a log line of a name that a peer chose.
pub const LOGGED_NAME: usize = 128;

/// Most octets shown in a log line of a sentence that may hold such names: a reply text has at most
/// 255.
pub const LOGGED_TEXT: usize = 512;

/// How long an unauthenticated peer waits for the end of its connection, in ms (RabbitMQ's
/// SILENT_CLOSE_DELAY).
pub const SILENT_CLOSE_MS: u64 = 3_000;

/// Most sockets at a time whose peers have not logged in; at most a quarter of the descriptors that
/// connections may have, too.
pub const STRANGERS: usize = 1_024;

/// Failed logins of an address after which its logins wait.
pub const FAILED_LOGINS_FREE: u64 = 10;

/// Time added to the wait by each further failed login, in ms.
pub const FAILED_LOGIN_DELAY_MS: u64 = 100;

/// Longest wait before a login is looked at, in ms; at most half of `handshake_timeout`, too.
pub const FAILED_LOGIN_DELAY_MAX_MS: u64 = 3_000;

/// Most failed logins that are counted for an address.
pub const FAILED_LOGINS_MAX: u64 = 60;

/// Time after which one failed login of an address is forgotten, in ms: who fails no more often
/// never waits.
pub const LOGIN_FORGOTTEN_MS: u64 = 3_000;

/// Most addresses whose failed logins are counted.
pub const FAILED_LOGIN_ADDRESSES: usize = 1_024;

/// How long a peer may take nothing of what is written to it, in ms (RabbitMQ's send_timeout).
pub const WRITE_TIMEOUT_MS: u64 = 30_000;

/// How long the socket stays open after the last write, so that the octets arrive, in ms.
pub const LINGER_MS: u64 = 1_000;

/// How long the broker waits for close-ok, in ms.
pub const CLOSE_OK_TIMEOUT_MS: u64 = 10_000;

const _: () = assert!(RESUME_AT < STALL_AT && STALL_AT < HOLD_READER_AT);
const _: () = assert!(FRAME_SIZE_BEFORE_TUNE >= leveret_wire::limits::FRAME_SIZE_MIN);
