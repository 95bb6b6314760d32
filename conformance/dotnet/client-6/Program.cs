// The generation of MassTransit before 8.3.2, as its method sequences over RabbitMQ.Client 6: the same scenarios, one line each.
// Knows nothing of which broker answers.
using Conformance;

ThreadPool.SetMinThreads(128, 128);
Soon.Limit = TimeSpan.FromSeconds(30);

if (args.FirstOrDefault() == "role") return await Roles.Run(args[1..]);
if (Options.Parse(args) is not { } options)
{
    Console.Error.WriteLine(Options.Usage);
    return 2;
}
Scenario<Stage>[] scenarios =
[
    .. Buses.All, .. Routing.All, .. Requests.All, .. Failures.All, .. Consumers.All, .. Queues.All, .. Recovery.All,
];
return await new Runner<Stage>(options, () => Stage.Open(options)).Run(scenarios.OrderBy(s => s.Number.PadLeft(4)));
