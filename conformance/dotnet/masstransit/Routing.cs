// Where published and sent messages go: type exchanges and their hierarchy, queues, keys, and nowhere.
using Conformance.Messages;
using MassTransit;
using RabbitMQ.Client;

namespace Conformance;

public static class Routing
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("2", "publish-to-consumer", PublishHeaders),
        new("3", "publish-without-consumer", PublishUnconsumed),
        new("4", "publish-hierarchy", Hierarchy),
        new("5", "send-before-consumer", SendFirst),
        new("6", "send-to-exchange-and-keys", SendToExchange),
        new("31", "mandatory-publish", Mandatory),
        new("42", "big-odd-and-empty", BigOddAndEmpty),
    ];

    private static async Task PublishHeaders(Stage stage)
    {
        var got = new Inbox<ConsumeContext<OrderSubmitted>>();
        var endpoint = stage.Endpoint("headers");
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(c => { got.Add(c); return Task.CompletedTask; }));
        var (message, correlation) = (NewId.NextGuid(), NewId.NextGuid());
        await bus.Bus.Publish(new OrderSubmitted(1, "größe 長さ"), c =>
        {
            c.MessageId = message;
            c.CorrelationId = correlation;
            c.TimeToLive = TimeSpan.FromMinutes(1);
            c.Headers.Set("text", "größe 長さ");
            c.Headers.Set("number", 42);
            c.Headers.Set("long", long.MaxValue);
            c.Headers.Set("true", true);
        });
        var context = await got.Next();
        Expect.Same(new OrderSubmitted(1, "größe 長さ"), context.Message);
        Expect.Same<Guid?>(message, context.MessageId);
        Expect.Same<Guid?>(correlation, context.CorrelationId);
        Expect.Same("größe 長さ", context.Headers.Get<string>("text"));
        Expect.Same(42, context.Headers.Get<int>("number"));
        var transport = context.ReceiveContext.TransportHeaders;
        Expect.Same("größe 長さ", transport.Get<string>("text"));
        Expect.Same(42, transport.Get<int>("number"));
        Expect.Same(long.MaxValue, transport.Get<long>("long"));
        Expect.Same("True", transport.Get<string>("true"));
        Expect.Same("application/vnd.masstransit+json", context.ReceiveContext.ContentType.MediaType);
        var properties = context.GetPayload<RabbitMqBasicConsumeContext>().Properties;
        Expect.Same($"{message:D}", properties.MessageId);
        Expect.Same($"{correlation:D}", properties.CorrelationId);
        Expect.Same("60000", properties.Expiration);
        Expect.Same(DeliveryModes.Persistent, properties.DeliveryMode);
        Expect.That(properties.Headers!["x-dotnet-pub-seq-no"] is long, "the publisher's sequence number comes through as it was sent");
        Expect.That(!context.ReceiveContext.Redelivered, "it is not redelivered");
        Expect.That(context.SentTime is { } sent && (DateTime.UtcNow - sent).Duration() < TimeSpan.FromMinutes(1), "the time of sending is there");
        await bus.Stop();
        Expect.Same(0u, await stage.Count(endpoint));
        Expect.That(got.IsEmpty, "it came once");
    }

    private static async Task PublishUnconsumed(Stage stage)
    {
        await using var bus = await stage.Start();
        await bus.Bus.Publish(new OrderIgnored(1)).Within();
        Expect.That(await stage.HasExchange(stage.ExchangeOf<OrderIgnored>()), "the message's exchange is declared");
    }

    private static async Task SendFirst(Stage stage)
    {
        var endpoint = stage.Endpoint("early");
        await using (var sender = await stage.Start())
            for (var i = 0; i < 10; i++) await sender.Send(endpoint, new OrderSubmitted(i, "early"));
        Expect.Same(10u, await stage.Count(endpoint));
        var got = new Inbox<int>();
        await using var bus = await stage.Start(endpoint, e =>
        {
            e.ConcurrentMessageLimit = 1;
            e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; });
        });
        Expect.SameList(Enumerable.Range(0, 10), await got.Take(10));
    }

    /// <summary>One copy a queue, however many of the message's types the endpoint consumes.</summary>
    private static async Task Hierarchy(Stage stage)
    {
        var (shipped, order, audit, both) = (new Inbox<int>(), new Inbox<int>(), new Inbox<int>(), new Inbox<string>());
        var names = new[] { "shipped", "order", "audit", "both" }.Select(stage.Endpoint).ToArray();
        var deliveries = new Deliveries();
        await using var bus = await stage.Start(c =>
        {
            c.ConnectReceiveObserver(deliveries);
            c.ReceiveEndpoint(names[0], e => e.Handler<OrderShipped>(m => { shipped.Add(m.Message.Number); return Task.CompletedTask; }));
            c.ReceiveEndpoint(names[1], e => e.Handler<IOrderEvent>(m => { order.Add(m.Message.Number); return Task.CompletedTask; }));
            c.ReceiveEndpoint(names[2], e => e.Handler<IAudited>(m => { audit.Add(m.Message.Number); return Task.CompletedTask; }));
            c.ReceiveEndpoint(names[3], e =>
            {
                e.Handler<IEvent>(m => { both.Add($"event {m.Message.Number}"); return Task.CompletedTask; });
                e.Handler<OrderShipped>(m => { both.Add($"shipped {m.Message.Number}"); return Task.CompletedTask; });
            });
        });
        for (var i = 0; i < 20; i++) await bus.Bus.Publish(new OrderShipped(i, "a"));
        foreach (var inbox in new[] { shipped, order, audit }) Expect.SameList(Enumerable.Range(0, 20), (await inbox.Take(20)).Order());
        var expected = Enumerable.Range(0, 20).SelectMany(i => new[] { $"event {i}", $"shipped {i}" }).Order(StringComparer.Ordinal);
        Expect.SameList(expected, (await both.Take(40)).Order(StringComparer.Ordinal));
        await bus.Stop();
        Expect.That(shipped.IsEmpty && order.IsEmpty && audit.IsEmpty && both.IsEmpty, "each message came once to each queue");
        Expect.SameList([20, 20, 20, 20], names.Select(deliveries.To));
    }

    /// <summary>A fanout exchange by its name, a direct one with two keys, and the same by an address.</summary>
    private static async Task SendToExchange(Stage stage)
    {
        var (low, high, all) = (new Inbox<int>(), new Inbox<int>(), new Inbox<int>());
        var fan = stage.Endpoint("fan");
        await using var bus = await stage.Start(c =>
        {
            c.Publish<Quote>(p => p.ExchangeType = ExchangeType.Direct);
            c.Send<Quote>(s => s.UseRoutingKeyFormatter(m => m.Message.Kind));
            foreach (var (kind, inbox) in new[] { ("Low", low), ("High", high) })
                c.ReceiveEndpoint(stage.Endpoint(kind), e =>
                {
                    e.ConfigureConsumeTopology = false;
                    e.Bind<Quote>(b => { b.ExchangeType = ExchangeType.Direct; b.RoutingKey = kind; });
                    e.Bind(fan);
                    e.ConcurrentMessageLimit = 1;
                    e.Handler<Quote>(m => { inbox.Add(m.Message.Number); return Task.CompletedTask; });
                    e.Handler<OrderSubmitted>(m => { all.Add(m.Message.Number); return Task.CompletedTask; });
                });
        });
        for (var i = 0; i < 10; i++) await bus.Bus.Publish(new Quote(i % 2 == 0 ? "Low" : "High", i));
        Expect.SameList([0, 2, 4, 6, 8], await low.Take(5));
        Expect.SameList([1, 3, 5, 7, 9], await high.Take(5));
        await bus.SendTo($"exchange:{stage.ExchangeOf<Quote>()}?type=direct", new Quote("High", 11));
        Expect.Same(11, await high.Next());
        await bus.SendTo($"exchange:{fan}", new OrderSubmitted(12, "to both"));
        Expect.SameList([12, 12], await all.Take(2));
        await bus.Stop();
        Expect.That(low.IsEmpty && high.IsEmpty && all.IsEmpty, "nothing came to the wrong queue");
    }

    /// <summary>A return comes before its confirm, and with its own headers: 200 at once on one channel are told apart.</summary>
    private static async Task Mandatory(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(stage.Endpoint("bound"), e => e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; }));
        await Expect.Throws<MessageReturnedException>(() => bus.Bus.Publish(new OrderIgnored(1), c => c.Mandatory = true).Within());
        await bus.Bus.Publish(new OrderSubmitted(2, "bound"), c => c.Mandatory = true).Within();
        Expect.Same(2, await got.Next());
        async Task<bool> Publish(int i)
        {
            try
            {
                if (i % 2 == 0) await bus.Bus.Publish(new OrderSubmitted(i, "bound"), c => c.Mandatory = true);
                else await bus.Bus.Publish(new OrderIgnored(i), c => c.Mandatory = true);
                return true;
            }
            catch (MessageReturnedException) { return false; }
        }
        var routed = await Task.WhenAll(Enumerable.Range(0, 200).Select(Publish)).Within();
        Expect.SameList(Enumerable.Range(0, 200).Select(i => i % 2 == 0), routed);
        Expect.SameList(Enumerable.Range(0, 100).Select(i => 2 * i), (await got.Take(100)).Order());
    }

    private static async Task BigOddAndEmpty(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("größe-長さ"), new Inbox<(int Number, string Hash, string? Header)>());
        static string Hash(byte[] octets) => Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(octets));
        await using var bus = await stage.Start(queue, e => e.Handler<Picture>(c =>
        {
            got.Add((c.Message.Number, Hash(c.Message.Octets), c.Headers.Get<string>("long")));
            return Task.CompletedTask;
        }));
        var octets = new byte[10 << 20];
        new Random(42).NextBytes(octets);
        await bus.Bus.Publish(new Picture(1, octets)).Within();
        Expect.Same((1, Hash(octets), null), await got.Next());
        // MassTransit puts headers into properties and envelope; the first must go into one frame of 131072 octets.
        var header = new string('h', 100_000);
        await bus.Bus.Publish(new Picture(2, []), c => c.Headers.Set("long", header)).Within();
        Expect.Same((2, Hash([]), header), await got.Next());
        await stage.Put(queue, [], "application/vnd.masstransit+json");
        await Stage.Until(async () => await stage.HasQueue($"{queue}_error") && await stage.Count($"{queue}_error") == 1, "the empty message in the error queue");
        var moved = await stage.Get($"{queue}_error");
        Expect.Same(0, moved.Body.Length);
        await bus.Bus.Publish(new Picture(3, [1, 2, 3])).Within();
        Expect.Same((3, Hash([1, 2, 3]), null), await got.Next());
    }
}
