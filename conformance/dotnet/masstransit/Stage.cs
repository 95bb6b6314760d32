// What one scenario needs: buses whose names no other run uses, a plain connection that looks at the broker beside them, and removal at the end.
// Checks nothing itself.
using MassTransit;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public sealed class Stage : IAsyncDisposable
{
    private readonly HashSet<string> queues = [];
    private readonly HashSet<string> exchanges = [];
    private readonly IConnection connection;

    private Stage(Options options, Uri address, IConnection connection, string? prefix)
    {
        Options = options;
        Address = address;
        Prefix = prefix ?? $"conf-mt-{Guid.NewGuid():N}"[..20];
        this.connection = connection;
    }

    public Options Options { get; }

    public Uri Address { get; }

    /// <summary>What every name on this stage begins with.</summary>
    public string Prefix { get; }

    /// <param name="options">The command line.</param>
    /// <param name="address">Another broker than the command line's.</param>
    /// <param name="prefix">The names of another process's stage.</param>
    public static async Task<Stage> Open(Options options, Uri? address = null, string? prefix = null)
    {
        address ??= options.Url;
        var factory = new ConnectionFactory { Uri = address, AutomaticRecoveryEnabled = false };
        return new Stage(options, address, await factory.CreateConnectionAsync("conformance"), prefix);
    }

    /// <summary>An endpoint's name; its queue and exchange and those for errors, skipped and delayed messages are removed at the end.</summary>
    public string Endpoint(string what)
    {
        var name = $"{Prefix}-{what}";
        lock (queues)
        {
            foreach (var end in new[] { "", "_error", "_skipped" }) Forget(name + end);
            exchanges.Add($"{name}_delay");
        }
        return name;
    }

    /// <summary>Removes a queue and an exchange of this name at the end.</summary>
    public string Also(string name)
    {
        lock (queues) Forget(name);
        return name;
    }

    /// <summary>The exchange that MassTransit names after the message on this stage.</summary>
    public string ExchangeOf<T>() => $"{Prefix}:{typeof(T).Namespace}:{typeof(T).Name}";

    /// <summary>A started bus; it stops when disposed.</summary>
    public async Task<Running> Start(Action<IRabbitMqBusFactoryConfigurator> configure, Uri? through = null, Action<IRabbitMqHostConfigurator>? host = null)
    {
        var bus = new Running(MassTransit.Bus.Factory.CreateUsingRabbitMq(c =>
        {
            Host(c, through, host);
            configure(c);
        }));
        try { await bus.Start(); }
        catch { await bus.GiveUp(); throw; }
        return bus;
    }

    /// <summary>A started bus with one endpoint.</summary>
    public Task<Running> Start(string endpoint, Action<IRabbitMqReceiveEndpointConfigurator> configure, Uri? through = null, Action<IRabbitMqHostConfigurator>? host = null) =>
        Start(c => c.ReceiveEndpoint(endpoint, configure), through, host);

    /// <summary>A started bus that consumes nothing.</summary>
    public Task<Running> Start() => Start(_ => { });

    /// <summary>The broker's address and this stage's names, for a bus that is built elsewhere.</summary>
    public void Host(IRabbitMqBusFactoryConfigurator configurator, Uri? through = null, Action<IRabbitMqHostConfigurator>? configure = null)
    {
        var uri = through ?? Address;
        var login = uri.UserInfo.Split(':').Select(Uri.UnescapeDataString).ToArray();
        var vhost = Uri.UnescapeDataString(uri.AbsolutePath.TrimStart('/'));
        configurator.Host(uri.Host, (ushort)(uri.Port > 0 ? uri.Port : 5672), vhost == "" ? "/" : vhost, "conformance", h =>
        {
            h.Username(login.ElementAtOrDefault(0) is { Length: > 0 } user ? user : "guest");
            h.Password(login.ElementAtOrDefault(1) ?? "guest");
            configure?.Invoke(h);
        });
        configurator.MessageTopology.SetEntityNameFormatter(new Prefixed(this, configurator.MessageTopology.EntityNameFormatter));
    }

    /// <summary>How many messages wait in the queue; fails when there is no such queue.</summary>
    public async Task<uint> Count(string queue)
    {
        await using var channel = await connection.CreateChannelAsync();
        return await channel.MessageCountAsync(queue);
    }

    /// <summary>Asks for the count until it is as wanted.</summary>
    public Task Counts(uint expected, string queue) => Until(async () => await Count(queue) == expected, $"{expected} messages in {queue}");

    public static async Task Until(Func<Task<bool>> holds, string what, TimeSpan? limit = null)
    {
        for (var end = DateTime.UtcNow + (limit ?? Soon.Limit); DateTime.UtcNow < end; await Task.Delay(50))
            if (await holds()) return;
        throw new CheckFailed($"{what} did not come within {(limit ?? Soon.Limit).TotalSeconds} s");
    }

    public Task<bool> HasQueue(string name) => Exists(c => c.QueueDeclarePassiveAsync(name));

    public Task<bool> HasExchange(string name) => Exists(c => c.ExchangeDeclarePassiveAsync(name));

    /// <summary>
    /// What ends with a connection or a consumer is gone soon after the client has heard of its end: at once in most brokers, a little later in RabbitMQ 4.3.
    /// </summary>
    public Task NoMoreQueue(string name) => Until(async () => !await HasQueue(name), $"the end of queue {name}");

    public Task NoMoreExchange(string name) => Until(async () => !await HasExchange(name), $"the end of exchange {name}");

    /// <summary>Takes the next message out of the queue: there must be one.</summary>
    public async Task<BasicGetResult> Get(string queue)
    {
        await using var channel = await connection.CreateChannelAsync();
        return await channel.BasicGetAsync(queue, autoAck: true) ?? throw new CheckFailed($"{queue} is empty");
    }

    /// <summary>Publishes octets that MassTransit did not make.</summary>
    public async Task Put(string queue, byte[] body, string contentType)
    {
        await using var channel = await connection.CreateChannelAsync(new CreateChannelOptions(true, true));
        await channel.BasicPublishAsync("", queue, true, new BasicProperties { ContentType = contentType }, body);
    }

    public Task Put(string queue, string body, string contentType) => Put(queue, System.Text.Encoding.UTF8.GetBytes(body), contentType);

    public async Task DeleteQueue(string name)
    {
        await using var channel = await connection.CreateChannelAsync();
        await channel.QueueDeleteAsync(name);
    }

    /// <summary>A channel beside the buses', for what MassTransit does not do.</summary>
    public Task<IChannel> Channel() => connection.CreateChannelAsync(new CreateChannelOptions(true, true));

    /// <summary>Fails at once when the broker has no delayed exchanges: MassTransit would ask for one again and again.</summary>
    public async Task NeedsDelayedExchange()
    {
        var name = Also($"{Prefix}-probe");
        await using var own = await new ConnectionFactory { Uri = Address, AutomaticRecoveryEnabled = false }.CreateConnectionAsync("conformance probe");
        await using var channel = await own.CreateChannelAsync();
        try
        {
            await channel.ExchangeDeclareAsync(name, "x-delayed-message", true, false, new Dictionary<string, object?> { ["x-delayed-type"] = "fanout" });
        }
        catch (Exception e) { throw new CheckFailed($"no exchange type x-delayed-message: {e.Message}"); }
    }

    /// <summary>A header of a message that was got, as text.</summary>
    public static string Header(BasicGetResult message, string name) =>
        message.BasicProperties.Headers?.TryGetValue(name, out var value) != true ? "(absent)"
        : value is byte[] octets ? System.Text.Encoding.UTF8.GetString(octets) : $"{value}";

    public static string NameOf(Uri endpoint) => endpoint.AbsolutePath.Split('/')[^1];

    public async ValueTask DisposeAsync()
    {
        if (connection.IsOpen)
        {
            var limit = TimeSpan.FromSeconds(60);
            await using var channel = await connection.CreateChannelAsync();
            foreach (var name in queues) await channel.QueueDeleteAsync(name).Within(limit);
            foreach (var name in exchanges) await channel.ExchangeDeleteAsync(name).Within(limit);
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
            var name = $"{stage.Prefix}:{own.FormatEntityName<T>()}";
            lock (stage.queues)
            {
                stage.exchanges.Add(name);
                stage.exchanges.Add($"{name}_delay");
            }
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
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        await control.StartAsync(limit.Token);
    }

    /// <summary>Returns when what was being consumed is done with and the connection is closed.</summary>
    public async Task Stop()
    {
        if (stopped) return;
        stopped = true;
        await control.StopAsync(Soon.Limit);
    }

    /// <summary>The same for a bus that may never have started: what it says at its end is of no interest.</summary>
    public async Task GiveUp()
    {
        try { await Stop(); }
        catch (Exception) { }
    }

    /// <summary>Sends to the queue itself, which is declared if it is not there.</summary>
    public Task Send<T>(string queue, T message) where T : class => SendTo($"queue:{queue}", message);

    public async Task SendTo<T>(string address, T message, Action<SendContext<T>>? configure = null) where T : class =>
        await (await control.GetSendEndpoint(new Uri(address))).Send(message, c => configure?.Invoke(c)).Within();

    public async ValueTask DisposeAsync() => await Stop();
}

/// <summary>A host of services with a bus, which stops when it is disposed.</summary>
public sealed class Hosted : IAsyncDisposable
{
    private readonly IHost host;
    private bool stopped;

    private Hosted(IHost host) => this.host = host;

    public IServiceProvider Services => host.Services;

    public static async Task<Hosted> Start(HostApplicationBuilder builder)
    {
        builder.Services.Configure<MassTransitHostOptions>(o => o.WaitUntilStarted = true);
        var hosted = new Hosted(builder.Build());
        try { await hosted.host.StartAsync().Within(); }
        catch { await hosted.DisposeAsync(); throw; }
        return hosted;
    }

    public async Task Stop()
    {
        if (stopped) return;
        stopped = true;
        await host.StopAsync().Within();
    }

    /// <summary>What failed before counts, not what its end says.</summary>
    public async ValueTask DisposeAsync()
    {
        try { await Stop(); }
        catch (Exception) { }
        _ = Task.Run(host.Dispose);
    }
}

/// <summary>Tells when an endpoint becomes ready, and when it fails.</summary>
public sealed class Readiness(string endpoint) : IReceiveEndpointObserver
{
    private readonly Inbox<string> ready = new();
    private readonly Inbox<string> faults = new();

    /// <summary>The endpoint is ready once more; what it was before `Forget` does not count.</summary>
    public Task Next(TimeSpan? limit = null) => ready.Next(limit ?? Soon.Limit, $"readiness of {endpoint}");

    /// <summary>The next failure whose text, causes included, contains these; the client's own stumbling over a closed channel may come before.</summary>
    public async Task Fault(params string[] texts)
    {
        var seen = "none";
        for (var end = DateTime.UtcNow + Soon.Limit; ;)
        {
            var left = end - DateTime.UtcNow;
            seen = await faults.Next(left > TimeSpan.Zero ? left : TimeSpan.Zero, $"a failure of {endpoint} with \"{string.Join("..", texts)}\", after \"{(seen.Length > 300 ? seen[..300] : seen)}\",");
            if (texts.All(seen.Contains)) return;
        }
    }

    public bool IsReady => !ready.IsEmpty;

    public void Forget() { ready.Drain(); faults.Drain(); }

    public Task Ready(ReceiveEndpointReady e)
    {
        if (Stage.NameOf(e.InputAddress) == endpoint) ready.Add("ready");
        return Task.CompletedTask;
    }

    public Task Faulted(ReceiveEndpointFaulted e)
    {
        if (Stage.NameOf(e.InputAddress) == endpoint) faults.Add($"{e.Exception}");
        return Task.CompletedTask;
    }

    public Task Stopping(ReceiveEndpointStopping e) => Task.CompletedTask;

    public Task Completed(ReceiveEndpointCompleted e) => Task.CompletedTask;
}

/// <summary>Counts what is delivered to a bus, queue by queue, whether or not anything consumes it.</summary>
public sealed class Deliveries : IReceiveObserver
{
    private readonly System.Collections.Concurrent.ConcurrentDictionary<string, int> counts = new();

    public int To(string endpoint) => counts.GetValueOrDefault(endpoint);

    public Task PreReceive(ReceiveContext context)
    {
        counts.AddOrUpdate(Stage.NameOf(context.InputAddress), 1, (_, n) => n + 1);
        return Task.CompletedTask;
    }

    public Task PostReceive(ReceiveContext context) => Task.CompletedTask;

    public Task PostConsume<T>(ConsumeContext<T> context, TimeSpan duration, string consumerType) where T : class => Task.CompletedTask;

    public Task ConsumeFault<T>(ConsumeContext<T> context, TimeSpan duration, string consumerType, Exception exception) where T : class => Task.CompletedTask;

    public Task ReceiveFault(ReceiveContext context, Exception exception) => Task.CompletedTask;
}
