// MassTransit of today beside services that still run the one on RabbitMQ.Client 6, which the program of client-6 stands for.
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Generations
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("48", "older-producer", OlderProducer),
        new("48b", "older-consumer", OlderConsumer),
    ];

    private static Child Old(Stage stage, params string[] arguments) =>
        Child.Dll(stage.Options.Old ?? throw new Skipped("needs the older generation's program: --old"), ["role", .. arguments]);

    /// <summary>An older service publishes: its `publishId` comes through, and goes on into the error queue.</summary>
    private static async Task OlderProducer(Stage stage)
    {
        var (queue, got) = (stage.Endpoint("new"), new Inbox<(int Number, string? PublishId)>());
        await using var bus = await stage.Start(queue, e => e.Handler<OrderSubmitted>(c =>
        {
            if (c.Message.Number == 9) throw new InvalidOperationException("out of stock");
            got.Add((c.Message.Number, c.ReceiveContext.TransportHeaders.Get<string>("publishId")));
            return Task.CompletedTask;
        }));
        await using var producer = Old(stage, "publish", $"{stage.Address}", stage.ExchangeOf<OrderSubmitted>(), "Conformance.Messages:OrderSubmitted", "10");
        await producer.Expect("published 10");
        Expect.SameList(Enumerable.Range(0, 9), (await got.Take(9)).Select(m => m.Number).Order());
        Expect.Same(0, await producer.Exit());
        await Stage.Until(async () => await stage.HasQueue($"{queue}_error") && await stage.Count($"{queue}_error") == 1, "the failed message");
        await bus.Stop();
        var moved = await stage.Get($"{queue}_error");
        Expect.Same("10", Stage.Header(moved, "publishId"));
        Expect.That(moved.BasicProperties.Headers!["x-dotnet-pub-seq-no"] is long, "the mover's own number stands beside it");
    }

    /// <summary>An older service consumes what this one publishes, and tells which headers it saw.</summary>
    private static async Task OlderConsumer(Stage stage)
    {
        var queue = stage.Endpoint("old");
        await using var consumer = Old(stage, "consume", $"{stage.Address}", queue, stage.ExchangeOf<OrderSubmitted>());
        await consumer.Expect("ready");
        await using var bus = await stage.Start();
        for (var i = 0; i < 10; i++) await bus.Bus.Publish(new OrderSubmitted(i, "to the old"));
        var lines = new List<string>();
        while (lines.Count < 10) lines.Add(await consumer.Line());
        Expect.SameList(Enumerable.Range(0, 10).Select(i => $"got {i} x-dotnet-pub-seq-no {i + 1}"), lines);
        Expect.Same(0, await consumer.Exit());
        Expect.Same(0u, await stage.Count(queue));
    }
}
