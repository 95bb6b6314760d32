// How messages are shared out and settled: order under a limit, batches, competing buses, priorities, exclusive use.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Consumers
{
    public static IEnumerable<Scenario> All =>
    [
        new("limit of one keeps the order", LimitOfOne),
        new("batch consumer", Batches),
        new("competing buses consume each message once", Competing),
        new("consumer publishes what it consumed", Chain),
        new("priority queue delivers the urgent first", Priority, Needs: "priority"),
    ];

    private static async Task LimitOfOne(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("ordered"), new Inbox<int>());
        var (running, most) = (0, 0);
        await using var bus = await stage.Start(queue, e =>
        {
            e.PrefetchCount = 20;
            e.ConcurrentMessageLimit = 1;
            e.Handler<OrderSubmitted>(async c =>
            {
                most = Math.Max(most, Interlocked.Increment(ref running));
                await Task.Yield();
                got.Add(c.Message.Number);
                Interlocked.Decrement(ref running);
            });
        });
        for (var i = 0; i < 200; i++) await bus.Bus.Publish(new OrderSubmitted(i, "in order"));
        Expect.SameList(Enumerable.Range(0, 200), await got.Take(200));
        Expect.Same(1, most);
    }

    /// <summary>25 wait already: two batches are full, the rest comes when the time is up.</summary>
    private static async Task Batches(Stage stage)
    {
        var queue = stage.Endpoint("batch");
        await using (var sender = await stage.Start())
            for (var i = 0; i < 25; i++) await sender.Send(queue, new OrderSubmitted(i, "batched"));
        var consumer = new BatchConsumer();
        await using var bus = await stage.Start(queue, e =>
        {
            e.PrefetchCount = 30;
            e.Batch<OrderSubmitted>(b =>
            {
                b.MessageLimit = 10;
                b.TimeLimit = TimeSpan.FromMilliseconds(500);
                b.Consumer(() => consumer);
            });
        });
        var batches = new[] { await consumer.Batches.Next(), await consumer.Batches.Next(), await consumer.Batches.Next() };
        Expect.SameList([5, 10, 10], batches.Select(b => b.Count).Order());
        Expect.SameList(Enumerable.Range(0, 25), batches.SelectMany(b => b).Order());
        await bus.Stop();
        Expect.Same(0u, await stage.Count(queue));
    }

    private static async Task Competing(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("shared"), new Inbox<(int Bus, int Number)>());
        Task<Running> Start(int bus) => stage.Start(queue, e =>
        {
            e.PrefetchCount = 10;
            e.Handler<OrderSubmitted>(c => { got.Add((bus, c.Message.Number)); return Task.CompletedTask; });
        });
        await using var first = await Start(1);
        await using var second = await Start(2);
        await Task.WhenAll(Enumerable.Range(0, 300).Select(i => first.Bus.Publish(new OrderSubmitted(i, "shared")))).Within();
        var all = await got.Take(300);
        Expect.SameList(Enumerable.Range(0, 300), all.Select(m => m.Number).Order());
        Expect.Same(2, all.Select(m => m.Bus).Distinct().Count());
        await first.Stop();
        await second.Stop();
        Expect.That(got.IsEmpty, "nothing came twice");
        Expect.Same(0u, await stage.Count(queue));
    }

    /// <summary>Deliveries, acks, publishes and confirms are mixed on the consumer's channel.</summary>
    private static async Task Chain(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(stage.Endpoint("first"), e => e.Handler<OrderSubmitted>(m => m.Publish(new OrderShipped(m.Message.Number, "next"))));
            c.ReceiveEndpoint(stage.Endpoint("second"), e => e.Handler<OrderShipped>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }));
        });
        await Task.WhenAll(Enumerable.Range(0, 200).Select(i => bus.Bus.Publish(new OrderSubmitted(i, "chained")))).Within();
        Expect.SameList(Enumerable.Range(0, 200), (await got.Take(200)).Order());
    }

    private static async Task Priority(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("priority"), new Inbox<int>());
        Task<Running> Start(bool consume) => stage.Start(queue, e =>
        {
            e.EnablePriority(5);
            e.ConcurrentMessageLimit = 1;
            if (consume) e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; });
        });
        await using (var declarer = await Start(consume: false)) { }
        await using (var sender = await stage.Start())
        {
            var exchange = await sender.Bus.GetSendEndpoint(new Uri($"exchange:{queue}"));
            for (var i = 0; i < 10; i++)
            {
                var priority = (byte)(i % 2 == 0 ? 1 : 5);
                await exchange.Send(new OrderSubmitted(i, "by priority"), c => c.SetPriority(priority)).Within();
            }
        }
        await using var bus = await Start(consume: true);
        Expect.SameList([1, 3, 5, 7, 9, 0, 2, 4, 6, 8], await got.Take(10));
    }

    private sealed class BatchConsumer : IConsumer<Batch<OrderSubmitted>>
    {
        public Inbox<IReadOnlyList<int>> Batches { get; } = new();

        public Task Consume(ConsumeContext<Batch<OrderSubmitted>> context)
        {
            Batches.Add([.. context.Message.Select(m => m.Message.Number)]);
            return Task.CompletedTask;
        }
    }
}
