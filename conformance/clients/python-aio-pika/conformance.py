"""What an aio-pika application asks of an AMQP 0-9-1 broker. It knows the URL and nothing else of the broker.

Usage: conformance.py URL. One line a check; exit code 1 at the first that fails.
"""

import asyncio
import datetime
import sys
import uuid
from contextlib import asynccontextmanager
from decimal import Decimal

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import (
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ProbableAuthenticationError,
    PublishError,
    QueueEmpty,
)
from aiormq.exceptions import InvalidFrameError
from yarl import URL

WAIT = 20  # seconds, for any single event
SMALL = 300  # messages with a short body
PREFETCH = 10
MIB = bytes(range(256)) * 4096
RUN = f"conformance.aio-pika.{uuid.uuid4().hex[:12]}"
TIME = datetime.datetime(2024, 2, 29, 12, 30, 1, tzinfo=datetime.timezone.utc)
HEADERS = {
    "text": "grüße",
    "octets": bytearray(b"\x00\xff"),
    "int": -7,
    "long": 2**40,
    "float": 1.5,
    "decimal": Decimal("12.34"),
    "true": True,
    "nothing": None,
    "time": TIME,
    "list": [1, "two", [3]],
    "table": {"inner": {"deep": 1}},
}
PROPERTIES = (
    *("headers", "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to"),
    *("expiration", "message_id", "timestamp", "type", "user_id", "app_id"),
)


@asynccontextmanager
async def check(name):
    try:
        async with asyncio.timeout(3 * WAIT):
            yield
    except Exception as e:
        raise SystemExit(f"not ok {name}: {type(e).__name__}: {e}") from e
    print(f"ok {name}", flush=True)


def equal(got, want):
    assert got == want, f"got {got!r:.2000}, want {want!r:.2000}"


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, WAIT)


async def raises(kind, awaitable):
    try:
        await soon(awaitable)
    except kind as e:
        return e
    raise AssertionError(f"expected {kind.__name__}")


async def ready(channel, queue):
    """Messages that wait in the queue, asked of the broker."""
    declared = await channel.declare_queue(queue.name, passive=True)
    return declared.declaration_result.message_count


async def declare(channel):
    """source --e2e--> target --> queue."""
    source = await channel.declare_exchange(f"{RUN}.source", ExchangeType.TOPIC, durable=True)
    target = await channel.declare_exchange(f"{RUN}.target", ExchangeType.DIRECT, durable=True)
    await target.bind(source, "work.#")
    queue = await channel.declare_queue(f"{RUN}.queue", durable=True)
    await queue.bind(target, "work.item")
    await queue.bind(target, "work.other")
    await queue.unbind(target, "work.other")
    return source, target, queue


def batch():
    """The messages of the run, in order."""
    bodies = [f"message {i}".encode() for i in range(SMALL)] + [b"", MIB, b"last"]
    return [
        Message(
            body,
            headers={"seq": i, **HEADERS},
            content_type="application/octet-stream",
            content_encoding="identity",
            delivery_mode=DeliveryMode.PERSISTENT if i % 2 else DeliveryMode.NOT_PERSISTENT,
            priority=i % 5,
            correlation_id=f"c{i}",
            reply_to="nobody",
            expiration=600,
            message_id=f"m{i}",
            timestamp=TIME,
            type="test",
            app_id="conformance",
        )
        for i, body in enumerate(bodies)
    ]


async def publish(exchange):
    """All at once, confirms awaited together."""
    confirms = await soon(asyncio.gather(*(exchange.publish(m, "work.item") for m in batch())))
    for confirm in confirms:
        equal(type(confirm).__name__, "Ack")


async def consume(channel, queue):
    want, got = batch(), []
    await channel.set_qos(prefetch_count=PREFETCH)
    arrived = asyncio.Queue()
    tag = await queue.consume(arrived.put)
    while len(got) < PREFETCH:
        got.append(await soon(arrived.get()))
    equal((arrived.qsize(), await ready(channel, queue)), (0, len(want) - PREFETCH))
    await got[-1].ack(multiple=True)
    while len(got) < len(want):
        got.append(await soon(arrived.get()))
        await got[-1].ack()
    await queue.cancel(tag)
    for i, (message, expected) in enumerate(zip(got, want, strict=True)):
        equal((message.delivery_tag, message.redelivered, message.consumer_tag), (i + 1, False, tag))
        equal((message.exchange, message.routing_key), (f"{RUN}.source", "work.item"))
        for name in PROPERTIES:
            equal((name, getattr(message, name)), (name, getattr(expected, name)))
        assert message.body == expected.body, f"body of message {i} differs"
    equal(await ready(channel, queue), 0)


async def redelivery(channel, queue):
    for body in (b"a", b"b"):
        await channel.default_exchange.publish(Message(body), queue.name)
    async with queue.iterator(timeout=WAIT) as messages:
        first, second = await anext(messages), await anext(messages)
        await first.nack(requeue=True)
        again = await anext(messages)
        await second.reject(requeue=False)
        await again.ack()
    got = [(m.redelivered, m.body) for m in (first, second, again)]
    equal(got, [(False, b"a"), (False, b"b"), (True, b"a")])
    equal(await ready(channel, queue), 0)


async def request_reply(connection, queue):
    """Direct reply-to: the reply queue is a name that the broker makes up."""
    async with connection.channel() as client, connection.channel() as server:

        async def serve(message):
            async with message.process():
                assert message.reply_to.startswith("amq.rabbitmq.reply-to."), message.reply_to
                reply = Message(message.body.upper(), correlation_id=message.correlation_id)
                await server.default_exchange.publish(reply, message.reply_to)

        await (await server.get_queue(queue.name)).consume(serve)
        replies = asyncio.Queue()
        fake = await client.get_queue("amq.rabbitmq.reply-to", ensure=False)
        await fake.consume(replies.put, no_ack=True)
        for i in range(5):
            ask = Message(b"ask %d" % i, reply_to=fake.name, correlation_id=str(i))
            await client.default_exchange.publish(ask, queue.name)
        got = [await soon(replies.get()) for _ in range(5)]
        equal([(m.correlation_id, m.body) for m in got], [(str(i), b"ASK %d" % i) for i in range(5)])


async def mandatory(connection, source):
    async with connection.channel(on_return_raises=True) as channel:
        exchange = await channel.get_exchange(source.name)
        error = await raises(PublishError, exchange.publish(Message(b"back", message_id="r"), "nowhere"))
        equal((error.frame.reply_code, error.frame.reply_text), (312, "NO_ROUTE"))
        equal((error.frame.exchange, error.frame.routing_key), (source.name, "nowhere"))
        equal((error.message.body, error.message.header.properties.message_id), (b"back", "r"))
        confirm = await soon(exchange.publish(Message(b"dropped"), "nowhere", mandatory=False))
        equal(type(confirm).__name__, "Ack")


async def channel_closed(connection, kind, text, provoke):
    """The broker closes the channel that was provoked; the connection goes on with another."""
    channel = await connection.channel()
    error = await raises(kind, provoke(channel))
    assert text in str(error), error
    await soon(channel.closed())
    async with connection.channel() as other:
        await other.set_qos(1)


async def consumer_cancelled(connection):
    async with connection.channel() as channel, connection.channel() as other:
        queue = await channel.declare_queue(exclusive=True)
        assert queue.name.startswith("amq.gen-"), queue.name
        cancelled = asyncio.Queue()
        (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(cancelled.put)
        tag = await queue.consume(lambda _: None)
        await other.queue_delete(queue.name)
        equal((await soon(cancelled.get())).consumer_tag, tag)


async def get(channel, queue):
    await raises(QueueEmpty, queue.get())
    equal(await queue.get(fail=False), None)
    for body in (b"one", b"two"):
        await channel.default_exchange.publish(Message(body), queue.name)
    first = await queue.get()
    equal((first.message_count, first.redelivered, first.body), (1, False, b"one"))
    second = await queue.get(no_ack=True)
    equal((second.message_count, second.body), (0, b"two"))
    await first.nack()
    again = await queue.get()
    equal((again.redelivered, again.body), (True, b"one"))
    await again.ack()


async def tx(connection, queue):
    async with connection.channel(publisher_confirms=False) as channel:
        default = channel.default_exchange
        transaction = channel.transaction()
        await transaction.select()
        await default.publish(Message(b"undone"), queue.name)
        equal(await ready(channel, queue), 0)
        await transaction.rollback()
        async with channel.transaction():
            await default.publish(Message(b"done"), queue.name)
        equal(await ready(channel, queue), 1)
        async with channel.transaction():
            message = await (await channel.get_queue(queue.name)).get()
            equal(message.body, b"done")
            await message.ack()
        equal(await ready(channel, queue), 0)


async def purge_and_delete(channel, source, target, queue):
    for _ in range(3):
        await channel.default_exchange.publish(Message(b"x"), queue.name)
    equal((await queue.purge()).message_count, 3)
    await channel.default_exchange.publish(Message(b"x"), queue.name)
    await target.unbind(source, "work.#")
    equal((await queue.delete(if_unused=False, if_empty=False)).message_count, 1)
    equal((await channel.queue_delete(queue.name)).message_count, 0)
    await target.delete()
    await source.delete()
    await channel.exchange_delete(source.name)


async def wrong_password(url):
    error = await raises(ProbableAuthenticationError, aio_pika.connect(url.with_password("wrong " + RUN), timeout=WAIT))
    text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"
    assert text in str(error), error


async def unknown_vhost(url):
    # This release takes the close for a bad answer and keeps its text to itself.
    error = await raises(InvalidFrameError, aio_pika.connect(url.with_path("/" + RUN), timeout=WAIT))
    assert "Connection.OpenOk" in str(error) and "Connection.Close" in str(error), error


async def heartbeat(url):
    connection = await aio_pika.connect(url.update_query(heartbeat="1"), timeout=WAIT)
    under = connection.transport.connection
    equal(under.connection_tune.heartbeat, 1)
    # The client gives up after three silent seconds and a broker after two; neither may.
    closed = asyncio.ensure_future(connection.closed())
    done, _ = await asyncio.wait([closed], timeout=5)
    assert not done, "closed for want of heartbeats"
    async with connection.channel():
        pass
    await connection.close()


def tuned(connection):
    under = connection.transport.connection
    assert under.publisher_confirms, under.server_properties
    tune = under.connection_tune
    assert tune.heartbeat > 0 and tune.channel_max > 0 and tune.frame_max >= 8192, tune


async def main(url):
    async with check("connect"):
        connection = await aio_pika.connect(url, timeout=WAIT)
        tuned(connection)
        channel = await connection.channel()
    async with check("declare and bind"):
        source, target, queue = await declare(channel)
    async with check("publish with confirms"):
        await publish(source)
    async with check("consume with prefetch and acks"):
        await consume(channel, queue)
    async with check("requeue is redelivered"):
        await redelivery(channel, queue)
    async with check("direct reply-to"):
        await request_reply(connection, queue)
    async with check("mandatory return"):
        await mandatory(connection, source)
    async with check("404 closes the channel only"):
        missing = f"{RUN}.missing"
        text = f"NOT_FOUND - no queue '{missing}' in vhost "
        await channel_closed(
            connection, ChannelNotFoundEntity, text, lambda c: c.declare_queue(missing, passive=True)
        )
    async with check("406 closes the channel only"):
        text = f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue.name}' in vhost "
        await channel_closed(
            connection, ChannelPreconditionFailed, text, lambda c: c.declare_queue(queue.name, durable=False)
        )
    async with check("consumer cancel notification"):
        await consumer_cancelled(connection)
    async with check("basic.get"):
        await get(channel, queue)
    async with check("tx"):
        await tx(connection, queue)
    async with check("purge and delete"):
        await purge_and_delete(channel, source, target, queue)
    async with check("wrong password"):
        await wrong_password(url)
    async with check("unknown vhost"):
        await unknown_vhost(url)
    async with check("heartbeat"):
        await heartbeat(url)
    async with check("close"):
        await channel.close()
        await connection.close()
        assert connection.is_closed


if __name__ == "__main__":
    asyncio.run(main(URL(sys.argv[1], encoded=True)))
