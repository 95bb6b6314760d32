// How several processes share one queue: by turns, or one at a time until it is killed.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Processes
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("22", "competing-processes", Competing),
        new("25", "single-active-consumer", SingleActive),
    ];

    /// <summary>3000 messages, each once, and nobody is left out; a process that gets little time of the processor consumes little.</summary>
    private static async Task Competing(Stage stage)
    {
        var queue = stage.Endpoint("shared");
        await using var sender = await stage.Start();
        await sender.Send(queue, new OrderSubmitted(0, "declares the queue"));
        Expect.Same(1u, await stage.Count(queue));
        await stage.Get(queue);
        var children = Enumerable.Range(0, 3).Select(_ => Child.Again("role", "compete", $"{stage.Address}", stage.Prefix, queue)).ToList();
        try
        {
            foreach (var child in children) await child.Expect("ready");
            var got = new Inbox<(int Process, string Line)>();
            for (var i = 0; i < 3; i++)
            {
                var (process, child) = (i, children[i]);
                _ = Task.Run(async () => { while (!child.HasExited) got.Add((process, await child.Line())); });
            }
            await Parallel.ForEachAsync(Enumerable.Range(0, 3000), new ParallelOptions { MaxDegreeOfParallelism = 50 },
                async (i, _) => await sender.Bus.Publish(new OrderSubmitted(i, "shared")));
            var all = await got.Take(3000, Soon.Limit, "a consumed message");
            Expect.SameList(Enumerable.Range(0, 3000), all.Select(m => int.Parse(m.Line["got ".Length..])).Order());
            var shares = all.GroupBy(m => m.Process).OrderBy(g => g.Key).Select(g => g.Count()).ToList();
            Expect.That(shares.Count == 3 && shares.Min() >= 60, $"each of three processes has a share: {string.Join(", ", shares)}");
            foreach (var child in children) Expect.Same(0, await child.Exit());
            Expect.That(got.IsEmpty, "nothing came twice");
            Expect.Same(0u, await stage.Count(queue));
        }
        finally
        {
            foreach (var child in children) await child.DisposeAsync();
        }
    }

    private static async Task SingleActive(Stage stage)
    {
        var queue = stage.Endpoint("single");
        await using var active = Child.Again("role", "single-active", $"{stage.Address}", stage.Prefix, queue);
        await active.Expect("ready");
        await using var waiting = Child.Again("role", "single-active", $"{stage.Address}", stage.Prefix, queue);
        await waiting.Expect("ready");
        await using var sender = await stage.Start();
        for (var i = 0; i < 20; i++) await sender.Bus.Publish(new OrderSubmitted(i, "done"));
        var idle = waiting.Line();
        async Task<List<string>> Lines(int count)
        {
            var lines = new List<string>();
            while (lines.Count < count)
            {
                var line = active.Line();
                if (await Task.WhenAny(line, idle) == idle) throw new CheckFailed($"the second process waits for the end of the first: {await idle}");
                lines.Add(await line);
            }
            return lines;
        }
        Expect.SameList(Enumerable.Range(0, 20).Select(i => $"got {i}").Order(), (await Lines(20)).Order());
        for (var i = 20; i < 25; i++) await sender.Bus.Publish(new OrderSubmitted(i, "hold"));
        Expect.SameList(Enumerable.Range(20, 5).Select(i => $"got {i}"), (await Lines(5)).Order());
        await sender.Bus.Publish(new OrderSubmitted(25, "waits"));
        await active.Kill();
        var taken = new List<string> { await idle };
        while (taken.Count < 6) taken.Add(await waiting.Line());
        Expect.SameList([.. Enumerable.Range(20, 5).Select(i => $"got {i} again"), "got 25"], taken.Order());
        await stage.Counts(0, queue);
    }
}
