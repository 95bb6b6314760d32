// The messages that the scenarios exchange. MassTransit names exchanges after them, so each stage puts a name of its own in front.
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

public interface IAudited
{
    int Number { get; }
}

public record OrderShipped(int Number, string Order) : IOrderEvent, IAudited;

public record CheckOrder(int Number);

public record OrderStatus(int Number, string Status);

public record Quote(string Kind, int Number);

public record Picture(int Number, byte[] Octets);

/// <summary>Not public: its exchange is transient and goes with its last binding.</summary>
internal record Whisper(int Number);
