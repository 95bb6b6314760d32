// What an amqplib application asks of an AMQP 0-9-1 broker. It knows the URL and nothing else of the broker.
//
// Usage: node conformance.js URL. One line a check; exit code 1 at the first that fails. The release of amqplib is the
// one installed in the working directory.

'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { once } = require('node:events');
const amqp = require(require.resolve('amqplib', { paths: [process.cwd()] }));

const WAIT = 20_000; // milliseconds, for any single event
const SMALL = 300; // messages with a short body
const PREFETCH = 10;
const MIB = Buffer.alloc(1 << 20, 'abcdefgh');
const RUN = `conformance.amqplib.${crypto.randomBytes(6).toString('hex')}`;
const HEADERS = {
  text: 'grüße',
  octets: Buffer.from([0, 255]),
  int: -7,
  large: 2 ** 40,
  double: 1.5,
  short: { '!': 'short', value: -300 },
  decimal: { '!': 'decimal', value: { digits: 1234, places: 2 } },
  time: { '!': 'timestamp', value: 1709209801 },
  true: true,
  nothing: null,
  list: [1, 'two', [3]],
  table: { inner: { deep: 1 } },
};

/** Settles as the promise does, or fails when that takes longer than WAIT. */
async function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT} ms`)), WAIT);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function check(name, body) {
  try {
    const result = await soon(body(), `end of "${name}"`);
    console.log(`ok ${name}`);
    return result;
  } catch (e) {
    console.log(`not ok ${name}: ${e.stack}`);
    process.exit(1);
  }
}

/** Deliveries of one consumer, in order, one promise each. */
class Inbox {
  #waiting = [];
  #arrived = [];

  constructor() {
    this.put = (message) => {
      const waiter = this.#waiting.shift();
      if (waiter) waiter(message);
      else this.#arrived.push(message);
    };
  }

  get size() {
    return this.#arrived.length;
  }

  take() {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    return soon(new Promise((resolve) => this.#waiting.push(resolve)), 'delivery');
  }
}

function connect(url, changes = {}) {
  const at = new URL(url);
  return amqp.connect({
    protocol: 'amqp',
    hostname: at.hostname,
    port: Number(at.port || 5672),
    username: decodeURIComponent(at.username || 'guest'),
    password: decodeURIComponent(at.password || 'guest'),
    vhost: decodeURIComponent(at.pathname.slice(1)) || '/',
    ...changes,
  }, { timeout: WAIT });
}

/** source --e2e--> target --> queue. */
async function declare(channel) {
  const names = { source: `${RUN}.source`, target: `${RUN}.target`, queue: `${RUN}.queue` };
  await channel.assertExchange(names.source, 'topic', { durable: true });
  await channel.assertExchange(names.target, 'direct', { durable: true });
  await channel.bindExchange(names.target, names.source, 'work.#');
  assert.deepEqual(await channel.assertQueue(names.queue, { durable: true }), {
    queue: names.queue,
    messageCount: 0,
    consumerCount: 0,
  });
  await channel.bindQueue(names.queue, names.target, 'work.item');
  await channel.bindQueue(names.queue, names.target, 'work.other');
  await channel.unbindQueue(names.queue, names.target, 'work.other');
  return names;
}

/** The messages of the run: [body, options], in order. */
function batch() {
  const bodies = Array.from({ length: SMALL }, (_, i) => Buffer.from(`message ${i}`));
  bodies.push(Buffer.alloc(0), MIB, Buffer.from('last'));
  return bodies.map((body, i) => [body, {
    contentType: 'application/octet-stream',
    contentEncoding: 'identity',
    headers: { seq: i, ...HEADERS },
    deliveryMode: 1 + (i % 2),
    priority: i % 5,
    correlationId: `c${i}`,
    replyTo: 'nobody',
    expiration: '600000',
    messageId: `m${i}`,
    timestamp: 1_700_000_000 + i,
    type: 'test',
    appId: 'conformance',
  }]);
}

async function publish(connection, exchange) {
  const channel = await connection.createConfirmChannel();
  let confirmed = 0;
  for (const [body, options] of batch()) {
    channel.publish(exchange, 'work.item', body, options, (error) => {
      assert.equal(error, null);
      confirmed += 1;
    });
  }
  await channel.waitForConfirms();
  assert.equal(confirmed, SMALL + 3);
  await channel.close();
}

async function consume(channel, { source, queue }) {
  const want = batch();
  const got = [];
  const inbox = new Inbox();
  await channel.prefetch(PREFETCH);
  const { consumerTag } = await channel.consume(queue, inbox.put);
  while (got.length < PREFETCH) got.push(await inbox.take());
  const { messageCount } = await channel.checkQueue(queue);
  assert.deepEqual([inbox.size, messageCount], [0, want.length - PREFETCH]);
  channel.ack(got[PREFETCH - 1], true);
  while (got.length < want.length) {
    got.push(await inbox.take());
    channel.ack(got.at(-1));
  }
  await channel.cancel(consumerTag);
  want.forEach(([body, options], i) => {
    const { content, properties, fields } = got[i];
    assert.deepEqual({ ...fields }, {
      consumerTag,
      deliveryTag: i + 1,
      redelivered: false,
      exchange: source,
      routingKey: 'work.item',
    });
    const { headers } = options;
    headers.short = headers.short.value; // The client writes what it was told and reads a plain number.
    for (const [name, value] of Object.entries(options)) assert.deepEqual(properties[name], value, name);
    assert.ok(content.equals(body), `body of message ${i} differs`);
  });
  assert.equal((await channel.checkQueue(queue)).messageCount, 0);
}

async function redelivery(channel, queue) {
  const inbox = new Inbox();
  channel.sendToQueue(queue, Buffer.from('a'));
  channel.sendToQueue(queue, Buffer.from('b'));
  const { consumerTag } = await channel.consume(queue, inbox.put);
  const got = [await inbox.take(), await inbox.take()];
  channel.nack(got[0], false, true);
  got.push(await inbox.take());
  channel.reject(got[1], false);
  channel.ack(got[2]);
  const seen = got.map((m) => [m.fields.redelivered, m.content.toString()]);
  assert.deepEqual(seen, [[false, 'a'], [false, 'b'], [true, 'a']]);
  await channel.cancel(consumerTag);
  assert.equal((await channel.checkQueue(queue)).messageCount, 0);
}

/** Direct reply-to: the reply queue is a name that the broker makes up. */
async function requestReply(connection, queue) {
  const [client, server] = [await connection.createChannel(), await connection.createChannel()];
  await server.consume(queue, (message) => {
    const { replyTo, correlationId } = message.properties;
    assert.match(replyTo, /^amq\.rabbitmq\.reply-to\./);
    server.sendToQueue(replyTo, Buffer.from(message.content.toString().toUpperCase()), { correlationId });
    server.ack(message);
  });
  const replies = new Inbox();
  await client.consume('amq.rabbitmq.reply-to', replies.put, { noAck: true });
  for (let i = 0; i < 5; i++) {
    client.sendToQueue(queue, Buffer.from(`ask ${i}`), { replyTo: 'amq.rabbitmq.reply-to', correlationId: `${i}` });
  }
  for (let i = 0; i < 5; i++) {
    const reply = await replies.take();
    assert.deepEqual([reply.properties.correlationId, reply.content.toString()], [`${i}`, `ASK ${i}`]);
  }
  await server.close();
  await client.close();
}

async function mandatory(connection, exchange) {
  const channel = await connection.createConfirmChannel();
  const events = [];
  channel.on('return', (message) => events.push(message));
  channel.publish(exchange, 'nowhere', Buffer.from('back'), { mandatory: true, messageId: 'r' }, () => events.push('confirm'));
  channel.publish(exchange, 'nowhere', Buffer.from('dropped'), {}, () => events.push('confirm'));
  await channel.waitForConfirms();
  const [returned, ...rest] = events;
  assert.deepEqual(rest, ['confirm', 'confirm']);
  assert.deepEqual({ ...returned.fields }, { replyCode: 312, replyText: 'NO_ROUTE', exchange, routingKey: 'nowhere' });
  assert.deepEqual([returned.content.toString(), returned.properties.messageId], ['back', 'r']);
  await channel.close();
}

/** The broker closes the channel that was provoked; the connection goes on with another. */
async function channelClosed(connection, code, text, provoke) {
  const channel = await connection.createChannel();
  let error;
  channel.on('error', (e) => { error = e; });
  const closed = new Promise((resolve) => channel.on('close', resolve));
  await assert.rejects(Promise.resolve(provoke(channel)), (e) => e.message.includes(text));
  await soon(closed, 'close of the channel');
  assert.equal(error.code, code);
  assert.ok(error.message.includes(text), error.message);
  await (await connection.createChannel()).close();
}

async function consumerCancelled(connection) {
  const [channel, other] = [await connection.createChannel(), await connection.createChannel()];
  const { queue } = await channel.assertQueue('', { exclusive: true });
  assert.match(queue, /^amq\.gen-/);
  const inbox = new Inbox();
  await channel.consume(queue, inbox.put);
  await other.deleteQueue(queue);
  assert.equal(await inbox.take(), null);
  await channel.close();
  await other.close();
}

async function get(channel, queue) {
  assert.equal(await channel.get(queue), false);
  channel.sendToQueue(queue, Buffer.from('one'));
  channel.sendToQueue(queue, Buffer.from('two'));
  const first = await channel.get(queue);
  const { deliveryTag, ...fields } = first.fields;
  assert.deepEqual(fields, { redelivered: false, exchange: '', routingKey: queue, messageCount: 1 });
  assert.equal(first.content.toString(), 'one');
  const second = await channel.get(queue, { noAck: true });
  assert.deepEqual([second.fields.messageCount, second.content.toString()], [0, 'two']);
  channel.nack(first);
  const again = await channel.get(queue);
  assert.deepEqual([again.fields.redelivered, again.content.toString()], [true, 'one']);
  channel.ack(again);
}

async function purgeAndDelete(channel, { source, target, queue }) {
  for (let i = 0; i < 3; i++) channel.sendToQueue(queue, Buffer.from('x'));
  assert.equal((await channel.purgeQueue(queue)).messageCount, 3);
  channel.sendToQueue(queue, Buffer.from('x'));
  await channel.unbindExchange(target, source, 'work.#');
  assert.equal((await channel.deleteQueue(queue)).messageCount, 1);
  assert.equal((await channel.deleteQueue(queue)).messageCount, 0);
  await channel.deleteExchange(target);
  await channel.deleteExchange(source);
  await channel.deleteExchange(source);
}

async function heartbeat(url) {
  const connection = await connect(url, { heartbeat: 1 });
  assert.equal(connection.connection.heartbeat, 1);
  // The client gives up after two silent seconds, and so does a broker; neither may.
  const quiet = new AbortController();
  const lost = once(connection, 'error', { signal: quiet.signal });
  const timer = setTimeout(() => quiet.abort(), 5000);
  await assert.rejects(lost, { name: 'AbortError' });
  clearTimeout(timer);
  await (await connection.createChannel()).close();
  await connection.close();
}

function tuned(connection) {
  const { heartbeat, channelMax, frameMax } = connection.connection;
  assert.ok(channelMax > 0 && frameMax >= 4096, `tuned to ${JSON.stringify({ heartbeat, channelMax, frameMax })}`);
  return connection;
}

async function main(url) {
  const connection = await check('connect', async () => tuned(await connect(url)));
  const channel = await connection.createChannel();
  const names = await check('declare and bind', () => declare(channel));
  const { source, queue } = names;
  await check('publish with confirms', () => publish(connection, source));
  await check('consume with prefetch and acks', () => consume(channel, names));
  await check('requeue is redelivered', () => redelivery(channel, queue));
  await check('direct reply-to', () => requestReply(connection, queue));
  await check('mandatory return', () => mandatory(connection, source));
  await check('404 closes the channel only', () => {
    const text = `404 (NOT-FOUND) with message "NOT_FOUND - no queue '${RUN}.missing' in vhost `;
    return channelClosed(connection, 404, text, (c) => c.checkQueue(`${RUN}.missing`));
  });
  await check('406 closes the channel only', () => {
    const text = `PRECONDITION_FAILED - inequivalent arg 'durable' for queue '${queue}' in vhost `;
    return channelClosed(connection, 406, text, (c) => c.assertQueue(queue, { durable: false }));
  });
  await check('consumer cancel notification', () => consumerCancelled(connection));
  await check('basic.get', () => get(channel, queue));
  await check('purge and delete', () => purgeAndDelete(channel, names));
  await check('wrong password', () =>
    assert.rejects(connect(url, { password: `wrong ${RUN}` }), (e) =>
      /403 \(ACCESS-REFUSED\).*ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN/.test(e.message)));
  // The client tells only that a close came instead of open-ok.
  await check('unknown vhost', () =>
    assert.rejects(connect(url, { vhost: RUN }), /Expected ConnectionOpenOk; got <ConnectionClose channel:0>/));
  await check('heartbeat', () => heartbeat(url));
  await check('close', async () => {
    await channel.close();
    const closed = once(connection, 'close');
    await connection.close();
    await closed;
  });
  process.exit(0); // An old release leaves the sockets of refused connections open for a while.
}

main(process.argv[2]).catch((e) => {
  console.error(e);
  process.exit(1);
});
