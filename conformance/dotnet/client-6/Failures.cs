// What becomes of messages that cannot be consumed, at once or later.
using System.Diagnostics;

namespace Conformance;

public static class Failures
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("12", "error-queue-and-fault", ErrorQueue),
        new("13", "skipped-and-malformed", SkippedAndMalformed),
        new("15", "delayed-redelivery", Redelivery),
        new("16", "scheduled-messages", Scheduled),
        new("17", "delayed-direct-exchange", DelayedDirect),
        new("51", "error-queue-with-arguments", ErrorQueueWithArguments),
    ];

    private static async Task ErrorQueue(Stage stage)
    {
        var (queue, kind, fault, faults) = (stage.Name("failing"), stage.Kind("OrderSubmitted"), stage.Kind("Fault--OrderSubmitted--", "Fault"), new Inbox<int>());
        var bus = await stage.Bus(
            new Endpoint(queue, async m =>
            {
                await Messages.Publish(m.Wire, fault, m.Number, "out of stock");
                throw new InvalidOperationException("out of stock");
            })
            { Consumes = [kind] },
            new Endpoint(stage.Name("faults"), m => { faults.Add(m.Number); return Task.CompletedTask; }) { Consumes = [new Kind(fault.Implements[0])] });
        await bus.Publish(kind, 5, "fails", p => { p.Headers["kept"] = "as it was"; p.Expiration = "60000"; });
        Expect.Same(5, await faults.Next());
        await Stage.Until(() => stage.HasQueue($"{queue}_error") && stage.Count($"{queue}_error") == 1, "the failed message");
        await bus.Stop();
        Expect.Same(0u, stage.Count(queue));
        var moved = stage.Get($"{queue}_error");
        Expect.Same("out of stock", Stage.Header(moved, "MT-Fault-Message"));
        Expect.Same("as it was", Stage.Header(moved, "kept"));
        Expect.Same("2", Stage.Header(moved, "publishId"));
        Expect.That(!moved.BasicProperties.IsExpirationPresent(), "what failed does not expire");
        Expect.Contains("\"fails\"", Samples.Text(moved.Body));
    }

    private static async Task SkippedAndMalformed(Stage stage)
    {
        var (queue, known, other, got) = (stage.Name("picky"), stage.Kind("OrderSubmitted"), stage.Kind("OrderIgnored"), new Inbox<int>());
        var bus = await stage.Bus(new Endpoint(queue, m =>
        {
            if (!m.Kind.EndsWith("OrderSubmitted")) throw new Skip();
            got.Add(m.Number);
            return Task.CompletedTask;
        })
        { Limit = 1 });
        await bus.Send(queue, other, 1);
        await Messages.SendToQueue(bus.Wire, queue, known, 0, envelope: "{ not json");
        await bus.Send(queue, known, 2);
        Expect.Same(2, await got.Next());
        await bus.Stop();
        Expect.Same("dead-letter", Stage.Header(stage.Get($"{queue}_skipped"), "MT-Reason"));
        var moved = stage.Get($"{queue}_error");
        Expect.Same("{ not json", Samples.Text(moved.Body));
        Expect.Contains("Json", Stage.Header(moved, "MT-Fault-ExceptionType"));
        Expect.Same(0u, stage.Count(queue));
    }

    private static async Task Redelivery(Stage stage)
    {
        stage.NeedsDelayedExchange();
        var (queue, kind, got, watch) = (stage.Name("again"), stage.Kind("OrderSubmitted"), new Inbox<(TimeSpan At, string? Count)>(), Stopwatch.StartNew());
        var bus = await stage.Bus(new Endpoint(queue, async m =>
        {
            var count = m.Header("MT-Redelivery-Count");
            got.Add((watch.Elapsed, count));
            if (count == "2") return;
            var properties = m.Delivery.BasicProperties;
            properties.Headers["MT-Redelivery-Count"] = count == null ? "1" : "2";
            await Messages.Delay(m.Wire, queue, TimeSpan.FromSeconds(count == null ? 1 : 2), properties, Samples.Octets(m.Body));
        })
        { Consumes = [kind] });
        await bus.Publish(kind, 1);
        var times = await got.Take(3);
        Expect.SameList([null, "1", "2"], times.Select(t => t.Count));
        foreach (var (i, seconds) in new[] { (1, 1.0), (2, 2.0) })
        {
            var took = (times[i].At - times[i - 1].At).TotalSeconds;
            Expect.That(took >= seconds - 0.05 && took < seconds + 5, $"{took:0.00} s is {seconds} s, or a little more");
        }
    }

    private static async Task Scheduled(Stage stage)
    {
        stage.NeedsDelayedExchange();
        var (queue, kind, got, watch) = (stage.Name("scheduled"), stage.Kind("OrderSubmitted"), new Inbox<(int Number, double At)>(), Stopwatch.StartNew());
        var bus = await stage.Bus(new Endpoint(queue, m => { got.Add((m.Number, watch.Elapsed.TotalMilliseconds)); return Task.CompletedTask; }) { Consumes = [kind], Limit = 1 });
        var numbers = Enumerable.Range(0, 100).ToArray();
        new Random(7).Shuffle(numbers);
        var due = new double[100];
        await Task.WhenAll(numbers.Select(i =>
        {
            var delay = TimeSpan.FromMilliseconds(500 + 20 * i);
            due[i] = (watch.Elapsed + delay).TotalMilliseconds;
            return Messages.Delay(bus.Wire, kind.Name, delay, Messages.Properties(bus.Wire), Messages.Envelope(kind, i, ""));
        })).Within();
        var came = await got.Take(100);
        Expect.SameList(Enumerable.Range(0, 100), came.Select(m => m.Number).Order());
        var latest = 0.0;
        foreach (var (number, _) in came)
        {
            latest = Math.Max(latest, due[number]);
            Expect.That(latest - due[number] < 500, $"{number} comes before what is due {latest - due[number]:0} ms after it");
        }
        foreach (var (number, at) in came) Expect.That(at >= due[number] - 50 && at < due[number] + 5000, $"{at:0} ms is {due[number]:0} ms, or a little more");
    }

    private static async Task DelayedDirect(Stage stage)
    {
        stage.NeedsDelayedExchange();
        var (quote, low, high, watch) = (stage.Kind("Quote") with { ExchangeType = "direct" }, new Inbox<int>(), new Inbox<int>(), Stopwatch.StartNew());
        var bus = await stage.Bus(
            new Endpoint(stage.Name("low"), m => { low.Add(m.Number); return Task.CompletedTask; }) { Consumes = [quote], BindingKey = "Low" },
            new Endpoint(stage.Name("high"), m => { high.Add(m.Number); return Task.CompletedTask; }) { Consumes = [quote], BindingKey = "High" });
        await Messages.Delay(bus.Wire, quote.Name, TimeSpan.FromSeconds(1), Messages.Properties(bus.Wire), Messages.Envelope(quote, 1, ""), "direct", "Low");
        await bus.Publish(quote, 2, key: "High");
        Expect.Same(2, await high.Next());
        Expect.Same(1, await low.Next());
        Expect.That(watch.Elapsed >= TimeSpan.FromSeconds(0.95), $"it comes after its second: {watch.Elapsed}");
        Expect.That(high.IsEmpty, "the key decides still");
    }

    private static async Task ErrorQueueWithArguments(Stage stage)
    {
        var (queue, kind) = (stage.Name("priority"), stage.Kind("OrderSubmitted"));
        var arguments = new Dictionary<string, object> { ["x-max-priority"] = 5, ["x-max-length"] = 1000 };
        var bus = await stage.Bus(new Endpoint(queue, _ => throw new InvalidOperationException("out of stock")) { Consumes = [kind], Arguments = arguments });
        await bus.Publish(kind, 1, "urgent", p => p.Priority = 4);
        await Stage.Until(() => stage.HasQueue($"{queue}_error") && stage.Count($"{queue}_error") == 1, "the failed message");
        Expect.Same(4, (int)stage.Get($"{queue}_error").BasicProperties.Priority);
        using var channel = stage.Channel();
        channel.QueueDeclare($"{queue}_error", true, false, false, arguments);
    }
}
