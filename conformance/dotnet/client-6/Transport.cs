// MassTransit's transport up to 8.3.1, over RabbitMQ.Client 6: one connection, channels in confirm mode whose requests and publishes
// queue up one behind the other, `publishId` in the headers of what is published. Knows nothing of endpoints.
using System.Collections.Concurrent;
using RabbitMQ.Client;
using RabbitMQ.Client.Events;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

/// <summary>The broker gave a message back: no queue took it.</summary>
public sealed class Returned(ushort code, string text) : Exception($"The message was returned by RabbitMQ: {code}-{text}");

/// <summary>The broker refused a message.</summary>
public sealed class NotAcknowledged() : Exception("The message was not acknowledged by RabbitMQ");

/// <summary>The channel ended before the broker said anything of a message.</summary>
public sealed class NotConfirmed(string reason) : Exception($"The message was not confirmed by RabbitMQ: {reason}");

public static class Transport
{
    /// <summary>As MassTransit sets it: no recovery by the client, heartbeat and channel limit as the broker likes them.</summary>
    public static ConnectionFactory Factory(Uri address, Action<ConnectionFactory>? configure = null)
    {
        var factory = new ConnectionFactory
        {
            Uri = address,
            AutomaticRecoveryEnabled = false,
            TopologyRecoveryEnabled = false,
            NetworkRecoveryInterval = TimeSpan.FromSeconds(1),
            RequestedHeartbeat = TimeSpan.Zero,
            RequestedChannelMax = 0,
            RequestedConnectionTimeout = TimeSpan.FromSeconds(10),
        };
        factory.ClientProperties["client_api"] = "MassTransit";
        factory.ClientProperties["masstransit_version"] = "8.2.5.0";
        factory.ClientProperties["net_version"] = Environment.Version.ToString();
        factory.ClientProperties["hostname"] = Environment.MachineName;
        factory.ClientProperties["connected"] = DateTimeOffset.Now.ToString("R");
        factory.ClientProperties["process_id"] = $"{Environment.ProcessId}";
        factory.ClientProperties["process_name"] = "client-6";
        configure?.Invoke(factory);
        return factory;
    }

    public static IConnection Connect(Uri address, Action<ConnectionFactory>? configure = null) =>
        Factory(address, configure).CreateConnection([address.Host], "client-6");
}

/// <summary>A channel as MassTransit's ModelContext has it.</summary>
public sealed class Wire : IAsyncDisposable
{
    private readonly SemaphoreSlim turn = new(1);
    private readonly ConcurrentDictionary<ulong, TaskCompletionSource> unconfirmed = new();
    private readonly ConcurrentDictionary<string, Lazy<Task>> declared = new();
    private readonly IModel model;

    public Wire(IConnection connection)
    {
        model = connection.CreateModel();
        model.ConfirmSelect();
        model.ContinuationTimeout = TimeSpan.FromSeconds(20);
        model.ModelShutdown += (_, e) => { foreach (var tag in unconfirmed.Keys) Settle(tag, s => s.TrySetException(new NotConfirmed(e.ReplyText))); };
        model.BasicAcks += (_, e) => SettleAll(e.DeliveryTag, e.Multiple, s => s.TrySetResult());
        model.BasicNacks += (_, e) => SettleAll(e.DeliveryTag, e.Multiple, s => s.TrySetException(new NotAcknowledged()));
        model.BasicReturn += (_, e) =>
        {
            // The return comes before the confirm, with the headers that were sent: else nobody could tell whose it is.
            if (e.BasicProperties.Headers.TryGetValue("publishId", out var id) && ulong.TryParse(Samples.Text(id), out var tag))
                Settle(tag, s => s.TrySetException(new Returned(e.ReplyCode, e.ReplyText)));
        };
    }

    public IModel Model => model;

    /// <summary>A request, one at a time; when the broker answers it by closing the channel, the channel is given up.</summary>
    public async Task<T> Rpc<T>(Func<IModel, T> call)
    {
        await turn.WaitAsync();
        try { return await Task.Run(() => call(model)); }
        catch (OperationInterruptedException e) when (e.ShutdownReason?.ReplyCode >= 400)
        {
            model.Close(500, "Channel unusable due to OperationInterruptedException");
            throw;
        }
        finally { turn.Release(); }
    }

    public Task Rpc(Action<IModel> call) => Rpc(m => { call(m); return true; });

    /// <summary>What is declared once a channel, at the first use; again when that failed.</summary>
    public async Task Once(string what, Func<Task> declare)
    {
        try { await declared.GetOrAdd(what, _ => new Lazy<Task>(declare)).Value; }
        catch { declared.TryRemove(what, out _); throw; }
    }

    /// <summary>Ends when the broker has confirmed it.</summary>
    public async Task Publish(string exchange, string key, bool mandatory, IBasicProperties properties, byte[] body)
    {
        TaskCompletionSource confirmed;
        await turn.WaitAsync();
        try
        {
            confirmed = Number(model.NextPublishSeqNo, properties);
            await Task.Run(() => model.BasicPublish(exchange, key, mandatory, properties, body));
        }
        finally { turn.Release(); }
        await confirmed.Task;
    }

    /// <summary>The same for several, which the client writes in one go.</summary>
    public async Task PublishBatch(string exchange, IEnumerable<(IBasicProperties Properties, byte[] Body)> messages)
    {
        var confirmed = new List<Task>();
        await turn.WaitAsync();
        try
        {
            var (tag, batch) = (model.NextPublishSeqNo, model.CreateBasicPublishBatch());
            foreach (var (properties, body) in messages)
            {
                confirmed.Add(Number(tag++, properties).Task);
                batch.Add(exchange, "", false, properties, new ReadOnlyMemory<byte>(body));
            }
            await Task.Run(batch.Publish);
        }
        finally { turn.Release(); }
        await Task.WhenAll(confirmed);
    }

    /// <summary>Not a request: it may go out between any other's question and answer.</summary>
    public void Ack(ulong tag) => model.BasicAck(tag, multiple: false);

    public void Requeue(ulong tag)
    {
        if (model.IsOpen) model.BasicNack(tag, multiple: false, requeue: true);
    }

    public IBasicProperties Properties()
    {
        var properties = model.CreateBasicProperties();
        properties.Headers = new Dictionary<string, object>();
        return properties;
    }

    public async ValueTask DisposeAsync()
    {
        if (model.IsOpen) await Task.Run(() => model.WaitForConfirms(TimeSpan.FromSeconds(30), out _));
        try
        {
            if (model.IsOpen) await Task.Run(() => model.Close(200, "ModelContext Disposed"));
        }
        catch (Exception e) when (e is AlreadyClosedException or OperationInterruptedException) { }
        model.Dispose();
    }

    private TaskCompletionSource Number(ulong tag, IBasicProperties properties)
    {
        var confirmed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        unconfirmed[tag] = confirmed;
        properties.Headers["publishId"] = tag.ToString("F0");
        return confirmed;
    }

    private void SettleAll(ulong tag, bool multiple, Action<TaskCompletionSource> outcome)
    {
        if (!multiple) Settle(tag, outcome);
        else foreach (var id in unconfirmed.Keys.Where(id => id <= tag)) Settle(id, outcome);
    }

    private void Settle(ulong tag, Action<TaskCompletionSource> outcome)
    {
        if (unconfirmed.TryRemove(tag, out var confirmed)) outcome(confirmed);
    }
}
