// A TCP relay on loopback whose connections can be cut or frozen, to see a client come back. Knows nothing of AMQP.
using System.Net;
using System.Net.Sockets;

namespace Conformance;

/// <summary>Relays a port of its own to the broker; `Cut` drops every connection there is, `Freeze` lets them go silent; new ones are relayed.</summary>
public sealed class Proxy : IDisposable
{
    private readonly TcpListener listener = new(IPAddress.Loopback, 0);
    private readonly List<Socket> open = [];
    private readonly string host;
    private readonly int port;
    private CancellationTokenSource frozen = new();
    private int taken;

    public Proxy(Uri broker)
    {
        host = broker.Host;
        port = broker.Port > 0 ? broker.Port : 5672;
        listener.Start();
        Address = new UriBuilder(broker) { Host = "127.0.0.1", Port = ((IPEndPoint)listener.LocalEndpoint).Port }.Uri;
        _ = Accept();
    }

    /// <summary>The broker's address with this relay's host and port.</summary>
    public Uri Address { get; }

    /// <summary>How many connections it has relayed, and how many of them are open.</summary>
    public (int Taken, int Open) Connections
    {
        get { lock (open) return (taken, open.Count / 2); }
    }

    /// <summary>Nothing passes on the connections there are, in either direction, and neither side hears of it.</summary>
    public void Freeze()
    {
        lock (open)
        {
            frozen.Cancel();
            frozen = new CancellationTokenSource();
        }
    }

    public void Cut()
    {
        lock (open)
        {
            foreach (var socket in open) socket.Dispose();
            open.Clear();
        }
    }

    public void Dispose()
    {
        listener.Stop();
        Cut();
    }

    private async Task Accept()
    {
        while (true)
        {
            Socket near;
            try { near = await listener.AcceptSocketAsync(); }
            catch (Exception e) when (e is SocketException or ObjectDisposedException) { return; }
            var far = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            near.NoDelay = true;
            CancellationToken freezing;
            lock (open)
            {
                open.AddRange([near, far]);
                taken++;
                freezing = frozen.Token;
            }
            _ = Relay(near, far, freezing);
        }
    }

    private async Task Relay(Socket near, Socket far, CancellationToken freezing)
    {
        using (near)
        using (far)
        {
            try
            {
                await far.ConnectAsync(host, port);
                await Task.WhenAny(Copy(near, far, freezing), Copy(far, near, freezing));
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException) { }
            lock (open)
            {
                open.Remove(near);
                open.Remove(far);
            }
        }
    }

    /// <summary>Ends when one side has ended; a frozen one ends never, but when it is cut.</summary>
    private static async Task Copy(Socket from, Socket to, CancellationToken freezing)
    {
        var buffer = new byte[16 * 1024];
        try
        {
            int got;
            while ((got = await from.ReceiveAsync(buffer)) > 0)
            {
                if (freezing.IsCancellationRequested) await Task.Delay(Timeout.Infinite, CancellationToken.None);
                for (var sent = 0; sent < got;) sent += await to.SendAsync(buffer.AsMemory(sent, got - sent));
            }
            if (freezing.IsCancellationRequested) await Task.Delay(Timeout.Infinite, CancellationToken.None);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException) { }
    }
}
