// Exchanges, queues and bindings: what is declared routes as it should, and goes when it should. Knows nothing of confirms or acks.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Topology
{
    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("server properties name a version", () => ServerProperties(broker));
        await checks.Run("declare and count", () => DeclareAndCount(broker));
        await checks.Run("exchange types route", () => ExchangeTypesRoute(broker));
        await checks.Run("exchange to exchange", () => ExchangeToExchange(broker));
        await checks.Run("alternate exchange", () => AlternateExchange(broker));
        await checks.Run("auto-delete exchange goes with its last binding", () => AutoDeleteExchange(broker));
        await checks.Run("server-named exclusive queue", () => ServerNamedQueue(broker));
        await checks.Run("deleting what is missing succeeds", () => DeleteMissing(broker));
        await checks.Run("delete if unused and if empty", () => DeleteIf(broker));
        await checks.Run("purge counts", () => Purge(broker));
    }

    private static void ServerProperties(Broker broker)
    {
        var properties = broker.Connection.ServerProperties!;
        Expect.That(Version.TryParse(Samples.Text(properties["version"]).Split('-')[0], out _), "the version property is a version");
        Expect.That(properties["capabilities"] is IDictionary<string, object?> c && c["publisher_confirms"] is true, "publisher_confirms is announced");
        Expect.That(broker.Connection.FrameMax > 0, "frame_max is limited");
        Expect.That(broker.Connection.Heartbeat > TimeSpan.Zero, "heartbeats are on");
    }

    private static async Task DeclareAndCount(Broker broker)
    {
        using var channel = broker.Channel();
        var name = broker.Queue("count");
        var created = channel.QueueDeclare(name, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 100, ["x-custom"] = "kept" });
        Expect.Same(name, created.QueueName);
        Expect.Same(0u, created.MessageCount);
        Expect.Same(0u, created.ConsumerCount);
        Publishing.Confirmed(broker, "", name, "a", "b", "c");
        using var consuming = broker.Channel();
        var subscription = Subscription.Open(consuming, name, prefetch: 1);
        await subscription.Next();
        var again = channel.QueueDeclarePassive(name);
        Expect.Same(2u, again.MessageCount);
        Expect.Same(1u, again.ConsumerCount);
        Expect.Same(2u, channel.MessageCount(name));
    }

    private static async Task ExchangeTypesRoute(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "routed");
        var direct = broker.DeclareExchange(channel, "direct", ExchangeType.Direct);
        var fanout = broker.DeclareExchange(channel, "fanout", ExchangeType.Fanout);
        var topic = broker.DeclareExchange(channel, "topic", ExchangeType.Topic);
        var headers = broker.DeclareExchange(channel, "headers", ExchangeType.Headers);
        channel.QueueBind(queue, direct, "red");
        channel.QueueBind(queue, fanout, "ignored");
        channel.QueueBind(queue, topic, "quote.*.#");
        channel.QueueBind(queue, headers, "", new Dictionary<string, object?> { ["x-match"] = "all", ["kind"] = "red", ["size"] = 3 });
        foreach (var (exchange, key, match) in new[] {
            (direct, "red", 0), (direct, "blue", 0), (fanout, "whatever", 0), (topic, "quote.usd", 0), (topic, "quote.usd.ny.otc", 0),
            (topic, "quote", 0), (headers, "hit", 3), (headers, "miss", 4), ("", queue, 0), ("amq.direct", "none", 0) })
        {
            var properties = channel.Properties(p => p.Headers = new Dictionary<string, object?> { ["kind"] = "red", ["size"] = match });
            channel.Send(exchange, key, $"{exchange} {key}", properties: properties);
        }
        var subscription = Subscription.Open(channel, queue, autoAck: true);
        var got = await subscription.Take(6);
        Expect.SameList([$"{direct} red", $"{fanout} whatever", $"{topic} quote.usd", $"{topic} quote.usd.ny.otc", $"{headers} hit", $" {queue}"], got.Select(m => m.Text));
        Expect.SameList([direct, fanout, topic, topic, headers, ""], got.Select(m => m.Exchange));
        Expect.That(subscription.IsEmpty, "nothing else was routed");
    }

    private static void ExchangeToExchange(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "diamond");
        var source = broker.DeclareExchange(channel, "source", ExchangeType.Fanout);
        var left = broker.DeclareExchange(channel, "left", ExchangeType.Fanout);
        var right = broker.DeclareExchange(channel, "right", ExchangeType.Topic);
        channel.ExchangeBind(left, source, "");
        channel.ExchangeBind(right, source, "");
        channel.ExchangeBind(source, left, "");
        channel.QueueBind(queue, left, "");
        channel.QueueBind(queue, right, "a.*");
        Publishing.Confirmed(broker, source, "a.b", "once");
        var message = channel.BasicGet(queue, autoAck: true);
        Expect.Same(source, message!.Exchange);
        Expect.Same("a.b", message.RoutingKey);
        Expect.Same(0u, message.MessageCount);
        channel.ExchangeUnbind(left, source, "");
        Publishing.Confirmed(broker, source, "b", "neither");
        Expect.Same(null, channel.BasicGet(queue, autoAck: true));
        channel.QueueUnbind(queue, right, "a.*");
        Publishing.Confirmed(broker, source, "a.b", "nor this");
        Expect.Same(0u, channel.MessageCount(queue));
    }

    private static void AlternateExchange(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "unrouted");
        var spare = broker.DeclareExchange(channel, "spare", ExchangeType.Fanout);
        channel.QueueBind(queue, spare, "");
        var main = broker.Exchange("main");
        channel.ExchangeDeclare(main, ExchangeType.Direct, true, false, new Dictionary<string, object?> { ["alternate-exchange"] = spare });
        Publishing.Confirmed(broker, main, "nowhere", "caught");
        Expect.Same("caught", Samples.Text(channel.BasicGet(queue, true).Body));
    }

    private static void AutoDeleteExchange(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "bound");
        var exchange = broker.Exchange("fleeting");
        channel.ExchangeDeclare(exchange, ExchangeType.Fanout, durable: false, autoDelete: true);
        channel.ExchangeDeclarePassive(exchange);
        channel.QueueBind(queue, exchange, "");
        channel.QueueDelete(queue);
        var closed = Expect.Fails<OperationInterruptedException>(() => channel.ExchangeDeclarePassive(exchange));
        Expect.Same(404, (int)closed.ShutdownReason!.ReplyCode);
    }

    private static void ServerNamedQueue(Broker broker)
    {
        using var channel = broker.Channel();
        var declared = channel.QueueDeclare();
        Expect.That(declared.QueueName.StartsWith("amq.gen-", StringComparison.Ordinal), $"a server-made name starts with amq.gen-: {declared.QueueName}");
        // An empty name means the queue declared last on the channel.
        channel.QueueBind("", "amq.fanout", "");
        channel.QueueUnbind("", "amq.fanout", "");
        using var other = Broker.Factory(broker.Address).CreateConnection();
        using var foreign = other.CreateModel();
        var locked = Expect.Fails<OperationInterruptedException>(() => foreign.QueueDeclarePassive(declared.QueueName));
        Expect.Same(405, (int)locked.ShutdownReason!.ReplyCode);
        Expect.Contains($"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{declared.QueueName}' in vhost", locked.ShutdownReason.ReplyText);
    }

    private static void DeleteMissing(Broker broker)
    {
        using var channel = broker.Channel();
        Expect.Same(0u, channel.QueueDelete(broker.Queue("never")));
        channel.ExchangeDelete(broker.Exchange("never"));
        Expect.That(channel.IsOpen, "the channel is open");
    }

    private static void DeleteIf(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "full");
        Publishing.Confirmed(broker, "", queue, "one");
        var refused = Expect.Fails<OperationInterruptedException>(() => channel.QueueDelete(queue, ifUnused: false, ifEmpty: true));
        Expect.Same(406, (int)refused.ShutdownReason!.ReplyCode);
        using var next = broker.Channel();
        Expect.Same(1u, next.QueueDelete(queue, ifUnused: true, ifEmpty: false));
    }

    private static void Purge(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "purged");
        Publishing.Confirmed(broker, "", queue, "1", "2", "3");
        Expect.Same(3u, channel.QueuePurge(queue));
        Expect.Same(0u, channel.MessageCount(queue));
    }
}
