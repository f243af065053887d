"""Small static plots as SVG text: what paper, and a browser without scripts, shows instead of the interactive plot."""

from __future__ import annotations

import math
from collections.abc import Callable

from taut.report import text
from taut.report.model import COSTS, SCORES, Dot, Group, front
from taut.report.text import Safe, tag
from taut.report.verdict import limit

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 270, 54, 12, 14, 44
DOTS = 500
COLORS = 8
# each in a box from -1 to 1; the same names as in the interactive plot
SYMBOLS = {
    "circle": "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0Z",
    "square": "M-.9,-.9H.9V.9H-.9Z",
    "diamond": "M0,-1.3L1.1,0L0,1.3L-1.1,0Z",
    "triangle-up": "M0,-1.2L1.1,.8H-1.1Z",
    "cross": "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "triangle-down": "M0,1.2L1.1,-.8H-1.1Z",
    "pentagon": "M0,-1.1L1.05,-.34L.65,.9H-.65L-1.05,-.34Z",
}
NAMES = tuple(SYMBOLS)


def symbol(index: int, x: float, y: float, size: float, class_: str = "") -> Safe:
    """The marker of series ``index`` at ``(x, y)``."""
    path = SYMBOLS[NAMES[index % len(NAMES)]]
    kind = f"s{index % COLORS} {class_}".strip()
    return tag("path", d=path, transform=f"translate({x:.1f},{y:.1f}) scale({size:g})", class_=kind)


def legend_symbol(index: int) -> Safe:
    """The marker of a series beside its name."""
    return tag("svg", symbol(index, 8, 8, 5), width="16", height="16", viewBox="0 0 16 16", aria_hidden="true")


class Axis:
    """Numbers to places, with round ticks; logarithmic where the numbers span more than a factor of four."""

    def __init__(self, values: list[float], start: float, end: float, log: bool | None = None) -> None:
        low, high = min(values), max(values)
        self.log = (low > 0 and high / low > 4) if log is None else log
        if self.log:
            low, high = math.log10(low), math.log10(high)
        margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def at(self, value: float) -> float:
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            steps = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
            ticks = [step * 10.0**decade for decade in decades for step in steps]
            return [tick for tick in ticks if self.low <= math.log10(tick) <= self.high]
        rough = (self.high - self.low) / 5
        base = 10.0 ** math.floor(math.log10(rough))
        step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def panels(group: Group) -> Safe | None:
    """One small plot for each cost there is, the score against its compression ratio (or the cost itself)."""
    y = next((key for key in SCORES if group.has(key)), None)
    if y is None:
        return None
    axes = [f"{cost}_ratio" if group.has(f"{cost}_ratio") else cost for cost in COSTS]
    counts = {x: sum(x in dot.values and y in dot.values for dot in group.dots) for x in axes}
    most = max(counts.values())
    drawn = [panel(group, x, y) for x, count in counts.items() if count > 1 or 0 < count == most]
    return tag("div", drawn, class_="static panels") if drawn else None


def moves_panel(moves: list[list[float]]) -> Safe:
    """Measured against predicted change of the loss, with the line on which they agree."""
    sizes = sorted(abs(value) for move in moves for value in move[:2])
    reach = sizes[int((1 if len(sizes) < 60 else 0.96) * (len(sizes) - 1))] or 1.0
    shown = [move for move in moves if max(abs(move[0]), abs(move[1])) <= reach] or moves
    values = [value for move in shown for value in move[:2]]
    across, up = Axis(values, LEFT, WIDTH - RIGHT, log=False), Axis(values, HEIGHT - BOTTOM, TOP, log=False)
    low, high = min(values), max(values)
    ends = {"x1": across.at(low), "y1": up.at(low), "x2": across.at(high), "y2": up.at(high)}
    marks = [tag("line", **{k: f"{v:.1f}" for k, v in ends.items()}, class_="agree")]
    for place in across.ticks():
        marks.append(_label(text.short(place), across.at(place), HEIGHT - BOTTOM + 16, "middle"))
    for place in up.ticks():
        marks.append(_label(text.short(place), LEFT - 6, up.at(place) + 4, "end"))
    marks += [symbol(0 if m[2] else 4, across.at(m[0]), up.at(m[1]), 3.6, "" if m[2] else "rejected") for m in shown]
    marks.append(_label("predicted", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "axistitle"))
    marks.append(_label("measured (full: kept, open: rejected)", LEFT, TOP - 4, "start", "axistitle"))
    told = f"Measured against predicted change of the loss: {len(shown)} moves"
    return tag("div", tag("svg", marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=told), class_="static panels")


def _label(words: str, x: float, y: float, anchor: str, class_: str = "tick") -> Safe:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def x_title(key: str) -> str:
    """The title of an axis of costs or ratios."""
    titles = {
        "bytes_ratio": "Compression ratio (4 × dense parameters ÷ bytes)",
        "params_ratio": "Parameters: times fewer",
        "macs_ratio": "MACs: times fewer",
        "latency_ms_ratio": "Latency: times faster",
        "latency_ms": "Latency in ms",
    }
    return titles.get(key) or COSTS[key]


def panel(group: Group, x: str, y: str) -> Safe:
    """One plot of the score ``y`` against the cost or ratio ``x``."""
    dots = [dot for dot in group.dots if x in dot.values and y in dot.values]
    best = front(dots, x.removesuffix("_ratio"), y, group.maximize)
    stride = max(1, len(dots) // DOTS)
    shown = dots[::stride]
    bound = limit(group, y)
    across = Axis([dot.values[x][0] for dot in dots], LEFT, WIDTH - RIGHT)
    focus = focused([dot.values[y][0] for dot in dots], [dot.values[y][0] for dot in best], bound)
    up = Axis(focus, HEIGHT - BOTTOM, TOP, log=None if y == "loss_val" else False)
    inside = [dot for dot in shown if TOP - 1 <= up.at(dot.values[y][0]) <= HEIGHT - BOTTOM + 1]
    marks = [_grid(across, up, x, y, group.percent)]
    if bound is not None and min(focus) <= bound <= max(focus):
        marks.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{up.at(bound):.1f}", y2=f"{up.at(bound):.1f}", class_="budget"))
    steps = " ".join(f"{across.at(d.values[x][0]):.1f},{up.at(d.values[y][0]):.1f}" for d in best if d in inside)
    marks.append(tag("polyline", points=steps, class_="frontline"))
    marks += [
        _mark(dot, across.at(dot.values[x][0]), up.at(dot.values[y][0]), group) for dot in sorted(inside, key=_order(group))
    ]
    told = f"{SCORES[y]} against {x_title(x).lower()}: {len(inside)} points"
    return tag("svg", marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=told)


def focused(values: list[float], best: list[float], bound: float | None) -> list[float]:
    """The scores worth the room: a few ruined networks must not flatten everything else."""
    anchors = [*best, *([bound] if bound is not None else [])] or values
    top, bottom = max(anchors), min(anchors)
    span = max(top - bottom, 0.02 * abs(top), 1e-9)
    return [v for v in values if bottom - 1.5 * span <= v <= top + 1.5 * span] + anchors


def _order(group: Group) -> Callable[[Dot], tuple[bool, bool]]:
    return lambda dot: (dot.record is group.chosen, dot.kept)


def _mark(dot: Dot, x: float, y: float, group: Group) -> Safe:
    if dot.record is group.chosen:
        return tag("g", symbol(dot.series, x, y, 5), tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="10", class_="ring"))
    return symbol(dot.series, x, y, 3.6, "" if dot.kept else "rejected")


def _grid(across: Axis, up: Axis, x: str, y: str, percent: bool) -> Safe:
    parts: list[Safe] = []
    for tick in up.ticks():
        place = f"{up.at(tick):.1f}"
        label = f"{100 * tick:.4g} %" if percent and y != "loss_val" else text.short(tick)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="gridline"))
        parts.append(_label(label, LEFT - 6, up.at(tick) + 4, "end"))
    for tick in across.ticks():
        label = text.times(tick) if x.endswith("_ratio") else text.size(tick) if x == "bytes" else text.count(tick)
        parts.append(_label(label, across.at(tick), HEIGHT - BOTTOM + 16, "middle"))
    parts.append(_label(x_title(x), (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "axistitle"))
    parts.append(_label(SCORES[y], LEFT, TOP - 4, "start", "axistitle"))
    return tag("g", parts)
