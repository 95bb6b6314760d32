// RabbitMQ.Client 6 against a broker: argument 1 is its AMQP URL, argument 2 (optional) a part of the names of the checks to run.
// Knows nothing of which broker answers: every expectation holds for RabbitMQ 3.10 and 4.x alike.
using Conformance;

if (args.Length < 1)
{
    Console.Error.WriteLine("usage: client amqp://user:password@host:port/vhost [part of a check's name]");
    return 2;
}

var checks = new Checks(args.ElementAtOrDefault(1) ?? "");
Broker? broker = null;
if (!await checks.Need("connect", () => { broker = Broker.Connect(new Uri(args[0])); return Task.CompletedTask; }) || broker == null) return 1;
await Topology.Check(checks, broker);
await Publishing.Check(checks, broker);
await Consuming.Check(checks, broker);
await Replying.Check(checks, broker);
await Refusals.Check(checks, broker);
await Connections.Check(checks, broker);
await checks.Need("clean up and close", () => { broker.Dispose(); return Task.CompletedTask; });
return checks.ExitCode;
