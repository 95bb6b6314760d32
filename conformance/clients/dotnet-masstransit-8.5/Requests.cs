// Requests and responses: through the bus's own queue and through direct reply-to.
using System.Collections.Concurrent;
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Requests
{
    private static readonly RequestTimeout Timeout = RequestTimeout.After(s: 10);

    public static IEnumerable<Scenario> All =>
    [
        new("200 requests, 20 at a time, through the bus queue", ThroughBusQueue),
        new("request to a named queue", ToQueue),
        new("two clients at once get their own responses", TwoClients),
        new("failing consumer answers with a fault", Fault),
        new("direct reply-to requests", DirectReplyTo),
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

    private static Task AskMany(IRequestClient<CheckOrder> client, int from, int count) =>
        Parallel.ForEachAsync(Enumerable.Range(from, count), new ParallelOptions { MaxDegreeOfParallelism = 20 }, async (i, _) => await Ask(client, i)).Within($"{count} responses");

    private static async Task ThroughBusQueue(Stage stage)
    {
        var replies = new ConcurrentBag<Uri?>();
        await using var server = await Server(stage, stage.Endpoint("server"), replies);
        await using var client = await stage.Start();
        await AskMany(client.Bus.CreateRequestClient<CheckOrder>(Timeout), 0, 200);
        Expect.Same(200, replies.Count);
        var queue = Stage.NameOf(client.Bus.Address);
        Expect.That(replies.All(r => r != null && Stage.NameOf(r) == queue), "responses go to the bus queue");
        await client.Stop();
        Expect.That(!await stage.HasQueue(queue), "the bus queue is gone after the stop");
        Expect.That(!await stage.HasExchange(queue), "the bus exchange is gone after the stop");
    }

    private static async Task ToQueue(Stage stage)
    {
        var endpoint = stage.Endpoint("server");
        await using var server = await Server(stage, endpoint);
        await using var client = await stage.Start();
        await AskMany(client.Bus.CreateRequestClient<CheckOrder>(new Uri($"queue:{endpoint}"), Timeout), 0, 20);
    }

    private static async Task TwoClients(Stage stage)
    {
        await using var server = await Server(stage, stage.Endpoint("server"));
        await using var left = await stage.Start();
        await using var right = await stage.Start();
        await Task.WhenAll(AskMany(left.Bus.CreateRequestClient<CheckOrder>(Timeout), 0, 50), AskMany(right.Bus.CreateRequestClient<CheckOrder>(Timeout), 1000, 50));
    }

    private static async Task Fault(Stage stage)
    {
        await using var bus = await stage.Start(stage.Endpoint("failing"), e => e.Handler<CheckOrder>(_ => throw new InvalidOperationException("out of stock")));
        var fault = await Expect.Throws<RequestFaultException>(() => Ask(bus.Bus.CreateRequestClient<CheckOrder>(Timeout), 1));
        Expect.Contains("out of stock", fault.Message);
    }

    private static async Task DirectReplyTo(Stage stage)
    {
        var replies = new ConcurrentBag<Uri?>();
        var endpoint = stage.Endpoint("server");
        await using var server = await Server(stage, endpoint, replies);
        await using var bus = await stage.Start();
        var factory = bus.Bus.CreateReplyToClientFactory(Timeout);
        await AskMany(factory.CreateRequestClient<CheckOrder>(new Uri($"queue:{endpoint}")), 0, 50);
        await AskMany(factory.CreateRequestClient<CheckOrder>(), 50, 50);
        Expect.That(replies.All(r => $"{r}".Contains("amq.rabbitmq.reply-to")), $"responses go to the reply-to address: {replies.First()}");
    }
}
