// Buses as such: start and stop, many endpoints, endpoints that clash, purge, transient queues, logins.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Buses
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("1", "bus-start-stop", StartStop),
        new("32", "temporary-endpoint", Temporary),
        new("32b", "bus-queue-expires", BusQueueExpires),
        new("33", "purge-on-startup", Purge),
        new("39", "wrong-login", WrongLogin),
        new("39b", "permission-granted-later", PermissionLater),
        new("41", "redeclare-with-other-arguments", OtherArguments),
        new("47", "200-endpoints", ManyEndpoints),
    ];

    /// <summary>The client asks for no heartbeat of its own and gets the broker's; the relay between sees one connection, and none after the stop.</summary>
    private static async Task StartStop(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        var (queue, kind) = (stage.Name("idle"), stage.Kind("OrderSubmitted"));
        var bus = await stage.Bus(proxy.Address, null, new Endpoint(queue, _ => Task.CompletedTask) { Consumes = [kind] });
        Expect.That(bus.Connection.Heartbeat > TimeSpan.Zero, "the broker's heartbeat is taken");
        Expect.That(bus.Connection.ChannelMax >= 200 && bus.Connection.FrameMax > 0, $"limits are the broker's: {bus.Connection.ChannelMax}, {bus.Connection.FrameMax}");
        Expect.Same((1, 1), proxy.Connections);
        Expect.That(stage.HasQueue(queue) && stage.HasExchange(queue) && stage.HasExchange(kind.Name), "what the endpoint needs is declared");
        await bus.Stop();
        await Stage.Until(() => proxy.Connections == (1, 0), "the end of the bus's connection");
        Expect.That(stage.HasQueue(queue), "the endpoint's queue outlives the bus");
    }

    /// <summary>Neither durable nor exclusive, auto-delete: gone with its consumer, and the exchanges with it; also when the socket just ends.</summary>
    private static async Task Temporary(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        foreach (var cut in new[] { false, true })
        {
            var (name, whisper, got) = (stage.Name($"temporary-{cut}"), stage.Kind("Whisper") with { Durable = false }, new Inbox<int>());
            var bus = await stage.Bus(proxy.Address, null,
                new Endpoint(name, m => { got.Add(m.Number); return Task.CompletedTask; }) { Consumes = [whisper], Durable = false, AutoDelete = true });
            // Not exclusive: another connection may look, and publish.
            var other = await stage.Bus();
            await other.Publish(whisper, 1);
            Expect.Same(1, await got.Next());
            Expect.That(stage.HasQueue(name), "its queue is there while it runs");
            if (cut) proxy.Cut();
            else await bus.Stop();
            await Stage.Until(() => !stage.HasQueue(name), "the end of its queue");
            await stage.NoMoreExchange(name);
            await stage.NoMoreExchange(whisper.Name);
        }
    }

    /// <summary>The bus queue of that generation, with a second instead of the minute: it goes when nobody has used it for that long.</summary>
    private static async Task BusQueueExpires(Stage stage)
    {
        var name = stage.Name("bus");
        var bus = await stage.Bus(new Endpoint(name, _ => Task.CompletedTask) { Durable = false, AutoDelete = true, Expires = 1000 });
        await Expect.Throws<CheckFailed>(() => Stage.Until(() => !stage.HasExchange(name), "its end", TimeSpan.FromSeconds(2)));
        await bus.Stop();
        Expect.That(stage.HasExchange(name), "it outlives its consumer");
        await Stage.Until(() => !stage.HasExchange(name), "the end of an unused bus queue's exchange", TimeSpan.FromSeconds(6));
        await stage.NoMoreQueue(name);
    }

    private static async Task Purge(Stage stage)
    {
        var (queue, kind, first, second) = (stage.Name("purged"), stage.Kind("OrderSubmitted"), new Inbox<int>(), new Inbox<int>());
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var sender = await stage.Bus();
        for (var i = 0; i < 10; i++) await sender.Send(queue, kind, i);
        Expect.Same(10u, stage.Count(queue));
        await stage.Bus(new Endpoint(queue, m => { first.Add(m.Number); return hold.Task; }) { Purge = true, Prefetch = 1 });
        Expect.Same(0u, stage.Count(queue));
        for (var i = 100; i < 105; i++) await sender.Send(queue, kind, i);
        Expect.Same(100, await first.Next());
        await stage.Bus(new Endpoint(queue, m => { second.Add(m.Number); return Task.CompletedTask; }) { Purge = true, Prefetch = 1 });
        Expect.SameList([101, 102, 103, 104], (await second.Take(4)).Order());
        hold.SetResult();
        Expect.Same(0u, stage.Count(queue));
    }

    private static async Task WrongLogin(Stage stage)
    {
        var refused = await Expect.Throws<BrokerUnreachableException>(() => OldBus.Start(stage.Address, f => f.Password = "wrong"));
        Expect.That(refused.InnerException is AuthenticationFailureException, $"the cause is an authentication failure: {refused.InnerException?.GetType()}");
        Expect.Contains("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", refused.InnerException!.Message);
        // This generation waits for open-ok: the connect call itself fails.
        var missing = await Expect.Throws<BrokerUnreachableException>(() => OldBus.Start(stage.Address, f => f.VirtualHost = "missing-vhost"));
        Expect.Contains("530", $"{missing}");
        Expect.Contains("NOT_ALLOWED - vhost missing-vhost not found", $"{missing}");
    }

    private static async Task PermissionLater(Stage stage)
    {
        using var api = await Management.Open(stage.Options);
        var user = stage.Name("user");
        await api.Put($"users/{user}", new { password = "secret", tags = "" });
        try
        {
            await api.Put($"permissions/%2F/{user}", new { configure = "^$", write = ".*", read = ".*" });
            var (queue, got) = (stage.Name("forbidden"), new Inbox<int>());
            var bus = await stage.Bus(stage.Address, f => (f.UserName, f.Password) = (user, "secret"));
            var endpoint = new Endpoint(queue, m => { got.Add(m.Number); return Task.CompletedTask; });
            var refused = await Expect.Throws<OperationInterruptedException>(() => bus.Receive(endpoint));
            Expect.Same(403, (int)refused.ShutdownReason.ReplyCode);
            Expect.Contains($"access to queue '{queue}' in vhost '/' refused for user '{user}'", refused.ShutdownReason.ReplyText);
            await api.Put($"permissions/%2F/{user}", new { configure = ".*", write = ".*", read = ".*" });
            await bus.Receive(endpoint);
            await bus.Send(queue, stage.Kind("OrderSubmitted"), 1);
            Expect.Same(1, await got.Next());
        }
        finally { await api.Delete($"users/{user}"); }
    }

    /// <summary>The channel is closed with 406, the client closes it once more, and the other endpoint on the connection goes on.</summary>
    private static async Task OtherArguments(Stage stage)
    {
        var (clash, fine, kind, got) = (stage.Name("clash"), stage.Name("fine"), stage.Kind("OrderSubmitted"), new Inbox<int>());
        using (var channel = stage.Channel()) channel.QueueDeclare(clash, true, false, false, new Dictionary<string, object> { ["x-max-length"] = 10 });
        Task Add(Got m) { got.Add(m.Number); return Task.CompletedTask; }
        var bus = await stage.Bus(new Endpoint(fine, Add) { Consumes = [kind] });
        for (var i = 0; i < 3; i++)
        {
            var refused = await Expect.Throws<OperationInterruptedException>(() => bus.Receive(new Endpoint(clash, Add)));
            Expect.Same(406, (int)refused.ShutdownReason.ReplyCode);
            Expect.Same($"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{clash}' in vhost '/': received none but current is the value '10' of type 'signedint'", refused.ShutdownReason.ReplyText);
            Expect.Same((50, 10), (refused.ShutdownReason.ClassId, refused.ShutdownReason.MethodId));
            await bus.Publish(kind, i);
            Expect.Same(i, await got.Next());
        }
        // The sender to `queue:` knows no arguments either.
        var sent = await Expect.Throws<OperationInterruptedException>(() => bus.Send(clash, kind, 1));
        Expect.Contains("inequivalent arg", sent.ShutdownReason.ReplyText);
        stage.DeleteQueue(clash);
        await bus.Receive(new Endpoint(clash, Add) { Consumes = [stage.Kind("OrderSeldom")] });
    }

    private static async Task ManyEndpoints(Stage stage)
    {
        var (kind, got) = (stage.Kind("OrderSubmitted"), new Inbox<int>());
        var endpoints = Enumerable.Range(0, 200).Select(i =>
            new Endpoint(stage.Name($"many{i}"), _ => { got.Add(i); return Task.CompletedTask; }) { Consumes = [kind], Prefetch = 4 });
        var bus = await stage.Bus([.. endpoints]);
        await bus.Publish(kind, 1);
        Expect.SameList(Enumerable.Range(0, 200), (await got.Take(200)).Order());
    }
}
