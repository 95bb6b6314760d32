// How messages are shared out and settled within one process: order under a limit, batches, priorities, exclusive use.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Consumers
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("20", "batch-consumer", Batches),
        new("21", "concurrency-of-one", LimitOfOne),
        new("23", "priority-queue", Priority),
        new("23b", "priority-inherited", PriorityInherited),
        new("26", "exclusive-consumer", Exclusive),
        new("27", "consumer-priority", ConsumerPriority),
        new("52", "consumer-publishes", Chain),
    ];

    /// <summary>250 wait already: two batches are full, the rest comes when the time is up.</summary>
    private static async Task Batches(Stage stage)
    {
        var queue = stage.Endpoint("batch");
        await using (var sender = await stage.Start())
            await Task.WhenAll(Enumerable.Range(0, 250).Select(i => sender.Send(queue, new OrderSubmitted(i, "batched"))));
        var consumer = new BatchConsumer();
        await using var bus = await stage.Start(queue, e =>
        {
            e.PrefetchCount = 200;
            e.Batch<OrderSubmitted>(b =>
            {
                b.MessageLimit = 100;
                b.TimeLimit = TimeSpan.FromSeconds(1);
                b.Consumer(() => consumer);
            });
        });
        var batches = await consumer.Batches.Take(3);
        Expect.SameList([50, 100, 100], batches.Select(b => b.Count).Order());
        Expect.SameList(Enumerable.Range(0, 250), batches.SelectMany(b => b).Order());
        await bus.Stop();
        Expect.Same(0u, await stage.Count(queue));
    }

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

    private static async Task Priority(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("priority"), new Inbox<int>());
        Task<Running> Start(bool consume) => stage.Start(queue, e =>
        {
            e.EnablePriority(5);
            (e.PrefetchCount, e.ConcurrentMessageLimit) = (1, 1);
            if (consume) e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; });
        });
        await using (var declarer = await Start(consume: false)) { }
        await using (var sender = await stage.Start())
            for (var i = 0; i < 15; i++)
            {
                var priority = (byte)(i % 3 * 2 + 1);
                await sender.SendTo($"exchange:{queue}", new OrderSubmitted(i, "by priority"), c => c.SetPriority(priority));
            }
        await using var bus = await Start(consume: true);
        Expect.SameList([2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12], await got.Take(15));
    }

    private static async Task PriorityInherited(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(stage.Endpoint("first"), e =>
            {
                e.EnablePriority(5);
                e.Handler<OrderSubmitted>(m => m.Publish(new OrderSeldom(m.Message.Number)));
            });
            c.ReceiveEndpoint(stage.Endpoint("second"), e =>
            {
                e.EnablePriority(5);
                e.Handler<OrderSeldom>(m => { got.Add(m.GetPayload<RabbitMqBasicConsumeContext>().Properties.Priority); return Task.CompletedTask; });
            });
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "urgent"), c => c.SetPriority(3));
        Expect.Same(3, await got.Next());
    }

    private static async Task Exclusive(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("exclusive"), new Inbox<string>());
        await using var first = await stage.Start(queue, e =>
        {
            e.ExclusiveConsumer = true;
            e.Handler<OrderSubmitted>(c => { got.Add($"first {c.Message.Number}"); return Task.CompletedTask; });
        });
        await using var second = await stage.Start();
        var ready = new Readiness(queue);
        second.Bus.ConnectReceiveEndpointObserver(ready);
        var handle = second.Bus.ConnectReceiveEndpoint(queue, e =>
        {
            ((IRabbitMqReceiveEndpointConfigurator)e).ExclusiveConsumer = true;
            e.Handler<OrderSubmitted>(c => { got.Add($"second {c.Message.Number}"); return Task.CompletedTask; });
        });
        await ready.Fault($"code=403, text='ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
        await first.Bus.Publish(new OrderSubmitted(1, "to the first"));
        Expect.Same("first 1", await got.Next());
        await first.Stop();
        await handle.Ready.Within(TimeSpan.FromSeconds(40));
        await second.Bus.Publish(new OrderSubmitted(2, "to the second"));
        Expect.Same("second 2", await got.Next());
    }

    /// <summary>The preferred one gets all until five are with it, then the other.</summary>
    private static async Task ConsumerPriority(Stage stage)
    {
        var queue = stage.Endpoint("preferred");
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Inbox<int> high = new(), low = new();
        Task<Running> Start(int priority, Inbox<int> inbox) => stage.Start(queue, e =>
        {
            (e.PrefetchCount, e.ConcurrentMessageLimit, e.ConsumerPriority) = (5, 5, priority);
            e.Handler<OrderSubmitted>(c => { inbox.Add(c.Message.Number); return hold.Task; });
        });
        await using var second = await Start(1, low);
        await using var first = await Start(10, high);
        for (var i = 0; i < 10; i++) await first.Bus.Publish(new OrderSubmitted(i, "held"));
        Expect.SameList(Enumerable.Range(0, 5), (await high.Take(5)).Order());
        Expect.SameList(Enumerable.Range(5, 5), (await low.Take(5)).Order());
        hold.SetResult();
        await stage.Counts(0, queue);
        await first.Stop();
        await second.Bus.Publish(new OrderSubmitted(10, "nobody else is left"));
        Expect.Same(10, await low.Next());
        Expect.That(high.IsEmpty, "the preferred one got its five");
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
