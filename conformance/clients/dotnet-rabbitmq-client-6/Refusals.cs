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

    private static void Refused(Broker broker, int code, string text, (int Class, int Method) at, Action<IModel> action)
    {
        using var channel = broker.Channel();
        var refused = Expect.Fails<OperationInterruptedException>(() => action(channel));
        Expect.Same(code, (int)refused.ShutdownReason!.ReplyCode);
        Expect.Contains(text, refused.ShutdownReason.ReplyText);
        Expect.Same(at, (refused.ShutdownReason.ClassId, refused.ShutdownReason.MethodId), "class and method");
        Expect.That(channel.IsClosed, "the channel is closed");
        Expect.That(broker.Connection.IsOpen, "the connection is open");
    }

    private static void MissingQueue(Broker broker)
    {
        var name = broker.Queue("missing");
        Refused(broker, 404, $"NOT_FOUND - no queue '{name}' in vhost '", (50, 10), c => c.QueueDeclarePassive(name));
        Refused(broker, 404, $"NOT_FOUND - no queue '{name}' in vhost '", (60, 20), c => Subscription.Open(c, name));
        Refused(broker, 404, $"NOT_FOUND - no queue '{name}' in vhost '", (60, 70), c => c.BasicGet(name, true));
        using var next = broker.Channel();
        next.QueueDeclare(name, true, false, false);
        Expect.Same(0u, next.MessageCount(name));
    }

    private static void MissingExchange(Broker broker)
    {
        var name = broker.Exchange("missing");
        Refused(broker, 404, $"NOT_FOUND - no exchange '{name}' in vhost '", (40, 10), c => c.ExchangeDeclarePassive(name));
        Refused(broker, 404, $"NOT_FOUND - no exchange '{name}' in vhost '", (40, 30), c => c.ExchangeBind("amq.fanout", name, ""));
        Refused(broker, 404, $"NOT_FOUND - no exchange '{name}' in vhost '", (50, 20), c =>
            c.QueueBind(broker.DeclareQueue(c, "unbound"), name, ""));
    }

    private static void QueueMismatch(Broker broker)
    {
        using var channel = broker.Channel();
        var name = broker.DeclareQueue(channel, "fixed", new Dictionary<string, object?> { ["x-max-length"] = 10 });
        Refused(broker, 406, $"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{name}' in vhost '", (50, 10), c =>
            c.QueueDeclare(name, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 11 }));
        Refused(broker, 406, $"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{name}' in vhost '", (50, 10), c =>
            c.QueueDeclare(name, false, false, false, new Dictionary<string, object?> { ["x-max-length"] = 10 }));
        Refused(broker, 406, "but current is the value '10' of type 'signedint'", (50, 10), c => c.QueueDeclare(name, true, false, false));
        // The same number as another integer type is the same argument.
        channel.QueueDeclare(name, true, false, false, new Dictionary<string, object?> { ["x-max-length"] = 10L });
    }

    private static void ExchangeMismatch(Broker broker)
    {
        using var channel = broker.Channel();
        var name = broker.DeclareExchange(channel, "fixed", ExchangeType.Direct);
        Refused(broker, 406, $"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '", (40, 10), c => c.ExchangeDeclare(name, ExchangeType.Fanout, true));
        Refused(broker, 406, "received 'false' but current is 'true'", (40, 10), c => c.ExchangeDeclare(name, ExchangeType.Direct, durable: false));
    }

    private static void DefaultExchange(Broker broker)
    {
        const string text = "ACCESS_REFUSED - operation not permitted on the default exchange";
        Refused(broker, 403, text, (50, 20), c => c.QueueBind(broker.DeclareQueue(c, "default"), "", "key"));
        Refused(broker, 403, text, (40, 20), c => c.ExchangeDelete(""));
    }

    private static void ReservedNames(Broker broker)
    {
        Refused(broker, 403, "ACCESS_REFUSED - ", (50, 10), c => c.QueueDeclare("amq.conformance", true, false, false));
        Refused(broker, 403, "ACCESS_REFUSED - ", (40, 10), c => c.ExchangeDeclare("amq.conformance", ExchangeType.Direct, true));
        Refused(broker, 403, "ACCESS_REFUSED - ", (40, 20), c => c.ExchangeDelete("amq.direct"));
    }

    private static void ChannelsReused(Broker broker)
    {
        var queue = broker.Queue("missing");
        for (var i = 0; i < 50; i++)
        {
            using var opened = broker.Channel();
            if (i % 2 == 0) Expect.Fails<OperationInterruptedException>(() => opened.QueueDeclarePassive(queue));
        }
        var many = Enumerable.Range(0, 100).Select(_ => broker.Channel()).ToList();
        Expect.Same(100, many.Select(c => c.ChannelNumber).Distinct().Count());
        foreach (var channel in many) channel.Dispose();
    }

    private static async Task TagReused(Broker broker)
    {
        using var connection = Broker.Factory(broker.Address).CreateConnection();
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        connection.ConnectionShutdown += (_, s) => closed.TrySetResult($"{s.ReplyCode} {s.ReplyText}");
        using var channel = connection.CreateModel();
        var queue = channel.QueueDeclare().QueueName;
        var consumer = new RabbitMQ.Client.Events.EventingBasicConsumer(channel);
        channel.BasicConsume(queue, true, "twice", consumer);
        Expect.Fails<OperationInterruptedException>(() => channel.BasicConsume(queue, true, "twice", consumer));
        Expect.Same("530 NOT_ALLOWED - attempt to reuse consumer tag 'twice'", await closed.Task.Within());
    }
}
