// Publishing: confirms, returns, transactions, properties and bodies of every size. Knows nothing of consumers beyond reading back.
using RabbitMQ.Client;

namespace Conformance;

public static class Publishing
{
    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("600 confirmed publishes in order", () => ManyInOrder(broker));
        await checks.Run("each publish is confirmed once", () => EachConfirmed(broker));
        await checks.Run("batch publish", () => Batch(broker));
        await checks.Run("properties and headers of every type", () => PropertiesSurvive(broker));
        await checks.Run("empty body", () => BodySurvives(broker, 0));
        await checks.Run("1 MiB body", () => BodySurvives(broker, 1024 * 1024));
        await checks.Run("bodies at the edge of a frame", () => FrameEdges(broker));
        await checks.Run("return comes before its confirm", () => ReturnBeforeConfirm(broker));
        await checks.Run("200 mandatory publishes, half of them returned", () => MixedMandatory(broker));
        await checks.Run("reject-publish nacks", () => Nacked(broker), needs: "max-length");
        await checks.Run("publish to a missing exchange closes the channel", () => MissingExchange(broker));
        await checks.Run("transaction commits and rolls back", () => Transaction(broker));
    }

    /// <summary>Publishes each text, persistent, and returns when all are confirmed.</summary>
    public static void Confirmed(Broker broker, string exchange, string key, params string[] texts)
    {
        using var channel = broker.ConfirmedChannel();
        var properties = channel.Properties(p => p.Persistent = true);
        foreach (var text in texts) channel.Send(exchange, key, text, properties: properties);
        channel.WaitForConfirmsOrDie(Soon.Limit);
    }

    private static async Task ManyInOrder(Broker broker)
    {
        const int count = 600;
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "many");
        for (var i = 0; i < count; i++)
        {
            var n = i;
            var properties = channel.Properties(p => { p.Persistent = true; p.MessageId = $"{n}"; p.Headers = new Dictionary<string, object?> { ["n"] = n }; });
            channel.Send("", queue, $"message {i}", properties: properties);
        }
        channel.WaitForConfirmsOrDie(Soon.Limit);
        Expect.Same((uint)count, channel.MessageCount(queue));
        using var consuming = broker.Channel();
        var subscription = Subscription.Open(consuming, queue, prefetch: 50);
        for (var i = 0; i < count; i++)
        {
            var message = await subscription.Next();
            Expect.Same($"message {i}", message.Text);
            Expect.Same($"{i}", message.Properties.MessageId);
            Expect.Same<object?>(i, message.Properties.Headers["n"]);
            Expect.Same(2, (int)message.Properties.DeliveryMode);
            Expect.Same((ulong)i + 1, message.Tag);
            subscription.Ack(message);
        }
        consuming.Close();
        Expect.Same(0u, channel.MessageCount(queue));
    }

    private static async Task EachConfirmed(Broker broker)
    {
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "each");
        var acked = new Inbox<(ulong Tag, bool Multiple)>();
        channel.BasicAcks += (_, a) => acked.Add((a.DeliveryTag, a.Multiple));
        for (ulong i = 1; i <= 100; i++)
        {
            Expect.Same(i, channel.NextPublishSeqNo);
            channel.Send("", queue, "x");
        }
        var confirmed = new HashSet<ulong>();
        while (confirmed.Count < 100)
        {
            var (tag, multiple) = await acked.Next();
            for (var i = multiple ? 1 : tag; i <= tag; i++) confirmed.Add(i);
        }
        Expect.SameList(Enumerable.Range(1, 100).Select(i => (ulong)i), confirmed.Order());
        Expect.Same(100u, channel.MessageCount(queue));
    }

    /// <summary>The client writes a whole batch as one run of frames.</summary>
    private static async Task Batch(Broker broker)
    {
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "batch");
        var batch = channel.CreateBasicPublishBatch();
        for (var i = 0; i < 50; i++) batch.Add("", queue, false, channel.CreateBasicProperties(), new ReadOnlyMemory<byte>(Samples.Octets($"{i}")));
        batch.Publish();
        channel.WaitForConfirmsOrDie(Soon.Limit);
        var got = await Subscription.Open(channel, queue, autoAck: true).Take(50);
        Expect.SameList(Enumerable.Range(0, 50).Select(i => $"{i}"), got.Select(m => m.Text));
    }

    private static void PropertiesSurvive(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "properties");
        var sent = channel.Properties(p =>
        {
            (p.ContentType, p.ContentEncoding, p.Headers, p.DeliveryMode) = ("application/json", "utf-8", Samples.Headers(), 1);
            (p.Priority, p.CorrelationId, p.ReplyTo, p.Expiration, p.MessageId) = (7, "correlation", "somewhere", "60000", "id");
            (p.Timestamp, p.Type, p.UserId, p.AppId) = (new AmqpTimestamp(1_700_000_001), "kind", UserOf(broker), "conformance");
        });
        channel.Send("", queue, "body", properties: sent);
        var got = channel.BasicGet(queue, true).BasicProperties;
        Expect.Same(Samples.Show(sent.Headers), Samples.Show(got.Headers));
        Expect.SameList(Plain(sent), Plain(got));
        channel.Send("", queue, "bare");
        var bare = channel.BasicGet(queue, true).BasicProperties;
        Expect.That(!bare.IsHeadersPresent() && !bare.IsContentTypePresent() && !bare.IsDeliveryModePresent(), "absent properties stay absent");
    }

    private static string UserOf(Broker broker) => Uri.UnescapeDataString(broker.Address.UserInfo.Split(':')[0]);

    private static IEnumerable<string?> Plain(IBasicProperties p) =>
        [p.ContentType, p.ContentEncoding, $"{p.DeliveryMode}", $"{p.Priority}", p.CorrelationId, p.ReplyTo, p.Expiration, p.MessageId, $"{p.Timestamp.UnixTime}", p.Type, p.UserId, p.AppId];

    private static async Task BodySurvives(Broker broker, int size)
    {
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "body");
        var body = Samples.Body(size);
        channel.BasicPublish("", queue, false, channel.Properties(p => p.Persistent = true), body);
        channel.WaitForConfirmsOrDie(Soon.Limit);
        using var consuming = broker.Channel();
        var message = await Subscription.Open(consuming, queue, autoAck: true).Next();
        Expect.Same(size, message.Body.Length);
        Expect.That(body.AsSpan().SequenceEqual(message.Body), "the body came back as it was sent");
    }

    private static void FrameEdges(Broker broker)
    {
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "edges");
        var whole = (int)broker.Connection.FrameMax - 8;
        int[] sizes = [1, whole - 1, whole, whole + 1, 2 * whole, 2 * whole + 1];
        foreach (var size in sizes) channel.BasicPublish("", queue, false, null, Samples.Body(size));
        channel.WaitForConfirmsOrDie(Soon.Limit);
        foreach (var size in sizes)
        {
            var got = channel.BasicGet(queue, true);
            Expect.That(Samples.Body(size).AsSpan().SequenceEqual(got.Body.Span), $"a body of {size} octets came back as it was sent");
        }
    }

    private static async Task ReturnBeforeConfirm(Broker broker)
    {
        using var channel = broker.ConfirmedChannel();
        var exchange = broker.DeclareExchange(channel, "empty", ExchangeType.Direct);
        var headers = Samples.Headers();
        var events = new Inbox<string>();
        channel.BasicReturn += (_, r) => events.Add($"return {r.ReplyCode} {r.ReplyText} {r.Exchange == exchange} {r.RoutingKey} {r.BasicProperties.MessageId} "
            + $"{Samples.Show(r.BasicProperties.Headers) == Samples.Show(headers)} {Samples.Text(r.Body)}");
        channel.BasicAcks += (_, a) => events.Add($"ack {a.DeliveryTag}");
        channel.BasicNacks += (_, a) => events.Add($"nack {a.DeliveryTag}");
        for (ulong i = 1; i <= 3; i++)
        {
            var n = i;
            channel.Send(exchange, "nowhere", "back", mandatory: true, channel.Properties(p => { p.MessageId = $"m{n}"; p.Headers = headers; }));
            Expect.Same($"return 312 NO_ROUTE True nowhere m{i} True back", await events.Next());
            Expect.Same($"ack {i}", await events.Next());
        }
        channel.Send(exchange, "nowhere", "dropped and confirmed");
        Expect.Same("ack 4", await events.Next());
    }

    private static async Task MixedMandatory(Broker broker)
    {
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "mixed");
        var exchange = broker.DeclareExchange(channel, "mixed", ExchangeType.Direct);
        channel.QueueBind(queue, exchange, "even");
        var returned = new Inbox<string>();
        channel.BasicReturn += (_, r) => returned.Add(Samples.Text(r.Body));
        for (var i = 0; i < 200; i++) channel.Send(exchange, i % 2 == 0 ? "even" : "odd", $"{i}", mandatory: true);
        channel.WaitForConfirmsOrDie(Soon.Limit);
        Expect.SameList(Enumerable.Range(0, 100).Select(i => $"{2 * i + 1}"), await returned.Take(100));
        Expect.Same(100u, channel.MessageCount(queue));
    }

    /// <summary>By events: this client's WaitForConfirms forgets a nack that came before it was called.</summary>
    private static async Task Nacked(Broker broker)
    {
        using var channel = broker.ConfirmedChannel();
        var queue = broker.DeclareQueue(channel, "bounded", new Dictionary<string, object?> { ["x-max-length"] = 1, ["x-overflow"] = "reject-publish" });
        var events = new Inbox<string>();
        channel.BasicAcks += (_, a) => events.Add($"ack {a.DeliveryTag}");
        channel.BasicNacks += (_, a) => events.Add($"nack {a.DeliveryTag}");
        channel.Send("", queue, "kept");
        Expect.Same("ack 1", await events.Next());
        channel.Send("", queue, "refused");
        Expect.Same("nack 2", await events.Next());
        Expect.Same("kept", Samples.Text(channel.BasicGet(queue, true).Body));
        channel.Send("", queue, "room again");
        Expect.Same("ack 3", await events.Next());
    }

    private static async Task MissingExchange(Broker broker)
    {
        using var channel = broker.Channel();
        var missing = broker.Exchange("missing");
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        channel.ModelShutdown += (_, s) => closed.TrySetResult($"{s.ReplyCode} {s.ReplyText} {s.ClassId} {s.MethodId}");
        channel.Send(missing, "", "x");
        var reason = await closed.Task.Within();
        Expect.Contains($"404 NOT_FOUND - no exchange '{missing}' in vhost", reason);
        Expect.That(reason.EndsWith(" 60 40", StringComparison.Ordinal), $"basic.publish is named: {reason}");
    }

    private static void Transaction(Broker broker)
    {
        using var channel = broker.Channel();
        using var other = broker.Channel();
        var queue = broker.DeclareQueue(channel, "tx");
        channel.TxSelect();
        channel.Send("", queue, "undone");
        channel.TxRollback();
        channel.Send("", queue, "done");
        Expect.Same(0u, other.MessageCount(queue));
        channel.TxCommit();
        Expect.Same(1u, other.MessageCount(queue));
        var message = channel.BasicGet(queue, autoAck: false);
        Expect.Same("done", Samples.Text(message.Body));
        channel.BasicAck(message.DeliveryTag, false);
        channel.TxRollback();
        channel.BasicAck(message.DeliveryTag, false);
        channel.TxCommit();
        channel.Close();
        Expect.Same(0u, other.MessageCount(queue));
        Expect.Same(null, other.BasicGet(queue, true));
    }
}
