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
        await using var server = await broker.Channel();
        var queue = await broker.DeclareQueue(server, "requests");
        var addresses = await Serve(server, queue);
        await using var client = await broker.Channel();
        var replies = await Subscription.Open(client, DirectReplyTo, autoAck: true);
        for (var i = 0; i < 100; i++)
        {
            var properties = new BasicProperties { ReplyTo = DirectReplyTo, CorrelationId = $"{i}" };
            await client.BasicPublishAsync("", queue, mandatory: true, properties, Samples.Octets($"question {i}"));
        }
        var got = await replies.Take(100);
        Expect.SameList(Enumerable.Range(0, 100).Select(i => $"answer to question {i}"), got.Select(m => m.Text));
        Expect.SameList(Enumerable.Range(0, 100).Select(i => $"{i}"), got.Select(m => m.Properties.CorrelationId));
        var address = await addresses.Next();
        Expect.That(address.StartsWith(DirectReplyTo + ".", StringComparison.Ordinal), $"reply_to was rewritten: {address}");
        Expect.Same("", got[0].Exchange);
        Expect.Same(address, got[0].RoutingKey);
    }

    private static async Task<Inbox<string>> Serve(IChannel channel, string queue)
    {
        var addresses = new Inbox<string>();
        var consumer = new AsyncEventingBasicConsumer(channel);
        consumer.ReceivedAsync += async (_, d) =>
        {
            addresses.Add(d.BasicProperties.ReplyTo!);
            var answer = new BasicProperties { CorrelationId = d.BasicProperties.CorrelationId };
            await channel.BasicPublishAsync("", d.BasicProperties.ReplyTo!, false, answer, Samples.Octets($"answer to {Samples.Text(d.Body)}"));
            await channel.BasicAckAsync(d.DeliveryTag, false);
        };
        await channel.BasicConsumeAsync(queue, false, consumer);
        return addresses;
    }

    private static async Task WithoutConsumer(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, "unanswerable");
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        channel.ChannelShutdownAsync += (_, s) => { closed.TrySetResult($"{s.ReplyCode} {s.ReplyText}"); return Task.CompletedTask; };
        await channel.BasicPublishAsync("", queue, false, new BasicProperties { ReplyTo = DirectReplyTo }, Samples.Octets("x"));
        Expect.Same("406 PRECONDITION_FAILED - fast reply consumer does not exist", await closed.Task.Within());
    }

    private static async Task PassiveDeclare(Broker broker)
    {
        await using var channel = await broker.Channel();
        Expect.Same(DirectReplyTo, (await channel.QueueDeclarePassiveAsync(DirectReplyTo)).QueueName);
    }
}
