"""Medians and ratios of what was measured, and how numbers are told. It knows no file and no process."""

import statistics


def value(report, metric):
    for step in metric.path.split("."):
        report = report.get(step) if isinstance(report, dict) else None
    return None if report is None else report * metric.scale


def values(broker, name, metric):
    found = [value(report, metric) for report in broker.runs.get(name, []) if report]
    return [number for number in found if number is not None]


def typical(broker, name, metric):
    numbers = values(broker, name, metric)
    return None if not numbers else max(numbers) if metric.largest else statistics.median(numbers)


def ratios(first, other, name, metric):
    """How many times better the first broker is, round by round."""
    if not metric.ratio:
        return []
    if metric.largest:
        one, two = (typical(broker, name, metric) for broker in (first, other))
        return [two / one if metric.lower_is_better else one / two] if one and two else []
    found = []
    for one, two in zip(first.runs.get(name, []), other.runs.get(name, [])):
        one, two = (value(report, metric) if report else None for report in (one, two))
        if one and two:
            found.append(two / one if metric.lower_is_better else one / two)
    return found


def told(number, metric):
    if number is None:
        return "-"
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{digits}f}{metric.unit}"


def brief(number, metric):
    """Three digits or so, with the unit that suits them."""
    if number is None:
        return "-"
    unit = metric.unit
    steps = {"/s": [(1e6, " M/s"), (1e4, " k/s")], " us": [(1e6, " s"), (1e3, " ms")], " ms": [(1e3, " s")],
             " KiB": [(1024, " MiB")], " MiB": [(1024, " GiB")]}
    for step, name in steps.get(unit, []):
        if number >= step:
            number, unit = number / (1e3 if name == " k/s" else step), name
            break
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{digits}f}{unit}"


def ratio_text(ratio):
    digits = 0 if ratio >= 20 else 1 if ratio >= 2 else 2
    return f"{ratio:,.{digits}f}x"


def times(found):
    if not found:
        return "-"
    spread = f" ({ratio_text(min(found))} to {ratio_text(max(found))})" if len(found) > 1 else ""
    return ratio_text(statistics.median(found)) + spread
