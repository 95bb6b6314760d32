// Who may come in, and who may declare what; and the same over TLS.
using System.Net.Security;
using System.Security.Authentication;
using Conformance.Messages;
using MassTransit;

namespace Conformance;

public static class Security
{
    public static IEnumerable<Scenario<Stage>> All =>
    [
        new("39", "wrong-login", WrongLogin),
        new("39b", "permission-granted-later", PermissionLater),
        new("40", "tls", Tls),
    ];

    private static async Task WrongLogin(Stage stage)
    {
        var began = DateTime.UtcNow;
        var refused = await Expect.Throws<RabbitMqConnectionException>(async () =>
        {
            await using var bus = await stage.Start(_ => { }, null, h => h.Password($"wrong-{Guid.NewGuid():N}"));
        });
        Expect.Contains("AuthenticationFailureException: ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", $"{refused}");
        Expect.That(DateTime.UtcNow - began < TimeSpan.FromSeconds(15), "it fails without trying again and again");

        // A virtual host that does not exist shows on the first channel, and MassTransit goes on trying until it is told to stop.
        var missing = $"{stage.Prefix}-missing";
        var faults = new Readiness(missing);
        var bus = Bus.Factory.CreateUsingRabbitMq(c =>
        {
            stage.Host(c, new UriBuilder(stage.Address) { Path = $"/{missing}" }.Uri);
            c.ReceiveEndpoint(missing, e => e.Handler<OrderSubmitted>(_ => Task.CompletedTask));
        });
        bus.ConnectReceiveEndpointObserver(faults);
        using var limit = new CancellationTokenSource(Soon.Limit);
        var starting = bus.StartAsync(limit.Token);
        await faults.Fault($"code=530, text='NOT_ALLOWED - vhost {missing} not found");
        limit.Cancel();
        try { await starting; }
        catch (Exception) { }
        await new Running(bus).GiveUp();
    }

    private static async Task PermissionLater(Stage stage)
    {
        using var api = await Management.Open(stage.Options);
        var user = $"{stage.Prefix}-user";
        await api.Put($"users/{user}", new { password = "secret", tags = "" });
        try
        {
            await api.Put($"permissions/%2F/{user}", new { configure = "^$", write = ".*", read = ".*" });
            var (endpoint, got) = (stage.Endpoint("forbidden"), new Inbox<int>());
            var ready = new Readiness(endpoint);
            await using var bus = new Running(Bus.Factory.CreateUsingRabbitMq(c =>
            {
                stage.Host(c, null, h => { h.Username(user); h.Password("secret"); });
                c.ReceiveEndpoint(endpoint, e => e.Handler<OrderSubmitted>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }));
            }));
            bus.Bus.ConnectReceiveEndpointObserver(ready);
            var starting = bus.Start();
            // RabbitMQ 3.10 does not say which access.
            await ready.Fault("code=403, text='ACCESS_REFUSED - ", $"access to queue '{endpoint}' in vhost '/' refused for user '{user}'");
            await api.Put($"permissions/%2F/{user}", new { configure = ".*", write = ".*", read = ".*" });
            await ready.Next(TimeSpan.FromSeconds(45));
            await starting.Within();
            await bus.Bus.Publish(new OrderSubmitted(1, "granted")).Within();
            Expect.Same(1, await got.Next());
        }
        finally { await api.Delete($"users/{user}"); }
    }

    private static async Task Tls(Stage stage)
    {
        var address = stage.Options.Tls ?? throw new Skipped("needs a TLS listener: --tls");
        var got = new Inbox<int>();
        await using var bus = await stage.Start(stage.Endpoint("tls"), e => e.Handler<OrderSubmitted>(m => { got.Add(m.Message.Number); return Task.CompletedTask; }),
            address, h => h.UseSsl(s =>
            {
                s.Protocol = SslProtocols.Tls12;
                s.ServerName = address.Host;
                s.AllowPolicyErrors(SslPolicyErrors.RemoteCertificateChainErrors | SslPolicyErrors.RemoteCertificateNameMismatch);
            }));
        for (var i = 0; i < 10; i++) await bus.Bus.Publish(new OrderSubmitted(i, "sealed"));
        Expect.SameList(Enumerable.Range(0, 10), (await got.Take(10)).Order());
    }
}
