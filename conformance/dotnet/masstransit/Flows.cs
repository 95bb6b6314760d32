// The saga, the activity and the job that the scenarios run. Knows nothing of brokers.
using MassTransit;

namespace Conformance.Flows;

public record OrderPlaced(Guid Id, TimeSpan Patience);

public record OrderPaid(Guid Id);

public record OrderForgotten(Guid Id);

public record OrderEnded(Guid Id, string How);

public class Order : SagaStateMachineInstance
{
    public Guid CorrelationId { get; set; }
    public string CurrentState { get; set; } = "";
    public TimeSpan Patience { get; set; }
    public Guid? Token { get; set; }
}

/// <summary>An order is paid, or its patience ends.</summary>
public class Orders : MassTransitStateMachine<Order>
{
    public Orders()
    {
        InstanceState(x => x.CurrentState);
        Event(() => Placed, e => e.CorrelateById(m => m.Message.Id));
        Event(() => Paid, e => e.CorrelateById(m => m.Message.Id));
        Schedule(() => Timeout, x => x.Token, s => s.Received = r => r.CorrelateById(m => m.Message.Id));
        Initially(When(Placed)
            .Then(c => c.Saga.Patience = c.Message.Patience)
            .Schedule(Timeout, c => new OrderForgotten(c.Saga.CorrelationId), c => c.Saga.Patience)
            .Publish(c => new OrderEnded(c.Saga.CorrelationId, "not yet"))
            .TransitionTo(Waiting));
        During(Waiting,
            When(Paid).Unschedule(Timeout).Publish(c => new OrderEnded(c.Saga.CorrelationId, "paid")).Finalize(),
            When(Timeout.Received).Publish(c => new OrderEnded(c.Saga.CorrelationId, "timed out")).Finalize());
        SetCompletedWhenFinalized();
    }

    public State Waiting { get; private set; } = null!;
    public Event<OrderPlaced> Placed { get; private set; } = null!;
    public Event<OrderPaid> Paid { get; private set; } = null!;
    public Schedule<Order, OrderForgotten> Timeout { get; private set; } = null!;
}

public class StepArguments
{
    public string Name { get; set; } = "";
}

public class StepLog
{
    public string Name { get; set; } = "";
}

public sealed class Step(Inbox<string> trace) : IActivity<StepArguments, StepLog>
{
    public Task<ExecutionResult> Execute(ExecuteContext<StepArguments> context)
    {
        trace.Add($"do {context.Arguments.Name}");
        if (context.Arguments.Name == "fail") throw new InvalidOperationException("out of stock");
        return Task.FromResult(context.Completed(new StepLog { Name = context.Arguments.Name }));
    }

    public Task<CompensationResult> Compensate(CompensateContext<StepLog> context)
    {
        trace.Add($"undo {context.Log.Name}");
        return Task.FromResult(context.Compensated());
    }
}

public interface Chore
{
    string Name { get; }
}

public sealed class ChoreConsumer(Inbox<string> progress) : IJobConsumer<Chore>
{
    public async Task Run(JobContext<Chore> context)
    {
        switch (context.Job.Name)
        {
            case "quick":
                await context.SetJobProgress(50, 100);
                progress.Add("quick 50");
                return;
            case "endless":
                progress.Add("endless runs");
                await Task.Delay(Timeout.Infinite, context.CancellationToken);
                return;
            default:
                progress.Add($"{context.Job.Name} {context.RetryAttempt}");
                if (context.RetryAttempt == 0) throw new InvalidOperationException("not yet");
                return;
        }
    }
}
