// What this program does as another process of a scenario. It says what comes, a line each, until its input ends.
namespace Conformance;

public static class Roles
{
    public static async Task<int> Run(string[] args)
    {
        var address = new Uri(args[1]);
        switch (args[0])
        {
            case "publish": await Publish(address, args[2], args[3], int.Parse(args[4])); return 0;
            case "consume": await Consume(address, args[2], args[3]); return 0;
            default: Console.Error.WriteLine($"there is no role {args[0]}"); return 2;
        }
    }

    private static void Say(string line)
    {
        lock (typeof(Roles)) Console.WriteLine(line);
    }

    /// <summary>The exchange's name has a prefix that the type's, which is in the envelope, has not.</summary>
    private static async Task Publish(Uri address, string exchange, string type, int count)
    {
        Expect.That(exchange.EndsWith($":{type}"), $"{exchange} is the exchange of {type}");
        await using var bus = await OldBus.Start(address);
        for (var i = 0; i < count; i++) await bus.Publish(new Kind(exchange), i, "from the old").Within();
        Say($"published {count}");
        await Console.In.ReadToEndAsync();
        await bus.Stop();
    }

    private static async Task Consume(Uri address, string queue, string exchange)
    {
        await using var bus = await OldBus.Start(address, new Endpoint(queue, got =>
        {
            Say($"got {got.Number} x-dotnet-pub-seq-no {got.Header("x-dotnet-pub-seq-no")}");
            return Task.CompletedTask;
        })
        { Consumes = [new Kind(exchange)], Limit = 1 });
        Say("ready");
        await Console.In.ReadToEndAsync();
        await bus.Stop();
    }
}
