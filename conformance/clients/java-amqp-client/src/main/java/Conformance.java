import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.LongString;
import com.rabbitmq.client.Return;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * What an application of the RabbitMQ Java client asks of an AMQP 0-9-1 broker. It knows the URL and nothing else of
 * the broker. Its one argument is the URL; it prints one line a check and exits with 1 at the first that fails.
 */
public final class Conformance {
    /** Seconds, for any single event. */
    private static final int WAIT = 20;
    /** Messages with a short body. */
    private static final int SMALL = 300;
    private static final int PREFETCH = 10;
    private static final String RUN = "conformance.java." + UUID.randomUUID().toString().substring(0, 13);
    private static final String SOURCE = RUN + ".source";
    private static final String TARGET = RUN + ".target";
    private static final String QUEUE = RUN + ".queue";

    private record Message(BasicProperties properties, byte[] body) {}

    private interface Step {
        void run() throws Exception;
    }

    private final String url;
    private Connection connection;
    private Channel channel;

    private Conformance(String url) {
        this.url = url;
    }

    public static void main(String[] args) {
        Thread watchdog = new Thread(Conformance::giveUp);
        watchdog.setDaemon(true);
        watchdog.start();
        new Conformance(args[0]).run();
        System.exit(0);
    }

    private static void giveUp() {
        try {
            new CountDownLatch(1).await(10 * WAIT, TimeUnit.SECONDS);
            System.out.println("not ok: not done within " + 10 * WAIT + " s");
            Runtime.getRuntime().halt(1);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private void run() {
        List<Message> messages = batch();
        check("connect", this::connect);
        check("declare and bind", this::declare);
        check("publish with confirms", () -> publish(messages));
        check("consume with prefetch and acks", () -> consume(messages));
        check("requeue is redelivered", this::redelivery);
        check("direct reply-to", this::requestReply);
        check("mandatory return", this::mandatory);
        check("404 closes the channel only", () -> channelClosed(AMQP.NOT_FOUND,
            "NOT_FOUND - no queue '" + RUN + ".missing' in vhost ", c -> c.queueDeclarePassive(RUN + ".missing")));
        check("406 closes the channel only", () -> channelClosed(AMQP.PRECONDITION_FAILED,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '" + QUEUE + "' in vhost ",
            c -> c.queueDeclare(QUEUE, false, false, false, null)));
        check("consumer cancel notification", this::consumerCancelled);
        check("basic.get", this::get);
        check("tx", this::tx);
        check("purge and delete", this::purgeAndDelete);
        check("wrong password", this::wrongPassword);
        check("unknown vhost", this::unknownVhost);
        check("heartbeat", this::heartbeat);
        check("close", this::close);
    }

    private static void check(String name, Step step) {
        try {
            step.run();
        } catch (Exception | AssertionError e) {
            System.out.println("not ok " + name + ": " + e + (e.getCause() == null ? "" : " / " + e.getCause()));
            e.printStackTrace();
            System.exit(1);
        }
        System.out.println("ok " + name);
    }

    private static void equal(Object got, Object want) {
        if (!Objects.equals(got, want)) {
            throw new AssertionError("got " + got + ", want " + want);
        }
    }

    private static void contains(String text, String part) {
        if (!text.contains(part)) {
            throw new AssertionError("'" + text + "' does not contain '" + part + "'");
        }
    }

    private static <T> T take(BlockingQueue<T> from, String what) throws InterruptedException {
        T next = from.poll(WAIT, TimeUnit.SECONDS);
        if (next == null) {
            throw new AssertionError("no " + what + " within " + WAIT + " s");
        }
        return next;
    }

    private static <E extends Exception> E raises(Class<E> kind, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (Exception e) {
            if (kind.isInstance(e)) {
                return kind.cast(e);
            }
            throw e;
        }
        throw new AssertionError("expected " + kind.getSimpleName());
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] body) {
        return new String(body, StandardCharsets.UTF_8);
    }

    private ConnectionFactory factory() throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(url);
        factory.setConnectionTimeout(1000 * WAIT);
        factory.setHandshakeTimeout(1000 * WAIT);
        factory.setChannelRpcTimeout(1000 * WAIT);
        return factory;
    }

    private void connect() throws Exception {
        connection = factory().newConnection("conformance");
        Object capabilities = connection.getServerProperties().get("capabilities");
        equal(((Map<?, ?>) capabilities).get("publisher_confirms"), true);
        if (connection.getHeartbeat() == 0 || connection.getChannelMax() == 0 || connection.getFrameMax() < 8192) {
            throw new AssertionError("heartbeat " + connection.getHeartbeat() + ", channel-max "
                + connection.getChannelMax() + ", frame-max " + connection.getFrameMax());
        }
        channel = connection.createChannel();
    }

    /** source --e2e--> target --> queue. */
    private void declare() throws IOException {
        channel.exchangeDeclare(SOURCE, "topic", true);
        channel.exchangeDeclare(TARGET, "direct", true);
        channel.exchangeBind(TARGET, SOURCE, "work.#");
        AMQP.Queue.DeclareOk ok = channel.queueDeclare(QUEUE, true, false, false, null);
        equal(List.of(ok.getQueue(), ok.getMessageCount(), ok.getConsumerCount()), List.of(QUEUE, 0, 0));
        channel.queueBind(QUEUE, TARGET, "work.item");
        channel.queueBind(QUEUE, TARGET, "work.other");
        channel.queueUnbind(QUEUE, TARGET, "work.other");
    }

    private static Map<String, Object> headers(int seq) {
        Map<String, Object> headers = new HashMap<>();
        headers.put("seq", seq);
        headers.put("text", "grüße");
        headers.put("octets", new byte[] {0, -1});
        headers.put("byte", (byte) -8);
        headers.put("short", (short) -300);
        headers.put("int", -7);
        headers.put("long", 1L << 40);
        headers.put("float", 1.5f);
        headers.put("double", 2.5);
        headers.put("decimal", new BigDecimal("12.34"));
        headers.put("true", true);
        headers.put("nothing", null);
        headers.put("time", new Date(1_709_209_801_000L));
        headers.put("list", List.of(1, "two", List.of(3)));
        headers.put("table", Map.of("inner", Map.of("deep", 1)));
        return headers;
    }

    /** The client reads text as LongString; both sides become something that can be compared. */
    private static Object plain(Object value) {
        if (value instanceof LongString s) {
            return s.toString();
        } else if (value instanceof byte[] octets) {
            return Arrays.toString(octets);
        } else if (value instanceof List<?> list) {
            return list.stream().map(Conformance::plain).collect(Collectors.toList());
        } else if (value instanceof Map<?, ?> table) {
            Map<Object, Object> copy = new HashMap<>();
            table.forEach((k, v) -> copy.put(k, plain(v)));
            return copy;
        }
        return value;
    }

    private static List<Object> plain(BasicProperties p) {
        return Arrays.asList(plain(p.getHeaders()), p.getContentType(), p.getContentEncoding(), p.getDeliveryMode(),
            p.getPriority(), p.getCorrelationId(), p.getReplyTo(), p.getExpiration(), p.getMessageId(),
            p.getTimestamp(), p.getType(), p.getUserId(), p.getAppId());
    }

    /** The messages of the run, in order. */
    private static List<Message> batch() {
        byte[] large = new byte[1 << 20];
        new Random(1).nextBytes(large);
        Stream<byte[]> small = Stream.iterate(0, i -> i + 1).limit(SMALL).map(i -> utf8("message " + i));
        List<byte[]> bodies = Stream.concat(small, Stream.of(new byte[0], large, utf8("last"))).toList();
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < bodies.size(); i++) {
            messages.add(new Message(new BasicProperties.Builder()
                .headers(headers(i)).contentType("application/octet-stream").contentEncoding("identity")
                .deliveryMode(1 + i % 2).priority(i % 5).correlationId("c" + i).replyTo("nobody").expiration("600000")
                .messageId("m" + i).timestamp(new Date(1_709_209_801_000L)).type("test").appId("conformance").build(),
                bodies.get(i)));
        }
        return messages;
    }

    private void publish(List<Message> messages) throws Exception {
        channel.confirmSelect();
        for (Message m : messages) {
            channel.basicPublish(SOURCE, "work.item", true, m.properties(), m.body());
        }
        channel.waitForConfirmsOrDie(1000L * WAIT);
    }

    /** Messages that wait in the queue, asked of the broker. */
    private static int ready(Channel channel) throws IOException {
        return channel.queueDeclarePassive(QUEUE).getMessageCount();
    }

    private void consume(List<Message> messages) throws Exception {
        BlockingQueue<Delivery> arrived = new LinkedBlockingQueue<>();
        channel.basicQos(PREFETCH);
        String tag = channel.basicConsume(QUEUE, false, (t, d) -> arrived.add(d), t -> { });
        List<Delivery> got = new ArrayList<>();
        while (got.size() < messages.size()) {
            Delivery next = take(arrived, "delivery");
            got.add(next);
            if (got.size() == PREFETCH) {
                equal(List.of(arrived.size(), ready(channel)), List.of(0, messages.size() - PREFETCH));
            }
            if (got.size() >= PREFETCH) {
                channel.basicAck(next.getEnvelope().getDeliveryTag(), got.size() == PREFETCH);
            }
        }
        channel.basicCancel(tag);
        for (int i = 0; i < messages.size(); i++) {
            Delivery d = got.get(i);
            equal(d.getEnvelope().getDeliveryTag(), i + 1L);
            equal(d.getEnvelope().isRedeliver(), false);
            equal(d.getEnvelope().getExchange() + " " + d.getEnvelope().getRoutingKey(), SOURCE + " work.item");
            equal(plain(d.getProperties()), plain(messages.get(i).properties()));
            equal(Arrays.equals(d.getBody(), messages.get(i).body()), true);
        }
        equal(ready(channel), 0);
    }

    private void send(Channel to, String body) throws IOException {
        to.basicPublish("", QUEUE, null, utf8(body));
    }

    private void redelivery() throws Exception {
        send(channel, "a");
        send(channel, "b");
        BlockingQueue<Delivery> arrived = new LinkedBlockingQueue<>();
        String tag = channel.basicConsume(QUEUE, false, (t, d) -> arrived.add(d), t -> { });
        Delivery a = take(arrived, "delivery");
        Delivery b = take(arrived, "delivery");
        channel.basicNack(a.getEnvelope().getDeliveryTag(), false, true);
        Delivery again = take(arrived, "redelivery");
        channel.basicReject(b.getEnvelope().getDeliveryTag(), false);
        channel.basicAck(again.getEnvelope().getDeliveryTag(), false);
        List<String> seen = Stream.of(a, b, again)
            .map(d -> text(d.getBody()) + d.getEnvelope().isRedeliver()).toList();
        equal(seen, List.of("afalse", "bfalse", "atrue"));
        channel.basicCancel(tag);
        equal(ready(channel), 0);
    }

    /** The client's own RPC class, which uses direct reply-to. */
    private void requestReply() throws Exception {
        Channel server = connection.createChannel();
        server.basicConsume(QUEUE, false, (t, d) -> {
            contains(d.getProperties().getReplyTo(), "amq.rabbitmq.reply-to.");
            BasicProperties properties = new BasicProperties.Builder()
                .correlationId(d.getProperties().getCorrelationId()).build();
            server.basicPublish("", d.getProperties().getReplyTo(), properties, utf8(text(d.getBody()).toUpperCase()));
            server.basicAck(d.getEnvelope().getDeliveryTag(), false);
        }, t -> { });
        Channel client = connection.createChannel();
        RpcClientParams params = new RpcClientParams()
            .channel(client).exchange("").routingKey(QUEUE).timeout(1000 * WAIT);
        try (RpcClient rpc = new RpcClient(params)) {
            for (int i = 0; i < 5; i++) {
                equal(rpc.stringCall("ask " + i), "ASK " + i);
            }
        }
        server.close();
        client.close();
    }

    private void mandatory() throws Exception {
        Channel publisher = connection.createChannel();
        BlockingQueue<Object> events = new LinkedBlockingQueue<>();
        publisher.addReturnListener((Return r) -> events.add(r));
        publisher.addConfirmListener((tag, multiple) -> events.add("ack"), (tag, multiple) -> events.add("nack"));
        publisher.confirmSelect();
        BasicProperties properties = new BasicProperties.Builder().messageId("r").build();
        publisher.basicPublish(SOURCE, "nowhere", true, properties, utf8("back"));
        Return r = (Return) take(events, "return, before the confirm,");
        equal(List.of(r.getReplyCode(), r.getReplyText()), List.of(AMQP.NO_ROUTE, "NO_ROUTE"));
        equal(List.of(r.getExchange(), r.getRoutingKey()), List.of(SOURCE, "nowhere"));
        equal(List.of(r.getProperties().getMessageId(), text(r.getBody())), List.of("r", "back"));
        equal(take(events, "confirm"), "ack");
        publisher.basicPublish(SOURCE, "nowhere", false, properties, utf8("dropped"));
        equal(take(events, "confirm"), "ack");
        publisher.close();
    }

    private interface Provocation {
        Object call(Channel channel) throws IOException;
    }

    /** The broker closes the channel that was provoked; the connection goes on with another. */
    private void channelClosed(int code, String text, Provocation provoke) throws Exception {
        Channel doomed = connection.createChannel();
        IOException e = raises(IOException.class, () -> provoke.call(doomed));
        ShutdownSignalException cause = (ShutdownSignalException) e.getCause();
        AMQP.Channel.Close close = (AMQP.Channel.Close) cause.getReason();
        equal(List.of(close.getReplyCode(), close.getClassId(), close.getMethodId()), List.of(code, 50, 10));
        contains(close.getReplyText(), text);
        equal(List.of(doomed.isOpen(), connection.isOpen()), List.of(false, true));
        connection.createChannel().close();
    }

    private void consumerCancelled() throws Exception {
        Channel consumer = connection.createChannel();
        Channel other = connection.createChannel();
        String queue = consumer.queueDeclare().getQueue();
        contains(queue, "amq.gen-");
        BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
        String tag = consumer.basicConsume(queue, false, (t, d) -> { }, cancelled::add);
        contains(tag, "amq.ctag-");
        other.queueDelete(queue);
        equal(take(cancelled, "cancel notification"), tag);
        consumer.close();
        other.close();
    }

    private void get() throws Exception {
        equal(channel.basicGet(QUEUE, false), null);
        send(channel, "one");
        send(channel, "two");
        GetResponse first = channel.basicGet(QUEUE, false);
        GetResponse second = channel.basicGet(QUEUE, true);
        channel.basicNack(first.getEnvelope().getDeliveryTag(), false, true);
        GetResponse again = channel.basicGet(QUEUE, false);
        channel.basicAck(again.getEnvelope().getDeliveryTag(), false);
        List<String> seen = Stream.of(first, second, again)
            .map(r -> text(r.getBody()) + " " + r.getMessageCount() + " " + r.getEnvelope().isRedeliver()).toList();
        equal(seen, List.of("one 1 false", "two 0 false", "one 0 true"));
    }

    private void tx() throws Exception {
        Channel tx = connection.createChannel();
        tx.txSelect();
        send(tx, "undone");
        equal(ready(tx), 0);
        tx.txRollback();
        send(tx, "done");
        tx.txCommit();
        equal(ready(tx), 1);
        GetResponse response = tx.basicGet(QUEUE, false);
        equal(text(response.getBody()), "done");
        tx.basicAck(response.getEnvelope().getDeliveryTag(), false);
        tx.txRollback(); // The ack is undone, the message is still unsettled.
        tx.basicAck(response.getEnvelope().getDeliveryTag(), false);
        tx.txCommit();
        tx.close();
        equal(ready(channel), 0);
    }

    private void purgeAndDelete() throws Exception {
        for (int i = 0; i < 3; i++) {
            send(channel, "x");
        }
        equal(channel.queuePurge(QUEUE).getMessageCount(), 3);
        send(channel, "x");
        channel.exchangeUnbind(TARGET, SOURCE, "work.#");
        equal(channel.queueDelete(QUEUE).getMessageCount(), 1);
        equal(channel.queueDelete(QUEUE).getMessageCount(), 0);
        channel.exchangeDelete(TARGET);
        channel.exchangeDelete(SOURCE);
        channel.exchangeDelete(SOURCE);
    }

    private void wrongPassword() throws Exception {
        ConnectionFactory factory = factory();
        factory.setPassword("wrong " + RUN);
        Exception e = raises(AuthenticationFailureException.class, factory::newConnection);
        contains(e.getMessage(), "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN");
    }

    private void unknownVhost() throws Exception {
        ConnectionFactory factory = factory();
        factory.setVirtualHost(RUN);
        IOException e = raises(IOException.class, factory::newConnection);
        ShutdownSignalException cause = (ShutdownSignalException) e.getCause();
        AMQP.Connection.Close close = (AMQP.Connection.Close) cause.getReason();
        equal(close.getReplyCode(), AMQP.NOT_ALLOWED);
        contains(close.getReplyText(), "vhost " + RUN + " not found");
    }

    private void heartbeat() throws Exception {
        ConnectionFactory factory = factory();
        factory.setRequestedHeartbeat(1);
        factory.setAutomaticRecoveryEnabled(false);
        Connection quiet = factory.newConnection();
        equal(quiet.getHeartbeat(), 1);
        // The client gives up after two silent seconds, and so does a broker; neither may.
        BlockingQueue<ShutdownSignalException> lost = new LinkedBlockingQueue<>();
        quiet.addShutdownListener(lost::add);
        equal(lost.poll(5, TimeUnit.SECONDS), null);
        quiet.createChannel().close();
        quiet.close();
    }

    private void close() throws Exception {
        channel.close();
        connection.close();
        equal(connection.isOpen(), false);
    }
}
