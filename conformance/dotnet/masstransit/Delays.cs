// What is due later: redelivery, scheduled messages and a saga's timeout, all through exchanges of type x-delayed-message.
using System.Diagnostics;
using Conformance.Messages;
using MassTransit;
using RabbitMQ.Client;

namespace Conformance;

public static class Delays
{
    /// <summary>How much earlier than due a message may come: clocks and timers are whole milliseconds.</summary>
    private static readonly TimeSpan Early = TimeSpan.FromMilliseconds(50);

    /// <summary>How much later, on a busy machine.</summary>
    private static readonly TimeSpan Late = TimeSpan.FromSeconds(5);

    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("15", "delayed-redelivery", Redelivery),
        new("16", "scheduled-messages", Scheduled),
        new("16b", "scheduled-messages-survive-restart", ScheduledRestart),
        new("17", "delayed-direct-exchange", DelayedDirect),
    ];

    private static void Due(TimeSpan expected, TimeSpan actual) =>
        Expect.That(actual >= expected - Early && actual <= expected + Late, $"{actual.TotalSeconds:0.00} s is {expected.TotalSeconds} s, or a little more");

    private static async Task Redelivery(Stage stage)
    {
        await stage.NeedsDelayedExchange();
        var (queue, got, watch) = (stage.Endpoint("again"), new Inbox<(TimeSpan At, int Count, int? Header)>(), Stopwatch.StartNew());
        await using var bus = await stage.Start(queue, e =>
        {
            e.UseDelayedRedelivery(r => r.Intervals(1000, 2000));
            e.Handler<OrderSubmitted>(c =>
            {
                got.Add((watch.Elapsed, c.GetRedeliveryCount(), c.GetPayload<RabbitMqBasicConsumeContext>().Properties.Headers!.TryGetValue("MT-Redelivery-Count", out var n) ? n as int? : null));
                return c.GetRedeliveryCount() < 2 ? throw new InvalidOperationException("not yet") : Task.CompletedTask;
            });
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "later"));
        var times = await got.Take(3);
        Expect.SameList([0, 1, 2], times.Select(t => t.Count));
        Expect.SameList([null, 1, 2], times.Select(t => t.Header));
        Due(TimeSpan.FromSeconds(1), times[1].At - times[0].At);
        Due(TimeSpan.FromSeconds(2), times[2].At - times[1].At);
        await bus.Stop();
        Expect.Same(0u, await stage.Count(queue));
        Expect.That(!await stage.HasQueue($"{queue}_error"), "there is no error queue");
    }

    /// <summary>100 delays between 0.5 and 2.5 s, given in no order, half of them published and half sent.</summary>
    private static async Task Scheduled(Stage stage)
    {
        await stage.NeedsDelayedExchange();
        var (queue, got) = (stage.Endpoint("scheduled"), new Inbox<(int Number, DateTime At)>());
        await using var bus = await stage.Start(c =>
        {
            c.UseDelayedMessageScheduler();
            c.ReceiveEndpoint(queue, e =>
            {
                (e.PrefetchCount, e.ConcurrentMessageLimit) = (1, 1);
                e.Handler<OrderSubmitted>(m => { got.Add((m.Message.Number, DateTime.UtcNow)); return Task.CompletedTask; });
            });
        });
        var scheduler = bus.Bus.CreateDelayedMessageScheduler();
        var numbers = Enumerable.Range(0, 100).ToArray();
        new Random(7).Shuffle(numbers);
        var due = new DateTime[100];
        await Task.WhenAll(numbers.Select(async i =>
        {
            due[i] = DateTime.UtcNow.AddMilliseconds(500 + 20 * i);
            if (i % 2 == 0) await scheduler.SchedulePublish(due[i], new OrderSubmitted(i, "published"));
            else await scheduler.ScheduleSend(new Uri($"queue:{queue}"), due[i], new OrderSubmitted(i, "sent"));
        })).Within();
        var came = await got.Take(100);
        Expect.SameList(Enumerable.Range(0, 100), came.Select(m => m.Number).Order());
        foreach (var (number, at) in came) Due(TimeSpan.Zero, at - due[number]);
        // In the order in which they are due, but for what a busy machine takes to hand a message to the broker after its delay was reckoned.
        var latest = DateTime.MinValue;
        foreach (var (number, _) in came)
        {
            latest = due[number] > latest ? due[number] : latest;
            Expect.That(latest - due[number] < TimeSpan.FromMilliseconds(500), $"{number} comes before what is due {(latest - due[number]).TotalMilliseconds:0} ms after it");
        }
    }

    private static async Task ScheduledRestart(Stage stage)
    {
        await using var own = await OwnBroker.Start(stage.Options);
        await using var there = await Stage.Open(stage.Options, own.Address);
        await there.NeedsDelayedExchange();
        var (queue, got) = (there.Endpoint("scheduled"), new Inbox<int>());
        void Configure(IRabbitMqBusFactoryConfigurator c)
        {
            c.UseDelayedMessageScheduler();
            c.ReceiveEndpoint(queue, e => e.Handler<OrderSubmitted>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }));
        }
        var due = DateTime.UtcNow.AddSeconds(12);
        await using (var bus = await there.Start(Configure))
            for (var i = 0; i < 10; i++) await bus.Bus.CreateDelayedMessageScheduler().SchedulePublish(due, new OrderSubmitted(i, "durable")).Within();
        await own.Stop();
        await own.Start();
        await using var again = await there.Start(Configure);
        Expect.SameList(Enumerable.Range(0, 10), (await got.Take(10, TimeSpan.FromSeconds(40))).Order());
        Expect.That(DateTime.UtcNow >= due - Early, "they come when they are due");
    }

    private static async Task DelayedDirect(Stage stage)
    {
        await stage.NeedsDelayedExchange();
        var (low, high) = (new Inbox<int>(), new Inbox<int>());
        await using var bus = await stage.Start(c =>
        {
            c.UseDelayedMessageScheduler();
            c.Publish<Quote>(p => p.ExchangeType = ExchangeType.Direct);
            c.Send<Quote>(s => s.UseRoutingKeyFormatter(m => m.Message.Kind));
            foreach (var (kind, inbox) in new[] { ("Low", low), ("High", high) })
                c.ReceiveEndpoint(stage.Endpoint(kind), e =>
                {
                    e.ConfigureConsumeTopology = false;
                    e.Bind<Quote>(b => { b.ExchangeType = ExchangeType.Direct; b.RoutingKey = kind; });
                    e.Handler<Quote>(m => { inbox.Add(m.Message.Number); return Task.CompletedTask; });
                });
        });
        var watch = Stopwatch.StartNew();
        await bus.Bus.CreateDelayedMessageScheduler().SchedulePublish(DateTime.UtcNow.AddSeconds(1), new Quote("Low", 1)).Within();
        await bus.Bus.Publish(new Quote("High", 2)).Within();
        Expect.Same(2, await high.Next());
        Expect.Same(1, await low.Next());
        Due(TimeSpan.FromSeconds(1), watch.Elapsed);
        await bus.Stop();
        Expect.That(high.IsEmpty && low.IsEmpty, "each came to its own queue, once");
    }
}
