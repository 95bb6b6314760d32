// What this program does as another process of a scenario: `role NAME URL PREFIX ...`. It says what comes, a line each, until its input ends.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Roles
{
    public static async Task<int> Run(string[] args)
    {
        var (name, options, prefix) = (args[0], Options.Parse([args[1]])!, args[2]);
        var stage = await Stage.Open(options, null, prefix);
        switch (name)
        {
            case "temporary": await Temporary(stage); break;
            case "requests": await Requests.AskFrom(stage, int.Parse(args[3])); Say("answered"); break;
            case "compete": await Compete(stage, args[3]); break;
            case "single-active": await SingleActive(stage, args[3]); break;
            default: Console.Error.WriteLine($"there is no role {name}"); return 2;
        }
        // What was declared is the other process's to remove.
        return 0;
    }

    private static void Say(string line)
    {
        lock (typeof(Roles)) Console.WriteLine(line);
    }

    private static async Task UntilInputEnds() => await Console.In.ReadToEndAsync();

    private static async Task Temporary(Stage stage)
    {
        await using var bus = await stage.Start();
        var handle = bus.Bus.ConnectReceiveEndpoint(new TemporaryEndpointDefinition("conf"), DefaultEndpointNameFormatter.Instance,
            e => e.Handler<Whisper>(c => { Say($"got {c.Message.Number}"); return Task.CompletedTask; }));
        Say(Stage.NameOf((await handle.Ready.Within()).InputAddress));
        await bus.Bus.Publish(new Whisper(2));
        await UntilInputEnds();
    }

    private static async Task Compete(Stage stage, string queue)
    {
        await using var bus = await stage.Start(queue, e =>
        {
            e.PrefetchCount = 10;
            e.Handler<OrderSubmitted>(async c => { await Task.Delay(1); Say($"got {c.Message.Number}"); });
        });
        Say("ready");
        await UntilInputEnds();
    }

    /// <summary>Holds what it gets when it is told `hold`.</summary>
    private static async Task SingleActive(Stage stage, string queue)
    {
        await using var bus = await stage.Start(queue, e =>
        {
            (e.SingleActiveConsumer, e.PrefetchCount, e.ConcurrentMessageLimit) = (true, 5, 5);
            e.Handler<OrderSubmitted>(c =>
            {
                Say($"got {c.Message.Number}{(c.ReceiveContext.Redelivered ? " again" : "")}");
                return c.Message.Text == "hold" && !c.ReceiveContext.Redelivered ? Task.Delay(Timeout.Infinite, c.CancellationToken) : Task.CompletedTask;
            });
        });
        Say("ready");
        await UntilInputEnds();
    }
}
