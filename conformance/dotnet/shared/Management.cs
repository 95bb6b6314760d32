// The management API as an operator's script uses it: a login, JSON, status codes. Knows no scenario.
using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;

namespace Conformance;

public sealed class Management : IDisposable
{
    private readonly HttpClient http;

    private Management(HttpClient http) => this.http = http;

    /// <summary>The API, or a failed check when nothing answers as it does.</summary>
    public static async Task<Management> Open(Options options)
    {
        var login = options.Url.UserInfo == "" ? "guest:guest" : Uri.UnescapeDataString(options.Url.UserInfo);
        var port = options.Url.Port + 10000;
        if (options.Management == null && port > IPEndPoint.MaxPort) throw new CheckFailed($"no management API: port {port} does not exist");
        var address = options.Management ?? new Uri($"http://{options.Url.Host}:{port}/");
        var http = new HttpClient { BaseAddress = address, Timeout = TimeSpan.FromSeconds(10) };
        http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Basic", Convert.ToBase64String(Encoding.UTF8.GetBytes(login)));
        var api = new Management(http);
        try
        {
            var overview = await api.Get("overview");
            Expect.That(overview.TryGetProperty("rabbitmq_version", out _), "the overview names the version");
        }
        catch (Exception e) when (e is HttpRequestException or OperationCanceledException or JsonException)
        {
            http.Dispose();
            throw new CheckFailed($"no management API at {address}: {e.Message}");
        }
        return api;
    }

    public async Task<JsonElement> Get(string path)
    {
        using var answer = await http.GetAsync($"api/{path}");
        answer.EnsureSuccessStatusCode();
        return JsonDocument.Parse(await answer.Content.ReadAsStringAsync()).RootElement;
    }

    public async Task Put(string path, object body)
    {
        using var answer = await http.PutAsync($"api/{path}", new StringContent(JsonSerializer.Serialize(body), Encoding.UTF8, "application/json"));
        answer.EnsureSuccessStatusCode();
    }

    /// <summary>What is not there is deleted already.</summary>
    public async Task Delete(string path)
    {
        using var answer = await http.DeleteAsync($"api/{path}");
        if (answer.StatusCode != HttpStatusCode.NotFound) answer.EnsureSuccessStatusCode();
    }

    /// <summary>Asks again until the answer is as wanted: the API tells what was a few seconds ago.</summary>
    public async Task<T> Until<T>(Func<Task<T?>> ask, string what) where T : class
    {
        for (var end = DateTime.UtcNow + TimeSpan.FromSeconds(15); DateTime.UtcNow < end; await Task.Delay(200))
            if (await ask() is { } answer) return answer;
        throw new CheckFailed($"{what} did not come within 15 s");
    }

    public static string Name(string name) => Uri.EscapeDataString(name);

    public void Dispose() => http.Dispose();
}
