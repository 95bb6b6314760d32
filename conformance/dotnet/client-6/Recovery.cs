// Coming back by MassTransit's own means: a new connection, the same declarations, the tag that the broker once gave.
using System.Collections.Concurrent;
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Recovery
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("35", "broker-restart", Restart),
        new("36", "tcp-cut", Cut),
        new("36b", "half-open-peer", HalfOpen),
        new("37", "queue-deleted", QueueDeleted),
        new("38", "closed-by-operator", ClosedByOperator),
    ];

    private static Task<ShutdownEventArgs> Lost(IConnection connection)
    {
        var told = new TaskCompletionSource<ShutdownEventArgs>(TaskCreationOptions.RunContinuationsAsynchronously);
        connection.ConnectionShutdown += (_, e) => told.TrySetResult(e);
        return told.Task;
    }

    /// <summary>Confirmed before the restart, there after it; what was not confirmed is published again.</summary>
    private static async Task Restart(Stage stage)
    {
        const int Count = 5000;
        await using var own = await OwnBroker.Start(stage.Options);
        var (kind, seen) = (new Kind("restart:Conformance.Messages:OrderSubmitted"), new ConcurrentDictionary<int, int>());
        await using var bus = await OldBus.Start(own.Address, new Endpoint("restart", m => { seen.AddOrUpdate(m.Number, 1, (_, n) => n + 1); return Task.CompletedTask; }) { Consumes = [kind] });
        var (open, back) = (new ConcurrentQueue<int>(Enumerable.Range(0, Count)), new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        var (confirmed, part, again) = (0, new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously), 0);
        var publishing = Task.WhenAll(Enumerable.Range(0, 100).Select(_ => Task.Run(async () =>
        {
            while (open.TryDequeue(out var i))
                try
                {
                    await bus.Publish(kind, i);
                    if (Interlocked.Increment(ref confirmed) == Count / 5) part.TrySetResult();
                }
                catch (Exception e) when (e is NotConfirmed or AlreadyClosedException or OperationInterruptedException or ObjectDisposedException)
                {
                    Interlocked.Increment(ref again);
                    open.Enqueue(i);
                    await back.Task;
                }
        })));
        await part.Task.Within();
        var lost = Lost(bus.Connection);
        await own.Stop();
        var reason = await lost.Within();
        Expect.Same((320, "CONNECTION_FORCED"), (reason.ReplyCode, reason.ReplyText.Split(' ')[0]));
        await own.Start();
        await bus.Reconnect();
        back.SetResult();
        await publishing.Within(TimeSpan.FromSeconds(45));
        await Stage.Until(() => seen.Count == Count, $"each of {Count} messages", TimeSpan.FromSeconds(45));
        Expect.That(again > 0, "the restart came while messages were being published");
    }

    private static async Task Cut(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        var (queue, kind, got) = (stage.Name("cut"), stage.Kind("OrderSubmitted"), new Inbox<(int Number, bool Redelivered, string Tag)>());
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var bus = await stage.Bus(proxy.Address, null, new Endpoint(queue, async m =>
        {
            got.Add((m.Number, m.Delivery.Redelivered, m.Delivery.ConsumerTag));
            if (!m.Delivery.Redelivered && m.Number == 1) await hold.Task;
        })
        { Consumes = [kind] });
        await bus.Publish(kind, 1);
        var first = await got.Next();
        Expect.Same((1, false), (first.Number, first.Redelivered));
        var lost = Lost(bus.Connection);
        proxy.Cut();
        await lost.Within();
        hold.SetResult();
        await bus.Reconnect().Within();
        // With the tag that the broker gave on the connection before.
        Expect.Same((1, true, first.Tag), await got.Next());
        await bus.Publish(kind, 2);
        Expect.Same((2, false, first.Tag), await got.Next());
        await bus.Stop();
        Expect.Same(0u, stage.Count(queue));
    }

    /// <summary>Heartbeats of a second end the silent connection on both sides; an exclusive queue of it is locked until the broker gives up.</summary>
    private static async Task HalfOpen(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        var (queue, own, kind, got) = (stage.Name("silent"), stage.Name("own"), stage.Kind("OrderSubmitted"), new Inbox<(int Number, bool Redelivered)>());
        var forever = new TaskCompletionSource();
        var bus = await stage.Bus(proxy.Address, f => f.RequestedHeartbeat = TimeSpan.FromSeconds(1), new Endpoint(queue, m =>
        {
            got.Add((m.Number, m.Delivery.Redelivered));
            return m.Delivery.Redelivered ? Task.CompletedTask : forever.Task;
        })
        { Consumes = [kind] });
        await bus.Wire.Rpc(m => m.QueueDeclare(own, false, true, false, null));
        await bus.Publish(kind, 1);
        Expect.Same((1, false), await got.Next());
        var lost = Lost(bus.Connection);
        proxy.Freeze();
        using (var channel = stage.Channel())
        {
            var locked = await Expect.Throws<OperationInterruptedException>(() => Task.Run(() => channel.QueueDeclare(own, false, true, false, null)));
            Expect.Same(405, (int)locked.ShutdownReason.ReplyCode);
            Expect.Contains($"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{own}' in vhost '/'", locked.ShutdownReason.ReplyText);
        }
        await lost.Within();
        await bus.Reconnect().Within();
        Expect.Same((1, true), await got.Next());
        await Stage.Until(() => !stage.HasQueue(own), "the end of the silent connection's exclusive queue");
        forever.SetResult();
    }

    /// <summary>Cancelled; consuming again on the same channel, without declaring, is 404 there; a new channel declares anew.</summary>
    private static async Task QueueDeleted(Stage stage)
    {
        var (queue, kind, got) = (stage.Name("deleted"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        var bus = await stage.Bus();
        var receiver = await bus.Receive(new Endpoint(queue, m => { got.Add(m.Number); return Task.CompletedTask; }) { Consumes = [kind] });
        await bus.Publish(kind, 1);
        Expect.Same(1, await got.Next());
        stage.DeleteQueue(queue);
        await receiver.Cancelled();
        var refused = await Expect.Throws<OperationInterruptedException>(receiver.Consume);
        Expect.Same((404, $"NOT_FOUND - no queue '{queue}' in vhost '/'"), (refused.ShutdownReason.ReplyCode, refused.ShutdownReason.ReplyText));
        Expect.That(bus.Connection.IsOpen, "the connection stays open");
        await receiver.Wire.DisposeAsync();
        await receiver.Start(bus.Connection);
        await bus.Publish(kind, 2);
        Expect.Same(2, await got.Next());
    }

    private static async Task ClosedByOperator(Stage stage)
    {
        using var api = await Management.Open(stage.Options);
        var (queue, kind, got) = (stage.Name("closed"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        var mark = stage.Name("mark");
        var bus = await stage.Bus(stage.Address, f => f.ClientProperties["mark"] = mark, new Endpoint(queue, m => { got.Add(m.Number); return Task.CompletedTask; }) { Consumes = [kind] });
        async Task<string?> Find()
        {
            foreach (var c in (await api.Get("connections")).EnumerateArray())
                if (c.GetProperty("client_properties").TryGetProperty("mark", out var n) && n.GetString() == mark) return c.GetProperty("name").GetString();
            return null;
        }
        var lost = Lost(bus.Connection);
        await api.Delete($"connections/{Management.Name(await api.Until(Find, "the bus in the list of connections"))}");
        Expect.Same(320, (int)(await lost.Within()).ReplyCode);
        await bus.Reconnect().Within();
        await bus.Publish(kind, 2);
        Expect.Same(2, await got.Next());
    }
}
