# Builds and runs the program of the folder that sources it. Knows nothing of where .NET or its packages come from.
set -eu

# Builds into bin/ and obj/ beside the project; one at a time, since two builds would write the same files.
build() {
  mkdir -p obj
  local log
  log=$(flock obj/lock dotnet build --nologo --verbosity quiet --configuration Release 2>&1) || { printf '%s\n' "$log" >&2; exit 1; }
}

run() {
  [ -n "${1:-}" ] || { echo "usage: run amqp://user:password@host:port/vhost [part of a check's name]" >&2; exit 2; }
  build
  exec dotnet bin/Release/net10.0/client.dll "$@"
}

# Says why and exits 1 when the program cannot be built here.
check() {
  command -v dotnet >/dev/null || { echo "dotnet is not on PATH" >&2; exit 1; }
  dotnet --list-sdks 2>/dev/null | grep -qE '^(1[0-9]|[2-9][0-9])\.' || { echo "no .NET SDK of version 10 or later" >&2; exit 1; }
  mkdir -p obj
  local log
  log=$(flock obj/lock dotnet restore --nologo --verbosity quiet 2>&1) || { echo "packages do not restore:" >&2; printf '%s\n' "$log" >&2; exit 1; }
}
