"""The loads that are compared, and what is read off each run. It knows no process and no broker."""

from dataclasses import dataclass


@dataclass
class Metric:
    """What is read off a run's object: a path into it, and how it is told."""
    title: str
    path: str
    unit: str = "/s"
    lower_is_better: bool = False
    scale: float = 1.0
    largest: bool = False  # of the rounds instead of the median: memory that is used again hides what things cost
    ratio: bool = True  # whether it says anything to compare it
    short: bool = False  # whether it is in the short table, beside the scenario's first one
    chart: str = None  # its title in the chart, if that is not the scenario's
    plain: bool = False  # whether the scenario's title alone says in the short table what it is


@dataclass
class Scenario:
    title: str
    arguments: str
    metrics: list
    timed: bool = True
    warm: bool = True
    background: str = None  # another load beside it, on the same broker
    fresh: bool = False  # on a process that has done nothing yet, where --start says how to get one
    rounds: int = None  # at most so many: it takes minutes to set up
    group: str = None  # in the chart
    chart: str = None  # its title there, if it needs a shorter one
    short: bool = True  # whether it is in the short table


CONSUMED = Metric("delivered", "consumed.per_second", plain=True)
P50 = Metric("p50", "latency_us.p50", " us", True, chart="latency p50 at 5,000 msg/s")
P99 = Metric("p99", "latency_us.p99", " us", True, short=True, chart="latency p99 at 5,000 msg/s")
CONFIRM_P99 = Metric("p99 of confirms", "confirm_latency_us.p99", " us", True, short=True)
CPU = Metric("broker CPU a message", "cpu_us_per_message", " us", True)
CORES = Metric("cores used", "cpu_cores", " cores", ratio=False)
PEAK = Metric("resident at most", "resident_kib.peak", " MiB", True, 1 / 1024)
FLOOD = Metric("the flood: published", "flood.published.per_second", ratio=False)
STEADY = ["--backlog", "20000"]  # RabbitMQ delivers more of what comes when less waits; and it is throughput that is asked for
LOAD = [CONSUMED, CPU, CORES, PEAK]
EACH = [Metric("made and unmade", "per_second", plain=True), Metric("broker CPU each", "cpu_us_per_operation", " us", True)]
IDLE_CPU = Metric("CPU", "cpu_percent", "% of a core", True)
IDLE_ALL = Metric("resident in all", "resident_kib.after", " MiB", True, 1 / 1024)


def idle(chart=None):
    each = Metric("resident each", "resident_kib_each", " KiB", True, largest=True, chart=chart)
    return [each, IDLE_ALL, IDLE_CPU]


FLOW, COST = "messages a second", "less is better"
RATE = "operations a second"
TOPIC = "--exchange topic --queues 10 --keys 1000 --bindings"

SCENARIOS = {
    "one-to-one-16B-auto": Scenario("1 producer, 1 consumer, 16 B, auto-ack", "", LOAD, group=FLOW, chart="16 B, auto-ack"),
    "one-to-one-16B-each": Scenario("the same, each acked, prefetch 1,000", "--ack each --prefetch 1000", LOAD, group=FLOW,
                                    chart="16 B, each acked"),
    "one-to-one-16B-batch": Scenario("the same, acked by 100", "--ack batch=100 --prefetch 1000", LOAD, short=False),
    "1KiB-auto": Scenario("1 KiB, auto-ack", "--size 1024", LOAD, group=FLOW),
    "16KiB-auto": Scenario("16 KiB, auto-ack", "--size 16384 --backlog 2000", LOAD, group=FLOW),
    "confirms-16B": Scenario("confirms, window 1,000, 16 B", "--confirm 1000", [CONSUMED, CONFIRM_P99, CPU, PEAK], group=FLOW,
                             chart="16 B, publisher confirms"),
    "confirms-1KiB-durable": Scenario(
        "confirms, window 1,000, 1 KiB persistent, acked by 100",
        "--confirm 1000 --size 1024 --persistent --ack batch=100 --prefetch 1000", [CONSUMED, CONFIRM_P99, CPU, PEAK], group=FLOW,
        chart="1 KiB, persistent, confirms, acks"),
    "confirms-16KiB-durable": Scenario(
        "confirms, window 100, 16 KiB persistent, acked by 100",
        "--confirm 100 --size 16384 --persistent --ack batch=100 --prefetch 1000 --backlog 2000", [CONSUMED, CONFIRM_P99, CPU, PEAK],
        group=FLOW, chart="16 KiB, persistent, confirms, acks"),
    "confirms-100B-durable-10p": Scenario(
        "10 producers, confirms, window 100, 100 B persistent, acked by 100",
        "--producers 10 --confirm 100 --size 100 --persistent --ack batch=100 --prefetch 1000", [CONSUMED, CONFIRM_P99, CPU, PEAK],
        group=FLOW, chart="100 B, persistent, confirms, 10 producers"),
    "ten-queues": Scenario("10 producers, 10 consumers, 10 queues, 16 B", "--producers 10 --consumers 10 --queues 10", LOAD,
                           group=FLOW, chart="10 queues, 10 producers, 10 consumers"),
    "one-queue-1p": Scenario("1 producer, 1 consumer, 1 queue, 16 B", "--producers 1", LOAD, short=False),
    "one-queue-2p": Scenario("2 producers, 1 consumer, 1 queue, 16 B", "--producers 2", LOAD, short=False),
    "one-queue-8p": Scenario("8 producers, 1 consumer, 1 queue, 16 B", "--producers 8", LOAD, group=FLOW, chart="1 queue, 8 producers"),
    "fanout-10": Scenario("fanout to 10 queues, 16 B", "--exchange fanout --bindings 10 --queues 10", LOAD, group=FLOW,
                          chart="fanout to 10 queues, deliveries"),
    "topic-1000": Scenario("topic, 1,000 bindings, 1,000 keys, 10 match", f"{TOPIC} 1000", LOAD, group=FLOW,
                           chart="topic: 10 of 1,000 bindings match"),
    "topic-100000": Scenario("topic, 100,000 bindings, 1,000 keys, 10 match", f"{TOPIC} 100000", LOAD, rounds=1, group=FLOW,
                             chart="topic: 10 of 100,000 bindings match"),
    "latency-5000": Scenario("latency at 5,000 msg/s, 16 B", "--rate 5000", [P50, P99, CPU], group=COST),
    "latency-beside-flood": Scenario(
        "latency at 1,000 msg/s beside a flood that is consumed", "--rate 1000", [P99, P50, FLOOD], background="--backlog 100000"),
    "latency-beside-hoard": Scenario(
        "latency at 1,000 msg/s beside 100,000/s that nobody consumes", "--rate 1000", [P99, P50, FLOOD],
        background="--rate 100000 --consumers 0", short=False),
    "churn-connections": Scenario("connections: open, log in, channel, close", "--churn connections --producers 4", EACH, warm=False, group=RATE,
                                  chart="connections: open and close"),
    "churn-channels": Scenario("channels: open, close", "--churn channels --producers 4", EACH, warm=False, short=False),
    "churn-queues": Scenario("queues: declare, delete", "--churn queues --producers 4", EACH, warm=False, group=RATE,
                             chart="queues: declare and delete"),
    "churn-bindings": Scenario("bindings: bind, unbind", "--churn bindings --producers 4", EACH, warm=False, short=False),
    "idle": Scenario("1,000 idle connections, heartbeats of 10 s", "--idle-connections 1000", idle("memory of an idle connection"),
                     warm=False, fresh=True, rounds=3, group=COST),
    "idle-10000": Scenario("10,000 idle connections, heartbeats of 10 s", "--idle-connections 10000 --seconds 20", idle(),
                           timed=False, warm=False, fresh=True, rounds=3, short=False),
    "idle-queues": Scenario("10,000 empty queues", "--idle-queues 10000", idle("memory of an empty queue"),
                            warm=False, fresh=True, rounds=3, group=COST),
    "start": Scenario("start", None, [
        Metric("to the first open-ok", "start_ms", " ms", True, chart="start to the first connection"),
        Metric("resident a second later", "resident_kib", " MiB", True, 1 / 1024, short=True, chart="memory after the start")],
        timed=False, warm=False, group=COST),
    "backlog-1M-1KiB": Scenario(
        "a backlog of 1,000,000 messages of 1 KiB", "--count 1000000 --size 1024 --consume-after",
        [Metric("published", "published.per_second", chart="1 million of 1 KiB, no consumer"),
         Metric("drained", "drained.per_second", short=True, chart="the same, then consumed"), CPU,
         Metric("resident a message", "backlog_kib_each", " KiB", True, largest=True, ratio=False)],
        timed=False, warm=False, fresh=True, rounds=3, group=FLOW),
}
