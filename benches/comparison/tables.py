"""The tables in Markdown: the whole one, the short one of the README, and the bars. It knows no process."""

import re

from comparison import bars as judging
from comparison.figures import brief, ratios, told, times, typical
from comparison.scenarios import SCENARIOS

BEGIN, END = "<!-- compare: begin, written by benches/compare --readme -->", "<!-- compare: end -->"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def markdown(options, brokers, names, verdicts):
    """Every figure of every scenario."""
    first, others = brokers[0], brokers[1:]
    heads = ["scenario", "measured"] + [broker.name for broker in brokers] + [f"{first.name} against {broker.name}" for broker in others]
    heads += ["bar"] if verdicts else []
    lines = [row(heads), "|---|---|" + "---:|" * (len(heads) - 2)]
    for name in names:
        scenario, titled = SCENARIOS[name], False
        for metric in scenario.metrics:
            numbers = [typical(broker, name, metric) for broker in brokers]
            if not any(number is not None for number in numbers):
                continue
            cells = ["" if titled else f"{scenario.title} (`{name}`)", metric.title] + [told(number, metric) for number in numbers]
            cells += [times(ratios(first, other, name, metric)) for other in others]
            if verdicts:
                cells.append("; ".join(f"{bar.wanted()}: {'met' if met else '**missed**'}" + (f", {figure}" if bar.than else "")
                                       for bar, met, figure in verdicts if (bar.scenario, bar.measured) == (name, metric.title)))
            lines.append(row(cells))
            titled = True
    lines += ["", footnote(options, brokers, names)]
    if verdicts:
        lines += ["", summary(verdicts)]
    return "\n".join(lines) + "\n"


def summary(verdicts):
    missed = [f"`{bar.scenario}`, {bar.measured}: {bar.wanted()} was promised, it is {figure}" for bar, met, figure in verdicts if not met]
    text = f"Bars: {len(verdicts) - len(missed)} of {len(verdicts)} met."
    return "\n".join([text] + [f"* missed: {line}" for line in missed])


def footnote(options, brokers, names):
    """What the figures are, as far as it applies to these."""
    text = [f"{rounds_text(options)} on {options.cores} cores that the load generator shares; "
            "ratios round by round, the median of them (lowest to highest), above 1 where the first broker is better."]
    products = [f"{broker.name}: {broker.product()}" for broker in brokers if broker.product() != broker.name]
    ran = [name for name in names if any(report for broker in brokers for report in broker.runs.get(name, []))]
    if any(SCENARIOS[name].fresh for name in ran):
        fresh = [broker.name for broker in brokers if is_fresh(broker, ran)]
        text.append("Memory each: how much the broker's resident memory grew, divided by their number; the largest of the rounds.")
        if len(fresh) == len(brokers):
            text.append("Each of these runs is on a process that was started for it and had settled: room that an allocator kept "
                        "of earlier work would hide the cost.")
        else:
            text.append((f"{' and '.join(fresh)}: on a process that was started for each run; the others" if fresh else "It was")
                        + " on a process that had worked before, whose allocator may have had room left, which hides the cost.")
    if "backlog-1M-1KiB" in ran:
        text.append("Memory of a message of a backlog: when all was published and nothing consumed. RabbitMQ's classic queues write "
                    "a backlog to disk and keep little of it in memory, so there is no ratio.")
    if any("latency-beside" in name for name in ran):
        text.append("Floods: another connection and queue of the same broker.")
    return " ".join(text + ["; ".join(products) + "." if products else ""]).strip()


def is_fresh(broker, names):
    return any(report and report.get("fresh") for name in names for report in broker.runs.get(name, []))


def rounds_text(options):
    return f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s" if options.rounds > 1 else f"One round of {options.seconds:g} s"


def short(options, brokers, names):
    """What a reader of the README wants to know."""
    first, others = brokers[0], brokers[1:]
    heads = [""] + [broker.name for broker in brokers] + [f"against {broker.name}" for broker in others]
    lines = [row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for name in names:
        scenario = SCENARIOS[name]
        for at, metric in enumerate(scenario.metrics):
            numbers = [typical(broker, name, metric) for broker in brokers]
            if not scenario.short or not (at == 0 or metric.short) or all(number is None for number in numbers):
                continue
            title = scenario.title if metric.plain else f"{scenario.title}: {metric.title}"
            cells = [title] + [f"**{brief(numbers[0], metric)}**"] + [brief(number, metric) for number in numbers[1:]]
            cells += [times(ratios(first, other, name, metric)).partition(" (")[0] for other in others]
            lines.append(row(cells))
    products = ", ".join(broker.product() for broker in brokers)
    rest = "memory is what it grew by on a fresh process" if any(SCENARIOS[name].fresh for name in names) else ""
    note = f"{rounds_text(options)}, {products}, {options.cores} cores that the load generator shares" + (f"; {rest}." if rest else ".")
    return "\n".join(lines + ["", note]) + "\n"


def into_readme(text, table, picture):
    """The README's text with the table and the picture between its two marks.

    Raises ValueError if it has no such marks."""
    begin = re.search(r"<!-- compare: begin[^>]*-->", text)
    end = text.find(END)
    if not begin or end < begin.end():
        raise ValueError(f"expected {BEGIN} and {END}")
    inside = f"{BEGIN}\n\n![Brokers compared: throughput, latency, memory, start]({picture})\n\n{table}\n"
    return text[:begin.start()] + inside + text[end:]


def judged(path, brokers):
    return judging.verdicts(judging.read(path), brokers) if path else []
