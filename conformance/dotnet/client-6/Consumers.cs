// How messages are shared out and settled.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Consumers
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("20", "batch-consumer", LateAcks),
        new("21", "concurrency-of-one", LimitOfOne),
        new("22", "competing-processes", Competing),
        new("23", "priority-queue", Priority),
        new("25", "single-active-consumer", SingleActive),
        new("26", "exclusive-consumer", Exclusive),
        new("27", "consumer-priority", ConsumerPriority),
        new("52", "consumer-publishes", Chain),
    ];

    /// <summary>A batch of 100 is settled message by message, in no order, when it is complete; 50 come after.</summary>
    private static async Task LateAcks(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("batch"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        var (waiting, all) = (new List<(int Number, TaskCompletionSource Done)>(), 0);
        var bus = await stage.Bus(new Endpoint(queue, m =>
        {
            var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            lock (waiting)
            {
                waiting.Add((m.Number, done));
                all++;
                if (waiting.Count == 100 || all == 250)
                {
                    var batch = waiting.ToArray();
                    waiting.Clear();
                    new Random(1).Shuffle(batch);
                    foreach (var (number, settled) in batch) { got.Add(number); settled.SetResult(); }
                }
            }
            return done.Task;
        })
        { Consumes = [kind], Prefetch = 200, Limit = 200 });
        await Task.WhenAll(Enumerable.Range(0, 250).Select(i => bus.Publish(kind, i))).Within();
        Expect.SameList(Enumerable.Range(0, 250), (await got.Take(250)).Order());
        await bus.Stop();
        Expect.Same(0u, stage.Count(queue));
    }

    private static async Task LimitOfOne(Stage stage)
    {
        var (kind, got) = (stage.Kind("OrderSubmitted"), new Inbox<int>());
        var bus = await stage.Bus(new Endpoint(stage.Name("ordered"), m => { got.Add(m.Number); return Task.CompletedTask; }) { Consumes = [kind], Prefetch = 20, Limit = 1 });
        for (var i = 0; i < 200; i++) await bus.Publish(kind, i);
        Expect.SameList(Enumerable.Range(0, 200), await got.Take(200));
    }

    private static async Task Competing(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("shared"), stage.Kind("OrderSubmitted"), new Inbox<(int Bus, int Number)>());
        var buses = new List<OldBus>();
        for (var i = 0; i < 3; i++)
        {
            var bus = i;
            buses.Add(await stage.Bus(new Endpoint(queue, async m => { await Task.Delay(1); got.Add((bus, m.Number)); }) { Consumes = [kind], Prefetch = 10, Limit = 10 }));
        }
        await Task.WhenAll(Enumerable.Range(0, 3000).Select(i => buses[i % 3].Publish(kind, i))).Within(TimeSpan.FromSeconds(60));
        var all = await got.Take(3000);
        Expect.SameList(Enumerable.Range(0, 3000), all.Select(m => m.Number).Order());
        var shares = all.GroupBy(m => m.Bus).Select(g => g.Count()).ToList();
        Expect.That(shares.Count == 3 && shares.Min() >= 60, $"each of three has a share: {string.Join(", ", shares)}");
        foreach (var bus in buses) await bus.Stop();
        Expect.That(got.IsEmpty, "nothing came twice");
        Expect.Same(0u, stage.Count(queue));
    }

    private static async Task Priority(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("priority"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        var arguments = new Dictionary<string, object> { ["x-max-priority"] = 5 };
        using (var channel = stage.Channel()) channel.QueueDeclare(queue, true, false, false, arguments);
        var sender = await stage.Bus();
        await sender.Wire.Rpc(m => { m.ExchangeDeclare(queue, "fanout", true); m.QueueBind(queue, queue, ""); });
        for (var i = 0; i < 15; i++)
        {
            var priority = (byte)(i % 3 * 2 + 1);
            await Messages.SendToExchange(sender.Wire, queue, kind, i, "", p => p.Priority = priority);
        }
        await stage.Bus(new Endpoint(queue, m => { got.Add(m.Number); return Task.CompletedTask; }) { Arguments = arguments, Prefetch = 1, Limit = 1 });
        Expect.SameList([2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12], await got.Take(15));
    }

    private static async Task SingleActive(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("single"), stage.Kind("OrderSubmitted"), new Inbox<string>());
        using var proxy = new Proxy(stage.Address);
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Endpoint Consumer(string name) => new(queue, m =>
        {
            got.Add($"{name} {m.Number}{(m.Delivery.Redelivered ? " again" : "")}");
            return m.Text == "hold" && !m.Delivery.Redelivered ? hold.Task : Task.CompletedTask;
        })
        { Consumes = [kind], Arguments = new() { ["x-single-active-consumer"] = true }, Prefetch = 5, Limit = 5 };
        await stage.Bus(proxy.Address, null, Consumer("first"));
        var second = await stage.Bus(Consumer("second"));
        for (var i = 0; i < 20; i++) await second.Publish(kind, i);
        Expect.SameList(Enumerable.Range(0, 20).Select(i => $"first {i}").Order(), (await got.Take(20)).Order());
        for (var i = 20; i < 25; i++) await second.Publish(kind, i, "hold");
        await got.Take(5);
        proxy.Cut();
        Expect.SameList(Enumerable.Range(20, 5).Select(i => $"second {i} again"), (await got.Take(5)).Order());
        hold.SetResult();
    }

    private static async Task Exclusive(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("exclusive"), stage.Kind("OrderSubmitted"), new Inbox<string>());
        Endpoint Consumer(string name) => new(queue, m => { got.Add($"{name} {m.Number}"); return Task.CompletedTask; }) { Consumes = [kind], Exclusive = true };
        var first = await stage.Bus(Consumer("first"));
        var second = await stage.Bus();
        var refused = await Expect.Throws<OperationInterruptedException>(() => second.Receive(Consumer("second")));
        Expect.Same((403, $"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"), (refused.ShutdownReason.ReplyCode, refused.ShutdownReason.ReplyText));
        await first.Publish(kind, 1);
        Expect.Same("first 1", await got.Next());
        await first.Stop();
        await second.Receive(Consumer("second"));
        await second.Publish(kind, 2);
        Expect.Same("second 2", await got.Next());
    }

    private static async Task ConsumerPriority(Stage stage)
    {
        var (queue, kind, high, low) = (stage.Name("preferred"), stage.Kind("OrderSubmitted"), new Inbox<int>(), new Inbox<int>());
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Endpoint Consumer(int priority, Inbox<int> inbox) => new(queue, m => { inbox.Add(m.Number); return hold.Task; })
        { Consumes = [kind], Prefetch = 5, Limit = 5, ConsumeArguments = new Dictionary<string, object> { ["x-priority"] = priority } };
        await stage.Bus(Consumer(1, low));
        var bus = await stage.Bus(Consumer(10, high));
        for (var i = 0; i < 10; i++) await bus.Publish(kind, i);
        Expect.SameList(Enumerable.Range(0, 5), (await high.Take(5)).Order());
        Expect.SameList(Enumerable.Range(5, 5), (await low.Take(5)).Order());
        hold.SetResult();
    }

    private static async Task Chain(Stage stage)
    {
        var (first, second, got) = (stage.Kind("OrderSubmitted"), stage.Kind("OrderShipped", "IOrderEvent"), new Inbox<int>());
        var bus = await stage.Bus(
            new Endpoint(stage.Name("first"), m => Messages.Publish(m.Wire, second, m.Number)) { Consumes = [first] },
            new Endpoint(stage.Name("second"), m => { got.Add(m.Number); return Task.CompletedTask; }) { Consumes = [second] });
        await Task.WhenAll(Enumerable.Range(0, 200).Select(i => bus.Publish(first, i))).Within();
        Expect.SameList(Enumerable.Range(0, 200), (await got.Take(200)).Order());
    }
}
