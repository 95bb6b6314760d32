// Queues with a contract of their own: quorum, streams, time to live, dead letters, a length that refuses.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Queues
{
    /// <summary>What is due within a second comes within this, or never.</summary>
    private static readonly TimeSpan Brief = TimeSpan.FromSeconds(10);

    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("24", "quorum-endpoint", Quorum),
        new("24b", "quorum-delivery-limit", DeliveryLimit),
        new("28", "stream-endpoint", Stream),
        new("29", "message-ttl-and-dead-letter", MessageTtl),
        new("29b", "queue-ttl", QueueTtl),
        new("44", "overflow-reject-publish", RejectPublish),
    ];

    /// <summary>The error queue of a quorum queue is one too.</summary>
    private static async Task Quorum(Stage stage)
    {
        var (queue, got, faults) = (stage.Endpoint("quorum"), new Inbox<int>(), new Inbox<int>());
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(queue, e =>
            {
                e.SetQuorumQueue();
                e.Handler<OrderSubmitted>(m =>
                {
                    if (m.Message.Number == 13) throw new InvalidOperationException("out of stock");
                    got.Add(m.Message.Number);
                    return Task.CompletedTask;
                });
            });
            c.ReceiveEndpoint(stage.Endpoint("faults"), e => e.Handler<Fault<OrderSubmitted>>(f => { faults.Add(f.Message.Message.Number); return Task.CompletedTask; }));
        });
        for (var i = 0; i < 20; i++) await bus.Bus.Publish(new OrderSubmitted(i, "replicated"));
        Expect.SameList(Enumerable.Range(0, 20).Where(i => i != 13), (await got.Take(19)).Order());
        Expect.Same(13, await faults.Next());
        await bus.Stop();
        Expect.Same("out of stock", Stage.Header(await stage.Get($"{queue}_error"), "MT-Fault-Message"));
        await using var channel = await stage.Channel();
        foreach (var name in new[] { queue, $"{queue}_error" })
            await channel.QueueDeclareAsync(name, true, false, false, new Dictionary<string, object?> { ["x-queue-type"] = "quorum" });
        var refused = await Expect.Throws<RabbitMQ.Client.Exceptions.OperationInterruptedException>(
            () => channel.QueueDeclareAsync(queue, true, false, false, new Dictionary<string, object?> { ["x-queue-type"] = "classic" }));
        Expect.Contains("inequivalent arg 'x-queue-type'", refused.Message);
    }

    /// <summary>A consumer that neither consumes nor moves: the message comes three times more, then it is dead.</summary>
    private static async Task DeliveryLimit(Stage stage)
    {
        var (queue, dead) = (stage.Endpoint("limited"), stage.Endpoint("dead"));
        var (attempts, buried) = (new Inbox<int>(), new Inbox<(int Number, string? Reason)>());
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(queue, e =>
            {
                e.SetQuorumQueue();
                e.SetQueueArgument("x-delivery-limit", 3);
                e.BindDeadLetterQueue(dead);
                e.RethrowFaultedMessages();
                e.Handler<OrderSubmitted>(async m =>
                {
                    attempts.Add(m.Message.Number);
                    await Task.Delay(20);
                    throw new InvalidOperationException("out of stock");
                });
            });
            c.ReceiveEndpoint(dead, e =>
            {
                e.ConfigureConsumeTopology = false;
                e.Handler<OrderSubmitted>(m =>
                {
                    buried.Add((m.Message.Number, m.ReceiveContext.TransportHeaders.Get<string>("x-first-death-reason")));
                    return Task.CompletedTask;
                });
            });
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "never"));
        Expect.Same((1, "delivery_limit"), await buried.Next(Brief, "the dead letter"));
        Expect.Same(4, attempts.Drain().Count);
        Expect.Same(0u, await stage.Count(queue));
    }

    /// <summary>One reader from the first event, one from the middle; nothing is used up.</summary>
    private static async Task Stream(Stage stage)
    {
        var (queue, first, middle) = (stage.Endpoint("stream"), new Inbox<int>(), new Inbox<int>());
        Task<Running> Read(string name, Action<IRabbitMqStreamConfigurator> from, Inbox<int> inbox) => stage.Start(queue, e =>
        {
            (e.PrefetchCount, e.ConcurrentMessageLimit) = (100, 1);
            e.Stream($"{stage.Prefix}-{name}", s => { s.MaxAge = TimeSpan.FromDays(1); from(s); });
            e.Handler<OrderSubmitted>(m => { inbox.Add(m.Message.Number); return Task.CompletedTask; });
        });
        await using var one = await Read("first", s => s.FromFirst(), first);
        await Parallel.ForEachAsync(Enumerable.Range(0, 1000), new ParallelOptions { MaxDegreeOfParallelism = 50 },
            async (i, _) => await one.Bus.Publish(new OrderSubmitted(i, "event")));
        var all = await first.Take(1000, Brief, "an event");
        Expect.SameList(Enumerable.Range(0, 1000), all.Order());
        await using var two = await Read("middle", s => s.FromOffset(500), middle);
        Expect.SameList(all.Skip(500), await middle.Take(500, Brief, "an event from offset 500"));
    }

    /// <summary>The message's own time to live, and a dead-letter exchange and queue made by MassTransit.</summary>
    private static async Task MessageTtl(Stage stage)
    {
        var (queue, dead) = (stage.Endpoint("brief"), stage.Endpoint("dead"));
        // Declares the queue, then stops: nothing consumes while the message's time runs out.
        await using (var first = await stage.Start(queue, e => e.BindDeadLetterQueue(dead))) { }
        await using (var sender = await stage.Start())
            await sender.SendTo($"exchange:{queue}", new OrderSubmitted(1, "brief"), c => c.TimeToLive = TimeSpan.FromMilliseconds(50));
        await Stage.Until(async () => await stage.Count(dead) == 1, "the expired message in the dead-letter queue", Brief);
        Expect.Same(0u, await stage.Count(queue));
        await Dead(stage, dead, queue, expiration: "50");
    }

    /// <summary>A time to live for all messages of a queue, which MassTransit gives as a span of time.</summary>
    private static async Task QueueTtl(Stage stage)
    {
        var (queue, dead) = (stage.Endpoint("brief"), stage.Endpoint("dead"));
        await using (var first = await stage.Start(queue, e =>
        {
            e.SetQueueArgument("x-message-ttl", TimeSpan.FromMilliseconds(300));
            e.BindDeadLetterQueue(dead);
        })) { }
        await using (var channel = await stage.Channel())
            await channel.QueueDeclareAsync(queue, true, false, false, new Dictionary<string, object?> { ["x-message-ttl"] = 300, ["x-dead-letter-exchange"] = dead });
        await using (var sender = await stage.Start())
            await sender.SendTo($"exchange:{queue}", new OrderSubmitted(1, "brief"));
        await Stage.Until(async () => await stage.Count(dead) == 1, "the expired message in the dead-letter queue", Brief);
        await Dead(stage, dead, queue, expiration: null);
    }

    private static async Task Dead(Stage stage, string dead, string queue, string? expiration)
    {
        var got = new Inbox<RabbitMqBasicConsumeContext>();
        await using var bus = await stage.Start(dead, e => e.Handler<OrderSubmitted>(c => { got.Add(c.GetPayload<RabbitMqBasicConsumeContext>()); return Task.CompletedTask; }));
        var properties = (await got.Next()).Properties;
        static string Text(object? value) => value is byte[] octets ? System.Text.Encoding.UTF8.GetString(octets) : $"{value}";
        Expect.Same("expired", Text(properties.Headers!["x-first-death-reason"]));
        Expect.Same(queue, Text(properties.Headers["x-first-death-queue"]));
        var death = (Dictionary<string, object>)((List<object>)properties.Headers["x-death"]!)[0];
        Expect.Same("expired", Text(death["reason"]));
        Expect.Same(queue, Text(death["queue"]));
        Expect.Same(1L, death["count"]);
        Expect.Same(expiration ?? "", Text(death.GetValueOrDefault("original-expiration")));
        Expect.That(!properties.IsExpirationPresent(), "it does not expire again");
    }

    /// <summary>MassTransit 8.5 sends again what the full queue refused, until there is room; 8.4 tells the sender, who does.</summary>
    private static async Task RejectPublish(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("small"), new Inbox<int>());
        Task<Running> Start(bool consume) => stage.Start(queue, e =>
        {
            e.SetQueueArgument("x-max-length", 5);
            e.SetQueueArgument("x-overflow", "reject-publish");
            if (consume) e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; });
        });
        await using (var declarer = await Start(consume: false)) { }
        await using var sender = await stage.Start();
        for (var i = 0; i < 5; i++) await sender.SendTo($"exchange:{queue}", new OrderSubmitted(i, "fits"));
        Task Sixth() => sender.SendTo($"exchange:{queue}", new OrderSubmitted(5, "too many"));
        var sixth = Sixth();
        var told = false;
        try
        {
            await sixth.WaitAsync(TimeSpan.FromSeconds(1));
            throw new CheckFailed("a full queue took another message");
        }
        catch (TimeoutException) { }
        catch (RabbitMQ.Client.Exceptions.PublishException e) when (!e.IsReturn) { told = true; }
        Expect.Same(5u, await stage.Count(queue));
        await using var bus = await Start(consume: true);
        if (told)
        {
            Expect.SameList(Enumerable.Range(0, 5), (await got.Take(5)).Order());
            await stage.Counts(0, queue);
            await Sixth();
            Expect.Same(5, await got.Next());
            return;
        }
        Expect.SameList(Enumerable.Range(0, 6), (await got.Take(6, TimeSpan.FromSeconds(60))).Order());
        await sixth.Within();
    }
}
