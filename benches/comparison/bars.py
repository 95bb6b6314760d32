"""What was promised against what was measured. It knows how bars are written, no process and no table."""

import statistics
import tomllib
from dataclasses import dataclass

from comparison.figures import ratio_text, ratios, told, typical
from comparison.scenarios import SCENARIOS

KINDS = ("ratio", "at_most", "at_least_times", "at_most_times")


@dataclass
class Bar:
    scenario: str
    measured: str  # a metric's title
    ratio: float = None  # at least so many times better than `against`
    against: str = None  # a broker's name, or how its product begins
    at_most: float = None  # of the first broker, in the metric's unit
    at_least_times: float = None  # the first broker's figure of the scenario `than`
    at_most_times: float = None
    than: str = None

    def metric(self):
        return next(metric for metric in SCENARIOS[self.scenario].metrics if metric.title == self.measured)

    def wanted(self):
        if self.ratio is not None:
            return f"{self.ratio:g}x {self.against}"
        if self.at_most is not None:
            return f"at most {self.at_most:g}{self.metric().unit}"
        if self.at_least_times is not None:
            return f"at least {self.at_least_times:g}x `{self.than}`"
        return f"at most {self.at_most_times:g}x `{self.than}`"

    def judge(self, brokers):
        """Whether it is met, and the figure; None if that was not measured."""
        first, metric = brokers[0], self.metric()
        if self.ratio is not None:
            other = next((broker for broker in brokers[1:] if self.against == broker.name or broker.product().startswith(self.against)), None)
            found = ratios(first, other, self.scenario, metric) if other else []
            if not found:
                return None
            figure = statistics.median(found)
            return figure >= self.ratio, ratio_text(figure)
        figure = typical(first, self.scenario, metric)
        if figure is None:
            return None
        if self.at_most is not None:
            return figure <= self.at_most, told(figure, metric)
        base = typical(first, self.than, metric)
        if not base:
            return None
        times = figure / base
        return (times >= self.at_least_times if self.at_least_times is not None else times <= self.at_most_times), ratio_text(times)


def read(path):
    """The bars of a file.

    Raises ValueError that says what is wrong with which of them."""
    with open(path, "rb") as file:
        entries = tomllib.load(file).get("bar", [])
    bars = []
    for number, entry in enumerate(entries, 1):
        try:
            bar = Bar(**entry)
            if sum(getattr(bar, kind) is not None for kind in KINDS) != 1:
                raise ValueError(f"expected one of {', '.join(KINDS)}")
            if bar.ratio is not None and not bar.against:
                raise ValueError("ratio: against whom?")
            if (bar.at_least_times or bar.at_most_times) and bar.than not in SCENARIOS:
                raise ValueError(f"than = {bar.than!r}: there is no such scenario")
            if bar.scenario not in SCENARIOS:
                raise ValueError(f"scenario = {bar.scenario!r}: there is none")
            if bar.measured not in [metric.title for metric in SCENARIOS[bar.scenario].metrics]:
                raise ValueError(f"measured = {bar.measured!r}: {bar.scenario} has no such figure")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: bar {number}: {error}") from error
        bars.append(bar)
    return bars


def verdicts(bars, brokers):
    """(bar, whether it is met, figure) of those that were measured."""
    judged = [(bar, bar.judge(brokers)) for bar in bars]
    return [(bar, *verdict) for bar, verdict in judged if verdict]
