// Consuming: prefetch, acks, requeues, cancels and basic.get. Publishes only to have something to consume.
using RabbitMQ.Client;
using RabbitMQ.Client.Exceptions;

namespace Conformance;

public static class Consuming
{
    public static async Task Check(Checks checks, Broker broker)
    {
        await checks.Run("prefetch limits what is unacked", () => Prefetch(broker));
        await checks.Run("requeued message comes back redelivered", () => Requeue(broker));
        await checks.Run("unacked messages return when the channel closes", () => ReturnOnClose(broker));
        await checks.Run("multiple acks", () => MultipleAck(broker));
        await checks.Run("reject and nack dead-letter", () => DeadLetter(broker), needs: "dead-letter");
        await checks.Run("expired message dead-letters", () => Expires(broker), needs: "ttl");
        await checks.Run("recover requeues", () => Recover(broker));
        await checks.Run("cancelled consumer gets nothing more", () => Cancel(broker));
        await checks.Run("consumer is cancelled when its queue is deleted", () => CancelledByBroker(broker));
        await checks.Run("auto-delete queue goes with its last consumer", () => AutoDeleteQueue(broker));
        await checks.Run("basic.get", () => Get(broker));
        await checks.Run("prefetch shares a queue between two consumers", () => Competing(broker));
        await checks.Run("exclusive consumer", () => Exclusive(broker));
        await checks.Run("unknown delivery tag closes the channel", () => UnknownTag(broker));
    }

    private static string[] Numbers(int count) => [.. Enumerable.Range(0, count).Select(i => $"{i}")];

    private static async Task<string> Filled(Broker broker, string what, int count, IDictionary<string, object?>? arguments = null)
    {
        await using var channel = await broker.Channel();
        var queue = await broker.DeclareQueue(channel, what, arguments);
        await Publishing.Confirmed(broker, "", queue, Numbers(count));
        return queue;
    }

    private static async Task Prefetch(Broker broker)
    {
        var queue = await Filled(broker, "prefetch", 20);
        await using var channel = await broker.Channel();
        var subscription = await Subscription.Open(channel, queue, prefetch: 5);
        var first = await subscription.Take(5);
        Expect.Same(15u, await channel.MessageCountAsync(queue));
        Expect.That(subscription.IsEmpty, "no more than five are unacked");
        await subscription.Ack(first[2]);
        Expect.Same("5", (await subscription.Next()).Text);
        Expect.Same(14u, await channel.MessageCountAsync(queue));
        Expect.That(subscription.IsEmpty, "one ack lets one through");
        await subscription.Ack(first[4], multiple: true);
        Expect.SameList(["6", "7", "8", "9"], (await subscription.Take(4)).Select(m => m.Text));
    }

    private static async Task Requeue(Broker broker)
    {
        var queue = await Filled(broker, "requeue", 3);
        await using var channel = await broker.Channel();
        var subscription = await Subscription.Open(channel, queue, prefetch: 3);
        var first = await subscription.Take(3);
        Expect.That(first.All(m => !m.Redelivered), "first deliveries are not redelivered");
        await channel.BasicNackAsync(first[2].Tag, multiple: true, requeue: true);
        var second = await subscription.Take(3);
        Expect.SameList(["0", "1", "2"], second.Select(m => m.Text));
        Expect.That(second.All(m => m.Redelivered), "requeued deliveries are redelivered");
        Expect.SameList([4ul, 5ul, 6ul], second.Select(m => m.Tag));
        await channel.BasicRejectAsync(second[1].Tag, requeue: true);
        var third = await subscription.Next();
        Expect.Same("1", third.Text);
        Expect.That(third.Redelivered, "a rejected and requeued delivery is redelivered");
    }

    private static async Task ReturnOnClose(Broker broker)
    {
        var queue = await Filled(broker, "close", 4);
        var channel = await broker.Channel();
        var subscription = await Subscription.Open(channel, queue);
        await subscription.Ack((await subscription.Take(4))[0]);
        await channel.DisposeAsync();
        await using var next = await broker.Channel();
        var again = await (await Subscription.Open(next, queue, autoAck: true)).Take(3);
        Expect.SameList(["1", "2", "3"], again.Select(m => m.Text));
        Expect.That(again.All(m => m.Redelivered), "they are redelivered");
    }

    private static async Task MultipleAck(Broker broker)
    {
        var queue = await Filled(broker, "multiple", 10);
        var channel = await broker.Channel();
        var subscription = await Subscription.Open(channel, queue);
        var all = await subscription.Take(10);
        await subscription.Ack(all[6]);
        await subscription.Ack(all[4], multiple: true);
        await channel.BasicAckAsync(0, multiple: true);
        await channel.DisposeAsync();
        await using var next = await broker.Channel();
        Expect.Same(0u, await next.MessageCountAsync(queue));
    }

    private static async Task DeadLetter(Broker broker)
    {
        await using var channel = await broker.Channel();
        var dead = await broker.DeclareQueue(channel, "dead");
        var queue = await Filled(broker, "dying", 2, new Dictionary<string, object?> { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead });
        var subscription = await Subscription.Open(channel, queue);
        var both = await subscription.Take(2);
        await channel.BasicRejectAsync(both[0].Tag, requeue: false);
        await channel.BasicNackAsync(both[1].Tag, multiple: false, requeue: false);
        await using var reading = await broker.Channel();
        var buried = await (await Subscription.Open(reading, dead, autoAck: true)).Take(2);
        Expect.SameList(["0", "1"], buried.Select(m => m.Text));
        ExpectDeath(buried[0], queue, "rejected");
    }

    private static async Task Expires(Broker broker)
    {
        await using var channel = await broker.Channel();
        var dead = await broker.DeclareQueue(channel, "expired");
        var queue = await broker.DeclareQueue(channel, "brief", new Dictionary<string, object?> { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead, ["x-message-ttl"] = 50 });
        await Publishing.Confirmed(broker, "", queue, "late");
        ExpectDeath(await (await Subscription.Open(channel, dead, autoAck: true)).Next(), queue, "expired");
    }

    private static void ExpectDeath(Delivered message, string queue, string reason)
    {
        var death = (IDictionary<string, object?>)((IList<object?>)message.Properties.Headers!["x-death"]!)[0]!;
        Expect.Same(queue, Samples.Text(death["queue"]));
        Expect.Same(reason, Samples.Text(death["reason"]));
        Expect.Same("", Samples.Text(death["exchange"]));
        Expect.Same<object?>(1L, death["count"]);
        Expect.That(death["time"] is AmqpTimestamp, "the time of death is a timestamp");
        Expect.SameList([queue], ((IList<object?>)death["routing-keys"]!).Select(Samples.Text));
        Expect.Same(queue, Samples.Text(message.Properties.Headers["x-first-death-queue"]));
        Expect.Same(reason, Samples.Text(message.Properties.Headers["x-first-death-reason"]));
    }

    private static async Task Recover(Broker broker)
    {
        var queue = await Filled(broker, "recover", 2);
        await using var channel = await broker.Channel();
        var got = await channel.BasicGetAsync(queue, autoAck: false);
        Expect.That(!got!.Redelivered, "the first delivery is not redelivered");
        // The client has dropped basic.recover; a nack of tag 0 says the same: all that is unacked.
        await channel.BasicNackAsync(0, multiple: true, requeue: true);
        var again = await channel.BasicGetAsync(queue, autoAck: true);
        Expect.Same("0", Samples.Text(again!.Body));
        Expect.That(again.Redelivered, "the second delivery is redelivered");
    }

    private static async Task Cancel(Broker broker)
    {
        var queue = await Filled(broker, "cancel", 1);
        await using var channel = await broker.Channel();
        var subscription = await Subscription.Open(channel, queue);
        var message = await subscription.Next();
        await channel.BasicCancelAsync(subscription.Tag);
        await Publishing.Confirmed(broker, "", queue, "after");
        // Its delivery is still its own to ack.
        await subscription.Ack(message);
        Expect.Same(1u, await channel.MessageCountAsync(queue));
        Expect.That(subscription.IsEmpty, "nothing was delivered after cancel-ok");
        await channel.BasicCancelAsync("no-such-consumer");
    }

    private static async Task CancelledByBroker(Broker broker)
    {
        var queue = await Filled(broker, "deleted", 1);
        await using var channel = await broker.Channel();
        var subscription = await Subscription.Open(channel, queue);
        await subscription.Next();
        await using var other = await broker.Channel();
        await other.QueueDeleteAsync(queue);
        await subscription.Ended.Within();
        Expect.That(channel.IsOpen, "the channel stays open");
        var missing = await Expect.Throws<OperationInterruptedException>(() => Subscription.Open(channel, queue));
        Expect.Same(404, (int)missing.ShutdownReason!.ReplyCode);
    }

    private static async Task AutoDeleteQueue(Broker broker)
    {
        await using var channel = await broker.Channel();
        var queue = broker.Queue("fleeting");
        await channel.QueueDeclareAsync(queue, durable: false, exclusive: true, autoDelete: true);
        var subscription = await Subscription.Open(channel, queue);
        await channel.BasicCancelAsync(subscription.Tag);
        var gone = await Expect.Throws<OperationInterruptedException>(() => channel.QueueDeclarePassiveAsync(queue));
        Expect.Same(404, (int)gone.ShutdownReason!.ReplyCode);
    }

    private static async Task Get(Broker broker)
    {
        var queue = await Filled(broker, "get", 3);
        await using var channel = await broker.Channel();
        var first = await channel.BasicGetAsync(queue, autoAck: true);
        Expect.Same("0", Samples.Text(first!.Body));
        Expect.Same(2u, first.MessageCount);
        Expect.Same(queue, first.RoutingKey);
        var second = await channel.BasicGetAsync(queue, autoAck: false);
        Expect.Same(2ul, second!.DeliveryTag);
        await channel.BasicNackAsync(second.DeliveryTag, false, requeue: true);
        var again = await channel.BasicGetAsync(queue, autoAck: true);
        Expect.Same("1", Samples.Text(again!.Body));
        Expect.That(again.Redelivered, "it is redelivered");
        await channel.BasicGetAsync(queue, autoAck: true);
        Expect.Same(null, await channel.BasicGetAsync(queue, autoAck: true));
    }

    private static async Task Competing(Broker broker)
    {
        var queue = await Filled(broker, "competing", 0);
        await using var left = await broker.Channel();
        await using var right = await broker.Channel();
        var one = await Subscription.Open(left, queue, prefetch: 10);
        var two = await Subscription.Open(right, queue, prefetch: 10);
        await Publishing.Confirmed(broker, "", queue, Numbers(20));
        var got = (await one.Take(10)).Concat(await two.Take(10)).Select(m => int.Parse(m.Text)).Order();
        Expect.SameList(Enumerable.Range(0, 20), got);
    }

    private static async Task Exclusive(Broker broker)
    {
        var queue = await Filled(broker, "exclusive", 0);
        await using var channel = await broker.Channel();
        await Subscription.Open(channel, queue, exclusive: true);
        await using var other = await broker.Channel();
        var refused = await Expect.Throws<OperationInterruptedException>(() => Subscription.Open(other, queue));
        Expect.Same(403, (int)refused.ShutdownReason!.ReplyCode);
        Expect.Contains($"ACCESS_REFUSED - queue '{queue}' in vhost", refused.ShutdownReason.ReplyText);
        Expect.Contains("in exclusive use", refused.ShutdownReason.ReplyText);
    }

    private static async Task UnknownTag(Broker broker)
    {
        await using var channel = await broker.Channel();
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        channel.ChannelShutdownAsync += (_, s) => { closed.TrySetResult($"{s.ReplyCode} {s.ReplyText}"); return Task.CompletedTask; };
        await channel.BasicAckAsync(99, false);
        Expect.Same("406 PRECONDITION_FAILED - unknown delivery tag 99", await closed.Task.Within());
    }
}
