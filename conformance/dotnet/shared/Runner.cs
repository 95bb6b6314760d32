// Runs scenarios side by side and prints a line for each: `ok 17 name`, `FAIL 17 name: why` or `skip 17 name: why`.
// Knows no broker and no client library.
using System.Collections.Concurrent;
using System.Diagnostics;

namespace Conformance;

/// <summary>A scenario: its number, its name in lower case with hyphens, and what throws when it does not hold.</summary>
public sealed record Scenario<TStage>(string Number, string Name, Func<TStage, Task> Body);

/// <summary>Thrown by a scenario that cannot be run as things are.</summary>
public sealed class Skipped(string why) : Exception(why);

public sealed class Runner<TStage>(Options options, Func<Task<TStage>> open) where TStage : IAsyncDisposable
{
    /// <summary>How long one scenario may take, and its removal again.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(150);

    /// <summary>When the program ends, come what may.</summary>
    private static readonly TimeSpan End = TimeSpan.FromMinutes(9);

    private readonly ConcurrentBag<string> outcomes = [];

    /// <summary>The exit code: 0 when all that was asked for held or was skipped, 1 when something failed, 2 when there is no such scenario.</summary>
    public async Task<int> Run(IEnumerable<Scenario<TStage>> scenarios)
    {
        var all = scenarios.ToList();
        var doubled = all.GroupBy(s => s.Name).Concat(all.GroupBy(s => s.Number)).FirstOrDefault(g => g.Count() > 1);
        if (doubled != null) throw new InvalidOperationException($"two scenarios are called {doubled.Key}");
        var unknown = options.Only.Where(o => !all.Any(s => s.Name == o || s.Number == o)).ToList();
        foreach (var name in unknown) Console.Error.WriteLine($"there is no scenario {name}");
        if (unknown.Count > 0) return 2;
        var wanted = all.Where(s => options.Only.Count == 0 || options.Only.Contains(s.Name) || options.Only.Contains(s.Number)).ToList();
        if (options.List)
        {
            foreach (var s in wanted) Console.WriteLine($"{s.Number} {s.Name}");
            return 0;
        }
        // The last resort: neither a stuck removal nor a client's thread may keep the program from ending.
        await using var watchdog = new Timer(_ => { Console.WriteLine($"the program did not end within {End}"); Environment.Exit(3); }, null, End, Timeout.InfiniteTimeSpan);
        await Parallel.ForEachAsync(wanted, new ParallelOptions { MaxDegreeOfParallelism = options.Parallel }, async (s, _) => outcomes.Add(await RunOne(s)));
        return outcomes.Contains("FAIL") ? 1 : 0;
    }

    private async Task<string> RunOne(Scenario<TStage> scenario)
    {
        var watch = Stopwatch.StartNew();
        var (outcome, why) = ("ok", "");
        // A thread of its own: blocking clients must not hold up the others.
        try { await Task.Run(() => OnStage(scenario.Body)).WaitAsync(Limit + Limit); }
        catch (Skipped e) { (outcome, why) = ("skip", $": {e.Message}"); }
        catch (Exception e) { (outcome, why) = ("FAIL", $": {Describe(e)}"); }
        var times = Environment.GetEnvironmentVariable("CHECK_TIMES") == "1" ? $" ({watch.Elapsed.TotalSeconds:0.0} s)" : "";
        Console.WriteLine($"{outcome} {scenario.Number} {scenario.Name}{why}{times}");
        return outcome;
    }

    private async Task OnStage(Func<TStage, Task> body)
    {
        var stage = await open();
        try { await body(stage).WaitAsync(Limit); }
        catch
        {
            // What failed first is what counts.
            try { await stage.DisposeAsync(); }
            catch (Exception) { }
            throw;
        }
        await stage.DisposeAsync();
    }

    /// <summary>The exception, what caused it and the place in these programs where it came up, in one line.</summary>
    private static string Describe(Exception e)
    {
        var text = $"{e.GetType().Name}: {e.Message}";
        for (var inner = e.InnerException; inner != null; inner = inner.InnerException)
            if (!text.Contains(inner.Message)) text += $", caused by {inner.GetType().Name}: {inner.Message}";
        if (e is CheckFailed) text = e.Message;
        var place = e.StackTrace?.Split('\n').FirstOrDefault(l => l.Contains(".cs:line") && !l.Contains("dotnet-shared"));
        if (place != null) text += $" ({Path.GetFileName(place.Trim())})";
        return string.Join(" ", text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
    }
}
