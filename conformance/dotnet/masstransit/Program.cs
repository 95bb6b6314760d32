// MassTransit over RabbitMQ against a broker: the scenarios of real applications, one line each. `--help` says how.
// Knows nothing of which broker answers, nor of AMQP beyond what MassTransit shows.
using Conformance;
using MassTransit;
using Microsoft.Extensions.Logging;

// MassTransit blocks threads while it starts clients; on few cores the pool would add them two a second.
ThreadPool.SetMinThreads(128, 128);
Soon.Limit = TimeSpan.FromSeconds(30);

if (Environment.GetEnvironmentVariable("CHECK_LOG") == "1")
    LogContext.ConfigureCurrentLogContext(LoggerFactory.Create(b => b.SetMinimumLevel(LogLevel.Debug).AddSimpleConsole(o => (o.SingleLine, o.TimestampFormat) = (true, "HH:mm:ss.fff "))));

if (args.FirstOrDefault() == "role") return await Roles.Run(args[1..]);
if (Options.Parse(args) is not { } options)
{
    Console.Error.WriteLine(Options.Usage);
    return 2;
}
Scenario<Stage>[] scenarios =
[
    .. Buses.All, .. Routing.All, .. Exchanges.All, .. Requests.All, .. Failures.All, .. Delays.All, .. Workflows.All, .. Consumers.All,
    .. Processes.All, .. Queues.All, .. Recovery.All, .. Security.All, .. Generations.All,
];
return await new Runner<Stage>(options, () => Stage.Open(options)).Run(scenarios.OrderBy(s => s.Number.PadLeft(4)));
