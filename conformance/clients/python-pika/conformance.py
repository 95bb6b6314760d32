"""What a pika application asks of an AMQP 0-9-1 broker. It knows the URL and nothing else of the broker.

Usage: conformance.py URL. One line a check; exit code 1 at the first that fails.
"""

import datetime
import faulthandler
import sys
import time
import uuid
from contextlib import contextmanager
from decimal import Decimal

import pika
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

WAIT = 20  # seconds, for any single event
SMALL = 300  # messages with a short body
PREFETCH = 10
MIB = bytes(range(256)) * 4096
RUN = f"conformance.pika.{uuid.uuid4().hex[:12]}"
HEADERS = {
    "text": "grüße",
    "octets": b"\x00\xff",
    "int": -7,
    "long": 2**40,
    "decimal": Decimal("12.34"),
    "true": True,
    "nothing": None,
    "time": datetime.datetime(2024, 2, 29, 12, 30, 1, tzinfo=datetime.timezone.utc),
    "list": [1, "two", [3]],
    "table": {"inner": {"deep": 1}},
}


@contextmanager
def check(name):
    try:
        yield
    except Exception as e:
        raise SystemExit(f"not ok {name}: {type(e).__name__}: {e}") from e
    print(f"ok {name}", flush=True)


def equal(got, want):
    assert got == want, f"got {got!r:.2000}, want {want!r:.2000}"


@contextmanager
def raises(*kinds):
    """The block must raise one of the kinds; yields a list that then holds it."""
    caught = []
    try:
        yield caught
    except kinds as e:
        caught.append(e)
        return
    raise AssertionError(f"expected {' or '.join(k.__name__ for k in kinds)}")


def until(connection, done, what):
    """Dispatches events until done() holds."""
    end = time.monotonic() + WAIT
    while not done():
        left = end - time.monotonic()
        assert left > 0, f"no {what} within {WAIT} s"
        # A callback does not end the call, so it comes back often enough to look.
        connection.process_data_events(time_limit=min(left, 0.05))


def parameters(url, **changes):
    p = pika.URLParameters(url)
    p.socket_timeout = p.stack_timeout = p.blocked_connection_timeout = WAIT
    for name, value in changes.items():
        setattr(p, name, value)
    return p


def declare(channel):
    """source --e2e--> target --> queue."""
    source, target, queue = f"{RUN}.source", f"{RUN}.target", f"{RUN}.queue"
    channel.exchange_declare(source, "topic", durable=True)
    channel.exchange_declare(target, "direct", durable=True)
    channel.exchange_bind(target, source, "work.#")
    equal(channel.queue_declare(queue, durable=True).method.message_count, 0)
    channel.queue_bind(queue, target, "work.item")
    channel.queue_bind(queue, target, "work.other")
    channel.queue_unbind(queue, target, "work.other")
    return source, target, queue


def batch():
    """The messages of the run: (body, properties), in order."""
    bodies = [f"message {i}".encode() for i in range(SMALL)] + [b"", MIB, b"last"]
    for i, body in enumerate(bodies):
        yield body, pika.BasicProperties(
            content_type="application/octet-stream",
            content_encoding="identity",
            headers={"seq": i, **HEADERS},
            delivery_mode=1 + i % 2,
            priority=i % 5,
            correlation_id=f"c{i}",
            reply_to="nobody",
            expiration="600000",
            message_id=f"m{i}",
            timestamp=1_700_000_000 + i,
            type="test",
            app_id="conformance",
        )


def publish(channel, exchange):
    channel.confirm_delivery()
    for body, properties in batch():
        channel.basic_publish(exchange, "work.item", body, properties, mandatory=True)


def consume(connection, channel, queue):
    want = list(batch())
    got = []
    channel.basic_qos(prefetch_count=PREFETCH)
    tag = channel.basic_consume(queue, lambda _, *delivery: got.append(delivery))
    until(connection, lambda: len(got) >= PREFETCH, "first deliveries")
    ready = channel.queue_declare(queue, passive=True).method.message_count
    equal((len(got), ready), (PREFETCH, len(want) - PREFETCH))
    channel.basic_ack(got[-1][0].delivery_tag, multiple=True)
    acked = PREFETCH
    while acked < len(want):
        until(connection, lambda: len(got) > acked, f"delivery {acked}")
        for method, _, _ in got[acked:]:
            channel.basic_ack(method.delivery_tag)
            acked += 1
    channel.basic_cancel(tag)
    for i, ((method, properties, body), (want_body, want_properties)) in enumerate(zip(got, want, strict=True)):
        equal((method.delivery_tag, method.redelivered, method.routing_key), (i + 1, False, "work.item"))
        equal((method.exchange, method.consumer_tag), (f"{RUN}.source", tag))
        equal(properties, want_properties)
        assert body == want_body, f"body of message {i} differs"
    equal(channel.queue_declare(queue, passive=True).method.message_count, 0)


def redelivery(connection, channel, queue):
    got = []
    for body in (b"a", b"b"):
        channel.basic_publish("", queue, body)
    tag = channel.basic_consume(queue, lambda _, m, p, body: got.append((m, body)))
    until(connection, lambda: len(got) == 2, "deliveries")
    channel.basic_nack(got[0][0].delivery_tag, requeue=True)
    until(connection, lambda: len(got) == 3, "redelivery")
    channel.basic_reject(got[1][0].delivery_tag, requeue=False)
    channel.basic_ack(got[2][0].delivery_tag)
    equal([(m.redelivered, body) for m, body in got], [(False, b"a"), (False, b"b"), (True, b"a")])
    channel.basic_cancel(tag)
    equal(channel.queue_declare(queue, passive=True).method.message_count, 0)


def request_reply(connection, queue):
    """Direct reply-to: the reply queue is a name that the broker makes up."""
    client, server = connection.channel(), connection.channel()
    replies = []

    def serve(channel, method, properties, body):
        assert properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties.reply_to
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body.upper(), reply)
        channel.basic_ack(method.delivery_tag)

    server.basic_consume(queue, serve)
    client.basic_consume(
        "amq.rabbitmq.reply-to", lambda _, m, p, body: replies.append((p.correlation_id, body)), auto_ack=True
    )
    for i in range(5):
        ask = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=str(i))
        client.basic_publish("", queue, b"ask %d" % i, ask)
    until(connection, lambda: len(replies) == 5, "replies")
    equal(replies, [(str(i), b"ASK %d" % i) for i in range(5)])
    server.close()
    client.close()


def mandatory(channel, exchange):
    # pika pairs a return with its confirm by their order, so a return that comes late would not raise here.
    with raises(UnroutableError) as caught:
        channel.basic_publish(exchange, "nowhere", b"back", pika.BasicProperties(message_id="r"), mandatory=True)
    (message,) = caught[0].messages
    equal((message.method.reply_code, message.method.reply_text), (312, "NO_ROUTE"))
    equal((message.method.exchange, message.method.routing_key), (exchange, "nowhere"))
    equal((message.body, message.properties.message_id), (b"back", "r"))
    channel.basic_publish(exchange, "nowhere", b"dropped", mandatory=False)


def channel_closed(connection, code, text, provoke):
    """The broker closes the channel that was provoked; the connection goes on with another."""
    channel = connection.channel()
    with raises(ChannelClosedByBroker) as caught:
        provoke(channel)
    equal(caught[0].reply_code, code)
    assert text in caught[0].reply_text, caught[0].reply_text
    assert channel.is_closed
    connection.channel().close()


def consumer_cancelled(connection):
    assert connection.consumer_cancel_notify_supported
    channel, other = connection.channel(), connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    assert queue.startswith("amq.gen-"), queue
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = channel.basic_consume(queue, lambda *_: None)
    other.queue_delete(queue)
    until(connection, lambda: cancelled, "cancel notification")
    equal(cancelled, [tag])
    channel.close()
    other.close()


def get(channel, queue):
    equal(channel.basic_get(queue), (None, None, None))
    for body in (b"one", b"two"):
        channel.basic_publish("", queue, body)
    first, _, body = channel.basic_get(queue)
    equal((first.message_count, first.redelivered, first.exchange, first.routing_key, body), (1, False, "", queue, b"one"))
    second, _, body = channel.basic_get(queue, auto_ack=True)
    equal((second.message_count, body), (0, b"two"))
    channel.basic_nack(first.delivery_tag)
    again, _, body = channel.basic_get(queue)
    equal((again.redelivered, body), (True, b"one"))
    channel.basic_ack(again.delivery_tag)


def tx(connection, queue):
    channel = connection.channel()
    count = lambda: channel.queue_declare(queue, passive=True).method.message_count
    channel.tx_select()
    channel.basic_publish("", queue, b"undone")
    equal(count(), 0)
    channel.tx_rollback()
    channel.basic_publish("", queue, b"done")
    channel.tx_commit()
    equal(count(), 1)
    method, _, body = channel.basic_get(queue)
    equal(body, b"done")
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()  # The ack is undone, the message is still unsettled.
    channel.basic_ack(method.delivery_tag)
    channel.tx_commit()
    channel.close()
    with connection.channel() as after:
        equal(after.queue_declare(queue, passive=True).method.message_count, 0)


def purge_and_delete(channel, source, target, queue):
    for _ in range(3):
        channel.basic_publish("", queue, b"x")
    equal(channel.queue_purge(queue).method.message_count, 3)
    channel.basic_publish("", queue, b"x")
    channel.exchange_unbind(target, source, "work.#")
    equal(channel.queue_delete(queue).method.message_count, 1)
    equal(channel.queue_delete(queue).method.message_count, 0)
    channel.exchange_delete(target)
    channel.exchange_delete(source)
    channel.exchange_delete(source)


def wrong_password(url):
    credentials = pika.PlainCredentials(pika.URLParameters(url).credentials.username, "wrong " + RUN)
    with raises(ProbableAuthenticationError) as caught:
        pika.BlockingConnection(parameters(url, credentials=credentials))
    text = str(caught[0])
    assert "403" in text and "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in text, text


def unknown_vhost(url):
    with raises(ProbableAccessDeniedError, ConnectionClosedByBroker) as caught:
        pika.BlockingConnection(parameters(url, virtual_host=RUN))
    text = str(caught[0])
    assert "530" in text and f"vhost {RUN} not found" in text, text


def heartbeat(url):
    connection = pika.BlockingConnection(parameters(url, heartbeat=1))
    impl = connection._impl
    equal(impl.params.heartbeat, 1)
    beats = lambda: impl._heartbeat_checker._heartbeat_frames_received
    until(connection, lambda: beats() >= 3, "heartbeat frames")
    connection.channel().close()
    connection.close()


def tuned(connection):
    params = connection._impl.params
    assert connection.publisher_confirms_supported and connection.basic_nack_supported
    assert connection.exchange_exchange_bindings_supported
    assert params.heartbeat > 0 and params.channel_max > 0 and params.frame_max >= 8192, vars(params)


def main(url):
    faulthandler.dump_traceback_later(10 * WAIT, exit=True)
    with check("connect"):
        connection = pika.BlockingConnection(parameters(url))
        tuned(connection)
        channel = connection.channel()
    with check("declare and bind"):
        source, target, queue = declare(channel)
    with check("publish with confirms"):
        publish(channel, source)
    with check("consume with prefetch and acks"):
        consume(connection, channel, queue)
    with check("requeue is redelivered"):
        redelivery(connection, channel, queue)
    with check("direct reply-to"):
        request_reply(connection, queue)
    with check("mandatory return"):
        mandatory(channel, source)
    with check("404 closes the channel only"):
        missing = f"{RUN}.missing"
        text = f"NOT_FOUND - no queue '{missing}' in vhost "
        channel_closed(connection, 404, text, lambda c: c.queue_declare(missing, passive=True))
    with check("406 closes the channel only"):
        text = f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost "
        channel_closed(connection, 406, text, lambda c: c.queue_declare(queue, durable=False))
        channel_closed(connection, 406, "PRECONDITION_FAILED - unknown delivery tag 99", unknown_tag)
    with check("consumer cancel notification"):
        consumer_cancelled(connection)
    with check("basic.get"):
        get(channel, queue)
    with check("tx"):
        tx(connection, queue)
    with check("purge and delete"):
        purge_and_delete(channel, source, target, queue)
    with check("wrong password"):
        wrong_password(url)
    with check("unknown vhost"):
        unknown_vhost(url)
    with check("heartbeat"):
        heartbeat(url)
    with check("close"):
        channel.close()
        connection.close()
        assert connection.is_closed


def unknown_tag(channel):
    channel.basic_ack(99)
    channel.basic_qos(prefetch_count=1)  # An ack has no answer; this call meets the close.


if __name__ == "__main__":
    main(sys.argv[1])
