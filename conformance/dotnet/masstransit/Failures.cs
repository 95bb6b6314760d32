// What becomes of messages that cannot be consumed: retries, faults, the error queue and the queue of skipped messages.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Failures
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("12", "error-queue-and-fault", ErrorQueue),
        new("13", "skipped-and-malformed", SkippedAndMalformed),
        new("14", "retry-in-memory", Retry),
        new("51", "error-queue-with-arguments", ErrorQueueWithArguments),
    ];

    private static async Task ErrorQueue(Stage stage)
    {
        var (queue, faults) = (stage.Endpoint("failing"), new Inbox<Fault<OrderSubmitted>>());
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(queue, e => e.Handler<OrderSubmitted>(_ => throw new InvalidOperationException("out of stock")));
            c.ReceiveEndpoint(stage.Endpoint("faults"), e => e.Handler<Fault<OrderSubmitted>>(f => { faults.Add(f.Message); return Task.CompletedTask; }));
        });
        await bus.Bus.Publish(new OrderSubmitted(5, "fails"), c => { c.Headers.Set("kept", "as it was"); c.TimeToLive = TimeSpan.FromMinutes(1); });
        var fault = await faults.Next();
        Expect.Same(new OrderSubmitted(5, "fails"), fault.Message);
        Expect.Same("out of stock", fault.Exceptions[0].Message);
        await bus.Stop();
        Expect.Same(0u, await stage.Count(queue));
        var moved = await stage.Get($"{queue}_error");
        Expect.Same("out of stock", Stage.Header(moved, "MT-Fault-Message"));
        Expect.Same("System.InvalidOperationException", Stage.Header(moved, "MT-Fault-ExceptionType"));
        Expect.Same("fault", Stage.Header(moved, "MT-Reason"));
        Expect.Same("as it was", Stage.Header(moved, "kept"));
        Expect.That(!moved.BasicProperties.IsExpirationPresent(), "what failed does not expire");
        Expect.Contains("\"fails\"", System.Text.Encoding.UTF8.GetString(moved.Body.Span));
        Expect.Same(0u, moved.MessageCount);
    }

    /// <summary>One message is handled at a time: when the third is consumed, the first two have been moved.</summary>
    private static async Task SkippedAndMalformed(Stage stage)
    {
        var (queue, got, faults) = (stage.Endpoint("picky"), new Inbox<int>(), new Inbox<ReceiveFault>());
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(queue, e =>
            {
                e.ConcurrentMessageLimit = 1;
                e.Handler<OrderSubmitted>(m => { got.Add(m.Message.Number); return Task.CompletedTask; });
            });
            c.ReceiveEndpoint(stage.Endpoint("faults"), e => e.Handler<ReceiveFault>(f => { faults.Add(f.Message); return Task.CompletedTask; }));
        });
        await bus.Send(queue, new OrderIgnored(1));
        await stage.Put(queue, "{ not json", "application/vnd.masstransit+json");
        await bus.Send(queue, new OrderSubmitted(2, "known"));
        Expect.Same(2, await got.Next());
        Expect.Contains("Exception", (await faults.Next()).Exceptions[0].ExceptionType);
        await bus.Stop();
        Expect.Same(0u, await stage.Count(queue));
        var skipped = await stage.Get($"{queue}_skipped");
        Expect.Same("dead-letter", Stage.Header(skipped, "MT-Reason"));
        Expect.Same(0u, skipped.MessageCount);
        var moved = await stage.Get($"{queue}_error");
        Expect.Same("{ not json", System.Text.Encoding.UTF8.GetString(moved.Body.Span));
        Expect.Contains("Exception", Stage.Header(moved, "MT-Fault-ExceptionType"));
        Expect.Same(0u, moved.MessageCount);
    }

    private static async Task Retry(Stage stage)
    {
        var (queue, attempts, deliveries) = (stage.Endpoint("retry"), new Inbox<(int Attempt, bool Redelivered)>(), new Deliveries());
        await using var bus = await stage.Start(c =>
        {
            c.ConnectReceiveObserver(deliveries);
            c.ReceiveEndpoint(queue, e =>
            {
                e.UseMessageRetry(r => r.Immediate(3));
                e.Handler<OrderSubmitted>(m =>
                {
                    attempts.Add((m.GetRetryAttempt(), m.ReceiveContext.Redelivered));
                    return m.GetRetryAttempt() < 3 ? throw new InvalidOperationException("not yet") : Task.CompletedTask;
                });
            });
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "third time lucky"));
        Expect.SameList([(0, false), (1, false), (2, false), (3, false)], await attempts.Take(4));
        await bus.Stop();
        Expect.Same(1, deliveries.To(queue));
        Expect.Same(0u, await stage.Count(queue));
        Expect.That(!await stage.HasQueue($"{queue}_error"), "there is no error queue");
    }

    /// <summary>The error queue repeats the arguments of the queue; what is moved there keeps its priority.</summary>
    private static async Task ErrorQueueWithArguments(Stage stage)
    {
        var (queue, faults) = (stage.Endpoint("priority"), new Inbox<int>());
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(queue, e =>
            {
                e.EnablePriority(5);
                e.SetQueueArgument("x-max-length", 1000);
                e.Handler<OrderSubmitted>(_ => throw new InvalidOperationException("out of stock"));
            });
            c.ReceiveEndpoint(stage.Endpoint("faults"), e => e.Handler<Fault<OrderSubmitted>>(f => { faults.Add(f.Message.Message.Number); return Task.CompletedTask; }));
        });
        await bus.Bus.Publish(new OrderSubmitted(1, "urgent"), c => c.SetPriority(4));
        Expect.Same(1, await faults.Next());
        await bus.Stop();
        Expect.Same(4, (int)(await stage.Get($"{queue}_error")).BasicProperties.Priority);
        await using var channel = await stage.Channel();
        var arguments = new Dictionary<string, object?> { ["x-max-priority"] = 5, ["x-max-length"] = 1000 };
        await channel.QueueDeclareAsync($"{queue}_error", true, false, false, arguments);
    }
}
