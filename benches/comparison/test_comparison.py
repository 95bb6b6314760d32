"""What compare makes of runs: medians, ratios, bars, tables, chart. python3 -B benches/comparison/test_comparison.py"""

import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
import xml.dom.minidom

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from comparison import bars, brokers, chart, tables  # noqa: E402
from comparison.brokers import Broker  # noqa: E402
from comparison.figures import brief, ratios, times, typical  # noqa: E402
from comparison.scenarios import SCENARIOS, Metric  # noqa: E402

BARS = pathlib.Path(__file__).resolve().parent.parent / "bars.toml"
ROOT = BARS.parent.parent
PROGRAM = next((path for path in (ROOT / f"target/{kind}/leveret" for kind in ("debug", "release")) if path.exists()), None)
OPTIONS = types.SimpleNamespace(rounds=3, seconds=5.0, cores=2)


def runs(product, *rates, cpu=0.3):
    return [rate and {"broker": product, "consumed": {"per_second": rate}, "cpu_us_per_message": cpu} for rate in rates]


def two():
    name = "one-to-one-16B-auto"
    own = Broker("Leveret", runs={name: runs("Leveret 0.1.0, as RabbitMQ 4.2.9", 2e6, 3e6, 4e6)})
    other = Broker("other", runs={name: runs("RabbitMQ 4.3.6", 1e5, 1e5, 1e5, cpu=13)})
    return name, own, other


def bar(**entry):
    return bars.Bar(**{"scenario": "one-to-one-16B-auto", "measured": "delivered", **entry})


class Figures(unittest.TestCase):
    def test_medians_and_ratios(self):
        name, own, other = two()
        delivered, cpu = SCENARIOS[name].metrics[:2]
        self.assertEqual(typical(own, name, delivered), 3e6)
        self.assertEqual(ratios(own, other, name, delivered), [20, 30, 40])
        self.assertAlmostEqual(ratios(own, other, name, cpu)[0], 13 / 0.3)
        self.assertEqual(times([20.0, 30.0, 40.0]), "30x (20x to 40x)")
        own.runs[name][1] = None
        self.assertEqual(ratios(own, other, name, delivered), [20, 40])

    def test_short_numbers(self):
        for number, unit, text in [(2_470_000, "/s", "2.47 M/s"), (107_200, "/s", "107 k/s"), (9_000, "/s", "9,000/s"), (1500, " us", "1.50 ms"),
                                   (0.5, " KiB", "0.50 KiB"), (2048, " KiB", "2.00 MiB"), (None, "/s", "-")]:
            self.assertEqual(brief(number, Metric("", "", unit)), text)


class Bars(unittest.TestCase):
    def test_the_file_is_understood(self):
        self.assertGreater(len(bars.read(BARS)), 30)

    def test_what_is_met_and_missed(self):
        _, own, other = two()
        for entry, met in [
            (bar(ratio=30, against="RabbitMQ 4.3"), True), (bar(ratio=31, against="other"), False),
            (bar(measured="broker CPU a message", at_most=0.3), True), (bar(measured="broker CPU a message", at_most=0.29), False),
            (bar(at_least_times=1, than="one-to-one-16B-auto"), True), (bar(at_most_times=0.9, than="one-to-one-16B-auto"), False),
        ]:
            self.assertEqual(entry.judge([own, other])[0], met, entry)
        for entry in [bar(ratio=1, against="RabbitMQ 3.10"), bar(scenario="fanout-10", at_most=1), bar(at_most_times=1, than="fanout-10")]:
            self.assertIsNone(entry.judge([own, other]), entry)

    def test_nonsense_is_refused(self):
        for text in ['{ scenario = "none", measured = "delivered", at_most = 1 }', '{ scenario = "fanout-10", measured = "none", at_most = 1 }',
                     '{ scenario = "fanout-10", measured = "delivered" }', '{ scenario = "fanout-10", measured = "delivered", ratio = 1 }',
                     '{ scenario = "fanout-10", measured = "delivered", at_least_times = 1 }', '{ what = 1 }']:
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(f"bar = [{text}]")
                file.flush()
                with self.assertRaisesRegex(ValueError, "bar 1: "):
                    bars.read(file.name)


class Written(unittest.TestCase):
    def test_tables(self):
        name, own, other = two()
        verdicts = bars.verdicts([bar(ratio=31, against="RabbitMQ 4.3")], [own, other])
        whole = tables.markdown(OPTIONS, [own, other], [name], verdicts)
        self.assertIn("| 3,000,000/s | 100,000/s | 30x (20x to 40x) | 31x RabbitMQ 4.3: **missed** |", whole)
        self.assertIn("Bars: 0 of 1 met.\n* missed: ", whole)
        self.assertIn("Leveret: Leveret 0.1.0; other: RabbitMQ 4.3.6.", whole)
        short = tables.short(OPTIONS, [own, other], [name])
        self.assertIn("| 1 producer, 1 consumer, 16 B, auto-ack | **3.00 M/s** | 100 k/s | 30x |", short)

    def test_readme_between_its_marks(self):
        before = f"# Title\n\n{tables.BEGIN}\nold\n{tables.END}\n\nrest\n"
        after = tables.into_readme(before, "new\n", "benches/comparison.svg")
        self.assertEqual(after, tables.into_readme(after, "new\n", "benches/comparison.svg"))
        self.assertNotIn("old", after)
        self.assertTrue(after.startswith("# Title\n") and after.endswith(f"new\n\n{tables.END}\n\nrest\n"), after)
        for text in ["", tables.BEGIN, f"{tables.END} {tables.BEGIN}"]:
            self.assertRaises(ValueError, tables.into_readme, text, "", "")

    def test_chart_is_a_picture(self):
        name, own, other = two()
        own.runs["start"] = [{"start_ms": 5.0, "resident_kib": 5000}]
        picture = chart.svg(OPTIONS, [own, other], [name, "start"])
        xml.dom.minidom.parseString(picture)
        for part in ["3.00 M/s", "30x", "5.00 ms", "RabbitMQ 4.3.6"]:
            self.assertIn(part, picture)


class Processes(unittest.TestCase):
    def test_the_largest_of_a_family(self):
        large = f"{sys.executable} -c 'import sys; text = b\"x\" * 50_000_000; print(flush=True); sys.stdin.read()'"
        child = subprocess.Popen(f"({large}); true", shell=True, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        worker = brokers.largest(child.pid)
        self.assertNotEqual(worker, child.pid)
        self.assertGreater(brokers.resident(worker), 50_000)
        brokers.end(child)
        self.assertEqual(brokers.resident(worker), 0)
        child.stdin.close()
        child.stdout.close()

    def test_a_command_that_ends_is_told(self):
        broker = Broker("x", "amqp://127.0.0.1:1", command="exit 3 # {port}")
        report, why = brokers.run(None, broker, "start", SCENARIOS["start"])
        self.assertEqual((report, why), (None, "--start: it ended by itself"))

    @unittest.skipUnless(PROGRAM, "no leveret was built")
    def test_leveret_starts_and_ends(self):
        command = f"{PROGRAM} serve --bind 127.0.0.1:{{port}} --data-dir {{dir}}/data"
        with brokers.started(Broker("Leveret", "amqp://guest:guest@h:1/%2F", command=command)) as (broker, report):
            self.assertRegex(report["broker"], "^Leveret [0-9.]+$")
            self.assertTrue(0 < report["start_ms"] < 10_000 and report["resident_kib"] > 1000, report)
            self.assertTrue(broker.url.startswith("amqp://guest:guest@127.0.0.1:") and broker.url.endswith("/%2F"), broker.url)
            self.assertGreater(brokers.resident(broker.pid), 0)
        self.assertEqual(brokers.resident(broker.pid), 0)


if __name__ == "__main__":
    unittest.main()
