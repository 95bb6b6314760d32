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

    private static string Filled(Broker broker, string what, int count, IDictionary<string, object?>? arguments = null)
    {
        using var channel = broker.Channel();
        var queue = broker.DeclareQueue(channel, what, arguments);
        Publishing.Confirmed(broker, "", queue, Numbers(count));
        return queue;
    }

    private static async Task Prefetch(Broker broker)
    {
        var queue = Filled(broker, "prefetch", 20);
        using var channel = broker.Channel();
        var subscription = Subscription.Open(channel, queue, prefetch: 5);
        var first = await subscription.Take(5);
        Expect.Same(15u, channel.MessageCount(queue));
        Expect.That(subscription.IsEmpty, "no more than five are unacked");
        subscription.Ack(first[2]);
        Expect.Same("5", (await subscription.Next()).Text);
        Expect.Same(14u, channel.MessageCount(queue));
        Expect.That(subscription.IsEmpty, "one ack lets one through");
        subscription.Ack(first[4], multiple: true);
        Expect.SameList(["6", "7", "8", "9"], (await subscription.Take(4)).Select(m => m.Text));
    }

    private static async Task Requeue(Broker broker)
    {
        var queue = Filled(broker, "requeue", 3);
        using var channel = broker.Channel();
        var subscription = Subscription.Open(channel, queue, prefetch: 3);
        var first = await subscription.Take(3);
        Expect.That(first.All(m => !m.Redelivered), "first deliveries are not redelivered");
        channel.BasicNack(first[2].Tag, multiple: true, requeue: true);
        var second = await subscription.Take(3);
        Expect.SameList(["0", "1", "2"], second.Select(m => m.Text));
        Expect.That(second.All(m => m.Redelivered), "requeued deliveries are redelivered");
        Expect.SameList([4ul, 5ul, 6ul], second.Select(m => m.Tag));
        channel.BasicReject(second[1].Tag, requeue: true);
        var third = await subscription.Next();
        Expect.Same("1", third.Text);
        Expect.That(third.Redelivered, "a rejected and requeued delivery is redelivered");
    }

    private static async Task ReturnOnClose(Broker broker)
    {
        var queue = Filled(broker, "close", 4);
        var channel = broker.Channel();
        var subscription = Subscription.Open(channel, queue);
        subscription.Ack((await subscription.Take(4))[0]);
        channel.Dispose();
        using var next = broker.Channel();
        var again = await Subscription.Open(next, queue, autoAck: true).Take(3);
        Expect.SameList(["1", "2", "3"], again.Select(m => m.Text));
        Expect.That(again.All(m => m.Redelivered), "they are redelivered");
    }

    private static async Task MultipleAck(Broker broker)
    {
        var queue = Filled(broker, "multiple", 10);
        var channel = broker.Channel();
        var subscription = Subscription.Open(channel, queue);
        var all = await subscription.Take(10);
        subscription.Ack(all[6]);
        subscription.Ack(all[4], multiple: true);
        channel.BasicAck(0, multiple: true);
        channel.Dispose();
        using var next = broker.Channel();
        Expect.Same(0u, next.MessageCount(queue));
    }

    private static async Task DeadLetter(Broker broker)
    {
        using var channel = broker.Channel();
        var dead = broker.DeclareQueue(channel, "dead");
        var queue = Filled(broker, "dying", 2, new Dictionary<string, object?> { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead });
        var subscription = Subscription.Open(channel, queue);
        var both = await subscription.Take(2);
        channel.BasicReject(both[0].Tag, requeue: false);
        channel.BasicNack(both[1].Tag, multiple: false, requeue: false);
        using var reading = broker.Channel();
        var buried = await Subscription.Open(reading, dead, autoAck: true).Take(2);
        Expect.SameList(["0", "1"], buried.Select(m => m.Text));
        ExpectDeath(buried[0], queue, "rejected");
    }

    private static async Task Expires(Broker broker)
    {
        using var channel = broker.Channel();
        var dead = broker.DeclareQueue(channel, "expired");
        var queue = broker.DeclareQueue(channel, "brief", new Dictionary<string, object?> { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead, ["x-message-ttl"] = 50 });
        Publishing.Confirmed(broker, "", queue, "late");
        ExpectDeath(await Subscription.Open(channel, dead, autoAck: true).Next(), queue, "expired");
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

    private static void Recover(Broker broker)
    {
        var queue = Filled(broker, "recover", 2);
        using var channel = broker.Channel();
        var got = channel.BasicGet(queue, autoAck: false);
        Expect.That(!got!.Redelivered, "the first delivery is not redelivered");
        channel.BasicRecover(requeue: true);
        var again = channel.BasicGet(queue, autoAck: true);
        Expect.Same("0", Samples.Text(again!.Body));
        Expect.That(again.Redelivered, "the second delivery is redelivered");
    }

    private static async Task Cancel(Broker broker)
    {
        var queue = Filled(broker, "cancel", 1);
        using var channel = broker.Channel();
        var subscription = Subscription.Open(channel, queue);
        var message = await subscription.Next();
        channel.BasicCancel(subscription.Tag);
        Publishing.Confirmed(broker, "", queue, "after");
        // Its delivery is still its own to ack.
        subscription.Ack(message);
        Expect.Same(1u, channel.MessageCount(queue));
        Expect.That(subscription.IsEmpty, "nothing was delivered after cancel-ok");
    }

    private static async Task CancelledByBroker(Broker broker)
    {
        var queue = Filled(broker, "deleted", 1);
        using var channel = broker.Channel();
        var subscription = Subscription.Open(channel, queue);
        await subscription.Next();
        using var other = broker.Channel();
        other.QueueDelete(queue);
        await subscription.Ended.Within();
        Expect.That(channel.IsOpen, "the channel stays open");
        var missing = Expect.Fails<OperationInterruptedException>(() => Subscription.Open(channel, queue));
        Expect.Same(404, (int)missing.ShutdownReason!.ReplyCode);
    }

    private static void AutoDeleteQueue(Broker broker)
    {
        using var channel = broker.Channel();
        var queue = broker.Queue("fleeting");
        channel.QueueDeclare(queue, durable: false, exclusive: true, autoDelete: true);
        var subscription = Subscription.Open(channel, queue);
        channel.BasicCancel(subscription.Tag);
        var gone = Expect.Fails<OperationInterruptedException>(() => channel.QueueDeclarePassive(queue));
        Expect.Same(404, (int)gone.ShutdownReason!.ReplyCode);
    }

    private static void Get(Broker broker)
    {
        var queue = Filled(broker, "get", 3);
        using var channel = broker.Channel();
        var first = channel.BasicGet(queue, autoAck: true);
        Expect.Same("0", Samples.Text(first!.Body));
        Expect.Same(2u, first.MessageCount);
        Expect.Same(queue, first.RoutingKey);
        var second = channel.BasicGet(queue, autoAck: false);
        Expect.Same(2ul, second!.DeliveryTag);
        channel.BasicNack(second.DeliveryTag, false, requeue: true);
        var again = channel.BasicGet(queue, autoAck: true);
        Expect.Same("1", Samples.Text(again!.Body));
        Expect.That(again.Redelivered, "it is redelivered");
        channel.BasicGet(queue, autoAck: true);
        Expect.Same(null, channel.BasicGet(queue, autoAck: true));
    }

    private static async Task Competing(Broker broker)
    {
        var queue = Filled(broker, "competing", 0);
        using var left = broker.Channel();
        using var right = broker.Channel();
        var one = Subscription.Open(left, queue, prefetch: 10);
        var two = Subscription.Open(right, queue, prefetch: 10);
        Publishing.Confirmed(broker, "", queue, Numbers(20));
        var got = (await one.Take(10)).Concat(await two.Take(10)).Select(m => int.Parse(m.Text)).Order();
        Expect.SameList(Enumerable.Range(0, 20), got);
    }

    private static void Exclusive(Broker broker)
    {
        var queue = Filled(broker, "exclusive", 0);
        using var channel = broker.Channel();
        Subscription.Open(channel, queue, exclusive: true);
        using var other = broker.Channel();
        var refused = Expect.Fails<OperationInterruptedException>(() => Subscription.Open(other, queue));
        Expect.Same(403, (int)refused.ShutdownReason!.ReplyCode);
        Expect.Contains($"ACCESS_REFUSED - queue '{queue}' in vhost", refused.ShutdownReason.ReplyText);
        Expect.Contains("in exclusive use", refused.ShutdownReason.ReplyText);
    }

    private static async Task UnknownTag(Broker broker)
    {
        using var channel = broker.Channel();
        var closed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        channel.ModelShutdown += (_, s) => closed.TrySetResult($"{s.ReplyCode} {s.ReplyText}");
        channel.BasicAck(99, false);
        Expect.Same("406 PRECONDITION_FAILED - unknown delivery tag 99", await closed.Task.Within());
    }
}
