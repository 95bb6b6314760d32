// Where published and sent messages go, and what of them comes through.
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
        new("7", "topic-bindings-at-run-time", Topics),
        new("30", "alternate-exchange", Alternate),
        new("31", "mandatory-publish", Mandatory),
        new("42", "big-odd-and-empty", BigOddAndEmpty),
        new("55", "publish-batch", Batch),
    ];

    private static Func<Got, Task> Into(Inbox<int> inbox) => m => { inbox.Add(m.Number); return Task.CompletedTask; };

    private static async Task PublishHeaders(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("headers"), stage.Kind("OrderSubmitted"), new Inbox<Got>());
        var bus = await stage.Bus(new Endpoint(queue, m => { got.Add(m); return Task.CompletedTask; }) { Consumes = [kind] });
        var headers = Samples.Headers();
        await bus.Publish(kind, 1, "größe 長さ", p =>
        {
            p.CorrelationId = "abc";
            p.Expiration = "60000";
            foreach (var (key, value) in headers) p.Headers[key] = value;
        });
        var message = await got.Next();
        Expect.Same((1, "größe 長さ"), (message.Number, message.Text));
        Expect.Same("1", message.Header("publishId"));
        foreach (var (key, value) in headers) Expect.Same(Samples.Show(value), Samples.Show(message.Headers[key]), key);
        var properties = message.Delivery.BasicProperties;
        Expect.Same(("abc", "60000", (byte)2), (properties.CorrelationId, properties.Expiration, properties.DeliveryMode));
        Expect.Same("application/vnd.masstransit+json", properties.ContentType);
        Expect.Same((kind.Name, "", false), (message.Delivery.Exchange, message.Delivery.RoutingKey, message.Delivery.Redelivered));
        await bus.Stop();
        Expect.Same(0u, stage.Count(queue));
    }

    private static async Task PublishUnconsumed(Stage stage)
    {
        var (kind, bus) = (stage.Kind("OrderIgnored"), await stage.Bus());
        await bus.Publish(kind, 1).Within();
        Expect.That(stage.HasExchange(kind.Name), "the message's exchange is declared");
    }

    private static async Task Hierarchy(Stage stage)
    {
        var kind = stage.Kind("OrderShipped", "IOrderEvent", "IEvent", "IAudited");
        Inbox<int> shipped = new(), order = new(), both = new();
        var bus = await stage.Bus(
            new Endpoint(stage.Name("shipped"), Into(shipped)) { Consumes = [kind] },
            new Endpoint(stage.Name("order"), Into(order)) { Consumes = [new Kind(kind.Implements[0])] },
            new Endpoint(stage.Name("both"), Into(both)) { Consumes = [kind, new Kind(kind.Implements[1]), new Kind(kind.Implements[2])] });
        for (var i = 0; i < 20; i++) await bus.Publish(kind, i);
        foreach (var inbox in new[] { shipped, order, both }) Expect.SameList(Enumerable.Range(0, 20), (await inbox.Take(20)).Order());
        await bus.Stop();
        Expect.That(shipped.IsEmpty && order.IsEmpty && both.IsEmpty, "each message came once to each queue");
    }

    private static async Task SendFirst(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("early"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        var sender = await stage.Bus();
        for (var i = 0; i < 10; i++) await sender.Send(queue, kind, i);
        await sender.Stop();
        Expect.Same(10u, stage.Count(queue));
        await stage.Bus(new Endpoint(queue, Into(got)) { Limit = 1 });
        Expect.SameList(Enumerable.Range(0, 10), await got.Take(10));
    }

    private static async Task SendToExchange(Stage stage)
    {
        var (fan, quote) = (stage.Name("fan"), stage.Kind("Quote") with { ExchangeType = "direct" });
        Inbox<int> low = new(), high = new();
        var bus = await stage.Bus(
            new Endpoint(stage.Name("low"), Into(low)) { Consumes = [quote], BindingKey = "Low", Binds = [fan], Limit = 1 },
            new Endpoint(stage.Name("high"), Into(high)) { Consumes = [quote], BindingKey = "High", Binds = [fan], Limit = 1 });
        for (var i = 0; i < 10; i++) await bus.Publish(quote, i, key: i % 2 == 0 ? "Low" : "High");
        Expect.SameList([0, 2, 4, 6, 8], await low.Take(5));
        Expect.SameList([1, 3, 5, 7, 9], await high.Take(5));
        await Messages.SendToExchange(bus.Wire, fan, quote, 10);
        Expect.Same((10, 10), (await low.Next(), await high.Next()));
        await bus.Stop();
        Expect.That(low.IsEmpty && high.IsEmpty, "nothing came to the wrong queue");
    }

    private static async Task Topics(Stage stage)
    {
        var (quote, got) = (stage.Kind("Quote") with { ExchangeType = "topic" }, new Inbox<string>());
        var bus = await stage.Bus();
        Task<Receiver> Subscribe(string name, string key) => bus.Receive(new Endpoint(stage.Name(name), m => { got.Add($"{name} {m.Number}"); return Task.CompletedTask; })
        { Consumes = [quote], BindingKey = key, AutoDelete = true });
        Task Publish(string key, int number) => bus.Publish(quote, number, key: key, mandatory: true).Within();
        async Task Came(params string[] expected) => Expect.SameList(expected, (await got.Take(expected.Length)).Order(StringComparer.Ordinal));
        await Expect.Throws<Returned>(() => Publish("quote.uber", 0));
        var all = await Subscribe("all", "quote.*");
        var uber = await Subscribe("uber", "quote.uber");
        await Publish("quote.uber", 1);
        await Came("all 1", "uber 1");
        await Expect.Throws<Returned>(() => Publish("quote.msft.new", 2));
        await all.Stop();
        await Publish("quote.uber", 3);
        await Came("uber 3");
        await Expect.Throws<Returned>(() => Publish("quote.msft", 4));
        await uber.Stop();
        await Expect.Throws<Returned>(() => Publish("quote.uber", 5));
        Expect.That(got.IsEmpty, "nothing came where it does not belong");
    }

    private static async Task Alternate(Stage stage)
    {
        var (alternate, caught, got) = (stage.Name("undelivered"), new Inbox<int>(), new Inbox<int>());
        var kind = stage.Kind("OrderIgnored") with { Alternate = alternate };
        var bus = await stage.Bus(new Endpoint(alternate, Into(caught)));
        await bus.Publish(kind, 1, mandatory: true).Within();
        Expect.Same(1, await caught.Next());
        await bus.Receive(new Endpoint(stage.Name("routed"), Into(got)) { Consumes = [kind] });
        await bus.Publish(kind, 2).Within();
        Expect.Same(2, await got.Next());
        await bus.Stop();
        Expect.That(caught.IsEmpty, "the alternate exchange gets only what nobody else does");
    }

    /// <summary>The return carries `publishId` and comes before the confirm: 200 at once on one channel are told apart.</summary>
    private static async Task Mandatory(Stage stage)
    {
        var (bound, unbound, got) = (stage.Kind("OrderSubmitted"), stage.Kind("OrderIgnored"), new Inbox<int>());
        var bus = await stage.Bus(new Endpoint(stage.Name("bound"), Into(got)) { Consumes = [bound] });
        var returned = await Expect.Throws<Returned>(() => bus.Publish(unbound, 1, mandatory: true).Within());
        Expect.Same("The message was returned by RabbitMQ: 312-NO_ROUTE", returned.Message);
        async Task<bool> Publish(int i)
        {
            try { await bus.Publish(i % 2 == 0 ? bound : unbound, i, mandatory: true); return true; }
            catch (Returned) { return false; }
        }
        var routed = await Task.WhenAll(Enumerable.Range(0, 200).Select(Publish)).Within();
        Expect.SameList(Enumerable.Range(0, 200).Select(i => i % 2 == 0), routed);
        Expect.SameList(Enumerable.Range(0, 100).Select(i => 2 * i), (await got.Take(100)).Order());
    }

    private static async Task BigOddAndEmpty(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("größe-長さ"), stage.Kind("Picture"), new Inbox<(int Length, string? Header)>());
        var bus = await stage.Bus(new Endpoint(queue, m => { got.Add((m.Text.Length, m.Header("long"))); return Task.CompletedTask; }) { Consumes = [kind] });
        await bus.Publish(kind, 1, new string('x', 10 << 20)).Within();
        Expect.Same((10 << 20, null), await got.Next());
        var header = new string('h', 100_000);
        await bus.Publish(kind, 2, "", p => p.Headers["long"] = header).Within();
        Expect.Same((0, header), await got.Next());
        await bus.Wire.Publish(queue, "", false, Messages.Properties(bus.Wire), []).Within();
        await Stage.Until(() => stage.HasQueue($"{queue}_error") && stage.Count($"{queue}_error") == 1, "the empty message in the error queue");
        Expect.Same(0, stage.Get($"{queue}_error").Body.Length);
        await bus.Publish(kind, 3, "after it").Within();
        Expect.Same((8, null), await got.Next());
    }

    /// <summary>A hundred publishes in one write, as MassTransit's batches have it.</summary>
    private static async Task Batch(Stage stage)
    {
        var (kind, got) = (stage.Kind("OrderSubmitted"), new Inbox<int>());
        var bus = await stage.Bus(new Endpoint(stage.Name("batch"), Into(got)) { Consumes = [kind], Limit = 1 });
        for (var batch = 0; batch < 5; batch++)
            await bus.Wire.PublishBatch(kind.Name, Enumerable.Range(100 * batch, 100).Select(i => (Messages.Properties(bus.Wire), Messages.Envelope(kind, i, "")))).Within();
        Expect.SameList(Enumerable.Range(0, 500), await got.Take(500));
    }
}
