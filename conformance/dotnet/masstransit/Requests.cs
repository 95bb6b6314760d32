// Requests and responses: through the bus's own queue and through direct reply-to.
using System.Collections.Concurrent;
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Requests
{
    private static readonly RequestTimeout Timeout = RequestTimeout.After(s: 20);

    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("8", "requests-through-bus-queue", ThroughBusQueue),
        new("9", "late-response", LateResponse),
        new("10", "direct-reply-to", DirectReplyTo),
        new("11", "two-request-clients", TwoClients),
        new("53", "request-fault", Fault),
        new("54", "request-to-queue", ToQueue),
    ];

    private static Task<Running> Server(Stage stage, string endpoint, ConcurrentBag<Uri?>? replies = null) => stage.Start(endpoint, e =>
        e.Handler<CheckOrder>(async c =>
        {
            replies?.Add(c.ResponseAddress);
            await c.RespondAsync(new OrderStatus(c.Message.Number, $"{c.Message.Number} shipped"));
        }));

    private static async Task Ask(IRequestClient<CheckOrder> client, int number)
    {
        var response = await client.GetResponse<OrderStatus>(new CheckOrder(number));
        Expect.Same(new OrderStatus(number, $"{number} shipped"), response.Message);
    }

    private static Task AskMany(IRequestClient<CheckOrder> client, int from, int count, int atOnce = 20) =>
        Parallel.ForEachAsync(Enumerable.Range(from, count), new ParallelOptions { MaxDegreeOfParallelism = atOnce }, async (i, _) => await Ask(client, i))
            .Within(TimeSpan.FromSeconds(60), $"{count} responses");

    /// <summary>What another process of the scenario does.</summary>
    public static async Task AskFrom(Stage stage, int number)
    {
        await using var bus = await stage.Start();
        await AskMany(bus.Bus.CreateRequestClient<CheckOrder>(Timeout), number, 100);
    }

    private static async Task ThroughBusQueue(Stage stage)
    {
        var replies = new ConcurrentBag<Uri?>();
        await using var server = await Server(stage, stage.Endpoint("server"), replies);
        await using var client = await stage.Start();
        await AskMany(client.Bus.CreateRequestClient<CheckOrder>(Timeout), 0, 1000, 50);
        Expect.Same(1000, replies.Count);
        var queue = Stage.NameOf(client.Bus.Address);
        Expect.That(replies.All(r => r != null && Stage.NameOf(r) == queue), "responses go to the bus queue");
        await client.Stop();
        await stage.NoMoreQueue(queue);
        await stage.NoMoreExchange(queue);
    }

    /// <summary>The responder declares the vanished exchange again, publishes into the void, and is none the worse for it.</summary>
    private static async Task LateResponse(Stage stage)
    {
        var (endpoint, release) = (stage.Endpoint("slow"), new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        var (began, done) = (new Inbox<int>(), new Inbox<int>());
        await using var server = await stage.Start(endpoint, e => e.Handler<CheckOrder>(async c =>
        {
            began.Add(c.Message.Number);
            if (c.Message.Number == 1) await release.Task;
            await c.RespondAsync(new OrderStatus(c.Message.Number, $"{c.Message.Number} shipped"));
            done.Add(c.Message.Number);
        }));
        string queue;
        await using (var client = await stage.Start())
        {
            queue = Stage.NameOf(client.Bus.Address);
            await Expect.Throws<RequestTimeoutException>(() => Ask(client.Bus.CreateRequestClient<CheckOrder>(RequestTimeout.After(ms: 700)), 1));
            Expect.Same(1, await began.Next());
        }
        await stage.NoMoreExchange(stage.Also(queue));
        release.SetResult();
        Expect.Same(1, await done.Next());
        await using (var client = await stage.Start()) await AskMany(client.Bus.CreateRequestClient<CheckOrder>(Timeout), 2, 5);
        await server.Stop();
        Expect.Same(0u, await stage.Count(endpoint));
        Expect.That(!await stage.HasQueue($"{endpoint}_error"), "there is no error queue");
    }

    /// <summary>Straight, by publishing, and through a hop that forwards the request to another connection's queue.</summary>
    private static async Task DirectReplyTo(Stage stage)
    {
        var replies = new ConcurrentBag<Uri?>();
        var (endpoint, front) = (stage.Endpoint("server"), stage.Endpoint("front"));
        await using var server = await Server(stage, endpoint, replies);
        var hops = 0;
        await using var hop = await stage.Start(front, e =>
        {
            e.ConfigureConsumeTopology = false;
            e.Handler<CheckOrder>(c => { Interlocked.Increment(ref hops); return c.Forward(new Uri($"queue:{endpoint}")); });
        });
        await using var bus = await stage.Start();
        var factory = bus.Bus.CreateReplyToClientFactory(Timeout);
        await AskMany(factory.CreateRequestClient<CheckOrder>(new Uri($"queue:{endpoint}")), 0, 50);
        await AskMany(factory.CreateRequestClient<CheckOrder>(), 50, 50);
        Expect.That(replies.All(r => $"{r}".Contains("amq.rabbitmq.reply-to")), $"responses go to the reply-to address: {replies.First()}");
        Expect.Same(0, hops);
        await AskMany(factory.CreateRequestClient<CheckOrder>(new Uri($"queue:{front}")), 100, 50);
        Expect.Same(50, hops);
        Expect.Same(150, replies.Count);
    }

    /// <summary>Two processes beside this one; a response that went astray would be the wrong one, or missing.</summary>
    private static async Task TwoClients(Stage stage)
    {
        await using var server = await Server(stage, stage.Endpoint("server"));
        await using var left = Child.Again("role", "requests", $"{stage.Address}", stage.Prefix, "0");
        await using var right = Child.Again("role", "requests", $"{stage.Address}", stage.Prefix, "1000");
        await AskFrom(stage, 2000);
        foreach (var child in new[] { left, right })
        {
            await child.Expect("answered");
            Expect.Same(0, await child.Exit());
        }
    }

    private static async Task Fault(Stage stage)
    {
        await using var bus = await stage.Start(stage.Endpoint("failing"), e => e.Handler<CheckOrder>(_ => throw new InvalidOperationException("out of stock")));
        var fault = await Expect.Throws<RequestFaultException>(() => Ask(bus.Bus.CreateRequestClient<CheckOrder>(Timeout), 1));
        Expect.Contains("out of stock", fault.Message);
    }

    private static async Task ToQueue(Stage stage)
    {
        var endpoint = stage.Endpoint("server");
        await using var server = await Server(stage, endpoint);
        await using var client = await stage.Start();
        await AskMany(client.Bus.CreateRequestClient<CheckOrder>(new Uri($"queue:{endpoint}"), Timeout), 0, 20);
    }
}
