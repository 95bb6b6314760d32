// What one scenario needs: names that no other run uses, a plain connection that looks at the broker, and removal at the end. Checks nothing itself.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public sealed class Stage : IAsyncDisposable
{
    private readonly string prefix = $"conf-c6-{Guid.NewGuid():N}"[..20];
    private readonly HashSet<string> names = [];
    private readonly List<OldBus> buses = [];
    private readonly IConnection connection;

    private Stage(Options options, Uri address, IConnection connection)
    {
        Options = options;
        Address = address;
        this.connection = connection;
    }

    public Options Options { get; }

    public Uri Address { get; }

    public static async Task<Stage> Open(Options options, Uri? address = null)
    {
        address ??= options.Url;
        return new Stage(options, address, await Task.Run(() => Transport.Connect(address)));
    }

    /// <summary>A name; the queue and the exchange of this name, and those for errors, skipped and delayed messages, are removed at the end.</summary>
    public string Name(string what)
    {
        lock (names) names.Add($"{prefix}-{what}");
        return $"{prefix}-{what}";
    }

    /// <summary>A message's exchange, as MassTransit would call it.</summary>
    public Kind Kind(string type, params string[] implements)
    {
        string Full(string t)
        {
            var name = $"{prefix}:Conformance.Messages:{t}";
            lock (names) names.Add(name);
            return name;
        }
        return new Kind(Full(type), [.. implements.Select(Full)]);
    }

    public async Task<OldBus> Bus(params Endpoint[] endpoints) => await Bus(Address, null, endpoints);

    public async Task<OldBus> Bus(Uri address, Action<ConnectionFactory>? configure, params Endpoint[] endpoints)
    {
        var bus = await OldBus.Start(address, configure, endpoints).Within(TimeSpan.FromSeconds(60), "the start of a bus");
        lock (names) names.Add(bus.Name);
        lock (buses) buses.Add(bus);
        return bus;
    }

    /// <summary>A channel of the plain connection, in confirm mode.</summary>
    public IModel Channel()
    {
        var channel = connection.CreateModel();
        channel.ConfirmSelect();
        return channel;
    }

    public uint Count(string queue)
    {
        using var channel = connection.CreateModel();
        return channel.MessageCount(queue);
    }

    public Task Counts(uint expected, string queue, TimeSpan? limit = null) => Until(() => Count(queue) == expected, $"{expected} messages in {queue}", limit);

    public static async Task Until(Func<bool> holds, string what, TimeSpan? limit = null)
    {
        for (var end = DateTime.UtcNow + (limit ?? Soon.Limit); DateTime.UtcNow < end; await Task.Delay(50))
            if (await Task.Run(holds)) return;
        throw new CheckFailed($"{what} did not come within {(limit ?? Soon.Limit).TotalSeconds} s");
    }

    public bool HasQueue(string name) => Exists(c => c.QueueDeclarePassive(name));

    public bool HasExchange(string name) => Exists(c => c.ExchangeDeclarePassive(name));

    /// <summary>What ends with a connection or a consumer is gone soon after the client has heard of its end.</summary>
    public Task NoMoreQueue(string name) => Until(() => !HasQueue(name), $"the end of queue {name}");

    public Task NoMoreExchange(string name) => Until(() => !HasExchange(name), $"the end of exchange {name}");

    public BasicGetResult Get(string queue)
    {
        using var channel = connection.CreateModel();
        return channel.BasicGet(queue, autoAck: true) ?? throw new CheckFailed($"{queue} is empty");
    }

    public void DeleteQueue(string name)
    {
        using var channel = connection.CreateModel();
        channel.QueueDelete(name);
    }

    /// <summary>Fails at once when the broker has no delayed exchanges.</summary>
    public void NeedsDelayedExchange()
    {
        using var own = Transport.Connect(Address);
        using var channel = own.CreateModel();
        try { channel.ExchangeDeclare(Name("probe"), "x-delayed-message", true, false, new Dictionary<string, object> { ["x-delayed-type"] = "fanout" }); }
        catch (Exception e) { throw new CheckFailed($"no exchange type x-delayed-message: {e.Message}"); }
    }

    public static string Header(BasicGetResult message, string name) =>
        message.BasicProperties.Headers?.TryGetValue(name, out var value) == true ? Samples.Text(value) : "(absent)";

    public async ValueTask DisposeAsync()
    {
        foreach (var bus in buses) await bus.DisposeAsync();
        await Task.Run(() =>
        {
            if (!connection.IsOpen) return;
            using var channel = connection.CreateModel();
            channel.ContinuationTimeout = TimeSpan.FromSeconds(60);
            foreach (var name in names)
            {
                foreach (var end in name.Contains(':') || name.Contains("-many") ? [""] : new[] { "", "_error", "_skipped" }) channel.QueueDelete(name + end);
                foreach (var end in name.Contains("-many") ? [""] : new[] { "", "_error", "_skipped", "_delay" }) channel.ExchangeDelete(name + end);
            }
        });
        connection.Dispose();
    }

    private bool Exists(Action<IModel> declarePassive)
    {
        using var channel = connection.CreateModel();
        try { declarePassive(channel); return true; }
        catch (OperationInterruptedException e) when (e.ShutdownReason?.ReplyCode == 404) { return false; }
    }
}
