// One connection for the checks, names that no other run uses, and their removal. Checks nothing itself.
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

namespace Conformance;

/// <summary>A broker under test, through one shared connection.</summary>
public sealed class Broker : IDisposable
{
    private readonly string prefix = $"conf.net6.{Guid.NewGuid():N}";
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

    public static Broker Connect(Uri address) => new(address, Factory(address).CreateConnection("conformance"));

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

    public IModel Channel() => Connection.CreateModel();

    /// <summary>A channel whose publishes are confirmed.</summary>
    public IModel ConfirmedChannel()
    {
        var channel = Connection.CreateModel();
        channel.ConfirmSelect();
        return channel;
    }

    public string DeclareQueue(IModel channel, string what, IDictionary<string, object?>? arguments = null)
    {
        var name = Queue(what);
        channel.QueueDeclare(name, durable: true, exclusive: false, autoDelete: false, arguments);
        return name;
    }

    public string DeclareExchange(IModel channel, string what, string type)
    {
        var name = Exchange(what);
        channel.ExchangeDeclare(name, type, durable: true);
        return name;
    }

    public void Dispose()
    {
        using (var channel = Channel())
        {
            foreach (var name in queues) channel.QueueDelete(name);
            foreach (var name in exchanges) channel.ExchangeDelete(name);
        }
        Connection.Dispose();
    }

    private string Named(List<string> list, string what)
    {
        var name = $"{prefix}.{Interlocked.Increment(ref names)}.{what}";
        lock (list) list.Add(name);
        return name;
    }
}

public static class Messages
{
    /// <summary>Properties with what `set` puts in.</summary>
    public static IBasicProperties Properties(this IModel channel, Action<IBasicProperties> set)
    {
        var properties = channel.CreateBasicProperties();
        set(properties);
        return properties;
    }

    public static void Send(this IModel channel, string exchange, string key, string text, bool mandatory = false, IBasicProperties? properties = null) =>
        channel.BasicPublish(exchange, key, mandatory, properties, Samples.Octets(text));
}

/// <summary>A message as it was delivered, with a body of its own: the client's buffer lives only as long as the callback.</summary>
public sealed record Delivered(ulong Tag, bool Redelivered, string Exchange, string RoutingKey, IBasicProperties Properties, byte[] Body)
{
    public string Text => Samples.Text(Body);
}

/// <summary>A consumer whose deliveries a check takes out one by one.</summary>
public sealed class Subscription
{
    private readonly Inbox<Delivered> inbox = new();
    private readonly TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private Subscription(IModel channel) => Channel = channel;

    public IModel Channel { get; }

    public string Tag { get; private set; } = "";

    /// <summary>Ends when the broker has cancelled the consumer.</summary>
    public Task Ended => ended.Task;

    public bool IsEmpty => inbox.IsEmpty;

    public Task<Delivered> Next() => inbox.Next();

    public Task<List<Delivered>> Take(int count) => inbox.Take(count);

    public void Ack(Delivered message, bool multiple = false) => Channel.BasicAck(message.Tag, multiple);

    public static Subscription Open(IModel channel, string queue, bool autoAck = false, ushort prefetch = 0,
        IDictionary<string, object?>? arguments = null, bool exclusive = false)
    {
        var subscription = new Subscription(channel);
        if (prefetch > 0) channel.BasicQos(0, prefetch, global: false);
        var consumer = new EventingBasicConsumer(channel);
        consumer.Received += (_, d) =>
            subscription.inbox.Add(new Delivered(d.DeliveryTag, d.Redelivered, d.Exchange, d.RoutingKey, d.BasicProperties, d.Body.ToArray()));
        consumer.ConsumerCancelled += (_, _) => subscription.ended.TrySetResult();
        subscription.Tag = channel.BasicConsume(queue, autoAck, "", noLocal: false, exclusive, arguments, consumer);
        return subscription;
    }
}
