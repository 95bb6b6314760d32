"""Brokers and their processes: one run of `leveret perf` against one, and one that is started for a run. It knows no table."""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from comparison.scenarios import CONSUMED, STEADY

PATIENCE = 180  # seconds for a start, and for an end


@dataclass
class Broker:
    name: str
    url: str = None
    pid: str = None
    command: str = None  # how one more of it is started
    runs: dict = field(default_factory=dict)  # scenario -> [object or None] by round

    @staticmethod
    def parse(text):
        name, equals, rest = text.partition("=")
        url, _, pid = rest.partition(",")
        if name and not equals:
            return Broker(name)
        if not (name and equals and url.startswith("amqp://") and (pid == "" or pid.isdigit())):
            raise argparse.ArgumentTypeError(f"{text!r}: expected NAME or NAME=amqp://HOST:PORT[,PID]")
        return Broker(name, url, pid or None)

    def product(self):
        """What it calls itself."""
        told = [report["broker"] for runs in self.runs.values() for report in runs if report and report.get("broker")]
        return told[-1].partition(", as ")[0] if told else self.name


def perf(binary, broker, arguments):
    command = [binary, "perf", "--url", broker.url, "--json", "--quiet"] + arguments
    return command + (["--pid", broker.pid] if broker.pid else [])


def run(options, broker, name, scenario):
    """One run's object, or why there is none."""
    try:
        if name == "start":
            with started(broker) as (_, report):
                return report, None
        if scenario.fresh and broker.command:
            with started(broker) as (fresh, _):
                settle(fresh.pid)
                report, why = load(options, fresh, scenario)
                return report and {**report, "fresh": True}, why
        return load(options, broker, scenario)
    except (OSError, RuntimeError) as error:
        return None, str(error)


def load(options, broker, scenario):
    arguments = scenario.arguments.split()
    if scenario.timed:
        arguments += ["--seconds", str(options.seconds)]
    if scenario.metrics[0] is CONSUMED and STEADY[0] not in arguments:
        arguments += STEADY
    if scenario.warm and options.seconds >= 3:
        arguments += ["--warmup", "1"]
    flood = None
    if scenario.background:
        beside = scenario.background.split() + ["--seconds", str(options.seconds + 2)]
        flood = subprocess.Popen(perf(options.perf, broker, beside), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        time.sleep(1)
    flooded = None
    try:
        done = subprocess.run(perf(options.perf, broker, arguments), capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return None, f"no end after {options.timeout} s"
    finally:
        if flood:
            flooded = flood.communicate()[0]
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["nothing said"])[-1]
    faults = report["faults"]
    if flood:
        try:
            report["flood"] = json.loads(flooded)
            faults = faults + [f"the flood: {fault}" for fault in report["flood"]["faults"]]
        except ValueError:
            faults = faults + ["the flood did not come to an end"]
    if faults:
        return None, "; ".join(faults)
    return report, None


@contextlib.contextmanager
def started(broker):
    """One more of the broker, by its command, with a port and a directory of its own, and what its start took. It ends behind
    the block."""
    port, directory = free_port(), tempfile.mkdtemp(prefix="compare-")
    parts = urlsplit(broker.url or "amqp://127.0.0.1")
    user = parts.netloc.rpartition("@")[0]
    url = f"amqp://{user + '@' if user else ''}127.0.0.1:{port}{parts.path}"
    command = broker.command.replace("{port}", str(port)).replace("{dir}", directory)
    log = open(os.path.join(directory, "compare.log"), "wb")
    since = time.monotonic()
    child = subprocess.Popen(command, shell=True, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        product = first_open_ok(port, parts, child, since)
        took = time.monotonic() - since
        time.sleep(1)
        pid = largest(child.pid)
        report = {"mode": "start", "ok": True, "broker": product, "start_ms": took * 1000, "resident_kib": resident(pid)}
        yield replace(broker, url=url, pid=str(pid), runs={}), report
    finally:
        end(child)
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


def first_open_ok(port, parts, child, since):
    """The product's name once a client got through to it."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                return log_in(connection, parts)
        except (ConnectionError, socket.timeout) as error:
            elapsed = time.monotonic() - since
            if has_ended(child):
                raise RuntimeError("--start: it ended by itself") from error
            if elapsed > PATIENCE:
                raise RuntimeError(f"--start: no connection after {PATIENCE} s: {error}") from error
            time.sleep(max(0.0003, elapsed / 300))  # short beside what is measured, and no load beside a long start


def log_in(connection, parts):
    """The handshake of AMQP 0-9-1, 2.2.4, up to open-ok and back."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"AMQP\0\0\x09\x01")
    start = method(connection, 10)
    login = b"\0%s\0%s" % ((parts.username or "guest").encode(), (parts.password or "guest").encode())
    send(connection, b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN" + struct.pack(">I", len(login)) + login + b"\x05en_US")
    tune = method(connection, 30)
    send(connection, b"\0\x0a\0\x1f" + tune[4:])
    vhost = parts.path[1:].replace("%2F", "/").replace("%2f", "/").encode() or b"/"
    send(connection, b"\0\x0a\0\x28" + bytes([len(vhost)]) + vhost + b"\0\0")
    method(connection, 41)
    send(connection, b"\0\x0a\0\x32\0\xc8\0\0\0\0\0")
    method(connection, 51)
    leveret = text(start, b"leveret")  # which calls itself RabbitMQ, for clients that look
    return f"Leveret {leveret}" if leveret else f"{text(start, b'product')} {text(start, b'version')}"


def send(connection, payload):
    connection.sendall(b"\x01\0\0" + struct.pack(">I", len(payload)) + payload + b"\xce")


def method(connection, expected):
    head = exactly(connection, 7)
    payload = exactly(connection, struct.unpack(">I", head[3:])[0] + 1)[:-1]
    if payload[:4] != struct.pack(">HH", 10, expected):
        raise ConnectionError(f"expected method 10,{expected}, heard {payload[:80]!r}")
    return payload


def exactly(connection, count):
    octets = b""
    while len(octets) < count:
        more = connection.recv(count - len(octets))
        if not more:
            raise ConnectionError("closed")
        octets += more
    return octets


def text(payload, key):
    """A text of the server-properties."""
    at = payload.find(bytes([len(key)]) + key + b"S")
    if at < 0:
        return ""
    at += len(key) + 2
    length = struct.unpack(">I", payload[at:at + 4])[0]
    return payload[at + 4:at + 4 + length].decode(errors="replace")


def free_port():
    """A port below those that the system gives to clients, with a free one above it."""
    while True:
        port = random.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port


def family(pid):
    """A process and those that came of it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry)] = int(pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def resident(pid):
    """KiB; 0 if there is no such process."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def largest(pid):
    """Who does the work: not the shell, nor what it was started through."""
    return max(family(pid), key=resident)


def settle(pid, patience=15):
    """Waits until its memory hardly changes for two seconds."""
    since, history = time.monotonic(), []
    while time.monotonic() - since < patience:
        history.append(resident(pid))
        recent = history[-5:]
        if len(recent) == 5 and max(recent) - min(recent) <= max(64, max(recent) // 500):
            return
        time.sleep(0.5)


def end(child):
    """By SIGTERM to who does the work, then by force; nothing of its group stays."""
    since = time.monotonic()
    with contextlib.suppress(OSError):
        if not has_ended(child):
            os.kill(largest(child.pid), signal.SIGTERM)
    while not has_ended(child) and time.monotonic() - since < PATIENCE:
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)  # before it is waited for: until then its number is nobody else's
    child.wait()


def has_ended(child):
    return child.returncode is not None or os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
