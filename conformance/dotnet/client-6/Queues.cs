// Queues with a contract of their own: quorum, streams, time to live, dead letters, a length that refuses.
using RabbitMQ.Client;

namespace Conformance;

public static class Queues
{
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

    private static Task Nothing(Got _) => Task.CompletedTask;

    private static async Task Quorum(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("quorum"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        var arguments = new Dictionary<string, object> { ["x-queue-type"] = "quorum" };
        var bus = await stage.Bus(new Endpoint(queue, m =>
        {
            if (m.Number == 13) throw new InvalidOperationException("out of stock");
            got.Add(m.Number);
            return Task.CompletedTask;
        })
        { Consumes = [kind], Arguments = arguments });
        for (var i = 0; i < 20; i++) await bus.Publish(kind, i);
        Expect.SameList(Enumerable.Range(0, 20).Where(i => i != 13), (await got.Take(19)).Order());
        await Stage.Until(() => stage.HasQueue($"{queue}_error") && stage.Count($"{queue}_error") == 1, "the failed message");
        using var channel = stage.Channel();
        foreach (var name in new[] { queue, $"{queue}_error" }) channel.QueueDeclare(name, true, false, false, arguments);
    }

    private static async Task DeliveryLimit(Stage stage)
    {
        var (queue, dead, kind) = (stage.Name("limited"), stage.Name("dead"), stage.Kind("OrderSubmitted"));
        var (attempts, buried) = (new Inbox<int>(), new Inbox<string?>());
        var bus = await stage.Bus(
            new Endpoint(queue, async m => { attempts.Add(m.Number); await Task.Delay(20); throw new InvalidOperationException("out of stock"); })
            { Consumes = [kind], Rethrow = true, DeadLetter = dead, Arguments = new() { ["x-queue-type"] = "quorum", ["x-delivery-limit"] = 3 } },
            new Endpoint(dead, m => { buried.Add(m.Header("x-first-death-reason")); return Task.CompletedTask; }));
        await bus.Publish(kind, 1);
        Expect.Same("delivery_limit", await buried.Next(Brief, "the dead letter"));
        Expect.Same(4, attempts.Drain().Count);
    }

    private static async Task Stream(Stage stage)
    {
        var (queue, kind, first, middle) = (stage.Name("stream"), stage.Kind("OrderSubmitted"), new Inbox<int>(), new Inbox<int>());
        Endpoint Reader(object offset, Inbox<int> inbox) => new(queue, m => { inbox.Add(m.Number); return Task.CompletedTask; })
        {
            Consumes = [kind],
            Prefetch = 100,
            Limit = 1,
            Arguments = new() { ["x-queue-type"] = "stream", ["x-max-age"] = "1D" },
            ConsumeArguments = new Dictionary<string, object> { ["x-stream-offset"] = offset },
        };
        var bus = await stage.Bus(Reader("first", first));
        await Task.WhenAll(Enumerable.Range(0, 1000).Select(i => bus.Publish(kind, i))).Within();
        var all = await first.Take(1000, Brief, "an event");
        Expect.SameList(Enumerable.Range(0, 1000), all.Order());
        await stage.Bus(Reader(500L, middle));
        Expect.SameList(all.Skip(500), await middle.Take(500, Brief, "an event from offset 500"));
    }

    private static async Task MessageTtl(Stage stage)
    {
        var (queue, dead, kind) = (stage.Name("brief"), stage.Name("dead"), stage.Kind("OrderSubmitted"));
        var bus = await stage.Bus(new Endpoint(queue, Nothing) { DeadLetter = dead });
        await bus.Stop();
        var sender = await stage.Bus();
        await Messages.SendToExchange(sender.Wire, queue, kind, 1, "", p => p.Expiration = "50");
        await stage.Counts(1, dead, Brief);
        Dead(stage, dead, queue, "50");
    }

    private static async Task QueueTtl(Stage stage)
    {
        var (queue, dead, kind) = (stage.Name("brief"), stage.Name("dead"), stage.Kind("OrderSubmitted"));
        var bus = await stage.Bus(new Endpoint(queue, Nothing) { DeadLetter = dead, Arguments = new() { ["x-message-ttl"] = 300 } });
        await bus.Stop();
        var sender = await stage.Bus();
        await Messages.SendToExchange(sender.Wire, queue, kind, 1);
        await stage.Counts(1, dead, Brief);
        Dead(stage, dead, queue, "");
    }

    private static void Dead(Stage stage, string dead, string queue, string expiration)
    {
        var got = stage.Get(dead);
        Expect.Same(("expired", queue), (Stage.Header(got, "x-first-death-reason"), Stage.Header(got, "x-first-death-queue")));
        var death = (Dictionary<string, object>)((List<object>)got.BasicProperties.Headers["x-death"])[0];
        Expect.Same(("expired", queue, 1L), (Samples.Text(death["reason"]), Samples.Text(death["queue"]), (long)death["count"]));
        Expect.Same(expiration, death.TryGetValue("original-expiration", out var original) ? Samples.Text(original) : "");
        Expect.That(!got.BasicProperties.IsExpirationPresent(), "it does not expire again");
    }

    private static async Task RejectPublish(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("small"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        Endpoint Small(bool waits) => new(queue, m => { got.Add(m.Number); return Task.CompletedTask; })
        { Arguments = new() { ["x-max-length"] = 5, ["x-overflow"] = "reject-publish" } };
        await (await stage.Bus(Small(true))).Stop();
        var sender = await stage.Bus();
        for (var i = 0; i < 5; i++) await Messages.SendToExchange(sender.Wire, queue, kind, i);
        await Expect.Throws<NotAcknowledged>(() => Messages.SendToExchange(sender.Wire, queue, kind, 5));
        Expect.Same(5u, stage.Count(queue));
        await stage.Bus(Small(false));
        await got.Take(5);
        await stage.Counts(0, queue);
        await Messages.SendToExchange(sender.Wire, queue, kind, 6);
        Expect.Same(6, await got.Next());
    }
}
