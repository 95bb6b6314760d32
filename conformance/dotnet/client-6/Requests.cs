// Requests and responses: through the bus's own transient queue and through direct reply-to.
using System.Collections.Concurrent;
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

namespace Conformance;

public static class Requests
{
    private const string ReplyTo = "amq.rabbitmq.reply-to";

    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("8", "requests-through-bus-queue", ThroughBusQueue),
        new("9", "late-response", LateResponse),
        new("10", "direct-reply-to", DirectReplyTo),
        new("11", "two-request-clients", TwoClients),
    ];

    private static Endpoint Server(Stage stage, Kind status, Kind check, string name = "server") =>
        new(stage.Name(name), m => Messages.Respond(m, status, m.Number, $"{m.Number} shipped")) { Consumes = [check] };

    private static Task AskMany(OldBus bus, Kind check, int from, int count, int atOnce) =>
        Parallel.ForEachAsync(Enumerable.Range(from, count), new ParallelOptions { MaxDegreeOfParallelism = atOnce }, async (i, _) =>
            Expect.Same((i, $"{i} shipped"), await Answer(bus, check, i))).Within(TimeSpan.FromSeconds(60), $"{count} responses");

    private static async Task<(int, string)> Answer(OldBus bus, Kind check, int number)
    {
        var got = await bus.Ask(check, number);
        return (got.Number, got.Text);
    }

    /// <summary>The queue is neither durable nor exclusive, and outlives the bus for its minute.</summary>
    private static async Task ThroughBusQueue(Stage stage)
    {
        var (check, status) = (stage.Kind("CheckOrder"), stage.Kind("OrderStatus"));
        await stage.Bus(Server(stage, status, check));
        var client = await stage.Bus();
        await AskMany(client, check, 0, 1000, 50);
        await client.Stop();
        Expect.That(stage.HasQueue(client.Name), "the bus queue is there for another minute");
        stage.DeleteQueue(client.Name);
        await stage.NoMoreExchange(client.Name);
    }

    private static async Task LateResponse(Stage stage)
    {
        var (check, status, queue) = (stage.Kind("CheckOrder"), stage.Kind("OrderStatus"), stage.Name("slow"));
        var (release, done) = (new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously), new Inbox<int>());
        var server = await stage.Bus(new Endpoint(queue, async m =>
        {
            if (m.Number == 1) await release.Task;
            await Messages.Respond(m, status, m.Number, $"{m.Number} shipped");
            done.Add(m.Number);
        })
        { Consumes = [check] });
        var client = await stage.Bus();
        await Expect.Throws<TimeoutException>(() => client.Ask(check, 1, TimeSpan.FromMilliseconds(500)));
        await client.Stop();
        stage.DeleteQueue(client.Name);
        await stage.NoMoreExchange(client.Name);
        release.SetResult();
        Expect.Same(1, await done.Next());
        await AskMany(await stage.Bus(), check, 2, 5, 5);
        await server.Stop();
        Expect.Same(0u, stage.Count(queue));
        Expect.That(!stage.HasQueue($"{queue}_error"), "there is no error queue");
    }

    /// <summary>On one channel: qos 1000, a consumer without acks, and requests. A hop between passes the rewritten address on.</summary>
    private static async Task DirectReplyTo(Stage stage)
    {
        var (check, status) = (stage.Kind("CheckOrder"), stage.Kind("OrderStatus"));
        var server = Server(stage, status, check);
        await stage.Bus(server);
        var front = stage.Name("front");
        await stage.Bus(new Endpoint(front, m =>
        {
            var properties = Messages.Properties(m.Wire);
            properties.ReplyTo = m.Delivery.BasicProperties.ReplyTo;
            return m.Wire.Publish(server.Queue, "", false, properties, Samples.Octets(m.Body));
        }));
        var bus = await stage.Bus();
        await using var wire = new Wire(bus.Connection);
        var (answers, addresses) = (new Inbox<string>(), new ConcurrentBag<string>());
        await wire.Rpc(m => m.BasicQos(0, 1000, false));
        var consumer = new EventingBasicConsumer(wire.Model);
        consumer.Received += (_, d) =>
        {
            var got = Messages.Read(wire, d, d.Body.ToArray());
            addresses.Add(d.RoutingKey);
            answers.Add($"{got.RequestId} {got.Text}");
        };
        await wire.Rpc(m => m.BasicConsume(consumer, ReplyTo, true, "", false, false, null));
        foreach (var (exchange, from) in new[] { (check.Name, 0), (front, 50) })
        {
            for (var i = from; i < from + 50; i++)
            {
                var properties = Messages.Properties(wire);
                properties.ReplyTo = ReplyTo;
                await wire.Publish(exchange, "", false, properties, Messages.Envelope(check, i, "", $"request-{i}", "ignored"));
            }
            Expect.SameList(Enumerable.Range(from, 50).Select(i => $"request-{i} {i} shipped").Order(), (await answers.Take(50)).Order());
        }
        Expect.Same(1, addresses.Distinct().Count());
        Expect.That(addresses.First().StartsWith($"{ReplyTo}.", StringComparison.Ordinal), $"reply_to was rewritten: {addresses.First()}");
    }

    private static async Task TwoClients(Stage stage)
    {
        var (check, status) = (stage.Kind("CheckOrder"), stage.Kind("OrderStatus"));
        await stage.Bus(Server(stage, status, check));
        var (left, right) = (await stage.Bus(), await stage.Bus());
        await Task.WhenAll(AskMany(left, check, 0, 100, 20), AskMany(right, check, 1000, 100, 20));
    }
}
