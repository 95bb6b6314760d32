// What the command line says. Knows nothing of scenarios nor of brokers.
namespace Conformance;

public sealed record Options
{
    public const string Usage = """
        usage: program URL [--only NUMBER-OR-NAME]... [--parallel N] [--management URL] [--tls URL] [--broker PROGRAM] [--old PROGRAM]
               program --list
          URL               the broker: amqp://user:password@host:port/vhost
          --only X          this scenario, by number or name (may be given again)
          --parallel N      how many scenarios run at a time, default 8
          --management URL  the broker's management API, default http:// at the same host and login, port + 10000
          --tls URL         the broker's TLS listener, amqps://...; without it what needs one is skipped
          --broker PROGRAM  called as PROGRAM PORT DIRECTORY [low-memory], is a broker of the same kind on that port until it gets
                            SIGTERM; without it what needs a broker of its own (to restart it) is skipped
          --old PROGRAM     the program of client-6, for the mix of generations; without it that is skipped
        """;

    public Uri Url { get; init; } = new("amqp://guest:guest@127.0.0.1:5672/%2F");
    public List<string> Only { get; } = [];
    public bool List { get; private set; }
    public int Parallel { get; private set; } = 8;
    public Uri? Management { get; private set; }
    public Uri? Tls { get; private set; }
    public string? Broker { get; private set; }
    public string? Old { get; private set; }

    /// <summary>The options, or null when the arguments make no sense.</summary>
    public static Options? Parse(string[] args)
    {
        if (args.Length == 0) return null;
        var list = args[0] == "--list";
        if (!list && !Uri.TryCreate(args[0], UriKind.Absolute, out _)) return null;
        var options = list ? new Options { List = true } : new Options { Url = new Uri(args[0]) };
        for (var i = 1; i < args.Length; i++)
        {
            if (args[i] == "--list") { options.List = true; continue; }
            if (i + 1 == args.Length) return null;
            var value = args[++i];
            switch (args[i - 1])
            {
                case "--only": options.Only.Add(value); break;
                case "--parallel" when int.TryParse(value, out var n) && n > 0: options.Parallel = n; break;
                case "--management": options.Management = new Uri(value); break;
                case "--tls": options.Tls = new Uri(value); break;
                case "--broker": options.Broker = value; break;
                case "--old": options.Old = value; break;
                default: return null;
            }
        }
        return options;
    }
}
