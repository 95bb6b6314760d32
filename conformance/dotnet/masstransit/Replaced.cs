// A bus as a service with a health check has it: replaced when nothing comes of it any more. Knows no message.
namespace Conformance;

/// <summary>
/// MassTransit 8.4.0 on RabbitMQ.Client 7.1.2 misses the end of a connection now and then when the machine is busy: it neither connects again
/// nor ends, whatever the broker does. A service would be started anew, and so is the bus.
/// </summary>
public sealed class Replaced(Running first) : IAsyncDisposable
{
    /// <summary>Nothing for so long is too long; a publish that its client has forgotten is given up sooner.</summary>
    private static readonly TimeSpan Stalled = TimeSpan.FromSeconds(12);
    private readonly CancellationTokenSource over = new();
    private readonly List<Running> buses = [first];
    private Task watching = Task.CompletedTask;
    private volatile Running newest = first;

    public Running Newest => newest;

    /// <summary>From now on `progress` has to change.</summary>
    public void Watch(Func<int> progress, Func<Task<Running>> start) => watching = Task.Run(async () =>
    {
        for (var before = progress(); ; )
        {
            await Task.Delay(Stalled, over.Token);
            var now = progress();
            if (now == before) buses.Add(newest = await start());
            before = now;
        }
    });

    public async ValueTask DisposeAsync()
    {
        await over.CancelAsync();
        // Its last word is that it was told to end, or a bus that could not start, of which the scenario has spoken then.
        await watching.ContinueWith(_ => { }, TaskScheduler.Default);
        await Task.WhenAll(buses.Select(bus => bus.GiveUp()));
        over.Dispose();
    }
}
