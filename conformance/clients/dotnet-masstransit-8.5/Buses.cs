// Buses as such: start, health, stop, login, a host of services, and coming back after a lost connection or queue.
using Conformance.Messages;
using MassTransit;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace Conformance;

public static class Buses
{
    public static IEnumerable<Scenario> All =>
    [
        new("bus starts, is healthy and stops", StartStop),
        new("wrong password fails the start", WrongPassword),
        new("bus in a host of services", InHost),
        new("endpoint recovers when its queue is deleted", QueueDeleted),
        new("bus recovers after a cut", Cut),
        new("30 endpoints on one bus", ManyEndpoints),
    ];

    private static async Task StartStop(Stage stage)
    {
        var endpoint = stage.Endpoint("idle");
        await using var bus = await stage.Start(endpoint, e => e.Handler<OrderSubmitted>(_ => Task.CompletedTask));
        var health = await bus.Bus.WaitForHealthStatus(BusHealthStatus.Healthy, Soon.Limit);
        Expect.Same(BusHealthStatus.Healthy, health);
        Expect.That(await stage.HasQueue(endpoint), "the endpoint's queue is declared");
        Expect.That(await stage.HasExchange(endpoint), "the endpoint's exchange is declared");
        Expect.That(await stage.HasExchange(stage.ExchangeOf<OrderSubmitted>()), "the message's exchange is declared");
        await bus.Stop();
        Expect.That(await stage.HasQueue(endpoint), "the endpoint's queue outlives the bus");
    }

    private static async Task WrongPassword(Stage stage)
    {
        var bus = Bus.Factory.CreateUsingRabbitMq(c => stage.Host(c, password: $"wrong-{Guid.NewGuid():N}"));
        using var limit = new CancellationTokenSource(Soon.Limit);
        var refused = await Expect.Throws<RabbitMqConnectionException>(() => bus.StartAsync(limit.Token));
        Expect.Contains("ACCESS_REFUSED", $"{refused}");
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
        builder.Services.Configure<MassTransitHostOptions>(o => o.WaitUntilStarted = true);
        using var host = builder.Build();
        await host.StartAsync().Within();
        await using (var scope = host.Services.CreateAsyncScope())
        {
            var client = scope.ServiceProvider.GetRequiredService<IRequestClient<CheckOrder>>();
            var response = await client.GetResponse<OrderStatus>(new CheckOrder(7)).Within();
            Expect.Same(new OrderStatus(7, "shipped"), response.Message);
        }
        await host.StopAsync().Within();
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
        ready.Arm();
        await stage.DeleteQueue(endpoint);
        await ready.Again();
        await bus.Bus.Publish(new OrderSubmitted(2, "after"));
        Expect.Same(2, await got.Next());
    }

    /// <summary>What was being consumed at the cut is delivered again. MassTransit tries again after 3 s, then less and less often.</summary>
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
        ready.Arm();
        proxy.Cut();
        hold.SetResult();
        await ready.Again();
        Expect.Same((1, true), await got.Next());
        await bus.Bus.Publish(new OrderSubmitted(2, "after")).Within();
        Expect.Same((2, false), await got.Next());
    }

    private static async Task ManyEndpoints(Stage stage)
    {
        var got = new Inbox<int>();
        await using var bus = await stage.Start(c =>
        {
            foreach (var i in Enumerable.Range(0, 30))
                c.ReceiveEndpoint(stage.Endpoint($"many{i}"), e => e.Handler<OrderSubmitted>(_ => { got.Add(i); return Task.CompletedTask; }));
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "to all"));
        Expect.SameList(Enumerable.Range(0, 30), (await got.Take(30)).Order());
    }

    private sealed class StatusConsumer : IConsumer<CheckOrder>
    {
        public Task Consume(ConsumeContext<CheckOrder> context) => context.RespondAsync(new OrderStatus(context.Message.Number, "shipped"));
    }

    /// <summary>Tells when an endpoint has become ready once more.</summary>
    private sealed class Readiness(string endpoint) : IReceiveEndpointObserver
    {
        private readonly TaskCompletionSource again = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private volatile bool armed;

        /// <summary>From here on readiness counts; the first one, at the start, does not.</summary>
        public void Arm() => armed = true;

        public Task Again() => again.Task.Within($"the readiness of {endpoint}");

        public Task Ready(ReceiveEndpointReady ready)
        {
            if (armed && Stage.NameOf(ready.InputAddress) == endpoint) again.TrySetResult();
            return Task.CompletedTask;
        }

        public Task Stopping(ReceiveEndpointStopping stopping) => Task.CompletedTask;

        public Task Completed(ReceiveEndpointCompleted completed) => Task.CompletedTask;

        public Task Faulted(ReceiveEndpointFaulted faulted) => Task.CompletedTask;
    }
}
