// A TCP relay on loopback whose connections can be cut, to see a client come back. Knows nothing of AMQP.
using System.Net;
using System.Net.Sockets;

namespace Conformance;

/// <summary>Relays a port of its own to the broker; `Cut` drops every connection there is and takes new ones.</summary>
public sealed class Proxy : IDisposable
{
    private readonly TcpListener listener = new(IPAddress.Loopback, 0);
    private readonly List<Socket> open = [];
    private readonly string host;
    private readonly int port;

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
            lock (open) open.AddRange([near, far]);
            _ = Relay(near, far);
        }
    }

    private async Task Relay(Socket near, Socket far)
    {
        using (near)
        using (far)
        {
            try
            {
                await far.ConnectAsync(host, port);
                await Task.WhenAny(Copy(near, far), Copy(far, near));
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException) { }
        }
    }

    private static async Task Copy(Socket from, Socket to)
    {
        var buffer = new byte[16 * 1024];
        try
        {
            int got;
            while ((got = await from.ReceiveAsync(buffer)) > 0)
                for (var sent = 0; sent < got;) sent += await to.SendAsync(buffer.AsMemory(sent, got - sent));
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException) { }
    }
}
