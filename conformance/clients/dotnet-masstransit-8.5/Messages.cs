// The messages that the checks exchange. MassTransit names exchanges after them, so each check's stage puts a name of its own in front.
namespace Conformance.Messages;

public record OrderSubmitted(int Number, string Text);

public record OrderIgnored(int Number);

public record OrderSeldom(int Number);

public interface IEvent
{
    int Number { get; }
}

public interface IOrderEvent : IEvent
{
    string Order { get; }
}

public record OrderShipped(int Number, string Order) : IOrderEvent;

public record CheckOrder(int Number);

public record OrderStatus(int Number, string Status);

public record Quote(string Kind, int Number);

/// <summary>Not public: its exchange is transient and goes with its last binding.</summary>
internal record Whisper(int Number);
