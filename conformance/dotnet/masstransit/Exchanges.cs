// Exchanges and endpoints that come and go at run time: topics, alternate exchanges, temporary and auto-delete endpoints.
using Conformance.Messages;
using MassTransit;
using RabbitMQ.Client;

namespace Conformance;

public static class Exchanges
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("7", "topic-bindings-at-run-time", Topics),
        new("30", "alternate-exchange", Alternate),
        new("32", "temporary-endpoint", Temporary),
        new("50", "auto-delete-endpoint", AutoDelete),
    ];

    private static async Task Topics(Stage stage)
    {
        var got = new Inbox<string>();
        await using var bus = await stage.Start(c =>
        {
            c.Publish<Quote>(p => p.ExchangeType = ExchangeType.Topic);
            c.Send<Quote>(s => s.UseRoutingKeyFormatter(m => $"quote.{m.Message.Kind}"));
        });
        async Task<HostReceiveEndpointHandle> Subscribe(string name, string key)
        {
            var handle = bus.Bus.ConnectReceiveEndpoint(stage.Endpoint(name), x =>
            {
                var e = (IRabbitMqReceiveEndpointConfigurator)x;
                (e.ConfigureConsumeTopology, e.AutoDelete) = (false, true);
                e.Bind<Quote>(b => { b.ExchangeType = ExchangeType.Topic; b.RoutingKey = key; });
                e.Handler<Quote>(m => { got.Add($"{name} {m.Message.Number}"); return Task.CompletedTask; });
            });
            await handle.Ready.Within();
            return handle;
        }
        Task Publish(string kind, int number) => bus.Bus.Publish(new Quote(kind, number), c => c.Mandatory = true).Within();
        async Task Came(params string[] expected) => Expect.SameList(expected, (await got.Take(expected.Length)).Order(StringComparer.Ordinal));

        await Expect.Throws<MessageReturnedException>(() => Publish("uber", 0));
        var all = await Subscribe("all", "quote.*");
        var uber = await Subscribe("uber", "quote.uber");
        await Publish("uber", 1);
        await Came("all 1", "uber 1");
        await Publish("msft", 2);
        await Came("all 2");
        await Expect.Throws<MessageReturnedException>(() => Publish("msft.new", 3));
        await all.StopAsync(CancellationToken.None).Within();
        await Publish("uber", 4);
        await Came("uber 4");
        await Expect.Throws<MessageReturnedException>(() => Publish("msft", 5));
        await uber.StopAsync(CancellationToken.None).Within();
        await Expect.Throws<MessageReturnedException>(() => Publish("uber", 6));
        Expect.That(got.IsEmpty, "nothing came where it does not belong");
    }

    private static async Task Alternate(Stage stage)
    {
        var (alternate, examiner) = (stage.Endpoint("undelivered"), stage.Endpoint("examiner"));
        var (caught, got) = (new Inbox<int>(), new Inbox<int>());
        await using var bus = await stage.Start(c =>
        {
            c.Publish<OrderIgnored>(p => p.BindAlternateExchangeQueue(alternate));
            c.ReceiveEndpoint(examiner, e =>
            {
                e.ConfigureConsumeTopology = false;
                e.Bind(alternate);
                e.Handler<OrderIgnored>(m => { caught.Add(m.Message.Number); return Task.CompletedTask; });
            });
        });
        await bus.Bus.Publish(new OrderIgnored(1), c => c.Mandatory = true).Within();
        Expect.Same(1, await caught.Next());
        Expect.Same(1u, await stage.Count(alternate));
        // With a consumer of its own, nothing goes the other way any more.
        var handle = bus.Bus.ConnectReceiveEndpoint(stage.Endpoint("routed"), e => e.Handler<OrderIgnored>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }));
        await handle.Ready.Within();
        await bus.Bus.Publish(new OrderIgnored(2)).Within();
        Expect.Same(2, await got.Next());
        await bus.Stop();
        Expect.That(caught.IsEmpty, "the alternate exchange gets only what nobody else does");
        Expect.Same(1u, await stage.Count(alternate));
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
        await stage.NoMoreQueue(name);
        await stage.NoMoreExchange(name);
        await stage.NoMoreExchange(stage.ExchangeOf<Whisper>());

        // The same when the process has no time to say goodbye.
        await using var child = Child.Again("role", "temporary", $"{stage.Address}", stage.Prefix);
        var left = await child.Line();
        await child.Expect("got 2");
        Expect.That(await stage.HasExchange(left), "the child's exchange is there while it runs");
        await child.Kill();
        await Stage.Until(async () => !await stage.HasExchange(left), "the end of a killed process's exchange");
        await stage.NoMoreQueue(left);
        await Stage.Until(async () => !await stage.HasExchange(stage.ExchangeOf<Whisper>()), "the end of the exchange of the non-public message");
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
        await stage.NoMoreQueue(name);
        await stage.NoMoreExchange(name);
        Expect.That(await stage.HasExchange(stage.ExchangeOf<OrderSeldom>()), "the message's exchange stays");
    }
}
