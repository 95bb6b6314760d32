// What one check needs: buses whose names no other run uses, a plain connection that looks at the broker beside them, and removal at the end.
// Checks nothing itself.
using MassTransit;
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

/// <summary>A check by name, and the feature beyond AMQP itself that it needs, if any.</summary>
public sealed record Scenario(string Name, Func<Stage, Task> Check, string? Needs = null);

public sealed class Stage : IAsyncDisposable
{
    private readonly string prefix = $"conf-mt-{Guid.NewGuid():N}"[..20];
    private readonly HashSet<string> queues = [];
    private readonly HashSet<string> exchanges = [];
    private readonly IConnection connection;

    private Stage(Uri address, IConnection connection)
    {
        Address = address;
        this.connection = connection;
    }

    public Uri Address { get; }

    public static async Task<Stage> Open(Uri address)
    {
        var factory = new ConnectionFactory { Uri = address, AutomaticRecoveryEnabled = false };
        return new Stage(address, await factory.CreateConnectionAsync("conformance"));
    }

    /// <summary>An endpoint's name; its queue and exchange and those for errors and skipped messages are removed at the end.</summary>
    public string Endpoint(string what)
    {
        var name = $"{prefix}-{what}";
        lock (queues)
            foreach (var end in new[] { "", "_error", "_skipped" }) Forget(name + end);
        return name;
    }

    /// <summary>The exchange that MassTransit names after the message on this stage.</summary>
    public string ExchangeOf<T>() => $"{prefix}:{typeof(T).Namespace}:{typeof(T).Name}";

    /// <summary>A started bus; it stops when disposed.</summary>
    public async Task<Running> Start(Action<IRabbitMqBusFactoryConfigurator> configure, Uri? through = null)
    {
        var bus = new Running(MassTransit.Bus.Factory.CreateUsingRabbitMq(c =>
        {
            Host(c, through);
            configure(c);
        }));
        await bus.Start();
        return bus;
    }

    /// <summary>A started bus with one endpoint.</summary>
    public Task<Running> Start(string endpoint, Action<IRabbitMqReceiveEndpointConfigurator> configure, Uri? through = null) =>
        Start(c => c.ReceiveEndpoint(endpoint, configure), through);

    /// <summary>A started bus that consumes nothing.</summary>
    public Task<Running> Start() => Start(_ => { });

    /// <summary>The broker's address and this stage's names, for a bus that is built elsewhere.</summary>
    public void Host(IRabbitMqBusFactoryConfigurator configurator, Uri? through = null, string? password = null)
    {
        var uri = through ?? Address;
        var login = uri.UserInfo.Split(':').Select(Uri.UnescapeDataString).ToArray();
        var vhost = Uri.UnescapeDataString(uri.AbsolutePath.TrimStart('/'));
        configurator.Host(uri.Host, (ushort)(uri.Port > 0 ? uri.Port : 5672), vhost == "" ? "/" : vhost, "conformance", h =>
        {
            h.Username(login.ElementAtOrDefault(0) is { Length: > 0 } user ? user : "guest");
            h.Password(password ?? login.ElementAtOrDefault(1) ?? "guest");
        });
        configurator.MessageTopology.SetEntityNameFormatter(new Prefixed(this, configurator.MessageTopology.EntityNameFormatter));
    }

    /// <summary>How many messages wait in the queue; fails when there is no such queue.</summary>
    public async Task<uint> Count(string queue)
    {
        await using var channel = await connection.CreateChannelAsync();
        return await channel.MessageCountAsync(queue);
    }

    public Task<bool> HasQueue(string name) => Exists(c => c.QueueDeclarePassiveAsync(name));

    public Task<bool> HasExchange(string name) => Exists(c => c.ExchangeDeclarePassiveAsync(name));

    /// <summary>Takes the next message out of the queue: there must be one.</summary>
    public async Task<BasicGetResult> Get(string queue)
    {
        await using var channel = await connection.CreateChannelAsync();
        return await channel.BasicGetAsync(queue, autoAck: true) ?? throw new CheckFailed($"{queue} is empty");
    }

    /// <summary>Publishes octets that MassTransit did not make.</summary>
    public async Task Put(string queue, string body, string contentType)
    {
        await using var channel = await connection.CreateChannelAsync(new CreateChannelOptions(true, true));
        await channel.BasicPublishAsync("", queue, true, new BasicProperties { ContentType = contentType }, System.Text.Encoding.UTF8.GetBytes(body));
    }

    public async Task DeleteQueue(string name)
    {
        await using var channel = await connection.CreateChannelAsync();
        await channel.QueueDeleteAsync(name);
    }

    /// <summary>A header of a message that was got, as text.</summary>
    public static string Header(BasicGetResult message, string name) =>
        message.BasicProperties.Headers?.TryGetValue(name, out var value) != true ? "(absent)"
        : value is byte[] octets ? System.Text.Encoding.UTF8.GetString(octets) : $"{value}";

    public static string NameOf(Uri endpoint) => endpoint.AbsolutePath.Split('/')[^1];

    public async ValueTask DisposeAsync()
    {
        await using (var channel = await connection.CreateChannelAsync())
        {
            foreach (var name in queues) await channel.QueueDeleteAsync(name);
            foreach (var name in exchanges) await channel.ExchangeDeleteAsync(name);
        }
        await connection.DisposeAsync();
    }

    private void Forget(string name)
    {
        queues.Add(name);
        exchanges.Add(name);
    }

    private async Task<bool> Exists(Func<IChannel, Task> declarePassive)
    {
        await using var channel = await connection.CreateChannelAsync();
        try { await declarePassive(channel); return true; }
        catch (OperationInterruptedException e) when (e.ShutdownReason?.ReplyCode == 404) { return false; }
    }

    /// <summary>MassTransit's own naming, with this stage's prefix.</summary>
    private sealed class Prefixed(Stage stage, IEntityNameFormatter own) : IEntityNameFormatter
    {
        public string FormatEntityName<T>()
        {
            var name = $"{stage.prefix}:{own.FormatEntityName<T>()}";
            lock (stage.queues) stage.exchanges.Add(name);
            return name;
        }
    }
}

/// <summary>A bus that runs until it is disposed or stopped.</summary>
public sealed class Running(IBusControl control) : IAsyncDisposable
{
    private bool stopped;

    public IBusControl Bus => control;

    public async Task Start()
    {
        using var limit = new CancellationTokenSource(Soon.Limit);
        await control.StartAsync(limit.Token);
    }

    /// <summary>Returns when what was being consumed is done with and the connection is closed.</summary>
    public async Task Stop()
    {
        if (stopped) return;
        stopped = true;
        await control.StopAsync(Soon.Limit);
    }

    /// <summary>Sends to the queue itself, which is declared if it is not there.</summary>
    public async Task Send<T>(string queue, T message) where T : class =>
        await (await control.GetSendEndpoint(new Uri($"queue:{queue}"))).Send(message).Within();

    public async ValueTask DisposeAsync() => await Stop();
}
