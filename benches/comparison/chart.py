"""The chart: a row of bars for each figure, a column of ratios. It knows no process and no file."""

import math
import statistics
from xml.sax.saxutils import escape

from comparison.figures import brief, ratio_text, ratios, typical
from comparison.scenarios import COST, FLOW, RATE, SCENARIOS

WIDTH = 880
LEFT, RIGHT = 306, 96  # for titles, for ratios
BAR, GAP = 10, 2
STYLE = """<style>
  text { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .card { fill: #ffffff; stroke: #d1d9e0 } .line { stroke: #d1d9e0 } .grid { stroke: #e7ebef } .head { font-size: 17px; font-weight: 600 }
  .group { font-size: 14px; font-weight: 600 } .quiet { fill: #59636e; font-size: 11px } .own { font-weight: 600; font-size: 11px }
  .ratio { font-weight: 600 } .worse { fill: #b35900 }
  .bar0 { fill: #12875f } .bar1 { fill: #e0812c } .bar2 { fill: #f0c094 } .bar3 { fill: #7d87d8 } .bar4 { fill: #a5acb5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .card { fill: #0d1117; stroke: #3d444d } .line { stroke: #3d444d } .grid { stroke: #21262d }
    .quiet { fill: #9198a1 } .worse { fill: #f0a35e } .bar0 { fill: #2fbf8a } .bar1 { fill: #dd7d2b } .bar2 { fill: #8a5a33 }
  }
</style>"""

HEADS = {FLOW: ("Throughput", "messages a second: longer is better"), RATE: ("Making and unmaking", "a second: longer is better"),
         COST: ("Latency, memory, start", "less is better: each row has a scale of its own")}


def figures(brokers, names):
    """Group -> [(title, metric, numbers, ratio against the second broker)]."""
    groups = {group: [] for group in HEADS}
    for name in names:
        scenario = SCENARIOS[name]
        for at, metric in enumerate(scenario.metrics):
            numbers = [typical(broker, name, metric) for broker in brokers]
            if scenario.group is None or not (at == 0 or metric.chart) or not any(numbers):
                continue
            found = ratios(brokers[0], brokers[1], name, metric) if len(brokers) > 1 else []
            ratio = statistics.median(found) if found else None
            groups[scenario.group].append((metric.chart or scenario.chart or scenario.title, metric, numbers, ratio))
    return {group: rows for group, rows in groups.items() if rows}


class Drawing:
    def __init__(self):
        self.parts, self.y = [], 0

    def text(self, x, y, text, kind="", anchor="start"):
        kind = f' class="{kind}"' if kind else ""
        anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(f'<text{kind} x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(text)}</text>')

    def line(self, kind, x1, y1, x2, y2):
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def bar(self, at, y, width):
        self.parts.append(f'<rect class="bar{min(at, 4)}" x="{LEFT}" y="{y}" width="{max(1.5, width):.1f}" height="{BAR}" rx="1.5"/>')


def svg(options, brokers, names):
    drawing = Drawing()
    groups = figures(brokers, names)
    head(drawing, options, brokers)
    for group, rows in groups.items():
        chart(drawing, brokers, group, rows)
    foot(drawing, options)
    height = drawing.y
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">'
    card = f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    return "\n".join([opening, f"<title>{escape(title(brokers))}</title>", STYLE, card] + drawing.parts + ["</svg>"]) + "\n"


def title(brokers):
    others = " and ".join(broker.name for broker in brokers[1:])
    return f"{brokers[0].name} beside {others}" if others else brokers[0].name


def head(drawing, options, brokers):
    drawing.text(24, 34, title(brokers), "head")
    x = 24
    for at, broker in enumerate(brokers):
        drawing.parts.append(f'<rect class="bar{min(at, 4)}" x="{x}" y="47" width="12" height="12" rx="2.5"/>')
        drawing.text(x + 18, 57.5, broker.product())
        x += 8 * len(broker.product()) + 42
    drawing.y = 74


def foot(drawing, options):
    rounds = f"Medians of {options.rounds} interleaved rounds" if options.rounds > 1 else "One round"
    drawing.line("line", 24, drawing.y, WIDTH - 24, drawing.y)
    drawing.text(24, drawing.y + 21, f"{rounds} on {options.cores} cores, which the load generator shares. Measured by benches/compare.", "quiet")
    drawing.y += 34


def chart(drawing, brokers, group, rows):
    heading, explained = HEADS[group]
    drawing.line("line", 24, drawing.y, WIDTH - 24, drawing.y)
    drawing.text(24, drawing.y + 25, heading, "group")
    drawing.text(LEFT, drawing.y + 25, explained, "quiet")
    if len(brokers) > 1:
        drawing.text(WIDTH - 24, drawing.y + 25, f"against {brokers[1].name}", "quiet", "end")
    drawing.y += 38
    room = WIDTH - LEFT - RIGHT - 58  # the value stands behind the longest bar
    # One scale for the whole group, where its figures are of one kind.
    shared = max(number for row in rows for number in row[2] if number) if group != COST else None
    step = (BAR + GAP) * len(brokers) + 10
    if shared:
        grid(drawing, shared, room, drawing.y - 4, drawing.y + step * len(rows) - 6)
    for name, metric, numbers, ratio in rows:
        full, top = shared or max(number for number in numbers if number), drawing.y
        middle = top + ((BAR + GAP) * len(brokers) - GAP) / 2
        drawing.text(LEFT - 12, middle + 4.5, name, anchor="end")
        for at, number in enumerate(numbers):
            y = top + at * (BAR + GAP)
            if number is not None:
                drawing.bar(at, y, room * number / full)
                drawing.text(LEFT + max(1.5, room * number / full) + 5, y + 8.8, brief(number, metric), "own" if at == 0 else "quiet")
        if ratio:
            drawing.text(WIDTH - 24, middle + 4.5, ratio_text(ratio), "ratio" if ratio >= 1 else "ratio worse", "end")
        drawing.y += step
    drawing.y += 18 if shared else 8


def grid(drawing, largest, room, top, bottom):
    """Lines at round figures."""
    step = 10 ** math.floor(math.log10(largest))
    step = step / 2 if largest / step < 3 else step
    for number in range(0, int(largest / step) + 1):
        x = LEFT + room * number * step / largest
        drawing.line("grid", x, top, x, bottom)
        drawing.text(x, bottom + 13, scale(number * step), "quiet", "middle")


def scale(number):
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"
