// What MassTransit builds on top of messages: sagas, routing slips, the outbox, jobs.
using Conformance.Flows;
using Conformance.Messages;
using MassTransit;
using MassTransit.Contracts.JobService;
using MassTransit.Courier.Contracts;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace Conformance;

public static class Workflows
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("18", "saga-with-timeout", Saga),
        new("19", "routing-slip-with-compensation", RoutingSlip),
        new("45", "in-memory-outbox", Outbox),
        new("46", "job-consumer", Jobs),
    ];

    private static async Task Saga(Stage stage)
    {
        await stage.NeedsDelayedExchange();
        var (ended, machine) = (new Inbox<string>(), new Orders());
        await using var bus = await stage.Start(c =>
        {
            c.UseDelayedMessageScheduler();
            c.ReceiveEndpoint(stage.Endpoint("saga"), e => e.StateMachineSaga(machine, new InMemorySagaRepository<Order>()));
            c.ReceiveEndpoint(stage.Endpoint("ended"), e => e.Handler<OrderEnded>(m => { ended.Add($"{m.Message.Id} {m.Message.How}"); return Task.CompletedTask; }));
        });
        var (paid, forgotten) = (NewId.NextGuid(), NewId.NextGuid());
        await bus.Bus.Publish(new OrderPlaced(paid, TimeSpan.FromSeconds(60)));
        Expect.Same($"{paid} not yet", await ended.Next());
        await bus.Bus.Publish(new OrderPaid(paid));
        Expect.Same($"{paid} paid", await ended.Next());
        await bus.Bus.Publish(new OrderPlaced(forgotten, TimeSpan.FromSeconds(1)));
        Expect.SameList([$"{forgotten} not yet", $"{forgotten} timed out"], await ended.Take(2));
    }

    /// <summary>The third activity fails: the first two are undone, in the opposite order.</summary>
    private static async Task RoutingSlip(Stage stage)
    {
        var (trace, outcome) = (new Inbox<string>(), new Inbox<string>());
        var (step, undo) = (stage.Endpoint("step"), stage.Endpoint("undo"));
        await using var bus = await stage.Start(c =>
        {
            c.ReceiveEndpoint(step, e => e.ExecuteActivityHost<Step, StepArguments>(new Uri($"queue:{undo}"), () => new Step(trace)));
            c.ReceiveEndpoint(undo, e => e.CompensateActivityHost<Step, StepLog>(() => new Step(trace)));
            c.ReceiveEndpoint(stage.Endpoint("outcome"), e =>
            {
                e.Handler<RoutingSlipCompleted>(_ => { outcome.Add("completed"); return Task.CompletedTask; });
                e.Handler<RoutingSlipFaulted>(m => { outcome.Add($"faulted: {m.Message.ActivityExceptions[0].ExceptionInfo.Message}"); return Task.CompletedTask; });
            });
        });
        async Task Execute(params string[] names)
        {
            var slip = new RoutingSlipBuilder(NewId.NextGuid());
            foreach (var name in names) slip.AddActivity(name, new Uri($"queue:{step}"), new StepArguments { Name = name });
            await bus.Bus.Execute(slip.Build()).Within();
        }
        await Execute("one", "two", "three");
        Expect.Same("completed", await outcome.Next());
        Expect.SameList(["do one", "do two", "do three"], await trace.Take(3));
        await Execute("one", "two", "fail");
        Expect.Same("faulted: out of stock", await outcome.Next());
        Expect.SameList(["do one", "do two", "do fail", "undo two", "undo one"], await trace.Take(5));
    }

    /// <summary>What a failed attempt published is never seen; what a good one published, once, unrouted messages by the alternate exchange.</summary>
    private static async Task Outbox(Stage stage)
    {
        var (alternate, caught, attempts) = (stage.Endpoint("unrouted"), new Inbox<int>(), 0);
        var builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        builder.Services.AddMassTransit(x =>
        {
            x.DisableUsageTelemetry();
            x.UsingRabbitMq((context, c) =>
            {
                stage.Host(c);
                c.Publish<OrderIgnored>(p => p.BindAlternateExchangeQueue(alternate));
                c.ReceiveEndpoint(stage.Endpoint("outbox"), e =>
                {
                    e.UseMessageRetry(r => r.Immediate(1));
                    e.UseInMemoryOutbox(context);
                    e.Handler<OrderSubmitted>(async m =>
                    {
                        var attempt = Interlocked.Increment(ref attempts);
                        await m.Publish(new OrderSeldom(attempt));
                        await m.Publish(new OrderIgnored(attempt));
                        if (attempt == 1) throw new InvalidOperationException("not yet");
                    });
                });
                c.ReceiveEndpoint(stage.Endpoint("observer"), e => e.Handler<OrderSeldom>(m => { caught.Add(m.Message.Number); return Task.CompletedTask; }));
                c.ReceiveEndpoint(stage.Endpoint("examiner"), e =>
                {
                    e.ConfigureConsumeTopology = false;
                    e.Bind(alternate);
                    e.Handler<OrderIgnored>(m => { caught.Add(100 + m.Message.Number); return Task.CompletedTask; });
                });
            });
        });
        await using var hosted = await Hosted.Start(builder);
        await hosted.Services.GetRequiredService<IBus>().Publish(new OrderSubmitted(1, "twice")).Within();
        Expect.SameList([2, 102], (await caught.Take(2)).Order());
        await hosted.Stop();
        Expect.That(caught.IsEmpty, "the failed attempt published nothing");
        Expect.Same(1u, await stage.Count(alternate));
    }

    /// <summary>Done with progress, cancelled while it runs, and failed once before it is done.</summary>
    private static async Task Jobs(Stage stage)
    {
        await stage.NeedsDelayedExchange();
        var (told, progress) = (new Inbox<string>(), new Inbox<string>());
        foreach (var name in new[] { "job", "job-attempt", "job-type", "chore" }) stage.Endpoint(name);
        var builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        builder.Services.AddSingleton(progress);
        builder.Services.AddMassTransit(x =>
        {
            x.DisableUsageTelemetry();
            x.SetEndpointNameFormatter(new KebabCaseEndpointNameFormatter($"{stage.Prefix}-", false));
            x.AddConsumer<ChoreConsumer>(c => c.Options<JobOptions<Chore>>(o => o.SetRetry(r => r.Interval(1, TimeSpan.FromSeconds(1))).SetConcurrentJobLimit(10)))
                .Endpoint(e => e.Name = $"{stage.Prefix}-chore");
            x.SetInMemorySagaRepositoryProvider();
            x.AddJobSagaStateMachines(o => o.SlotWaitTime = TimeSpan.FromSeconds(1));
            x.SetJobConsumerOptions(o => o.HeartbeatInterval = TimeSpan.FromSeconds(10));
            x.UsingRabbitMq((context, c) =>
            {
                stage.Host(c);
                c.UseDelayedMessageScheduler();
                c.ReceiveEndpoint(stage.Endpoint("observer"), e =>
                {
                    e.Handler<JobStarted>(m => { told.Add($"{m.Message.JobId} started"); return Task.CompletedTask; });
                    e.Handler<JobCompleted>(m => { told.Add($"{m.Message.JobId} completed"); return Task.CompletedTask; });
                    e.Handler<JobCanceled>(m => { told.Add($"{m.Message.JobId} canceled"); return Task.CompletedTask; });
                });
                c.ConfigureEndpoints(context);
            });
        });
        await using var hosted = await Hosted.Start(builder);
        var bus = hosted.Services.GetRequiredService<IBus>();
        async Task<Guid> Submit(string name)
        {
            var client = bus.CreateRequestClient<SubmitJob<Chore>>(RequestTimeout.After(s: 20));
            var id = NewId.NextGuid();
            var accepted = await client.GetResponse<JobSubmissionAccepted>(new { JobId = id, Job = new { Name = name } }).Within();
            Expect.Same(id, accepted.Message.JobId);
            return id;
        }
        async Task Told(Guid id, params string[] what) => Expect.SameList(what.Select(w => $"{id} {w}"), await told.Take(what.Length));

        var done = await Submit("quick");
        await Told(done, "started", "completed");
        Expect.SameList(["quick 50"], await progress.Take(1));
        var cancelled = await Submit("endless");
        await Told(cancelled, "started");
        Expect.Same("endless runs", await progress.Next());
        await bus.CancelJob(cancelled).Within();
        await Told(cancelled, "canceled");
        var retried = await Submit("fails once");
        Expect.SameList(["completed", "started", "started"], (await told.Take(3)).Select(l => l[$"{retried} ".Length..]).Order());
        Expect.SameList(["fails once 0", "fails once 1"], await progress.Take(2));
    }
}
