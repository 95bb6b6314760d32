// Buses as such: start, health, stop, many endpoints, a host of services, endpoints that clash, purge and kill switch.
using Conformance.Messages;
using MassTransit;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace Conformance;

public static class Buses
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("1", "bus-start-stop", StartStop),
        new("33", "purge-on-startup", Purge),
        new("34", "kill-switch", KillSwitch),
        new("41", "redeclare-with-other-arguments", OtherArguments),
        new("47", "200-endpoints", ManyEndpoints),
        new("49", "host-of-services", InHost),
    ];

    /// <summary>The relay between sees one connection while the bus runs, and none after.</summary>
    private static async Task StartStop(Stage stage)
    {
        using var proxy = new Proxy(stage.Address);
        await using (var empty = await stage.Start(_ => { }, proxy.Address))
        {
            var health = await empty.Bus.WaitForHealthStatus(BusHealthStatus.Healthy, TimeSpan.FromSeconds(5));
            Expect.Same(BusHealthStatus.Healthy, health);
            Expect.Same((1, 1), proxy.Connections);
        }
        await Stage.Until(() => Task.FromResult(proxy.Connections == (1, 0)), "the end of the bus's connection");
        var endpoint = stage.Endpoint("idle");
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(_ => Task.CompletedTask));
        Expect.That(await stage.HasQueue(endpoint), "the endpoint's queue is declared");
        Expect.That(await stage.HasExchange(endpoint), "the endpoint's exchange is declared");
        Expect.That(await stage.HasExchange(stage.ExchangeOf<OrderSubmitted>()), "the message's exchange is declared");
        await bus.Stop();
        Expect.That(await stage.HasQueue(endpoint), "the endpoint's queue outlives the bus");
    }

    /// <summary>A backlog goes when the only consumer starts; it stays when there is a consumer already.</summary>
    private static async Task Purge(Stage stage)
    {
        var queue = stage.Endpoint("purged");
        await using var sender = await stage.Start();
        for (var i = 0; i < 10; i++) await sender.Send(queue, new OrderSubmitted(i, "old"));
        Expect.Same(10u, await stage.Count(queue));
        var (first, second) = (new Inbox<int>(), new Inbox<int>());
        var hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using var holder = await stage.Start(queue, e =>
        {
            (e.PurgeOnStartup, e.PrefetchCount) = (true, 1);
            e.Handler<OrderSubmitted>(c => { first.Add(c.Message.Number); return hold.Task; });
        });
        Expect.Same(0u, await stage.Count(queue));
        for (var i = 100; i < 105; i++) await sender.Send(queue, new OrderSubmitted(i, "new"));
        Expect.Same(100, await first.Next());
        await stage.Counts(4, queue);
        await using var late = await stage.Start(queue, e =>
        {
            (e.PurgeOnStartup, e.PrefetchCount) = (true, 1);
            e.Handler<OrderSubmitted>(c => { second.Add(c.Message.Number); return Task.CompletedTask; });
        });
        Expect.SameList([101, 102, 103, 104], (await second.Take(4)).Order());
        hold.SetResult();
        await holder.Stop();
        await late.Stop();
        Expect.Same(0u, await stage.Count(queue));
    }

    /// <summary>What was prefetched when the switch trips comes again, marked as redelivered.</summary>
    private static async Task KillSwitch(Stage stage)
    {
        var queue = stage.Endpoint("breaking");
        var got = new Inbox<(int Number, bool Redelivered)>();
        await using var bus = await stage.Start(c =>
        {
            c.UseKillSwitch(o => o.SetActivationThreshold(9).SetTripThreshold(10).SetRestartTimeout(s: 1));
            c.ReceiveEndpoint(queue, e =>
            {
                (e.PrefetchCount, e.ConcurrentMessageLimit) = (20, 1);
                e.Handler<OrderSubmitted>(m =>
                {
                    var redelivered = m.ReceiveContext.Redelivered;
                    got.Add((m.Message.Number, redelivered));
                    return redelivered ? Task.CompletedTask : throw new InvalidOperationException("out of stock");
                });
            });
        });
        await Task.WhenAll(Enumerable.Range(0, 20).Select(i => bus.Bus.Publish(new OrderSubmitted(i, "risky")))).Within();
        Expect.Same(BusHealthStatus.Degraded, await bus.Bus.WaitForHealthStatus(BusHealthStatus.Degraded, Soon.Limit));
        Expect.Same(BusHealthStatus.Healthy, await bus.Bus.WaitForHealthStatus(BusHealthStatus.Healthy, Soon.Limit));
        var all = await got.Take(20);
        await bus.Stop();
        Expect.SameList(Enumerable.Range(0, 20), all.Select(m => m.Number).Order());
        var failed = all.Count(m => !m.Redelivered);
        Expect.That(failed is >= 9 and < 20, $"the switch tripped after 9 and before 20 failures: {failed}");
        Expect.Same((uint)failed, await stage.Count($"{queue}_error"));
        Expect.Same(0u, await stage.Count(queue));
    }

    private static async Task OtherArguments(Stage stage)
    {
        var (clash, fine) = (stage.Endpoint("clash"), stage.Endpoint("fine"));
        await using (var channel = await stage.Channel())
            await channel.QueueDeclareAsync(clash, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 10 });
        var got = new Inbox<int>();
        await using var bus = await stage.Start(fine, e => e.Handler<OrderSubmitted>(c => { got.Add(c.Message.Number); return Task.CompletedTask; }));
        var ready = new Readiness(clash);
        bus.Bus.ConnectReceiveEndpointObserver(ready);
        var handle = bus.Bus.ConnectReceiveEndpoint(clash, e => e.Handler<OrderSeldom>(c => { got.Add(c.Message.Number); return Task.CompletedTask; }));
        await ready.Fault($"code=406, text='PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{clash}' in vhost '/': received none but current is the value '10' of type 'signedint'");
        for (var i = 0; i < 10; i++) await bus.Bus.Publish(new OrderSubmitted(i, "beside it"));
        Expect.SameList(Enumerable.Range(0, 10), (await got.Take(10)).Order());
        // Once the queue is out of the way, the endpoint comes up by itself.
        await stage.DeleteQueue(clash);
        await handle.Ready.Within();
        await bus.Bus.Publish(new OrderSeldom(11));
        Expect.Same(11, await got.Next());
    }

    private static async Task ManyEndpoints(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(c =>
        {
            foreach (var i in Enumerable.Range(0, 200))
                c.ReceiveEndpoint(stage.Also($"{stage.Prefix}-many{i}"), e =>
                {
                    (e.PrefetchCount, e.ConcurrentMessageLimit) = (4, 1);
                    e.Handler<OrderSubmitted>(_ => { got.Add(i); return Task.CompletedTask; });
                });
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "to all"));
        Expect.SameList(Enumerable.Range(0, 200), (await got.Take(200)).Order());
    }

    private static async Task InHost(Stage stage)
    {
        var builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        builder.Services.AddMassTransit(x =>
        {
            x.DisableUsageTelemetry();
            x.AddConsumer<StatusConsumer>().Endpoint(e => e.Name = stage.Endpoint("status"));
            x.AddRequestClient<CheckOrder>(RequestTimeout.After(s: 10));
            x.UsingRabbitMq((context, c) =>
            {
                stage.Host(c);
                c.ConfigureEndpoints(context);
            });
        });
        await using var hosted = await Hosted.Start(builder);
        await using (var scope = hosted.Services.CreateAsyncScope())
        {
            var client = scope.ServiceProvider.GetRequiredService<IRequestClient<CheckOrder>>();
            var response = await client.GetResponse<OrderStatus>(new CheckOrder(7)).Within();
            Expect.Same(new OrderStatus(7, "shipped"), response.Message);
        }
        await hosted.Stop();
    }

    private sealed class StatusConsumer : IConsumer<CheckOrder>
    {
        public Task Consume(ConsumeContext<CheckOrder> context) => context.RespondAsync(new OrderStatus(context.Message.Number, "shipped"));
    }
}
