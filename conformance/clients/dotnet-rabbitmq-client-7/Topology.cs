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

    private static Task ServerProperties(Broker broker)
    {
        var properties = broker.Connection.ServerProperties!;
        Expect.That(Version.TryParse(Samples.Text(properties["version"]).Split('-')[0], out _), "the version property is a version");
        Expect.That(properties["capabilities"] is IDictionary<string, object?> c && c["publisher_confirms"] is true, "publisher_confirms is announced");
        Expect.That(broker.Connection.FrameMax > 0, "frame_max is limited");
        Expect.That(broker.Connection.Heartbeat > TimeSpan.Zero, "heartbeats are on");
        return Task.CompletedTask;
    }

    private static async Task DeclareAndCount(Broker broker)
    {
        await using var channel = await broker.Channel();
        var name = broker.Queue("count");
        var created = await channel.QueueDeclareAsync(name, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 100, ["x-custom"] = "kept" });
        Expect.Same(name, created.QueueName);
        Expect.Same(0u, created.MessageCount);
        Expect.Same(0u, created.ConsumerCount);
        await Publishing.Confirmed(broker, "", name, "a", "b", "c");
        await using var consuming = await broker.Channel();
        var subscription = await Subscription.Open(consuming, name, prefetch: 1);
        await subscription.Next();
        var again = await channel.QueueDeclarePassiveAsync(name);
        Expect.Same(2u, again.MessageCount);
        Expect.Same(1u, again.ConsumerCount);
        Expect.Same(2u, await channel.MessageCountAsync(name));
    }

    private static async Task ExchangeTypesRoute(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "routed");
        var direct = await broker.DeclareExchange(channel, "direct", ExchangeType.Direct);
        var fanout = await broker.DeclareExchange(channel, "fanout", ExchangeType.Fanout);
        var topic = await broker.DeclareExchange(channel, "topic", ExchangeType.Topic);
        var headers = await broker.DeclareExchange(channel, "headers", ExchangeType.Headers);
        await channel.QueueBindAsync(queue, direct, "red");
        await channel.QueueBindAsync(queue, fanout, "ignored");
        await channel.QueueBindAsync(queue, topic, "quote.*.#");
        await channel.QueueBindAsync(queue, headers, "", new Dictionary<string, object?> { ["x-match"] = "all", ["kind"] = "red", ["size"] = 3 });
        foreach (var (exchange, key, match) in new[] {
            (direct, "red", 0), (direct, "blue", 0), (fanout, "whatever", 0), (topic, "quote.usd", 0), (topic, "quote.usd.ny.otc", 0),
            (topic, "quote", 0), (headers, "hit", 3), (headers, "miss", 4), ("", queue, 0), ("amq.direct", "none", 0) })
        {
            var properties = new BasicProperties { Headers = new Dictionary<string, object?> { ["kind"] = "red", ["size"] = match } };
            await channel.BasicPublishAsync(exchange, key, mandatory: false, properties, Samples.Octets($"{exchange} {key}"));
        }
        var subscription = await Subscription.Open(channel, queue, autoAck: true);
        var got = await subscription.Take(6);
        Expect.SameList([$"{direct} red", $"{fanout} whatever", $"{topic} quote.usd", $"{topic} quote.usd.ny.otc", $"{headers} hit", $" {queue}"], got.Select(m => m.Text));
        Expect.SameList([direct, fanout, topic, topic, headers, ""], got.Select(m => m.Exchange));
        Expect.That(subscription.IsEmpty, "nothing else was routed");
    }

    private static async Task ExchangeToExchange(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "diamond");
        var source = await broker.DeclareExchange(channel, "source", ExchangeType.Fanout);
        var left = await broker.DeclareExchange(channel, "left", ExchangeType.Fanout);
        var right = await broker.DeclareExchange(channel, "right", ExchangeType.Topic);
        await channel.ExchangeBindAsync(left, source, "");
        await channel.ExchangeBindAsync(right, source, "");
        await channel.ExchangeBindAsync(source, left, "");
        await channel.QueueBindAsync(queue, left, "");
        await channel.QueueBindAsync(queue, right, "a.*");
        await Publishing.Confirmed(broker, source, "a.b", "once");
        var message = await channel.BasicGetAsync(queue, autoAck: true);
        Expect.Same(source, message!.Exchange);
        Expect.Same("a.b", message.RoutingKey);
        Expect.Same(0u, message.MessageCount);
        await channel.ExchangeUnbindAsync(left, source, "");
        await Publishing.Confirmed(broker, source, "b", "neither");
        Expect.Same(null, await channel.BasicGetAsync(queue, autoAck: true));
        await channel.QueueUnbindAsync(queue, right, "a.*");
        await Publishing.Confirmed(broker, source, "a.b", "nor this");
        Expect.Same(0u, await channel.MessageCountAsync(queue));
    }

    private static async Task AlternateExchange(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "unrouted");
        var spare = await broker.DeclareExchange(channel, "spare", ExchangeType.Fanout);
        await channel.QueueBindAsync(queue, spare, "");
        var main = broker.Exchange("main");
        await channel.ExchangeDeclareAsync(main, ExchangeType.Direct, true, false, new Dictionary<string, object?> { ["alternate-exchange"] = spare });
        await Publishing.Confirmed(broker, main, "nowhere", "caught");
        Expect.Same("caught", Samples.Text((await channel.BasicGetAsync(queue, true))!.Body));
    }

    private static async Task AutoDeleteExchange(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "bound");
        var exchange = broker.Exchange("fleeting");
        await channel.ExchangeDeclareAsync(exchange, ExchangeType.Fanout, durable: false, autoDelete: true);
        await channel.ExchangeDeclarePassiveAsync(exchange);
        await channel.QueueBindAsync(queue, exchange, "");
        await channel.QueueDeleteAsync(queue);
        var closed = await Expect.Throws<OperationInterruptedException>(() => channel.ExchangeDeclarePassiveAsync(exchange));
        Expect.Same(404, (int)closed.ShutdownReason!.ReplyCode);
    }

    private static async Task ServerNamedQueue(Broker broker)
    {
        await using var channel = await broker.Channel();
        var declared = await channel.QueueDeclareAsync();
        Expect.That(declared.QueueName.StartsWith("amq.gen-", StringComparison.Ordinal), $"a server-made name starts with amq.gen-: {declared.QueueName}");
        // An empty name means the queue declared last on the channel.
        await channel.QueueBindAsync("", "amq.fanout", "");
        await channel.QueueUnbindAsync("", "amq.fanout", "");
        await using var other = await Broker.Factory(broker.Address).CreateConnectionAsync();
        await using var foreign = await other.CreateChannelAsync();
        var locked = await Expect.Throws<OperationInterruptedException>(() => foreign.QueueDeclarePassiveAsync(declared.QueueName));
        Expect.Same(405, (int)locked.ShutdownReason!.ReplyCode);
        Expect.Contains($"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{declared.QueueName}' in vhost", locked.ShutdownReason.ReplyText);
    }

    private static async Task DeleteMissing(Broker broker)
    {
        await using var channel = await broker.Channel();
        Expect.Same(0u, await channel.QueueDeleteAsync(broker.Queue("never")));
        await channel.ExchangeDeleteAsync(broker.Exchange("never"));
        Expect.That(channel.IsOpen, "the channel is open");
    }

    private static async Task DeleteIf(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "full");
        await Publishing.Confirmed(broker, "", queue, "one");
        var refused = await Expect.Throws<OperationInterruptedException>(() => channel.QueueDeleteAsync(queue, ifUnused: false, ifEmpty: true));
        Expect.Same(406, (int)refused.ShutdownReason!.ReplyCode);
        await using var next = await broker.Channel();
        Expect.Same(1u, await next.QueueDeleteAsync(queue, ifUnused: true, ifEmpty: false));
    }

    private static async Task Purge(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "purged");
        await Publishing.Confirmed(broker, "", queue, "1", "2", "3");
        Expect.Same(3u, await channel.QueuePurgeAsync(queue));
        Expect.Same(0u, await channel.MessageCountAsync(queue));
    }
}
