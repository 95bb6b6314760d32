// Request and reply over `amq.rabbitmq.reply-to`. Knows nothing of other ways to reply.
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

namespace Conformance;

public static class Replying
{
    private const string DirectReplyTo = "amq.rabbitmq.reply-to";

    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("direct reply-to: 100 requests", () => Requests(broker));
        await checks.Run("direct reply-to without a consumer closes the channel", () => WithoutConsumer(broker));
        await checks.Run("direct reply-to answers a passive declare", () => PassiveDeclare(broker));
    }

    private static async Task Requests(Broker broker)
    {
        using var server = broker.Channel();
        var queue = broker.DeclareQueue(server, "requests");
        var addresses = Serve(server, queue);
        using var client = broker.Channel();
        var replies = Subscription.Open(client, DirectReplyTo, autoAck: true);
        for (var i = 0; i < 100; i++)
        {
            var n = i;
            var properties = client.Properties(p => { p.ReplyTo = DirectReplyTo; p.CorrelationId = $"{n}"; });
            client.Send("", queue, $"question {i}", mandatory: true, properties);
        }
        var got = await replies.Take(100);
        Expect.SameList(Enumerable.Range(0, 100).Select(i => $"answer to question {i}"), got.Select(m => m.Text));
        Expect.SameList(Enumerable.Range(0, 100).Select(i => $"{i}"), got.Select(m => m.Properties.CorrelationId));
        var address = await addresses.Next();
        Expect.That(address.StartsWith(DirectReplyTo + ".", StringComparison.Ordinal), $"reply_to was rewritten: {address}");
        Expect.Same("", got[0].Exchange);
        Expect.Same(address, got[0].RoutingKey);
    }

    private static Inbox<string> Serve(IModel channel, string queue)
    {
        var addresses = new Inbox<string>();
        var consumer = new EventingBasicConsumer(channel);
        consumer.Received += (_, d) =>
        {
            addresses.Add(d.BasicProperties.ReplyTo);
            var answer = channel.Properties(p => p.CorrelationId = d.BasicProperties.CorrelationId);
            channel.Send("", d.BasicProperties.ReplyTo, $"answer to {Samples.Text(d.Body)}", properties: answer);
            channel.BasicAck(d.DeliveryTag, false);
        };
        channel.BasicConsume(queue, false, consumer);
        return addresses;
    }

    private static async Task WithoutConsumer(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, "unanswerable");
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        channel.ModelShutdown += (_, s) => closed.TrySetResult($"{s.ReplyCode} {s.ReplyText}");
        channel.Send("", queue, "x", properties: channel.Properties(p => p.ReplyTo = DirectReplyTo));
        Expect.Same("406 PRECONDITION_FAILED - fast reply consumer does not exist", await closed.Task.Within());
    }

    private static void PassiveDeclare(Broker broker)
    {
        using var channel = broker.Channel();
        Expect.Same(DirectReplyTo, channel.QueueDeclarePassive(DirectReplyTo).QueueName);
    }
}
