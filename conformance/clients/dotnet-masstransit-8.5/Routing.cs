// Where published and sent messages go: type exchanges and their hierarchy, queues, keys, and nowhere.
using Conformance.Messages;
using MassTransit;
using RabbitMQ.Client;

namespace Conformance;

public static class Routing
{
    public static IEnumerable<Scenario> All =>
    [
        new("published message arrives with its headers", PublishHeaders),
        new("publish without a consumer is confirmed", PublishUnconsumed),
        new("send to a queue before its consumer exists", SendFirst),
        new("publish reaches every interface once", Hierarchy),
        new("direct exchange with routing keys", RoutingKeys),
        new("mandatory publish without a binding is returned", Mandatory),
        new("100 mandatory publishes, half of them returned", MandatoryMixed),
        new("temporary endpoint leaves nothing behind", Temporary),
        new("auto-delete endpoint goes when it stops", AutoDelete),
        new("message expires in the queue", Expires, Needs: "ttl"),
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
        Expect.Same("application/vnd.masstransit+json", context.ReceiveContext.ContentType.MediaType);
        Expect.That(!context.ReceiveContext.Redelivered, "it is not redelivered");
        Expect.That(context.SentTime is { } sent && (DateTime.UtcNow - sent).Duration() < TimeSpan.FromMinutes(1), "the time of sending is there");
        await bus.Stop();
        Expect.Same(0u, await stage.Count(endpoint));
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

    private static async Task Hierarchy(Stage stage)
    {
        var (shipped, order, both) = (new Inbox<int>(), new Inbox<int>(), new Inbox<string>());
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(stage.Endpoint("shipped"), e => e.Handler<OrderShipped>(m => { shipped.Add(m.Message.Number); return Task.CompletedTask; }));
            c.ReceiveEndpoint(stage.Endpoint("order"), e => e.Handler<IOrderEvent>(m => { order.Add(m.Message.Number); return Task.CompletedTask; }));
            c.ReceiveEndpoint(stage.Endpoint("both"), e =>
            {
                e.Handler<IEvent>(m => { both.Add($"event {m.Message.Number}"); return Task.CompletedTask; });
                e.Handler<OrderShipped>(m => { both.Add($"shipped {m.Message.Number}"); return Task.CompletedTask; });
            });
        });
        for (var i = 0; i < 20; i++) await bus.Bus.Publish(new OrderShipped(i, "a"));
        Expect.SameList(Enumerable.Range(0, 20), (await shipped.Take(20)).Order());
        Expect.SameList(Enumerable.Range(0, 20), (await order.Take(20)).Order());
        var expected = Enumerable.Range(0, 20).SelectMany(i => new[] { $"event {i}", $"shipped {i}" }).Order(StringComparer.Ordinal);
        Expect.SameList(expected, (await both.Take(40)).Order(StringComparer.Ordinal));
        await bus.Stop();
        Expect.That(shipped.IsEmpty && order.IsEmpty && both.IsEmpty, "each message came once to each queue");
    }

    private static async Task RoutingKeys(Stage stage)
    {
        var (low, high) = (new Inbox<int>(), new Inbox<int>());
        await using var bus = await stage.Start(c =>
        {
            c.Publish<Quote>(p => p.ExchangeType = ExchangeType.Direct);
            c.Send<Quote>(s => s.UseRoutingKeyFormatter(m => m.Message.Kind));
            foreach (var (kind, inbox) in new[] { ("low", low), ("high", high) })
                c.ReceiveEndpoint(stage.Endpoint(kind), e =>
                {
                    e.ConfigureConsumeTopology = false;
                    e.Bind<Quote>(b => { b.ExchangeType = ExchangeType.Direct; b.RoutingKey = kind; });
                    e.ConcurrentMessageLimit = 1;
                    e.Handler<Quote>(m => { inbox.Add(m.Message.Number); return Task.CompletedTask; });
                });
        });
        for (var i = 0; i < 10; i++) await bus.Bus.Publish(new Quote(i % 2 == 0 ? "low" : "high", i));
        Expect.SameList([0, 2, 4, 6, 8], await low.Take(5));
        Expect.SameList([1, 3, 5, 7, 9], await high.Take(5));
    }

    private static async Task Mandatory(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(stage.Endpoint("bound"), e => e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; }));
        await Expect.Throws<MessageReturnedException>(() => bus.Bus.Publish(new OrderIgnored(1), c => c.Mandatory = true).Within());
        await bus.Bus.Publish(new OrderSubmitted(2, "bound"), c => c.Mandatory = true).Within();
        Expect.Same(2, await got.Next());
    }

    private static async Task MandatoryMixed(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(stage.Endpoint("mixed"), e => e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; }));
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
        var routed = await Task.WhenAll(Enumerable.Range(0, 100).Select(Publish)).Within();
        Expect.SameList(Enumerable.Range(0, 100).Select(i => i % 2 == 0), routed);
        Expect.SameList(Enumerable.Range(0, 50).Select(i => 2 * i), (await got.Take(50)).Order());
    }

    private static async Task Temporary(Stage stage)
    {
        var got = new Inbox<int>();
        var bus = await stage.Start();
        var handle = bus.Bus.ConnectReceiveEndpoint(new TemporaryEndpointDefinition("conf"), DefaultEndpointNameFormatter.Instance,
            e => e.Handler<Whisper>(c => { got.Add(c.Message.Number); return Task.CompletedTask; }));
        var ready = await handle.Ready.Within();
        var name = Stage.NameOf(ready.InputAddress);
        await bus.Bus.Publish(new Whisper(1));
        Expect.Same(1, await got.Next());
        Expect.That(await stage.HasExchange(name), "its exchange is there while it runs");
        await handle.StopAsync(CancellationToken.None).Within();
        await bus.Stop();
        Expect.That(!await stage.HasQueue(name), "its queue is gone");
        Expect.That(!await stage.HasExchange(name), "its exchange is gone");
        Expect.That(!await stage.HasExchange(stage.ExchangeOf<Whisper>()), "the exchange of the non-public message is gone");
    }

    private static async Task AutoDelete(Stage stage)
    {
        var name = stage.Endpoint("autodelete");
        var got = new Inbox<int>();
        await using var bus = await stage.Start();
        var handle = bus.Bus.ConnectReceiveEndpoint(name, e =>
        {
            ((IRabbitMqReceiveEndpointConfigurator)e).AutoDelete = true;
            e.Handler<OrderSeldom>(c => { got.Add(c.Message.Number); return Task.CompletedTask; });
        });
        await handle.Ready.Within();
        await bus.Bus.Publish(new OrderSeldom(1));
        Expect.Same(1, await got.Next());
        await handle.StopAsync(CancellationToken.None).Within();
        Expect.That(!await stage.HasQueue(name), "its queue is gone");
        Expect.That(!await stage.HasExchange(name), "its exchange is gone");
        Expect.That(await stage.HasExchange(stage.ExchangeOf<OrderSeldom>()), "the message's exchange stays");
    }

    /// <summary>The message's own time to live, and a dead-letter exchange and queue made by MassTransit.</summary>
    private static async Task Expires(Stage stage)
    {
        var (queue, dead) = (stage.Endpoint("brief"), stage.Endpoint("dead"));
        // Declares the queue, then stops: nothing consumes while the message's time runs out.
        await using (var first = await stage.Start(queue, e => e.BindDeadLetterQueue(dead))) { }
        var got = new Inbox<(int Number, string? Reason)>();
        await using var bus = await stage.Start(dead, e => e.Handler<OrderSubmitted>(c =>
        {
            got.Add((c.Message.Number, c.ReceiveContext.TransportHeaders.Get<string>("x-first-death-reason")));
            return Task.CompletedTask;
        }));
        var exchange = await bus.Bus.GetSendEndpoint(new Uri($"exchange:{queue}"));
        await exchange.Send(new OrderSubmitted(1, "brief"), c => c.TimeToLive = TimeSpan.FromMilliseconds(50)).Within();
        Expect.Same((1, "expired"), await got.Next());
    }
}
