// Connections: login, vhosts, secrets, recovery after a cut, and the way to close. Knows nothing of messages beyond a sign of life.
using RabbitMQ.Client;
using RabbitMQ.Client.Events;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Connections
{
    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("wrong password is an authentication failure", () => WrongPassword(broker));
        await checks.Run("unknown vhost is refused", () => UnknownVhost(broker));
        await checks.Run("update-secret", () => UpdateSecret(broker));
        await checks.Run("small frame_max is honoured", () => SmallFrames(broker));
        await checks.Run("heartbeats keep an idle connection", () => Heartbeats(broker));
        await checks.Run("client recovers after a cut", () => Recovery(broker));
        await checks.Run("clean close", () => CleanClose(broker));
    }

    private static void WrongPassword(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.Password = "not " + factory.Password;
        var refused = Expect.Fails<BrokerUnreachableException>(() => factory.CreateConnection());
        Expect.That(refused.InnerException is AuthenticationFailureException, $"the cause is an authentication failure: {refused.InnerException}");
        Expect.Contains("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", refused.InnerException!.Message);
    }

    private static void UnknownVhost(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.VirtualHost = $"missing-{Guid.NewGuid():N}";
        var told = Expect.Fails<BrokerUnreachableException>(() => factory.CreateConnection());
        var text = told.ToString();
        Expect.Contains("530", text);
        Expect.Contains(factory.VirtualHost, text);
    }

    private static void UpdateSecret(Broker broker)
    {
        using var connection = Broker.Factory(broker.Address).CreateConnection();
        using var channel = connection.CreateModel();
        connection.UpdateSecret(Broker.Factory(broker.Address).Password, "renewed");
        channel.QueueDeclare();
    }

    private static void SmallFrames(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.RequestedFrameMax = 8192;
        using var connection = factory.CreateConnection();
        Expect.Same(8192u, connection.FrameMax);
        using var channel = connection.CreateModel();
        var queue = channel.QueueDeclare().QueueName;
        var body = Samples.Body(100_000);
        channel.BasicPublish("", queue, false, null, body);
        var got = channel.BasicGet(queue, true);
        Expect.That(body.AsSpan().SequenceEqual(got!.Body.Span), "the body came back as it was sent");
    }

    /// <summary>At one second, a client that hears nothing for two gives up; so does the broker.</summary>
    private static async Task Heartbeats(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.RequestedHeartbeat = TimeSpan.FromSeconds(1);
        using var idle = factory.CreateConnection();
        Expect.Same(TimeSpan.FromSeconds(1), idle.Heartbeat);
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        idle.ConnectionShutdown += (_, s) => closed.TrySetResult($"{s}");
        await Expect.Throws<TimeoutException>(() => closed.Task.WaitAsync(TimeSpan.FromSeconds(4)));
        using var channel = idle.CreateModel();
        channel.QueueDeclare();
    }

    private static async Task Recovery(Broker broker)
    {
        using var proxy = new Proxy(broker.Address);
        var factory = new ConnectionFactory { Uri = proxy.Address, NetworkRecoveryInterval = TimeSpan.FromMilliseconds(200) };
        using var connection = (IAutorecoveringConnection)factory.CreateConnection("recovering");
        var recovered = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        connection.RecoverySucceeded += (_, _) => recovered.TrySetResult();
        using var channel = connection.CreateModel();
        var own = channel.QueueDeclare().QueueName;
        var durable = broker.DeclareQueue(channel, "recovered");
        channel.QueueBind(own, "amq.topic", $"{durable}.#");
        var first = Subscription.Open(channel, durable);
        var second = Subscription.Open(channel, own, autoAck: true);
        Publishing.Confirmed(broker, "", durable, "unacked");
        await first.Next();
        proxy.Cut();
        await recovered.Task.Within("recovery");
        var again = await first.Next();
        Expect.Same("unacked", again.Text);
        Expect.That(again.Redelivered, "what was unacked at the cut is redelivered");
        channel.Send("amq.topic", $"{durable}.x", "through the new binding", mandatory: true);
        Expect.Same("through the new binding", (await second.Next()).Text);
    }

    private static async Task CleanClose(Broker broker)
    {
        var connection = Broker.Factory(broker.Address).CreateConnection();
        var reasons = new Inbox<ShutdownEventArgs>();
        connection.ConnectionShutdown += (_, s) => reasons.Add(s);
        var channel = connection.CreateModel();
        var queue = channel.QueueDeclare().QueueName;
        connection.Close(200, "done", TimeSpan.FromSeconds(5));
        var reason = await reasons.Next();
        Expect.Same(ShutdownInitiator.Application, reason.Initiator);
        Expect.Same(200, (int)reason.ReplyCode);
        Expect.That(channel.IsClosed, "its channel is closed too");
        // Its exclusive queue is gone by the time close-ok has come.
        using var other = broker.Channel();
        var gone = Expect.Fails<OperationInterruptedException>(() => other.QueueDeclarePassive(queue));
        Expect.Same(404, (int)gone.ShutdownReason!.ReplyCode);
    }
}
