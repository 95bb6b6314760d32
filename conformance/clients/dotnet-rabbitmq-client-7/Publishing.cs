// Publishing: confirms, returns, transactions, properties and bodies of every size. Knows nothing of consumers beyond reading back.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Publishing
{
    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("600 confirmed publishes in order", () => ManyInOrder(broker));
        await checks.Run("confirms without tracking", () => UntrackedConfirms(broker));
        await checks.Run("properties and headers of every type", () => PropertiesSurvive(broker));
        await checks.Run("empty body", () => BodySurvives(broker, 0));
        await checks.Run("1 MiB body", () => BodySurvives(broker, 1024 * 1024));
        await checks.Run("bodies at the edge of a frame", () => FrameEdges(broker));
        await checks.Run("mandatory publish is returned to its publisher", () => Returned(broker));
        await checks.Run("return comes before its confirm", () => ReturnBeforeConfirm(broker));
        await checks.Run("200 mandatory publishes, half of them returned", () => MixedMandatory(broker));
        await checks.Run("reject-publish nacks", () => Nacked(broker), needs: "max-length");
        await checks.Run("publish to a missing exchange closes the channel", () => MissingExchange(broker));
        await checks.Run("transaction commits and rolls back", () => Transaction(broker));
    }

    /// <summary>Publishes each text, persistent, and returns when all are confirmed.</summary>
    public static async Task Confirmed(Broker broker, string exchange, string key, params string[] texts)
    {
        await using var channel = await broker.ConfirmedChannel();
        foreach (var text in texts)
            await channel.BasicPublishAsync(exchange, key, false, new BasicProperties { Persistent = true }, Samples.Octets(text));
    }

    private static async Task ManyInOrder(Broker broker)
    {
        const int count = 600;
        await using var channel = await broker.ConfirmedChannel();
        var queue = await broker.DeclareQueue(channel, "many");
        var publishes = new List<Task>();
        for (var i = 0; i < count; i++)
        {
            var properties = new BasicProperties { Persistent = true, MessageId = $"{i}", Headers = new Dictionary<string, object?> { ["n"] = i } };
            publishes.Add(channel.BasicPublishAsync("", queue, false, properties, Samples.Octets($"message {i}")).AsTask());
        }
        await Task.WhenAll(publishes).Within();
        Expect.Same((uint)count, await channel.MessageCountAsync(queue));
        await using var consuming = await broker.Channel();
        var subscription = await Subscription.Open(consuming, queue, prefetch: 50);
        for (var i = 0; i < count; i++)
        {
            var message = await subscription.Next();
            Expect.Same($"message {i}", message.Text);
            Expect.Same($"{i}", message.Properties.MessageId);
            Expect.Same(i, message.Properties.Headers!["n"]);
            Expect.Same(DeliveryModes.Persistent, message.Properties.DeliveryMode);
            Expect.Same((ulong)i + 1, message.Tag);
            await subscription.Ack(message);
        }
        await consuming.CloseAsync();
        Expect.Same(0u, await channel.MessageCountAsync(queue));
    }

    private static async Task UntrackedConfirms(Broker broker)
    {
        await using var channel = await broker.Connection.CreateChannelAsync(new CreateChannelOptions(true, false));
        var queue = await broker.DeclareQueue(channel, "untracked");
        var acked = new Inbox<(ulong Tag, bool Multiple)>();
        channel.BasicAcksAsync += (_, a) => { acked.Add((a.DeliveryTag, a.Multiple)); return Task.CompletedTask; };
        for (ulong i = 1; i <= 100; i++)
        {
            Expect.Same(i, await channel.GetNextPublishSequenceNumberAsync());
            await channel.BasicPublishAsync("", queue, Samples.Octets("x"));
        }
        var confirmed = new HashSet<ulong>();
        while (confirmed.Count < 100)
        {
            var (tag, multiple) = await acked.Next();
            for (var i = multiple ? 1 : tag; i <= tag; i++) confirmed.Add(i);
        }
        Expect.SameList(Enumerable.Range(1, 100).Select(i => (ulong)i), confirmed.Order());
        Expect.Same(100u, await channel.MessageCountAsync(queue));
    }

    private static async Task PropertiesSurvive(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "properties");
        var sent = new BasicProperties
        {
            ContentType = "application/json", ContentEncoding = "utf-8", Headers = Samples.Headers(), DeliveryMode = DeliveryModes.Transient,
            Priority = 7, CorrelationId = "correlation", ReplyTo = "somewhere", Expiration = "60000", MessageId = "id",
            Timestamp = new AmqpTimestamp(1_700_000_001), Type = "kind", UserId = UserOf(broker), AppId = "conformance",
        };
        await channel.BasicPublishAsync("", queue, false, sent, Samples.Octets("body"));
        var got = (await channel.BasicGetAsync(queue, true))!.BasicProperties;
        Expect.Same(Samples.Show(sent.Headers), Samples.Show(got.Headers));
        Expect.SameList(Plain(sent), Plain(got));
        await channel.BasicPublishAsync("", queue, Samples.Octets("bare"));
        var bare = (await channel.BasicGetAsync(queue, true))!.BasicProperties;
        Expect.That(!bare.IsHeadersPresent() && !bare.IsContentTypePresent() && !bare.IsDeliveryModePresent(), "absent properties stay absent");
    }

    private static string UserOf(Broker broker) => Uri.UnescapeDataString(broker.Address.UserInfo.Split(':')[0]);

    private static IEnumerable<string?> Plain(IReadOnlyBasicProperties p) =>
        [p.ContentType, p.ContentEncoding, $"{p.DeliveryMode}", $"{p.Priority}", p.CorrelationId, p.ReplyTo, p.Expiration, p.MessageId, $"{p.Timestamp.UnixTime}", p.Type, p.UserId, p.AppId];

    private static async Task BodySurvives(Broker broker, int size)
    {
        await using var channel = await broker.ConfirmedChannel();
        var queue = await broker.DeclareQueue(channel, "body");
        var body = Samples.Body(size);
        await channel.BasicPublishAsync("", queue, false, new BasicProperties { Persistent = true }, body);
        await using var consuming = await broker.Channel();
        var message = await (await Subscription.Open(consuming, queue, autoAck: true)).Next();
        Expect.Same(size, message.Body.Length);
        Expect.That(body.AsSpan().SequenceEqual(message.Body), "the body came back as it was sent");
    }

    private static async Task FrameEdges(Broker broker)
    {
        await using var channel = await broker.ConfirmedChannel();
        var queue = await broker.DeclareQueue(channel, "edges");
        var whole = (int)broker.Connection.FrameMax - 8;
        int[] sizes = [1, whole - 1, whole, whole + 1, 2 * whole, 2 * whole + 1];
        foreach (var size in sizes) await channel.BasicPublishAsync("", queue, Samples.Body(size));
        foreach (var size in sizes)
        {
            var got = await channel.BasicGetAsync(queue, true);
            Expect.That(Samples.Body(size).AsSpan().SequenceEqual(got!.Body.Span), $"a body of {size} octets came back as it was sent");
        }
    }

    private static async Task Returned(Broker broker)
    {
        await using var channel = await broker.ConfirmedChannel();
        var exchange = await broker.DeclareExchange(channel, "empty", ExchangeType.Direct);
        var properties = new BasicProperties { Persistent = true, MessageId = "lost", Headers = Samples.Headers() };
        var returned = await Expect.Throws<PublishReturnException>(() => channel.BasicPublishAsync(exchange, "nowhere", true, properties, Samples.Octets("x")).AsTask());
        Expect.That(returned.IsReturn, "it is a return");
        Expect.Same(312, (int)returned.ReplyCode);
        Expect.Same("NO_ROUTE", returned.ReplyText);
        Expect.Same(exchange, returned.Exchange);
        Expect.Same("nowhere", returned.RoutingKey);
        await channel.BasicPublishAsync(exchange, "nowhere", false, properties, Samples.Octets("dropped and confirmed"));
        Expect.That(channel.IsOpen, "the channel is open");
    }

    private static async Task ReturnBeforeConfirm(Broker broker)
    {
        await using var channel = await broker.Connection.CreateChannelAsync(new CreateChannelOptions(true, false));
        var events = new Inbox<string>();
        channel.BasicReturnAsync += (_, r) => { events.Add($"return {r.ReplyCode} {r.ReplyText} {r.BasicProperties.MessageId} {Samples.Text(r.Body)}"); return Task.CompletedTask; };
        channel.BasicAcksAsync += (_, a) => { events.Add($"ack {a.DeliveryTag}"); return Task.CompletedTask; };
        channel.BasicNacksAsync += (_, a) => { events.Add($"nack {a.DeliveryTag}"); return Task.CompletedTask; };
        for (ulong i = 1; i <= 3; i++)
        {
            await channel.BasicPublishAsync("", broker.Queue("absent"), true, new BasicProperties { MessageId = $"m{i}" }, Samples.Octets("back"));
            Expect.Same($"return 312 NO_ROUTE m{i} back", await events.Next());
            Expect.Same($"ack {i}", await events.Next());
        }
    }

    private static async Task MixedMandatory(Broker broker)
    {
        await using var channel = await broker.ConfirmedChannel();
        var queue = await broker.DeclareQueue(channel, "mixed");
        var exchange = await broker.DeclareExchange(channel, "mixed", ExchangeType.Direct);
        await channel.QueueBindAsync(queue, exchange, "even");
        var publishes = Enumerable.Range(0, 200).Select(i => Task.Run(async () =>
        {
            try { await channel.BasicPublishAsync(exchange, i % 2 == 0 ? "even" : "odd", true, Samples.Octets($"{i}")); return true; }
            catch (PublishReturnException) { return false; }
        }));
        var routed = await Task.WhenAll(publishes).Within();
        Expect.SameList(Enumerable.Range(0, 200).Select(i => i % 2 == 0), routed);
        Expect.Same(100u, await channel.MessageCountAsync(queue));
    }

    private static async Task Nacked(Broker broker)
    {
        await using var channel = await broker.ConfirmedChannel();
        var queue = await broker.DeclareQueue(channel, "bounded", new Dictionary<string, object?> { ["x-max-length"] = 1, ["x-overflow"] = "reject-publish" });
        await channel.BasicPublishAsync("", queue, Samples.Octets("kept"));
        var refused = await Expect.Throws<PublishException>(() => channel.BasicPublishAsync("", queue, Samples.Octets("refused")).AsTask());
        Expect.That(!refused.IsReturn, "it is a nack, not a return");
        Expect.Same("kept", Samples.Text((await channel.BasicGetAsync(queue, true))!.Body));
        await channel.BasicPublishAsync("", queue, Samples.Octets("room again"));
    }

    private static async Task MissingExchange(Broker broker)
    {
        await using var channel = await broker.Channel();
        var missing = broker.Exchange("missing");
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        channel.ChannelShutdownAsync += (_, s) => { closed.TrySetResult($"{s.ReplyCode} {s.ReplyText} {s.ClassId} {s.MethodId}"); return Task.CompletedTask; };
        await channel.BasicPublishAsync(missing, "", Samples.Octets("x"));
        var reason = await closed.Task.Within();
        Expect.Contains($"404 NOT_FOUND - no exchange '{missing}' in vhost", reason);
        Expect.That(reason.EndsWith(" 60 40", StringComparison.Ordinal), $"basic.publish is named: {reason}");
    }

    private static async Task Transaction(Broker broker)
    {
        await using var channel = await broker.Channel();
        await using var other = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "tx");
        await channel.TxSelectAsync();
        await channel.BasicPublishAsync("", queue, Samples.Octets("undone"));
        await channel.TxRollbackAsync();
        await channel.BasicPublishAsync("", queue, Samples.Octets("done"));
        Expect.Same(0u, await other.MessageCountAsync(queue));
        await channel.TxCommitAsync();
        Expect.Same(1u, await other.MessageCountAsync(queue));
        var message = await channel.BasicGetAsync(queue, autoAck: false);
        Expect.Same("done", Samples.Text(message!.Body));
        await channel.BasicAckAsync(message.DeliveryTag, false);
        await channel.TxRollbackAsync();
        await channel.BasicAckAsync(message.DeliveryTag, false);
        await channel.TxCommitAsync();
        await channel.CloseAsync();
        Expect.Same(0u, await other.MessageCountAsync(queue));
        Expect.Same(null, await other.BasicGetAsync(queue, true));
    }
}
