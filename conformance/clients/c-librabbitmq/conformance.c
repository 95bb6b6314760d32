/* What a librabbitmq application asks of an AMQP 0-9-1 broker. It knows the URL and nothing else of the broker.
 *
 * Usage: conformance URL. One line a check; exit code 1 at the first that fails. */

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { WAIT = 20, SMALL = 300, COUNT = SMALL + 3, PREFETCH = 10, LARGE = 1 << 20 };

static const char *current = "connect"; /* the check that is being made */
static char run[64], source[80], target[80], queue[80];
static char large[LARGE];
static amqp_connection_state_t conn;

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("not ok %s: ", current);
    vprintf(format, args);
    printf("\n");
    exit(1);
}

#define ensure(condition) \
    do { \
        if (!(condition)) fail("line %d: %s", __LINE__, #condition); \
    } while (0)

/* ---- errors -------------------------------------------------------------------------------------------------- */

static amqp_bytes_t name(const char *text) { return amqp_cstring_bytes(text); }

#define FIELD(k, type, member, v) ((amqp_table_entry_t){name(k), {.kind = AMQP_FIELD_KIND_##type, .value = {.member = v}}})

static bool same(amqp_bytes_t got, const char *want, size_t length) {
    return got.len == length && (length == 0 || memcmp(got.bytes, want, length) == 0);
}

static bool is(amqp_bytes_t got, const char *want) { return same(got, want, strlen(want)); }

static void good(amqp_rpc_reply_t reply, int line) {
    switch (reply.reply_type) {
        case AMQP_RESPONSE_NORMAL:
            return;
        case AMQP_RESPONSE_LIBRARY_EXCEPTION:
            fail("line %d: %s", line, amqp_error_string2(reply.library_error));
            return;
        case AMQP_RESPONSE_SERVER_EXCEPTION:
            if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
                amqp_channel_close_t *m = reply.reply.decoded;
                fail("line %d: channel closed, %d %.*s", line, m->reply_code, (int)m->reply_text.len,
                     (char *)m->reply_text.bytes);
            } else if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
                amqp_connection_close_t *m = reply.reply.decoded;
                fail("line %d: connection closed, %d %.*s", line, m->reply_code, (int)m->reply_text.len,
                     (char *)m->reply_text.bytes);
            }
            break;
        case AMQP_RESPONSE_NONE:
            break;
    }
    fail("line %d: reply type %d, method %#x", line, reply.reply_type, reply.reply.id);
}

#define must(call) ((void)(call), good(amqp_get_rpc_reply(conn), __LINE__))
#define replied(call) good((call), __LINE__)
#define sent(call) \
    do { \
        int status_ = (call); \
        if (status_ != AMQP_STATUS_OK) fail("line %d: %s", __LINE__, amqp_error_string2(status_)); \
    } while (0)

/* The broker refused with this method, code and text. */
static void refused(amqp_rpc_reply_t reply, amqp_method_number_t method, int code, const char *text) {
    char said[512];
    int got = 0;
    ensure(reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION);
    ensure(reply.reply.id == method);
    if (method == AMQP_CHANNEL_CLOSE_METHOD) {
        amqp_channel_close_t *m = reply.reply.decoded;
        got = m->reply_code;
        snprintf(said, sizeof said, "%.*s", (int)m->reply_text.len, (char *)m->reply_text.bytes);
    } else {
        amqp_connection_close_t *m = reply.reply.decoded;
        got = m->reply_code;
        snprintf(said, sizeof said, "%.*s", (int)m->reply_text.len, (char *)m->reply_text.bytes);
    }
    if (got != code || strstr(said, text) == NULL) fail("got %d '%s', want %d '%s'", got, said, code, text);
}

/* ---- connections --------------------------------------------------------------------------------------------- */

typedef struct {
    char octets[1024];
    struct amqp_connection_info info;
} address;

static void parse(address *at, const char *url) {
    ensure(strlen(url) < sizeof at->octets);
    strcpy(at->octets, url);
    sent(amqp_parse_url(at->octets, &at->info));
}

static amqp_rpc_reply_t login(amqp_connection_state_t *to, const struct amqp_connection_info *info, int heartbeat) {
    struct timeval limit = {WAIT, 0};
    *to = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(*to);
    ensure(socket != NULL);
    sent(amqp_socket_open_noblock(socket, info->host, info->port, &limit));
    sent(amqp_set_rpc_timeout(*to, &limit));
    amqp_table_entry_t capability = FIELD("consumer_cancel_notify", BOOLEAN, boolean, true);
    amqp_table_t capabilities = {1, &capability};
    amqp_table_entry_t property = FIELD("capabilities", TABLE, table, capabilities);
    amqp_table_t properties = {1, &property};
    return amqp_login_with_properties(*to, info->vhost, 0, 131072, heartbeat, &properties, AMQP_SASL_METHOD_PLAIN,
                                      info->user, info->password);
}

static void ok(void) {
    printf("ok %s\n", current);
    fflush(stdout);
}

/* The next frame, whatever it is. */
static amqp_frame_t frame(void) {
    struct timeval limit = {WAIT, 0};
    amqp_frame_t next;
    sent(amqp_simple_wait_frame_noblock(conn, &next, &limit));
    return next;
}

/* ---- topology ------------------------------------------------------------------------------------------------ */

static void declare(void) {
    must(amqp_exchange_declare(conn, 1, name(source), name("topic"), 0, 1, 0, 0, amqp_empty_table));
    must(amqp_exchange_declare(conn, 1, name(target), name("direct"), 0, 1, 0, 0, amqp_empty_table));
    must(amqp_exchange_bind(conn, 1, name(target), name(source), name("work.#"), amqp_empty_table));
    amqp_queue_declare_ok_t *q = amqp_queue_declare(conn, 1, name(queue), 0, 1, 0, 0, amqp_empty_table);
    replied(amqp_get_rpc_reply(conn));
    ensure(is(q->queue, queue) && q->message_count == 0 && q->consumer_count == 0);
    must(amqp_queue_bind(conn, 1, name(queue), name(target), name("work.item"), amqp_empty_table));
    must(amqp_queue_bind(conn, 1, name(queue), name(target), name("work.other"), amqp_empty_table));
    must(amqp_queue_unbind(conn, 1, name(queue), name(target), name("work.other"), amqp_empty_table));
}

/* Messages that wait in the queue, asked of the broker. */
static uint32_t ready(amqp_channel_t channel) {
    amqp_queue_declare_ok_t *q = amqp_queue_declare(conn, channel, name(queue), 1, 0, 0, 0, amqp_empty_table);
    replied(amqp_get_rpc_reply(conn));
    return q->message_count;
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

enum { HEADERS = 15 };

static void headers(amqp_table_entry_t entries[HEADERS], int32_t seq) {
    static amqp_table_entry_t deep;
    static amqp_field_value_t list[2];
    deep = FIELD("deep", I32, i32, 1);
    list[0] = FIELD("", I32, i32, 1).value;
    list[1] = FIELD("", UTF8, bytes, name("two")).value;
    amqp_table_t table = {1, &deep};
    amqp_array_t array = {2, list};
    amqp_bytes_t octets = {2, "\x00\xff"};
    int n = 0;
    entries[n++] = FIELD("seq", I32, i32, seq);
    entries[n++] = FIELD("text", UTF8, bytes, name("gr\xc3\xbc\xc3\x9f" "e"));
    entries[n++] = FIELD("octets", BYTES, bytes, octets);
    entries[n++] = FIELD("int8", I8, i8, -8);
    entries[n++] = FIELD("int16", I16, i16, -300);
    entries[n++] = FIELD("int64", I64, i64, INT64_C(1) << 40);
    entries[n++] = FIELD("uint16", U16, u16, UINT16_MAX);
    entries[n++] = FIELD("uint32", U32, u32, UINT32_MAX);
    entries[n++] = FIELD("float", F32, f32, 1.5f);
    entries[n++] = FIELD("double", F64, f64, 2.5);
    entries[n++] = FIELD("true", BOOLEAN, boolean, true);
    entries[n++] = FIELD("nothing", VOID, u64, 0);
    entries[n++] = FIELD("time", TIMESTAMP, u64, 1709209801);
    entries[n++] = FIELD("list", ARRAY, array, array);
    entries[n++] = FIELD("table", TABLE, table, table);
    ensure(n == HEADERS);
}

static amqp_bytes_t body(int i, char buffer[32]) {
    if (i == SMALL) return amqp_empty_bytes;
    if (i == SMALL + 1) return (amqp_bytes_t){LARGE, large};
    snprintf(buffer, 32, "message %d", i);
    return name(buffer);
}

static void publish(amqp_channel_t channel, const char *exchange, const char *key, bool mandatory, const char *text) {
    sent(amqp_basic_publish(conn, channel, name(exchange), name(key), mandatory, 0, NULL, name(text)));
}

/* Reads acks until this many publishes of channel 1 are confirmed, in any grouping, and no nack. */
static void confirmed(uint64_t last) {
    static uint64_t done = 0; /* tags up to this one are confirmed */
    static bool early[2 * COUNT]; /* single confirms beyond it */
    while (done < last) {
        amqp_frame_t next = frame();
        ensure(next.frame_type == AMQP_FRAME_METHOD && next.payload.method.id == AMQP_BASIC_ACK_METHOD);
        amqp_basic_ack_t *ack = next.payload.method.decoded;
        ensure(ack->delivery_tag <= last);
        if (ack->multiple && ack->delivery_tag > done) done = ack->delivery_tag;
        else early[ack->delivery_tag] = true;
        while (done < last && early[done + 1]) done++;
        amqp_maybe_release_buffers(conn);
    }
}

static void publish_all(void) {
    must(amqp_confirm_select(conn, 1));
    for (int i = 0; i < COUNT; i++) {
        amqp_table_entry_t entries[HEADERS];
        char buffer[32], id[32];
        headers(entries, i);
        snprintf(id, sizeof id, "m%d", i);
        amqp_basic_properties_t p = {
            ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
                      AMQP_BASIC_PRIORITY_FLAG | AMQP_BASIC_EXPIRATION_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                      AMQP_BASIC_TIMESTAMP_FLAG,
            .content_type = name("application/octet-stream"),
            .headers = {HEADERS, entries},
            .delivery_mode = (uint8_t)(1 + i % 2),
            .priority = (uint8_t)(i % 5),
            .expiration = name("600000"),
            .message_id = name(id),
            .timestamp = 1709209801,
        };
        sent(amqp_basic_publish(conn, 1, name(source), name("work.item"), 1, 0, &p, body(i, buffer)));
    }
    confirmed(COUNT);
}

static void next_delivery(amqp_envelope_t *envelope) {
    struct timeval limit = {WAIT, 0};
    amqp_maybe_release_buffers(conn);
    replied(amqp_consume_message(conn, envelope, &limit, 0));
}

static bool equal_values(const amqp_field_value_t *a, const amqp_field_value_t *b);

static bool equal_tables(const amqp_table_t *a, const amqp_table_t *b) {
    if (a->num_entries != b->num_entries) return false;
    for (int i = 0; i < a->num_entries; i++) {
        amqp_bytes_t key = a->entries[i].key;
        int j = 0;
        while (j < b->num_entries && !same(b->entries[j].key, key.bytes, key.len)) j++;
        if (j == b->num_entries || !equal_values(&a->entries[i].value, &b->entries[j].value)) return false;
    }
    return true;
}

static bool equal_values(const amqp_field_value_t *a, const amqp_field_value_t *b) {
    if (a->kind != b->kind) return false;
    switch (a->kind) {
        case AMQP_FIELD_KIND_BOOLEAN: return a->value.boolean == b->value.boolean;
        case AMQP_FIELD_KIND_I8: return a->value.i8 == b->value.i8;
        case AMQP_FIELD_KIND_I16: return a->value.i16 == b->value.i16;
        case AMQP_FIELD_KIND_U16: return a->value.u16 == b->value.u16;
        case AMQP_FIELD_KIND_I32: return a->value.i32 == b->value.i32;
        case AMQP_FIELD_KIND_U32: return a->value.u32 == b->value.u32;
        case AMQP_FIELD_KIND_I64: return a->value.i64 == b->value.i64;
        case AMQP_FIELD_KIND_TIMESTAMP: return a->value.u64 == b->value.u64;
        case AMQP_FIELD_KIND_F32: return a->value.f32 == b->value.f32;
        case AMQP_FIELD_KIND_F64: return a->value.f64 == b->value.f64;
        case AMQP_FIELD_KIND_UTF8:
        case AMQP_FIELD_KIND_BYTES: return same(a->value.bytes, b->value.bytes.bytes, b->value.bytes.len);
        case AMQP_FIELD_KIND_VOID: return true;
        case AMQP_FIELD_KIND_TABLE: return equal_tables(&a->value.table, &b->value.table);
        case AMQP_FIELD_KIND_ARRAY:
            if (a->value.array.num_entries != b->value.array.num_entries) return false;
            for (int i = 0; i < a->value.array.num_entries; i++)
                if (!equal_values(&a->value.array.entries[i], &b->value.array.entries[i])) return false;
            return true;
        default: return false;
    }
}

static void expect(const amqp_envelope_t *e, int i) {
    char buffer[32], id[32];
    amqp_table_entry_t entries[HEADERS];
    amqp_table_t want = {HEADERS, entries};
    amqp_bytes_t content = body(i, buffer);
    const amqp_basic_properties_t *p = &e->message.properties;
    snprintf(id, sizeof id, "m%d", i);
    headers(entries, i);
    ensure(e->delivery_tag == (uint64_t)i + 1 && !e->redelivered);
    ensure(is(e->exchange, source) && is(e->routing_key, "work.item"));
    ensure(same(e->message.body, content.bytes, content.len));
    ensure(is(p->content_type, "application/octet-stream") && is(p->message_id, id) && is(p->expiration, "600000"));
    ensure(p->delivery_mode == 1 + i % 2 && p->priority == i % 5 && p->timestamp == 1709209801);
    ensure(equal_tables(&p->headers, &want));
}

static void consume(void) {
    must(amqp_channel_open(conn, 2));
    must(amqp_basic_qos(conn, 2, 0, PREFETCH, 0));
    must(amqp_basic_consume(conn, 2, name(queue), name("tag"), 0, 0, 0, amqp_empty_table));
    for (int i = 0; i < COUNT; i++) {
        amqp_envelope_t e;
        next_delivery(&e);
        expect(&e, i);
        amqp_destroy_envelope(&e);
        if (i == PREFETCH - 1) ensure(ready(1) == COUNT - PREFETCH);
        if (i >= PREFETCH - 1) sent(amqp_basic_ack(conn, 2, (uint64_t)i + 1, i == PREFETCH - 1));
    }
    must(amqp_basic_cancel(conn, 2, name("tag")));
    ensure(ready(2) == 0);
}

static void redelivery(void) {
    static const char *const texts[3] = {"a", "b", "a"};
    uint64_t tags[3];
    publish(2, "", queue, false, "a");
    publish(2, "", queue, false, "b");
    must(amqp_basic_consume(conn, 2, name(queue), name("tag"), 0, 0, 0, amqp_empty_table));
    for (int i = 0; i < 3; i++) {
        amqp_envelope_t e;
        next_delivery(&e);
        ensure(is(e.message.body, texts[i]) && e.redelivered == (i == 2));
        tags[i] = e.delivery_tag;
        amqp_destroy_envelope(&e);
        if (i == 1) sent(amqp_basic_nack(conn, 2, tags[0], 0, 1));
    }
    sent(amqp_basic_reject(conn, 2, tags[1], 0));
    sent(amqp_basic_ack(conn, 2, tags[2], 0));
    must(amqp_basic_cancel(conn, 2, name("tag")));
    ensure(ready(2) == 0);
}

/* Direct reply-to: the reply queue is a name that the broker makes up. */
static void request_reply(void) {
    must(amqp_basic_consume(conn, 2, name("amq.rabbitmq.reply-to"), name("replies"), 0, 1, 0, amqp_empty_table));
    must(amqp_channel_open(conn, 3));
    must(amqp_basic_consume(conn, 3, name(queue), name("requests"), 0, 1, 0, amqp_empty_table));
    amqp_basic_properties_t ask = {
        ._flags = AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG,
        .reply_to = name("amq.rabbitmq.reply-to"),
        .correlation_id = name("c"),
    };
    sent(amqp_basic_publish(conn, 2, amqp_empty_bytes, name(queue), 0, 0, &ask, name("ask")));
    amqp_envelope_t request, reply;
    next_delivery(&request);
    ensure(is(request.consumer_tag, "requests") && is(request.message.body, "ask"));
    amqp_bytes_t to = request.message.properties.reply_to;
    ensure(to.len > 22 && memcmp(to.bytes, "amq.rabbitmq.reply-to.", 22) == 0);
    amqp_basic_properties_t answer = {
        ._flags = AMQP_BASIC_CORRELATION_ID_FLAG,
        .correlation_id = request.message.properties.correlation_id,
    };
    sent(amqp_basic_publish(conn, 3, amqp_empty_bytes, to, 0, 0, &answer, name("ASK")));
    next_delivery(&reply);
    ensure(is(reply.consumer_tag, "replies") && is(reply.message.body, "ASK"));
    ensure(is(reply.message.properties.correlation_id, "c"));
    amqp_destroy_envelope(&request);
    amqp_destroy_envelope(&reply);
    replied(amqp_channel_close(conn, 3, AMQP_REPLY_SUCCESS));
    replied(amqp_channel_close(conn, 2, AMQP_REPLY_SUCCESS));
}

static void mandatory(void) {
    publish(1, source, "nowhere", true, "back");
    amqp_frame_t next = frame();
    ensure(next.frame_type == AMQP_FRAME_METHOD && next.payload.method.id == AMQP_BASIC_RETURN_METHOD);
    amqp_basic_return_t *r = next.payload.method.decoded;
    ensure(r->reply_code == AMQP_NO_ROUTE && is(r->reply_text, "NO_ROUTE"));
    ensure(is(r->exchange, source) && is(r->routing_key, "nowhere"));
    amqp_message_t back;
    replied(amqp_read_message(conn, 1, &back, 0));
    ensure(is(back.body, "back"));
    amqp_destroy_message(&back);
    confirmed(COUNT + 1);
    publish(1, source, "nowhere", false, "dropped");
    confirmed(COUNT + 2);
}

/* The client leaves it to its user to answer a close. */
static void answer_close(amqp_channel_t channel) {
    amqp_channel_close_ok_t answer = {0};
    sent(amqp_send_method(conn, channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &answer));
}

/* The broker closes the channel only; the number can be used again. */
static void channel_closed(void) {
    char text[256], missing[96];
    snprintf(missing, sizeof missing, "%s.missing", run);
    must(amqp_channel_open(conn, 4));
    amqp_queue_declare(conn, 4, name(missing), 1, 0, 0, 0, amqp_empty_table);
    snprintf(text, sizeof text, "NOT_FOUND - no queue '%s' in vhost ", missing);
    refused(amqp_get_rpc_reply(conn), AMQP_CHANNEL_CLOSE_METHOD, AMQP_NOT_FOUND, text);
    answer_close(4);
    ok();
    current = "406 closes the channel only";
    must(amqp_channel_open(conn, 4));
    amqp_queue_declare(conn, 4, name(queue), 0, 0, 0, 0, amqp_empty_table);
    snprintf(text, sizeof text, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '%s' in vhost ", queue);
    refused(amqp_get_rpc_reply(conn), AMQP_CHANNEL_CLOSE_METHOD, AMQP_PRECONDITION_FAILED, text);
    answer_close(4);
    must(amqp_channel_open(conn, 4));
    replied(amqp_channel_close(conn, 4, AMQP_REPLY_SUCCESS));
}

static void consumer_cancelled(void) {
    must(amqp_channel_open(conn, 5));
    amqp_queue_declare_ok_t *q = amqp_queue_declare(conn, 5, amqp_empty_bytes, 0, 0, 1, 0, amqp_empty_table);
    replied(amqp_get_rpc_reply(conn));
    ensure(q->queue.len > 8 && memcmp(q->queue.bytes, "amq.gen-", 8) == 0);
    amqp_bytes_t own = amqp_bytes_malloc_dup(q->queue);
    must(amqp_basic_consume(conn, 5, own, name("tag"), 0, 0, 0, amqp_empty_table));
    must(amqp_queue_delete(conn, 1, own, 0, 0));
    amqp_bytes_free(own);
    amqp_frame_t next = frame();
    ensure(next.channel == 5 && next.frame_type == AMQP_FRAME_METHOD);
    ensure(next.payload.method.id == AMQP_BASIC_CANCEL_METHOD);
    amqp_basic_cancel_t *cancel = next.payload.method.decoded;
    ensure(is(cancel->consumer_tag, "tag"));
    replied(amqp_channel_close(conn, 5, AMQP_REPLY_SUCCESS));
}

/* Takes one message; returns its tag. */
static uint64_t get_one(const char *text, bool no_ack, bool redelivered, uint32_t left) {
    amqp_rpc_reply_t reply = amqp_basic_get(conn, 6, name(queue), no_ack);
    replied(reply);
    ensure(reply.reply.id == AMQP_BASIC_GET_OK_METHOD);
    amqp_basic_get_ok_t *m = reply.reply.decoded;
    ensure(m->redelivered == redelivered && m->message_count == left && is(m->routing_key, queue));
    uint64_t tag = m->delivery_tag;
    amqp_message_t message;
    replied(amqp_read_message(conn, 6, &message, 0));
    ensure(is(message.body, text));
    amqp_destroy_message(&message);
    return tag;
}

static void get(void) {
    must(amqp_channel_open(conn, 6));
    amqp_rpc_reply_t none = amqp_basic_get(conn, 6, name(queue), 0);
    replied(none);
    ensure(none.reply.id == AMQP_BASIC_GET_EMPTY_METHOD);
    publish(6, "", queue, false, "one");
    publish(6, "", queue, false, "two");
    uint64_t tag = get_one("one", false, false, 1);
    get_one("two", true, false, 0);
    sent(amqp_basic_nack(conn, 6, tag, 0, 1));
    sent(amqp_basic_ack(conn, 6, get_one("one", false, true, 0), 0));
    replied(amqp_channel_close(conn, 6, AMQP_REPLY_SUCCESS));
}

static void tx(void) {
    must(amqp_channel_open(conn, 6));
    must(amqp_tx_select(conn, 6));
    publish(6, "", queue, false, "undone");
    ensure(ready(6) == 0);
    must(amqp_tx_rollback(conn, 6));
    publish(6, "", queue, false, "done");
    must(amqp_tx_commit(conn, 6));
    ensure(ready(6) == 1);
    uint64_t tag = get_one("done", false, false, 0);
    sent(amqp_basic_ack(conn, 6, tag, 0));
    must(amqp_tx_rollback(conn, 6)); /* The ack is undone, the message is still unsettled. */
    sent(amqp_basic_ack(conn, 6, tag, 0));
    must(amqp_tx_commit(conn, 6));
    replied(amqp_channel_close(conn, 6, AMQP_REPLY_SUCCESS));
    ensure(ready(1) == 0);
}

static void purge_and_delete(void) {
    must(amqp_channel_open(conn, 7));
    for (int i = 0; i < 3; i++) publish(7, "", queue, false, "x");
    amqp_queue_purge_ok_t *purged = amqp_queue_purge(conn, 7, name(queue));
    replied(amqp_get_rpc_reply(conn));
    ensure(purged->message_count == 3);
    publish(7, "", queue, false, "x");
    must(amqp_exchange_unbind(conn, 7, name(target), name(source), name("work.#"), amqp_empty_table));
    for (uint32_t left = 1; left + 1 > 0; left--) {
        amqp_queue_delete_ok_t *deleted = amqp_queue_delete(conn, 7, name(queue), 0, 0);
        replied(amqp_get_rpc_reply(conn));
        ensure(deleted->message_count == left);
    }
    must(amqp_exchange_delete(conn, 7, name(target), 0));
    must(amqp_exchange_delete(conn, 7, name(source), 0));
    must(amqp_exchange_delete(conn, 7, name(source), 0));
    replied(amqp_channel_close(conn, 7, AMQP_REPLY_SUCCESS));
}

static void not_connected(struct amqp_connection_info info, int code, const char *text) {
    amqp_connection_state_t other;
    refused(login(&other, &info, 0), AMQP_CONNECTION_CLOSE_METHOD, code, text);
    amqp_destroy_connection(other);
}

static void heartbeat(const struct amqp_connection_info *info) {
    amqp_connection_state_t quiet;
    replied(login(&quiet, info, 1));
    ensure(amqp_get_heartbeat(quiet) == 1);
    /* The client gives up after two silent seconds, and so does a broker; neither may. */
    struct timeval limit = {5, 0};
    amqp_frame_t next;
    int status = amqp_simple_wait_frame_noblock(quiet, &next, &limit);
    if (status != AMQP_STATUS_TIMEOUT) fail("lost: %s", amqp_error_string2(status));
    replied(amqp_connection_close(quiet, AMQP_REPLY_SUCCESS));
    sent(amqp_destroy_connection(quiet));
}

#define check(text, call) \
    do { \
        current = (text); \
        (call); \
        ok(); \
    } while (0)

int main(int argc, char **argv) {
    address at;
    char text[160];
    ensure(argc == 2);
    snprintf(run, sizeof run, "conformance.librabbitmq.%d.%lld", (int)getpid(), (long long)time(NULL));
    snprintf(source, sizeof source, "%s.source", run);
    snprintf(target, sizeof target, "%s.target", run);
    snprintf(queue, sizeof queue, "%s.queue", run);
    for (int i = 0; i < LARGE; i++) large[i] = (char)(i * 31 >> 3);
    alarm(10 * WAIT);
    parse(&at, argv[1]);
    replied(login(&conn, &at.info, 60));
    ensure(amqp_get_channel_max(conn) > 0 && amqp_get_frame_max(conn) >= 8192 && amqp_get_heartbeat(conn) > 0);
    must(amqp_channel_open(conn, 1));
    ok();
    check("declare and bind", declare());
    check("publish with confirms", publish_all());
    check("consume with prefetch and acks", consume());
    check("requeue is redelivered", redelivery());
    check("direct reply-to", request_reply());
    check("mandatory return", mandatory());
    check("404 closes the channel only", channel_closed());
    check("consumer cancel notification", consumer_cancelled());
    check("basic.get", get());
    check("tx", tx());
    check("purge and delete", purge_and_delete());
    struct amqp_connection_info wrong = at.info;
    wrong.password = run;
    snprintf(text, sizeof text, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN");
    check("wrong password", not_connected(wrong, AMQP_ACCESS_REFUSED, text));
    wrong = at.info;
    wrong.vhost = run;
    snprintf(text, sizeof text, "vhost %s not found", run);
    check("unknown vhost", not_connected(wrong, AMQP_NOT_ALLOWED, text));
    check("heartbeat", heartbeat(&at.info));
    current = "close";
    replied(amqp_channel_close(conn, 1, AMQP_REPLY_SUCCESS));
    replied(amqp_connection_close(conn, AMQP_REPLY_SUCCESS));
    sent(amqp_destroy_connection(conn));
    ok();
    return 0;
}
