// MassTransit over RabbitMQ against a broker: argument 1 is its AMQP URL, argument 2 (optional) a part of the names of the checks to run.
// Knows nothing of which broker answers, nor of AMQP beyond what MassTransit shows: every expectation holds for RabbitMQ 3.10 and 4.x alike.
using Conformance;

if (args.Length < 1)
{
    Console.Error.WriteLine("usage: client amqp://user:password@host:port/vhost [part of a check's name]");
    return 2;
}

// MassTransit blocks threads while it starts clients; on few cores the pool would add them two a second.
ThreadPool.SetMinThreads(64, 64);

var address = new Uri(args[0]);
var checks = new Checks(args.ElementAtOrDefault(1) ?? "");
foreach (var scenario in Buses.All.Concat(Routing.All).Concat(Requests.All).Concat(Failures.All).Concat(Consumers.All))
{
    await checks.Run(scenario.Name, () => OnStage(scenario.Check), scenario.Needs);
}
return checks.ExitCode;

async Task OnStage(Func<Stage, Task> check)
{
    var stage = await Stage.Open(address);
    try
    {
        await check(stage);
    }
    catch
    {
        // What failed first is what counts.
        try { await stage.DisposeAsync(); }
        catch (Exception) { }
        throw;
    }
    await stage.DisposeAsync();
}
