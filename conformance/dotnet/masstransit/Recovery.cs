// Coming back: after a cut, a silent peer, a deleted queue, an operator's close, a restart of the broker, a memory alarm.
using System.Collections.Concurrent;
using Conformance.Messages;
using MassTransit;
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

namespace Conformance;

public static class Recovery
{
    /// <summary>MassTransit tries again after 3 s, then less and less often.</summary>
    private static readonly TimeSpan Again = TimeSpan.FromSeconds(45);

    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("35", "broker-restart", Restart),
        new("36", "tcp-cut", Cut),
        new("36b", "half-open-peer", HalfOpen),
        new("37", "queue-deleted", QueueDeleted),
        new("37b", "queue-deleted-while-consuming", DeletedWhileConsuming),
        new("38", "closed-by-operator", ClosedByOperator),
        new("43", "memory-alarm", MemoryAlarm),
    ];

    /// <summary>What was confirmed is not lost; what is consumed twice was redelivered, or its confirm was lost with the broker.</summary>
    private static async Task Restart(Stage stage)
    {
        const int Count = 5000, AtOnce = 100;
        await using var own = await OwnBroker.Start(stage.Options);
        var queue = $"{stage.Prefix}-restart";
        var (seen, afresh, confirmed, insisted) = (new ConcurrentDictionary<int, int>(), 0, 0, 0);
        var half = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using var there = await Stage.Open(stage.Options, own.Address);
        Task<Running> Bus() => there.Start(queue, e => e.Handler<OrderSubmitted>(m =>
        {
            if (seen.AddOrUpdate(m.Message.Number, 1, (_, n) => n + 1) > 1 && !m.ReceiveContext.Redelivered) Interlocked.Increment(ref afresh);
            return Task.CompletedTask;
        }));
        await using var buses = new Replaced(await Bus());
        // The client of this generation forgets some of the publishes that are under way when a connection ends, whatever the broker:
        // their tasks never end, or end with its own stumbling. So an application has to give up at some time, and publish again.
        async Task Insist(int i)
        {
            for (; ; Interlocked.Increment(ref insisted))
            {
                using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(8));
                // Not every task that it forgets heeds the token.
                try { await buses.Newest.Bus.Publish(new OrderSubmitted(i, "through a restart"), patience.Token).WaitAsync(TimeSpan.FromSeconds(10)); return; }
                catch (Exception) { await Task.Delay(100); }
            }
        }
        var told = new TaskCompletionSource<ShutdownEventArgs>(TaskCreationOptions.RunContinuationsAsynchronously);
        await using var plain = await new ConnectionFactory { Uri = own.Address, AutomaticRecoveryEnabled = false }.CreateConnectionAsync("plain");
        plain.ConnectionShutdownAsync += (_, e) => { told.TrySetResult(e); return Task.CompletedTask; };
        var publishing = Parallel.ForEachAsync(Enumerable.Range(0, Count), new ParallelOptions { MaxDegreeOfParallelism = AtOnce }, async (i, _) =>
        {
            await Insist(i);
            if (Interlocked.Increment(ref confirmed) == Count / 5) half.TrySetResult();
        });
        await half.Task.Within();
        await own.Stop();
        var reason = await told.Task.Within();
        Expect.Same((320, "CONNECTION_FORCED"), (reason.ReplyCode, reason.ReplyText.Split(' ')[0]));
        Expect.That(confirmed < Count, "the restart came while messages were being published");
        await own.Start();
        buses.Watch(() => Volatile.Read(ref confirmed) + seen.Count, Bus);
        await publishing.Within(TimeSpan.FromSeconds(90));
        try { await Stage.Until(() => Task.FromResult(seen.Count == Count), $"each of {Count} messages", Again); }
        catch (Exception failure)
        {
            // Lost by the broker, or left in the queue?
            await using var look = await new ConnectionFactory { Uri = own.Address }.CreateConnectionAsync("look");
            await using var channel = await look.CreateChannelAsync();
            var left = await channel.QueueDeclarePassiveAsync(queue);
            throw new InvalidOperationException($"{failure.Message}: {Count - seen.Count} missing, {left.MessageCount} in the queue, {left.ConsumerCount} consumers");
        }
        Expect.That(afresh <= AtOnce + insisted, $"what came again, came as redelivered, but for what was under way: {afresh}, {insisted}");
    }

    /// <summary>What was being consumed at the cut is delivered again.</summary>
    private static async Task Cut(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        var endpoint = stage.Endpoint("cut");
        var got = new Inbox<(int Number, bool Redelivered)>();
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var ready = new Readiness(endpoint);
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(async m =>
        {
            got.Add((m.Message.Number, m.ReceiveContext.Redelivered));
            if (!m.ReceiveContext.Redelivered && m.Message.Number == 1) await hold.Task;
        }), proxy.Address);
        await bus.Bus.Publish(new OrderSubmitted(1, "held"));
        Expect.Same((1, false), await got.Next());
        bus.Bus.ConnectReceiveEndpointObserver(ready);
        ready.Forget();
        proxy.Cut();
        hold.SetResult();
        await ready.Next(Again);
        Expect.Same((1, true), await got.Next());
        await bus.Bus.Publish(new OrderSubmitted(2, "after")).Within();
        Expect.Same((2, false), await got.Next());
    }

    /// <summary>
    /// Neither side hears the other, and neither socket ends. The bus notices first and comes back on a new connection, where its own exclusive
    /// queue is locked by the old one until the broker's heartbeats give that up.
    /// </summary>
    private static async Task HalfOpen(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        var (endpoint, temporary) = (stage.Endpoint("silent"), new Inbox<int>());
        var got = new Inbox<(int Number, bool Redelivered)>();
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(async m =>
        {
            got.Add((m.Message.Number, m.ReceiveContext.Redelivered));
            if (!m.ReceiveContext.Redelivered && m.Message.Number == 1) await Task.Delay(System.Threading.Timeout.Infinite, m.CancellationToken);
        }), proxy.Address, h => h.Heartbeat(TimeSpan.FromSeconds(1)));
        await using var server = await stage.Start(stage.Endpoint("server"), e => e.Handler<CheckOrder>(c => c.RespondAsync(new OrderStatus(c.Message.Number, "shipped"))));
        var client = bus.Bus.CreateRequestClient<CheckOrder>(RequestTimeout.After(s: 5));
        await bus.Bus.CreateRequestClient<CheckOrder>(RequestTimeout.After(s: 30)).GetResponse<OrderStatus>(new CheckOrder(1)).Within();
        await bus.Bus.Publish(new OrderSubmitted(1, "held"));
        Expect.Same((1, false), await got.Next());
        proxy.Freeze();
        await Stage.Until(() => Task.FromResult(proxy.Connections.Taken > 1), "a new connection", Again);
        Expect.Same((1, true), await got.Next(Again, "the redelivery of what the silent connection had"));
        // A response that comes while the bus queue is not there yet is lost, so the question is asked again.
        async Task<bool> Answered()
        {
            try { return (await client.GetResponse<OrderStatus>(new CheckOrder(2))).Message == new OrderStatus(2, "shipped"); }
            catch (RequestException) { return false; }
        }
        await Stage.Until(Answered, "a response through the bus queue", TimeSpan.FromSeconds(60));
    }

    private static async Task QueueDeleted(Stage stage)
    {
        var endpoint = stage.Endpoint("deleted");
        var got = new Inbox<int>();
        var ready = new Readiness(endpoint);
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }));
        bus.Bus.ConnectReceiveEndpointObserver(ready);
        await bus.Bus.Publish(new OrderSubmitted(1, "before"));
        Expect.Same(1, await got.Next());
        ready.Forget();
        await stage.DeleteQueue(endpoint);
        await ready.Next(Again);
        await bus.Bus.Publish(new OrderSubmitted(2, "after"));
        Expect.Same(2, await got.Next());
    }

    /// <summary>The cancellation comes while a message is being consumed, and its ack after the queue is gone.</summary>
    private static async Task DeletedWhileConsuming(Stage stage)
    {
        var endpoint = stage.Endpoint("deleted");
        var got = new Inbox<int>();
        var ready = new Readiness(endpoint);
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(async m =>
        {
            got.Add(m.Message.Number);
            if (m.Message.Number != 1) return;
            ready.Forget();
            await stage.DeleteQueue(endpoint);
            await Task.Delay(100);
        }));
        bus.Bus.ConnectReceiveEndpointObserver(ready);
        await bus.Bus.Publish(new OrderSubmitted(1, "before"));
        Expect.Same(1, await got.Next());
        await ready.Next(Again);
        await bus.Bus.Publish(new OrderSubmitted(2, "after"));
        Expect.Same(2, await got.Next());
    }

    private static async Task ClosedByOperator(Stage stage)
    {
        using var api = await Management.Open(stage.Options);
        var endpoint = stage.Endpoint("closed");
        var (got, ready, name) = (new Inbox<int>(), new Readiness(endpoint), $"{stage.Prefix} bus");
        async Task<string?> Find(string connection)
        {
            foreach (var c in (await api.Get("connections")).EnumerateArray())
                if (c.GetProperty("client_properties").TryGetProperty("connection_name", out var n) && n.GetString() == connection) return c.GetProperty("name").GetString();
            return null;
        }
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }), null, h => h.ConnectionName(name));
        bus.Bus.ConnectReceiveEndpointObserver(ready);
        await using var plain = await new ConnectionFactory { Uri = stage.Address, AutomaticRecoveryEnabled = false }.CreateConnectionAsync($"{stage.Prefix} plain");
        var told = new TaskCompletionSource<ShutdownEventArgs>(TaskCreationOptions.RunContinuationsAsynchronously);
        plain.ConnectionShutdownAsync += (_, e) => { told.TrySetResult(e); return Task.CompletedTask; };
        await bus.Bus.Publish(new OrderSubmitted(1, "before"));
        Expect.Same(1, await got.Next());
        ready.Forget();
        foreach (var connection in new[] { name, $"{stage.Prefix} plain" })
            await api.Delete($"connections/{Management.Name(await api.Until(() => Find(connection), $"{connection} in the list of connections"))}");
        Expect.Same(320, (int)(await told.Task.Within()).ReplyCode);
        await ready.Next(Again);
        await bus.Bus.Publish(new OrderSubmitted(2, "after")).Within();
        Expect.Same(2, await got.Next());
    }

    /// <summary>Publishers are held back while messages take too much memory, and go on when they are consumed.</summary>
    private static async Task MemoryAlarm(Stage stage)
    {
        await using var own = await OwnBroker.Start(stage.Options, "low-memory");
        await using var plain = await new ConnectionFactory { Uri = own.Address, AutomaticRecoveryEnabled = false }.CreateConnectionAsync("plain");
        var (blocked, unblocked, enough) = (new Inbox<string>(), new Inbox<string>(), new CancellationTokenSource());
        plain.ConnectionBlockedAsync += (_, e) => { enough.Cancel(); blocked.Add(e.Reason); return Task.CompletedTask; };
        plain.ConnectionUnblockedAsync += (_, _) => { unblocked.Add("unblocked"); return Task.CompletedTask; };
        await using var channel = await plain.CreateChannelAsync();
        await channel.QueueDeclareAsync("heavy", true, false, false);
        await using var there = await Stage.Open(stage.Options, own.Address);
        await using var bus = await there.Start();
        // Large and transient ones, which stay in memory.
        var body = new byte[1_500_000];
        var flood = Task.Run(async () =>
        {
            for (var i = 0; i < 400 && !enough.IsCancellationRequested; i++)
            {
                await channel.BasicPublishAsync("", "heavy", false, new BasicProperties(), body);
                await Task.Delay(20);
            }
        });
        Expect.Contains("low on memory", await blocked.Next());
        await flood.Within();
        // The publish that a connection is blocked for is confirmed still.
        async Task Publish() { for (var i = 0; i < 5; i++) await bus.Bus.Publish(new OrderSubmitted(i, "held back")); }
        var held = Publish();
        await Expect.Throws<TimeoutException>(() => held.WaitAsync(TimeSpan.FromSeconds(1)));
        await using var other = await new ConnectionFactory { Uri = own.Address, AutomaticRecoveryEnabled = false }.CreateConnectionAsync("operator");
        await using var purge = await other.CreateChannelAsync();
        // Once is not enough where more of the flood is on its way than what was taken in.
        await Stage.Until(async () => { await purge.QueuePurgeAsync("heavy"); return held.IsCompleted; }, "the end of the publishes that were held back");
        await held;
        await unblocked.Next();
    }
}
