// One connection for the checks, names that no other run uses, and their removal. Checks nothing itself.
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

namespace Conformance;

/// <summary>A broker under test, through one shared connection.</summary>
public sealed class Broker : IAsyncDisposable
{
    private readonly string prefix = $"conf.net7.{Guid.NewGuid():N}";
    private readonly List<string> queues = [];
    private readonly List<string> exchanges = [];
    private int names;

    private Broker(Uri address, IConnection connection)
    {
        Address = address;
        Connection = connection;
    }

    public Uri Address { get; }

    public IConnection Connection { get; }

    public static async Task<Broker> Connect(Uri address) => new(address, await Factory(address).CreateConnectionAsync("conformance"));

    /// <summary>Recovery is off: a check wants to see what the broker did, not what the client mended.</summary>
    public static ConnectionFactory Factory(Uri address) => new()
    {
        Uri = address,
        AutomaticRecoveryEnabled = false,
        ContinuationTimeout = TimeSpan.FromSeconds(10),
        RequestedConnectionTimeout = TimeSpan.FromSeconds(10),
    };

    /// <summary>A queue name for this run, removed at its end.</summary>
    public string Queue(string what) => Named(queues, what);

    /// <summary>An exchange name for this run, removed at its end.</summary>
    public string Exchange(string what) => Named(exchanges, what);

    public Task<IChannel> Channel() => Connection.CreateChannelAsync();

    /// <summary>A channel where each publish ends when its confirm has come, and throws when it was returned or refused.</summary>
    public Task<IChannel> ConfirmedChannel() => Connection.CreateChannelAsync(new CreateChannelOptions(true, true));

    public async Task<string> DeclareQueue(IChannel channel, string what, IDictionary<string, object?>? arguments = null)
    {
        var name = Queue(what);
        await channel.QueueDeclareAsync(name, durable: true, exclusive: false, autoDelete: false, arguments);
        return name;
    }

    public async Task<string> DeclareExchange(IChannel channel, string what, string type)
    {
        var name = Exchange(what);
        await channel.ExchangeDeclareAsync(name, type, durable: true);
        return name;
    }

    public async ValueTask DisposeAsync()
    {
        await using (var channel = await Channel())
        {
            foreach (var name in queues) await channel.QueueDeleteAsync(name);
            foreach (var name in exchanges) await channel.ExchangeDeleteAsync(name);
        }
        await Connection.DisposeAsync();
    }

    private string Named(List<string> list, string what)
    {
        var name = $"{prefix}.{Interlocked.Increment(ref names)}.{what}";
        lock (list) list.Add(name);
        return name;
    }
}

/// <summary>A message as it was delivered, with a body of its own: the client's buffer lives only as long as the callback.</summary>
public sealed record Delivered(ulong Tag, bool Redelivered, string Exchange, string RoutingKey, IReadOnlyBasicProperties Properties, byte[] Body)
{
    public string Text => Samples.Text(Body);
}

/// <summary>A consumer whose deliveries a check takes out one by one.</summary>
public sealed class Subscription
{
    private readonly Inbox<Delivered> inbox = new();
    private readonly TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private Subscription(IChannel channel) => Channel = channel;

    public IChannel Channel { get; }

    public string Tag { get; private set; } = "";

    /// <summary>Ends when the broker has cancelled the consumer.</summary>
    public Task Ended => ended.Task;

    public bool IsEmpty => inbox.IsEmpty;

    public Task<Delivered> Next() => inbox.Next();

    public Task<List<Delivered>> Take(int count) => inbox.Take(count);

    public ValueTask Ack(Delivered message, bool multiple = false) => Channel.BasicAckAsync(message.Tag, multiple);

    public static async Task<Subscription> Open(IChannel channel, string queue, bool autoAck = false, ushort prefetch = 0,
        IDictionary<string, object?>? arguments = null, bool exclusive = false)
    {
        var subscription = new Subscription(channel);
        if (prefetch > 0) await channel.BasicQosAsync(0, prefetch, global: false);
        var consumer = new AsyncEventingBasicConsumer(channel);
        consumer.ReceivedAsync += (_, d) =>
        {
            subscription.inbox.Add(new Delivered(d.DeliveryTag, d.Redelivered, d.Exchange, d.RoutingKey,
                new BasicProperties(d.BasicProperties), d.Body.ToArray()));
            return Task.CompletedTask;
        };
        consumer.UnregisteredAsync += (_, _) => { subscription.ended.TrySetResult(); return Task.CompletedTask; };
        subscription.Tag = await channel.BasicConsumeAsync(queue, autoAck, "", noLocal: false, exclusive, arguments, consumer);
        return subscription;
    }
}
