// Runs named checks one after another and prints a line for each. Knows no broker and no client library.
using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Threading.Channels;

namespace Conformance;

/// <summary>One run of a program: `ok NAME` or `not ok NAME: why` for each check, then an exit code.</summary>
public sealed class Checks
{
    /// <summary>How long one check may take, in all.</summary>
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(20);

    /// <summary>How long a whole program may take; what is left after that fails without being tried.</summary>
    public static readonly TimeSpan Budget = TimeSpan.FromSeconds(55);

    /// <summary>When the program ends, come what may.</summary>
    public static readonly TimeSpan End = TimeSpan.FromSeconds(60);

    private readonly Timer watchdog;
    private readonly Stopwatch watch = Stopwatch.StartNew();
    private readonly string only;
    private readonly string[] features = (Environment.GetEnvironmentVariable("CONFORMANCE_FEATURES") ?? "").Split(',');
    private readonly bool timed = Environment.GetEnvironmentVariable("CHECK_TIMES") == "1";
    private int failed;
    private int passed;

    /// <param name="only">Runs the checks whose name contains this; empty for all.</param>
    public Checks(string only = "")
    {
        this.only = only;
        // The last resort: neither a stuck clean-up nor a client's thread may keep the program from ending.
        watchdog = new Timer(_ =>
        {
            Console.WriteLine($"not ok the program did not end within {End.TotalSeconds} s");
            Environment.Exit(1);
        }, null, End, Timeout.InfiniteTimeSpan);
    }

    /// <summary>0 when something was checked and nothing failed, else 1.</summary>
    public int ExitCode => failed == 0 && passed > 0 ? 0 : 1;

    /// <param name="name">What holds when the check passes.</param>
    /// <param name="body">Throws when it does not hold.</param>
    /// <param name="needs">A feature beyond AMQP itself: the check is skipped unless CONFORMANCE_FEATURES lists it (or is `all`).</param>
    public Task Run(string name, Func<Task> body, string? needs = null)
    {
        if (!name.Contains(only, StringComparison.OrdinalIgnoreCase)) return Task.CompletedTask;
        if (needs == null || features.Contains(needs) || features.Contains("all")) return Need(name, body);
        Console.WriteLine($"skip {name}: CONFORMANCE_FEATURES has no {needs}");
        return Task.CompletedTask;
    }

    /// <summary>The same for a step that the others build on: it is never left out, and its outcome is told.</summary>
    public async Task<bool> Need(string name, Func<Task> body)
    {
        var started = watch.Elapsed;
        var left = Budget - started;
        try
        {
            if (left <= TimeSpan.Zero) throw new TimeoutException("the program's time is used up");
            // A thread of its own: blocking clients must not hold up the limit.
            await Task.Run(body).WaitAsync(left < Limit ? left : Limit);
            passed++;
            Say($"ok {name}", started);
            return true;
        }
        catch (Exception e)
        {
            failed++;
            Say($"not ok {name}: {Describe(e)}", started);
            return false;
        }
    }

    /// <summary>The same for a client that blocks.</summary>
    public Task Run(string name, Action body, string? needs = null) => Run(name, () => { body(); return Task.CompletedTask; }, needs);

    private void Say(string line, TimeSpan started) =>
        Console.WriteLine(timed ? $"{line} ({(watch.Elapsed - started).TotalMilliseconds:0} ms)" : line);

    /// <summary>The exception and what caused it, and the place in these programs where it came up.</summary>
    private static string Describe(Exception e)
    {
        var text = $"{e.GetType().Name}: {e.Message}";
        for (var inner = e.InnerException; inner != null; inner = inner.InnerException)
            text += $"\n    caused by {inner.GetType().Name}: {inner.Message}";
        var place = e.StackTrace?.Split('\n').FirstOrDefault(l => l.Contains(".cs:line") && !l.Contains("dotnet-shared"));
        return place == null ? text : $"{text}\n   {place.TrimEnd()}";
    }
}

/// <summary>A fact about the broker that did not hold.</summary>
public sealed class CheckFailed(string message) : Exception(message);

/// <summary>What checks say about values.</summary>
public static class Expect
{
    public static void That(bool holds, string fact)
    {
        if (!holds) throw new CheckFailed($"expected that {fact}");
    }

    public static void Same<T>(T expected, T actual, [CallerArgumentExpression(nameof(actual))] string what = "")
    {
        if (!EqualityComparer<T>.Default.Equals(expected, actual))
            throw new CheckFailed($"{what}: expected {expected}, got {actual}");
    }

    public static void SameList<T>(IEnumerable<T> expected, IEnumerable<T> actual,
        [CallerArgumentExpression(nameof(actual))] string what = "")
    {
        if (!expected.SequenceEqual(actual))
            throw new CheckFailed($"{what}: expected [{string.Join(", ", expected)}], got [{string.Join(", ", actual)}]");
    }

    public static void Contains(string part, string whole)
    {
        if (!whole.Contains(part, StringComparison.Ordinal))
            throw new CheckFailed($"expected \"{part}\" within \"{(whole.Length > 500 ? whole[..500] + "..." : whole)}\"");
    }

    /// <summary>The exception of type E that the action must end in.</summary>
    public static async Task<E> Throws<E>(Func<Task> action) where E : Exception
    {
        try { await action(); }
        catch (E e) { return e; }
        catch (Exception e) { throw new CheckFailed($"expected {typeof(E).Name}, got {e.GetType().Name}: {e.Message}"); }
        throw new CheckFailed($"expected {typeof(E).Name}, but nothing was thrown");
    }

    /// <summary>The same for an action that blocks.</summary>
    public static E Fails<E>(Action action) where E : Exception
    {
        try { action(); }
        catch (E e) { return e; }
        catch (Exception e) { throw new CheckFailed($"expected {typeof(E).Name}, got {e.GetType().Name}: {e.Message}"); }
        throw new CheckFailed($"expected {typeof(E).Name}, but nothing was thrown");
    }
}

/// <summary>Bounded waits for what must come.</summary>
public static class Soon
{
    /// <summary>How long one awaited event may take, where nothing else is said.</summary>
    public static TimeSpan Limit { get; set; } = TimeSpan.FromSeconds(10);

    public static Task<T> Within<T>(this Task<T> task, [CallerArgumentExpression(nameof(task))] string what = "") => task.Within(Limit, what);

    public static Task Within(this Task task, [CallerArgumentExpression(nameof(task))] string what = "") => task.Within(Limit, what);

    public static async Task<T> Within<T>(this Task<T> task, TimeSpan limit, [CallerArgumentExpression(nameof(task))] string what = "")
    {
        try { return await task.WaitAsync(limit); }
        catch (TimeoutException) when (!task.IsCompleted) { throw new CheckFailed($"{what} did not come within {limit.TotalSeconds} s"); }
    }

    public static async Task Within(this Task task, TimeSpan limit, [CallerArgumentExpression(nameof(task))] string what = "")
    {
        try { await task.WaitAsync(limit); }
        catch (TimeoutException) when (!task.IsCompleted) { throw new CheckFailed($"{what} did not come within {limit.TotalSeconds} s"); }
    }
}

/// <summary>What callbacks put in, in order, for a check to take out.</summary>
public sealed class Inbox<T>
{
    private readonly Channel<T> items = Channel.CreateUnbounded<T>();

    public void Add(T item) => items.Writer.TryWrite(item);

    public Task<T> Next() => Next(Soon.Limit);

    public async Task<T> Next(TimeSpan limit, string? what = null)
    {
        // A read that times out must not swallow what comes later.
        using var end = new CancellationTokenSource(limit);
        try { return await items.Reader.ReadAsync(end.Token); }
        catch (OperationCanceledException) { throw new CheckFailed($"{what ?? $"the next {typeof(T).Name}"} did not come within {limit.TotalSeconds} s"); }
    }

    public Task<List<T>> Take(int count) => Take(count, Soon.Limit);

    /// <param name="count">How many.</param>
    /// <param name="limit">How long each of them may take.</param>
    /// <param name="what">What they are, for the one that does not come.</param>
    public async Task<List<T>> Take(int count, TimeSpan limit, string? what = null)
    {
        var taken = new List<T>(count);
        while (taken.Count < count) taken.Add(await Next(limit, $"{what ?? typeof(T).Name} {taken.Count + 1} of {count}"));
        return taken;
    }

    /// <summary>What lies in it now.</summary>
    public List<T> Drain()
    {
        var taken = new List<T>();
        while (items.Reader.TryRead(out var item)) taken.Add(item);
        return taken;
    }

    /// <summary>Whether nothing lies in it now; says nothing of what is still under way.</summary>
    public bool IsEmpty => items.Reader.Count == 0;
}
