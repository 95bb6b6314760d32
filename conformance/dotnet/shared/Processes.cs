// Other processes that a scenario needs: this program again in another role, and a broker of its own. Knows no AMQP.
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Conformance;

/// <summary>A process whose lines are awaited, and which is killed when it is disposed.</summary>
public sealed class Child : IAsyncDisposable
{
    private readonly Process process;
    private readonly Inbox<string> lines = new();

    private Child(ProcessStartInfo start)
    {
        start.RedirectStandardInput = start.RedirectStandardOutput = true;
        process = Process.Start(start) ?? throw new CheckFailed($"{start.FileName} did not start");
        process.OutputDataReceived += (_, line) => { if (line.Data != null) lines.Add(line.Data); };
        process.BeginOutputReadLine();
    }

    /// <summary>This program again; its first argument is `role`. Its input ends when this process does.</summary>
    public static Child Again(params string[] arguments) => Dll(typeof(Child).Assembly.Location, arguments);

    /// <summary>A .NET program by its assembly.</summary>
    public static Child Dll(string assembly, params string[] arguments)
    {
        var self = Environment.ProcessPath ?? "dotnet";
        return new Child(new ProcessStartInfo(Path.GetFileNameWithoutExtension(self) == "dotnet" ? self : "dotnet", [assembly, .. arguments]));
    }

    public static Child Program(string program, params string[] arguments) => new(new ProcessStartInfo(program, arguments));

    public bool HasExited => process.HasExited;

    public int ExitCode => process.ExitCode;

    /// <summary>The next line; a process takes a while to start where many do so at once.</summary>
    public Task<string> Line() => lines.Next(TimeSpan.FromSeconds(60), "the next line of a process");

    public async Task Expect(string line) => Conformance.Expect.Same(line, await Line());

    public void Tell(string line) { process.StandardInput.WriteLine(line); process.StandardInput.Flush(); }

    /// <summary>SIGKILL: the process has no time for farewells.</summary>
    public async Task Kill()
    {
        process.Kill(entireProcessTree: true);
        await process.WaitForExitAsync().Within("the end of a killed process");
    }

    /// <summary>SIGTERM, and waits for the end.</summary>
    public async Task Terminate()
    {
        _ = Signal(process.Id, 15);
        await process.WaitForExitAsync().Within("the end of a process after SIGTERM");
    }

    public async Task<int> Exit()
    {
        process.StandardInput.Close();
        await process.WaitForExitAsync().Within("the end of a process");
        return process.ExitCode;
    }

    public async ValueTask DisposeAsync()
    {
        if (!process.HasExited) await Kill();
        process.Dispose();
    }

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int Signal(int process, int signal);
}

/// <summary>A broker that one scenario may restart, kill and starve.</summary>
public sealed class OwnBroker : IAsyncDisposable
{
    private readonly string program;
    private readonly string[] variant;
    private readonly string directory = Directory.CreateTempSubdirectory("conformance-broker-").FullName;
    private readonly int port = FreePort();
    private Child? process;

    private OwnBroker(string program, string[] variant, Uri like)
    {
        this.program = program;
        this.variant = variant;
        Address = new UriBuilder(like) { Host = "127.0.0.1", Port = port, UserName = "guest", Password = "guest", Path = "/%2F" }.Uri;
    }

    public Uri Address { get; }

    public static async Task<OwnBroker> Start(Options options, params string[] variant)
    {
        var broker = new OwnBroker(options.Broker ?? throw new Skipped("needs a broker of its own: --broker"), variant, options.Url);
        try { await broker.Start(); }
        catch { await broker.DisposeAsync(); throw; }
        return broker;
    }

    /// <summary>Returns when the port takes connections.</summary>
    public async Task Start()
    {
        process = Child.Program(program, [$"{port}", directory, .. variant]);
        for (var watch = Stopwatch.StartNew(); ; await Task.Delay(50))
        {
            try
            {
                using var socket = new TcpClient();
                await socket.ConnectAsync(IPAddress.Loopback, port);
                return;
            }
            catch (SocketException) when (process.HasExited && process.ExitCode == 77) { throw new Skipped($"{program} knows no {string.Join(" ", variant)}"); }
            catch (SocketException) when (!process.HasExited && watch.Elapsed < TimeSpan.FromSeconds(60)) { }
        }
    }

    public Task Stop() => process!.Terminate();

    public Task Kill() => process!.Kill();

    public async ValueTask DisposeAsync()
    {
        if (process is { HasExited: false })
        {
            try { await process.Terminate(); }
            catch (CheckFailed) { }
        }
        if (process != null) await process.DisposeAsync();
        Directory.Delete(directory, recursive: true);
    }

    private static int FreePort()
    {
        var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var port = ((IPEndPoint)listener.LocalEndpoint).Port;
        listener.Stop();
        return port;
    }
}
