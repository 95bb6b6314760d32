// Header tables and bodies that exercise the wire format, for both generations of RabbitMQ.Client. Opens no connection.
using System.Text;
using RabbitMQ.Client;

namespace Conformance;

public static class Samples
{
    /// <summary>A header of every type that the client can write, an empty and a nested one among them.</summary>
    public static Dictionary<string, object?> Headers() => new()
    {
        ["text"] = "größe 長さ",
        ["empty-text"] = "",
        ["octets"] = new byte[] { 0, 1, 254, 255 },
        ["true"] = true,
        ["false"] = false,
        ["octet"] = (byte)200,
        ["signed-octet"] = (sbyte)-5,
        ["short"] = (short)-1234,
        ["unsigned-short"] = (ushort)65535,
        ["int"] = int.MinValue,
        ["unsigned-int"] = uint.MaxValue,
        ["long"] = long.MaxValue,
        ["float"] = 1.5f,
        ["double"] = -2.25d,
        ["decimal"] = 12.34m,
        ["time"] = new AmqpTimestamp(1_700_000_000),
        ["void"] = null,
        ["binary"] = new BinaryTableValue([9, 8, 7]),
        ["list"] = new List<object?> { 1, "two", 3L, new List<object?> { true } },
        ["table"] = new Dictionary<string, object?> { ["inner"] = "value", ["deep"] = new Dictionary<string, object?> { ["n"] = 7L } },
    };

    /// <summary>A value as text that tells type and content, so that two tables can be compared: text reads as its octets.</summary>
    public static string Show(object? value) => value switch
    {
        null => "void",
        string s => $"octets:{Convert.ToHexString(Encoding.UTF8.GetBytes(s))}",
        byte[] b => $"octets:{Convert.ToHexString(b)}",
        BinaryTableValue b => $"binary:{Convert.ToHexString(b.Bytes)}",
        AmqpTimestamp t => $"time:{t.UnixTime}",
        IDictionary<string, object?> t => "{" + string.Join(",", t.OrderBy(p => p.Key, StringComparer.Ordinal).Select(p => $"{p.Key}={Show(p.Value)}")) + "}",
        System.Collections.IList l => "[" + string.Join(",", l.Cast<object?>().Select(Show)) + "]",
        _ => $"{value.GetType().Name}:{value}",
    };

    public static string Text(object? header) => header is byte[] octets ? Encoding.UTF8.GetString(octets) : $"{header}";

    public static string Text(ReadOnlyMemory<byte> body) => Encoding.UTF8.GetString(body.Span);

    public static byte[] Octets(string text) => Encoding.UTF8.GetBytes(text);

    /// <summary>`size` octets without a pattern that frames could hide in, the same at each call.</summary>
    public static byte[] Body(int size)
    {
        var body = new byte[size];
        new Random(size).NextBytes(body);
        return body;
    }
}
