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

    private static async Task WrongPassword(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.Password = "not " + factory.Password;
        var refused = await Expect.Throws<BrokerUnreachableException>(() => factory.CreateConnectionAsync());
        Expect.That(refused.InnerException is AuthenticationFailureException, $"the cause is an authentication failure: {refused.InnerException}");
        Expect.Contains("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", refused.InnerException!.Message);
    }

    /// <summary>Client 7 does not wait for open-ok, so the refusal may come up only with the first channel.</summary>
    private static async Task UnknownVhost(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.VirtualHost = $"missing-{Guid.NewGuid():N}";
        var told = await Expect.Throws<Exception>(async () =>
        {
            await using var connection = await factory.CreateConnectionAsync();
            await using var channel = await connection.CreateChannelAsync();
        });
        var text = told.ToString();
        Expect.Contains("530", text);
        Expect.Contains(factory.VirtualHost, text);
    }

    private static async Task UpdateSecret(Broker broker)
    {
        await using var connection = await Broker.Factory(broker.Address).CreateConnectionAsync();
        // First a channel: until open-ok has come, this client takes it for the answer to update-secret.
        await using var channel = await connection.CreateChannelAsync();
        await connection.UpdateSecretAsync(Broker.Factory(broker.Address).Password, "renewed");
        await channel.QueueDeclareAsync();
    }

    private static async Task SmallFrames(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.RequestedFrameMax = 8192;
        await using var connection = await factory.CreateConnectionAsync();
        Expect.Same(8192u, connection.FrameMax);
        await using var channel = await connection.CreateChannelAsync(new CreateChannelOptions(true, true));
        var queue = (await channel.QueueDeclareAsync()).QueueName;
        var body = Samples.Body(100_000);
        await channel.BasicPublishAsync("", queue, body);
        var got = await channel.BasicGetAsync(queue, true);
        Expect.That(body.AsSpan().SequenceEqual(got!.Body.Span), "the body came back as it was sent");
    }

    /// <summary>At one second, a client that hears nothing for two gives up; so does the broker.</summary>
    private static async Task Heartbeats(Broker broker)
    {
        var factory = Broker.Factory(broker.Address);
        factory.RequestedHeartbeat = TimeSpan.FromSeconds(1);
        await using var idle = await factory.CreateConnectionAsync();
        Expect.Same(TimeSpan.FromSeconds(1), idle.Heartbeat);
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        idle.ConnectionShutdownAsync += (_, s) => { closed.TrySetResult($"{s}"); return Task.CompletedTask; };
        await Expect.Throws<TimeoutException>(() => closed.Task.WaitAsync(TimeSpan.FromSeconds(4)));
        await using var channel = await idle.CreateChannelAsync();
        await channel.QueueDeclareAsync();
    }

    private static async Task Recovery(Broker broker)
    {
        using var proxy = new Proxy(broker.Address);
        var factory = new ConnectionFactory { Uri = proxy.Address, NetworkRecoveryInterval = TimeSpan.FromMilliseconds(200) };
        await using var connection = await factory.CreateConnectionAsync("recovering");
        var recovered = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        connection.RecoverySucceededAsync += (_, _) => { recovered.TrySetResult(); return Task.CompletedTask; };
        await using var channel = await connection.CreateChannelAsync(new CreateChannelOptions(true, true));
        var own = (await channel.QueueDeclareAsync()).QueueName;
        var durable = await broker.DeclareQueue(channel, "recovered");
        await channel.QueueBindAsync(own, "amq.topic", $"{durable}.#");
        var first = await Subscription.Open(channel, durable);
        var second = await Subscription.Open(channel, own, autoAck: true);
        await Publishing.Confirmed(broker, "", durable, "unacked");
        await first.Next();
        proxy.Cut();
        await recovered.Task.Within("recovery");
        var again = await first.Next();
        Expect.Same("unacked", again.Text);
        Expect.That(again.Redelivered, "what was unacked at the cut is redelivered");
        await channel.BasicPublishAsync("amq.topic", $"{durable}.x", true, Samples.Octets("through the new binding"));
        Expect.Same("through the new binding", (await second.Next()).Text);
    }

    private static async Task CleanClose(Broker broker)
    {
        var connection = await Broker.Factory(broker.Address).CreateConnectionAsync();
        var reasons = new Inbox<ShutdownEventArgs>();
        connection.ConnectionShutdownAsync += (_, s) => { reasons.Add(s); return Task.CompletedTask; };
        var channel = await connection.CreateChannelAsync();
        var queue = (await channel.QueueDeclareAsync()).QueueName;
        await connection.CloseAsync(200, "done", TimeSpan.FromSeconds(5), abort: false);
        var reason = await reasons.Next();
        Expect.Same(ShutdownInitiator.Application, reason.Initiator);
        Expect.Same(200, (int)reason.ReplyCode);
        Expect.That(channel.IsClosed, "its channel is closed too");
        // Its exclusive queue is gone by the time close-ok has come.
        await using var other = await broker.Channel();
        var gone = await Expect.Throws<OperationInterruptedException>(() => other.QueueDeclarePassiveAsync(queue));
        Expect.Same(404, (int)gone.ShutdownReason!.ReplyCode);
    }
}
