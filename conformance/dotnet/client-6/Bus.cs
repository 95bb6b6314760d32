// A bus and its endpoints in the order of methods that MassTransit up to 8.3.1 has. Knows nothing of scenarios.
using System.Collections.Concurrent;
using System.Text;
using System.Text.Json;
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

namespace Conformance;

/// <summary>A message of this name goes to an exchange of this name, bound to those of what it implements.</summary>
public sealed record Kind(string Name, params string[] Implements)
{
    public string ExchangeType { get; init; } = "fanout";
    public bool Durable { get; init; } = true;
    public string? Alternate { get; init; }

    public IDictionary<string, object>? Arguments => Alternate == null ? null : new Dictionary<string, object> { ["alternate-exchange"] = Alternate };
}

/// <summary>What is delivered, as a handler sees it.</summary>
public sealed record Got(Wire Wire, string Kind, int Number, string Text, string Body, BasicDeliverEventArgs Delivery)
{
    public IDictionary<string, object> Headers => Delivery.BasicProperties.Headers ?? new Dictionary<string, object>();
    public string? RequestId { get; init; }
    public string? ResponseAddress { get; init; }

    public string? Header(string name) => Headers.TryGetValue(name, out var value) ? Samples.Text(value) : null;
}

/// <summary>Thrown by a handler that does not know the message.</summary>
public sealed class Skip : Exception;

public sealed record Endpoint(string Queue, Func<Got, Task> Handler)
{
    public IReadOnlyList<Kind> Consumes { get; init; } = [];
    public string BindingKey { get; init; } = "";
    public IReadOnlyList<string> Binds { get; init; } = [];
    public bool Durable { get; init; } = true;
    public bool AutoDelete { get; init; }
    public long? Expires { get; init; }
    public Dictionary<string, object> Arguments { get; init; } = [];
    public string? DeadLetter { get; init; }
    public ushort Prefetch { get; init; } = 16;
    public int Limit { get; init; } = 16;
    public bool Exclusive { get; init; }
    public bool Purge { get; init; }
    public bool Rethrow { get; init; }
    public IDictionary<string, object>? ConsumeArguments { get; init; }
    public bool KeepsTag { get; init; } = true;
}

public sealed class OldBus : IAsyncDisposable
{
    private readonly Uri address;
    private readonly Action<ConnectionFactory>? configure;
    private readonly ConcurrentDictionary<string, TaskCompletionSource<Got>> requests = new();
    private readonly List<Receiver> receivers = [];
    private readonly Lazy<Task> busEndpoint;
    private Wire? wire;

    private OldBus(Uri address, Action<ConnectionFactory>? configure)
    {
        this.address = address;
        this.configure = configure;
        Name = $"conf6_bus_{Guid.NewGuid():N}"[..26];
        busEndpoint = new Lazy<Task>(StartBusEndpoint);
    }

    /// <summary>The bus's own queue and exchange.</summary>
    public string Name { get; }

    public IConnection Connection { get; private set; } = null!;

    /// <summary>The bus's own channel: publishes and sends that no consumer makes go out here.</summary>
    public Wire Wire => wire!;

    public static async Task<OldBus> Start(Uri address, params Endpoint[] endpoints) => await Start(address, null, endpoints);

    public static async Task<OldBus> Start(Uri address, Action<ConnectionFactory>? configure, params Endpoint[] endpoints)
    {
        var bus = new OldBus(address, configure);
        try
        {
            await bus.Connect();
            foreach (var endpoint in endpoints) await bus.Receive(endpoint).Within();
        }
        catch { await bus.DisposeAsync(); throw; }
        return bus;
    }

    /// <summary>Makes a new connection with the channels, declarations and consumers that were; the bus does so by itself when one is lost.</summary>
    public async Task Reconnect()
    {
        await Connect();
        foreach (var receiver in receivers) await receiver.Start(Connection);
    }

    public async Task<Receiver> Receive(Endpoint endpoint)
    {
        var receiver = new Receiver(endpoint);
        await receiver.Start(Connection);
        lock (receivers) receivers.Add(receiver);
        return receiver;
    }

    public Task Publish(Kind kind, int number, string text = "", Action<IBasicProperties>? set = null, string key = "", bool mandatory = false) =>
        Messages.Publish(Wire, kind, number, text, set, key, mandatory);

    public Task Send(string queue, Kind kind, int number, string text = "") => Messages.SendToQueue(Wire, queue, kind, number, text);

    /// <summary>A request whose answer comes to the bus's own queue.</summary>
    public async Task<Got> Ask(Kind kind, int number, TimeSpan? timeout = null)
    {
        await busEndpoint.Value;
        var (id, answered) = ($"{Guid.NewGuid():D}", new TaskCompletionSource<Got>(TaskCreationOptions.RunContinuationsAsynchronously));
        requests[id] = answered;
        await Messages.Declare(Wire, kind);
        await Wire.Publish(kind.Name, "", false, Messages.Properties(Wire), Messages.Envelope(kind, number, "", id, Name));
        try { return await answered.Task.WaitAsync(timeout ?? Soon.Limit); }
        finally { requests.TryRemove(id, out _); }
    }

    /// <summary>Consumers end first, then their channels, then the connection.</summary>
    public async Task Stop()
    {
        foreach (var receiver in receivers) await receiver.Stop().Within();
        if (wire != null) await wire.DisposeAsync();
        if (Connection is { IsOpen: true }) await Task.Run(() => Connection.Close(200, "Connection Disposed")).Within();
        receivers.Clear();
    }

    public async ValueTask DisposeAsync()
    {
        try { await Stop(); }
        catch (Exception) { Connection?.Abort(TimeSpan.FromSeconds(2)); }
        Connection?.Dispose();
    }

    private async Task Connect()
    {
        Connection = await Task.Run(() => Transport.Connect(address, configure));
        wire = await Task.Run(() => new Wire(Connection));
    }

    /// <summary>Neither durable nor exclusive: it goes by itself when nobody has used it for a minute.</summary>
    private Task StartBusEndpoint() => Receive(new Endpoint(Name, got =>
    {
        if (got.RequestId != null && requests.TryGetValue(got.RequestId, out var asked)) asked.TrySetResult(got);
        return Task.CompletedTask;
    })
    { Durable = false, AutoDelete = true, Expires = 60000 });
}

/// <summary>An endpoint that consumes on a channel of its own, where its handlers publish too.</summary>
public sealed class Receiver(Endpoint endpoint)
{
    private readonly Inbox<string> cancelled = new();
    private readonly SemaphoreSlim limit = new(endpoint.Limit);
    private int running;
    private volatile bool stopping;
    private Wire? wire;

    public string Tag { get; private set; } = "";

    public Wire Wire => wire!;

    /// <summary>The broker has cancelled the consumer.</summary>
    public Task Cancelled() => cancelled.Next();

    public async Task Start(IConnection connection)
    {
        stopping = false;
        wire = await Task.Run(() => new Wire(connection));
        await Declare(wire);
        if (endpoint.Purge)
        {
            var queue = await wire.Rpc(m => m.QueueDeclarePassive(endpoint.Queue));
            if (queue is { ConsumerCount: 0, MessageCount: > 0 }) await wire.Rpc(m => m.QueuePurge(endpoint.Queue));
        }
        await Consume();
    }

    /// <summary>qos and consume on the channel there is, with the tag that the broker gave the first time.</summary>
    public async Task Consume()
    {
        await Wire.Rpc(m => m.BasicQos(0, endpoint.Prefetch, false));
        var consumer = new EventingBasicConsumer(Wire.Model);
        var own = Wire;
        consumer.Received += (_, d) =>
        {
            limit.Wait();
            Interlocked.Increment(ref running);
            // The client's buffer lives only as long as this callback.
            var body = d.Body.ToArray();
            _ = Task.Run(async () =>
            {
                try { if (!stopping) await Handle(own, d, body); }
                finally { Interlocked.Decrement(ref running); limit.Release(); }
            });
        };
        consumer.ConsumerCancelled += (_, _) => cancelled.Add("cancelled");
        var tag = endpoint.KeepsTag ? Tag : "";
        Tag = await Wire.Rpc(m => m.BasicConsume(consumer, endpoint.Queue, false, tag, false, endpoint.Exclusive, endpoint.ConsumeArguments));
    }

    /// <summary>What is being handled is finished, then cancel, then the channel closes.</summary>
    public async Task Stop()
    {
        stopping = true;
        for (var end = DateTime.UtcNow + Soon.Limit; running > 0 && DateTime.UtcNow < end; await Task.Delay(10)) { }
        if (wire == null) return;
        if (wire.Model.IsOpen)
        {
            try { await wire.Rpc(m => m.BasicCancel(Tag)); }
            catch (Exception e) when (e is RabbitMQ.Client.Exceptions.AlreadyClosedException or RabbitMQ.Client.Exceptions.OperationInterruptedException) { }
        }
        await wire.DisposeAsync();
    }

    /// <summary>Queues, exchanges, bindings of queues, bindings of exchanges.</summary>
    private async Task Declare(Wire wire)
    {
        var arguments = Arguments();
        await wire.Rpc(m => m.QueueDeclare(endpoint.Queue, endpoint.Durable, false, endpoint.AutoDelete && endpoint.Expires == null, arguments));
        if (endpoint.DeadLetter != null) await wire.Rpc(m => m.QueueDeclare(endpoint.DeadLetter, true, false, false, null));
        await wire.Rpc(m => m.ExchangeDeclare(endpoint.Queue, "fanout", endpoint.Durable, endpoint.AutoDelete, null));
        if (endpoint.DeadLetter != null) await wire.Rpc(m => m.ExchangeDeclare(endpoint.DeadLetter, "fanout", true, false, null));
        foreach (var kind in endpoint.Consumes) await wire.Rpc(m => m.ExchangeDeclare(kind.Name, kind.ExchangeType, kind.Durable, !kind.Durable, kind.Arguments));
        foreach (var name in endpoint.Binds) await wire.Rpc(m => m.ExchangeDeclare(name, "fanout", true, false, null));
        await wire.Rpc(m => m.QueueBind(endpoint.Queue, endpoint.Queue, "", null));
        if (endpoint.DeadLetter != null) await wire.Rpc(m => m.QueueBind(endpoint.DeadLetter, endpoint.DeadLetter, "", null));
        foreach (var kind in endpoint.Consumes) await wire.Rpc(m => m.ExchangeBind(endpoint.Queue, kind.Name, endpoint.BindingKey, null));
        foreach (var name in endpoint.Binds) await wire.Rpc(m => m.ExchangeBind(endpoint.Queue, name, "", null));
    }

    private Dictionary<string, object> Arguments()
    {
        var arguments = new Dictionary<string, object>(endpoint.Arguments);
        if (endpoint.Expires is { } expires) arguments["x-expires"] = expires;
        if (endpoint.DeadLetter != null) arguments["x-dead-letter-exchange"] = endpoint.DeadLetter;
        return arguments;
    }

    private async Task Handle(Wire wire, BasicDeliverEventArgs d, byte[] body)
    {
        try
        {
            try { await endpoint.Handler(Messages.Read(wire, d, body)); }
            catch (Skip) { await Move(wire, "_skipped", d, body, new() { ["MT-Reason"] = "dead-letter" }, clear: false); }
            catch (Exception e) when (!endpoint.Rethrow)
            {
                await Move(wire, "_error", d, body, new()
                {
                    ["MT-Reason"] = "fault",
                    ["MT-Fault-ExceptionType"] = e.GetType().FullName!,
                    ["MT-Fault-Message"] = e.Message,
                    ["MT-Fault-Timestamp"] = DateTime.UtcNow.ToString("O"),
                    ["MT-Fault-StackTrace"] = $"{e.StackTrace}",
                }, clear: true);
            }
            wire.Ack(d.DeliveryTag);
        }
        catch (Exception)
        {
            // Neither consumed nor moved: it stays the broker's.
            try { wire.Requeue(d.DeliveryTag); }
            catch (RabbitMQ.Client.Exceptions.AlreadyClosedException) { }
        }
    }

    /// <summary>Mandatory, on the consumer's own channel, with the properties it came with and some more headers.</summary>
    private async Task Move(Wire wire, string end, BasicDeliverEventArgs d, byte[] body, Dictionary<string, string> headers, bool clear)
    {
        var name = endpoint.Queue + end;
        await wire.Once(name, async () =>
        {
            await wire.Rpc(m => m.QueueDeclare(name, endpoint.Durable, false, endpoint.AutoDelete, Arguments()));
            await wire.Rpc(m => m.ExchangeDeclare(name, "fanout", endpoint.Durable, endpoint.AutoDelete, null));
            await wire.Rpc(m => m.QueueBind(name, name, "", null));
        });
        var properties = d.BasicProperties;
        properties.Headers ??= new Dictionary<string, object>();
        properties.Headers["MT-Host-MachineName"] = Environment.MachineName;
        foreach (var (key, value) in headers) properties.Headers[key] = value;
        if (clear) properties.ClearExpiration();
        await wire.Publish(name, d.RoutingKey, true, properties, body);
    }
}

/// <summary>Envelopes, and where they go.</summary>
public static class Messages
{
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web);

    /// <summary>The exchange of a message and those of all it implements, each bound straight to it.</summary>
    public static Task Declare(Wire wire, Kind kind) => wire.Once(kind.Name, async () =>
    {
        await wire.Rpc(m => m.ExchangeDeclare(kind.Name, kind.ExchangeType, kind.Durable, !kind.Durable, kind.Arguments));
        foreach (var name in kind.Implements) await wire.Rpc(m => m.ExchangeDeclare(name, "fanout", true, false, null));
        foreach (var name in kind.Implements) await wire.Rpc(m => m.ExchangeBind(name, kind.Name, kind.ExchangeType == "topic" ? "#" : "", null));
    });

    public static async Task Publish(Wire wire, Kind kind, int number, string text = "", Action<IBasicProperties>? set = null, string key = "", bool mandatory = false)
    {
        await Declare(wire, kind);
        var properties = Properties(wire);
        set?.Invoke(properties);
        await wire.Publish(kind.Name, key, mandatory, properties, Envelope(kind, number, text));
    }

    /// <summary>To `queue:NAME`: the queue is declared as the sender knows it, without arguments.</summary>
    public static async Task SendToQueue(Wire wire, string queue, Kind kind, int number, string text = "", string? envelope = null)
    {
        await wire.Once($"queue:{queue}", async () =>
        {
            await wire.Rpc(m => m.QueueDeclare(queue, true, false, false, new Dictionary<string, object>()));
            await wire.Rpc(m => m.ExchangeDeclare(queue, "fanout", true, false, new Dictionary<string, object>()));
            await wire.Rpc(m => m.QueueBind(queue, queue, "", null));
        });
        await wire.Publish(queue, "", false, Properties(wire), envelope == null ? Envelope(kind, number, text) : Encoding.UTF8.GetBytes(envelope));
    }

    /// <summary>To `exchange:NAME`: the exchange is declared, nothing else.</summary>
    public static async Task SendToExchange(Wire wire, string exchange, Kind kind, int number, string text = "", Action<IBasicProperties>? set = null, string type = "fanout", string key = "")
    {
        await wire.Once($"exchange:{exchange}", () => wire.Rpc(m => m.ExchangeDeclare(exchange, type, true, false, new Dictionary<string, object>())));
        var properties = Properties(wire);
        set?.Invoke(properties);
        await wire.Publish(exchange, key, false, properties, Envelope(kind, number, text));
    }

    /// <summary>To whoever asked: his exchange is declared with the flags in his address, whether or not he is still there.</summary>
    public static async Task Respond(Got request, Kind kind, int number, string text)
    {
        var wire = request.Wire;
        if (request.Delivery.BasicProperties.ReplyTo is { Length: > 0 } address)
        {
            var properties = Properties(wire);
            properties.ReplyTo = address;
            await wire.Publish("", address, false, properties, Envelope(kind, number, text, request.RequestId));
            return;
        }
        var exchange = request.ResponseAddress!;
        await wire.Once($"exchange:{exchange}", () => wire.Rpc(m => m.ExchangeDeclare(exchange, "fanout", false, true, new Dictionary<string, object>())));
        await wire.Publish(exchange, "", false, Properties(wire), Envelope(kind, number, text, request.RequestId));
    }

    /// <summary>To the exchange's delayed companion, which hands it on when it is due.</summary>
    public static async Task Delay(Wire wire, string exchange, TimeSpan delay, IBasicProperties properties, byte[] body, string type = "fanout", string key = "")
    {
        var name = $"{exchange}_delay";
        await wire.Once(name, async () =>
        {
            await wire.Rpc(m => m.ExchangeDeclare(name, "x-delayed-message", true, false, new Dictionary<string, object> { ["x-delayed-type"] = type }));
            await wire.Rpc(m => m.ExchangeDeclare(exchange, type, true, false, null));
            await wire.Rpc(m => m.ExchangeBind(exchange, name, key, null));
        });
        properties.Headers["x-delay"] = (long)delay.TotalMilliseconds;
        await wire.Publish(name, key, false, properties, body);
    }

    public static IBasicProperties Properties(Wire wire)
    {
        var properties = wire.Properties();
        properties.ContentType = "application/vnd.masstransit+json";
        properties.Persistent = true;
        properties.MessageId = $"{Guid.NewGuid():D}";
        return properties;
    }

    public static byte[] Envelope(Kind kind, int number, string text, string? request = null, string? response = null) => JsonSerializer.SerializeToUtf8Bytes(new
    {
        MessageId = Guid.NewGuid(),
        RequestId = request,
        ConversationId = Guid.NewGuid(),
        SourceAddress = "rabbitmq://localhost/client-6",
        DestinationAddress = $"rabbitmq://localhost/{kind.Name}",
        ResponseAddress = response,
        // The prefix is this run's own; what follows it is the name that MassTransit knows.
        MessageType = new[] { $"urn:message:{kind.Name[(kind.Name.IndexOf(':') + 1)..]}" },
        Message = new { Number = number, Text = text },
        SentTime = DateTime.UtcNow,
        Headers = new { },
        Host = new { MachineName = Environment.MachineName, ProcessName = "client-6", MassTransitVersion = "8.2.5.0" },
    }, Json);

    public static Got Read(Wire wire, BasicDeliverEventArgs d, byte[] body)
    {
        var document = JsonDocument.Parse(body).RootElement;
        var message = document.GetProperty("message");
        string? Text(string name) => document.TryGetProperty(name, out var p) && p.ValueKind == JsonValueKind.String ? p.GetString() : null;
        return new Got(wire, document.GetProperty("messageType")[0].GetString()!, message.GetProperty("number").GetInt32(),
            message.TryGetProperty("text", out var text) ? $"{text}" : "", Encoding.UTF8.GetString(body), d)
        { RequestId = Text("requestId"), ResponseAddress = Text("responseAddress") };
    }
}
