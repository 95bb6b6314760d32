// What the broker must refuse on a channel: the code, the words, and that the connection lives on.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Refusals
{
    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("missing queue is 404 and the next channel works", () => MissingQueue(broker));
        await checks.Run("missing exchange is 404", () => MissingExchange(broker));
        await checks.Run("queue redeclared with other arguments is 406", () => QueueMismatch(broker));
        await checks.Run("exchange redeclared with another type is 406", () => ExchangeMismatch(broker));
        await checks.Run("default exchange cannot be bound or deleted", () => DefaultExchange(broker));
        await checks.Run("reserved names are refused", () => ReservedNames(broker));
        await checks.Run("channel numbers are used again", () => ChannelsReused(broker));
        await checks.Run("consumer tag used twice closes the connection", () => TagReused(broker));
    }

    private static async Task Refused(Broker broker, int code, string text, (int Class, int Method) at, Func<IChannel, Task> action)
    {
        await using var channel = await broker.Channel();
        var refused = await Expect.Throws<OperationInterruptedException>(() => action(channel));
        Expect.Same(code, (int)refused.ShutdownReason!.ReplyCode);
        Expect.Contains(text, refused.ShutdownReason.ReplyText);
        Expect.Same(at, (refused.ShutdownReason.ClassId, refused.ShutdownReason.MethodId), "class and method");
        Expect.That(channel.IsClosed, "the channel is closed");
        Expect.That(broker.Connection.IsOpen, "the connection is open");
    }

    private static async Task MissingQueue(Broker broker)
    {
        var name = broker.Queue("missing");
        await Refused(broker, 404, $"NOT_FOUND - no queue '{name}' in vhost '", (50, 10), c => c.QueueDeclarePassiveAsync(name));
        await Refused(broker, 404, $"NOT_FOUND - no queue '{name}' in vhost '", (60, 20), c => Subscription.Open(c, name));
        await Refused(broker, 404, $"NOT_FOUND - no queue '{name}' in vhost '", (60, 70), c => c.BasicGetAsync(name, true));
        await using var next = await broker.Channel();
        await next.QueueDeclareAsync(name, true, false, false);
        Expect.Same(0u, await next.MessageCountAsync(name));
    }

    private static async Task MissingExchange(Broker broker)
    {
        var name = broker.Exchange("missing");
        await Refused(broker, 404, $"NOT_FOUND - no exchange '{name}' in vhost '", (40, 10), c => c.ExchangeDeclarePassiveAsync(name));
        await Refused(broker, 404, $"NOT_FOUND - no exchange '{name}' in vhost '", (40, 30), c => c.ExchangeBindAsync("amq.fanout", name, ""));
        await Refused(broker, 404, $"NOT_FOUND - no exchange '{name}' in vhost '", (50, 20), async c =>
            await c.QueueBindAsync(await broker.DeclareQueue(c, "unbound"), name, ""));
    }

    private static async Task QueueMismatch(Broker broker)
    {
        await using var channel = await broker.Channel();
        var name = await broker.DeclareQueue(channel, "fixed", new Dictionary<string, object?> { ["x-max-length"] = 10 });
        await Refused(broker, 406, $"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{name}' in vhost '", (50, 10), c =>
            c.QueueDeclareAsync(name, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 11 }));
        await Refused(broker, 406, $"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{name}' in vhost '", (50, 10), c =>
            c.QueueDeclareAsync(name, false, false, false, new Dictionary<string, object?> { ["x-max-length"] = 10 }));
        await Refused(broker, 406, "but current is the value '10' of type 'signedint'", (50, 10), c => c.QueueDeclareAsync(name, true, false, false));
        // The same number as another integer type is the same argument.
        await channel.QueueDeclareAsync(name, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 10L });
    }

    private static async Task ExchangeMismatch(Broker broker)
    {
        await using var channel = await broker.Channel();
        var name = await broker.DeclareExchange(channel, "fixed", ExchangeType.Direct);
        await Refused(broker, 406, $"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '", (40, 10), c => c.ExchangeDeclareAsync(name, ExchangeType.Fanout, true));
        await Refused(broker, 406, "received 'false' but current is 'true'", (40, 10), c => c.ExchangeDeclareAsync(name, ExchangeType.Direct, durable: false));
    }

    private static async Task DefaultExchange(Broker broker)
    {
        const string text = "ACCESS_REFUSED - operation not permitted on the default exchange";
        await Refused(broker, 403, text, (50, 20), async c => await c.QueueBindAsync(await broker.DeclareQueue(c, "default"), "", "key"));
        await Refused(broker, 403, text, (40, 20), c => c.ExchangeDeleteAsync(""));
    }

    private static async Task ReservedNames(Broker broker)
    {
        await Refused(broker, 403, "ACCESS_REFUSED - ", (50, 10), c => c.QueueDeclareAsync("amq.conformance", true, false, false));
        await Refused(broker, 403, "ACCESS_REFUSED - ", (40, 10), c => c.ExchangeDeclareAsync("amq.conformance", ExchangeType.Direct, true));
        await Refused(broker, 403, "ACCESS_REFUSED - ", (40, 20), c => c.ExchangeDeleteAsync("amq.direct"));
    }

    private static async Task ChannelsReused(Broker broker)
    {
        var queue = broker.Queue("missing");
        for (var i = 0; i < 50; i++)
        {
            await using var opened = await broker.Channel();
            if (i % 2 == 0) await Expect.Throws<OperationInterruptedException>(() => opened.QueueDeclarePassiveAsync(queue));
        }
        var many = await Task.WhenAll(Enumerable.Range(0, 100).Select(_ => broker.Channel())).Within();
        Expect.Same(100, many.Select(c => c.ChannelNumber).Distinct().Count());
        foreach (var channel in many) await channel.DisposeAsync();
    }

    private static async Task TagReused(Broker broker)
    {
        await using var connection = await Broker.Factory(broker.Address).CreateConnectionAsync();
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        connection.ConnectionShutdownAsync += (_, s) => { closed.TrySetResult($"{s.ReplyCode} {s.ReplyText}"); return Task.CompletedTask; };
        await using var channel = await connection.CreateChannelAsync();
        var queue = (await channel.QueueDeclareAsync()).QueueName;
        var consumer = new RabbitMQ.Client.Events.AsyncEventingBasicConsumer(channel);
        await channel.BasicConsumeAsync(queue, true, "twice", consumer);
        await Expect.Throws<OperationInterruptedException>(() => channel.BasicConsumeAsync(queue, true, "twice", consumer));
        Expect.Same("530 NOT_ALLOWED - attempt to reuse consumer tag 'twice'", await closed.Task.Within());
    }
}
