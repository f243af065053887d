"""A static picture of a curve, for papers, slides and a README."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taut.errors import ExtraError, TautError
from taut.report.model import COSTS, SCORES, Dot, Group, Spread, front, read_groups
from taut.report.svg import focused, x_title
from taut.report.verdict import limit

# the light colours and the symbols of the page
COLORS = ("#1f5fa8", "#b4540a", "#1b7a5a", "#8a3d8f", "#a8324a", "#5a6b1a", "#0f7389", "#6b5b4d")
MARKERS = ("o", "s", "D", "^", "P", "v", "p")
SUFFIXES = {".png", ".svg", ".pdf"}


def static_plot(
    curve: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    x: str = "bytes",
    y: str = "metric_val",
    title: str | None = None,
    choose: Sequence[str] = (),
    only: Mapping[str, Sequence[str]] | None = None,
    error: bool = False,
) -> Path:
    """Draw records as a picture (``.png``, ``.svg`` or ``.pdf``) and return its path.

    ``x``: a cost (``bytes``, ``params``, ``macs``, ``latency_ms``), drawn as the ratio to the network before where that is known;
    ``y``: ``metric_val``, ``loss_val`` or ``metric_test``. Several studies or networks become panels side by side. The same
    records give the same file. ``choose``, ``only``: as for :func:`taut.report.report`. ``error`` draws one minus a metric
    that is a fraction, on a logarithmic axis: where networks are close, that is where they differ.

    Raises:
        TautError: an unknown axis or file type, or records without that pair of numbers.
        ExtraError: matplotlib is not installed.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "curve.jsonl").write_text('{"method": "LowRank", "bytes": 100, "metric_val": 0.98}')
        >>> static_plot(folder / "curve.jsonl", folder / "curve.svg").name
        'curve.svg'
    """
    out = Path(out)
    if x not in COSTS or y not in SCORES:
        raise TautError(f"cannot draw {y!r} against {x!r}; x is one of {', '.join(COSTS)}, y one of {', '.join(SCORES)}")
    if out.suffix.lower() not in SUFFIXES:
        raise TautError(f"cannot draw {out.name}: the file type must be one of {', '.join(sorted(SUFFIXES))}")
    read = read_groups(curve, choose, only)
    groups = [group for group in read if any(x in dot.values and y in dot.values for dot in group.dots)]
    if not groups:
        raise TautError(f"no record holds both {x!r} and {y!r}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraError("matplotlib", "report") from error
    with mpl.rc_context({"svg.hashsalt": "taut", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.2 * len(groups), 4.0), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
            _draw(axes, group, x, y, title or group.label, error and group.percent and y != "loss_val")
        _save(figure, out)
    return out


def _draw(axes: Any, group: Group, cost: str, y: str, title: str, error: bool) -> None:
    x = f"{cost}_ratio" if group.has(f"{cost}_ratio") else cost
    dots = [dot for dot in group.dots if x in dot.values and y in dot.values]
    view = View(x, y, 100.0 if group.percent and y != "loss_val" else 1.0, error)
    best = front(dots, cost, y, group.maximize)
    searched = any("step" in dot.record for dot in dots)
    if searched:
        axes.plot([d.values[x][0] for d in best], [view.up(d)[0] for d in best], color="#8b8f98", lw=1.2, zorder=1)
    for series, name in enumerate(_told_apart(group.names)):
        own = [dot for dot in dots if dot.series == series]
        look = {"color": COLORS[series % len(COLORS)], "marker": MARKERS[series % len(MARKERS)]}
        kept = sorted((dot for dot in own if dot.kept), key=lambda dot: dot.values[x][0])
        # the points of a search lie where its steps fell; those of a sweep are one curve
        joined = len(kept) > 1 and not searched
        _points(axes, kept, view, {**look, "label": name[:60], "linestyle": "-" if joined else "none", "lw": 1.0})
        _points(axes, [dot for dot in own if not dot.kept], view, {**look, "alpha": 0.25, "markerfacecolor": "none"})
    _lines(axes, group, dots if searched else [], view)
    shown = [view.up(d)[0] for d in dots]
    if not error:  # a logarithmic axis has room for ruined networks
        shown = focused(shown, [view.up(d)[0] for d in best], view.score(limit(group, y)))
    _scale(axes, [dot.values[x][0] for dot in dots], shown, error)
    axes.set_xlabel(x_title(x))
    axes.set_ylabel((SCORES[y].replace("Metric", "Error") if error else SCORES[y]) + (" (%)" if view.scale == 100 else ""))
    axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=10)
    axes.grid(axis="y", color="#e3e5e9", lw=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _told_apart(names: list[str]) -> list[str]:
    """The names of the curves without what all of them begin with."""
    heads = {name.partition(" · ")[0] for name in names}
    return [name.partition(" · ")[2] or name for name in names] if len(heads) == 1 and len(names) > 1 else names


@dataclass(frozen=True)
class View:
    """How values become heights: in percent (``scale`` 100) where they are fractions, and as an error where that is wanted."""

    x: str
    y: str
    scale: float
    error: bool

    def score(self, value: float | None) -> float | None:
        """The height of a value."""
        return None if value is None else self.scale * (1 - value if self.error else value)

    def up(self, dot: Dot) -> Spread:
        """The heights of a dot: middle, least, most."""
        middle, low, high = (self.scale * (1 - v if self.error else v) for v in dot.values[self.y])
        return (middle, high, low) if self.error else (middle, low, high)


def _scale(axes: Any, costs: list[float], shown: list[float], error: bool) -> None:
    """The range of heights that matters, and logarithmic axes where values span much, with ticks that can be read."""
    import matplotlib.ticker as ticks

    logarithmic = []
    if min(costs) > 0 and max(costs) / min(costs) > 4:
        axes.set_xscale("log")
        logarithmic.append(axes.xaxis)
    if error and min(shown) > 0:
        axes.set_yscale("log")
        axes.set_ylim(0.9 * min(shown), 1.1 * max(shown))
        logarithmic.append(axes.yaxis)
    else:
        margin = (max(shown) - min(shown) or 0.01) * 0.08
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    for axis in logarithmic:
        axis.set_major_locator(ticks.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(ticks.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticks.NullFormatter())


def _points(axes: Any, dots: list[Dot], view: View, look: dict[str, Any]) -> None:
    if not dots:
        return
    label = str(look.get("label", "")).replace("$", r"\$")
    across, up = [dot.values[view.x] for dot in dots], [view.up(dot) for dot in dots]
    axes.errorbar(
        [v[0] for v in across], [v[0] for v in up],
        xerr=[[v[0] - v[1] for v in across], [v[2] - v[0] for v in across]],
        yerr=[[v[0] - v[1] for v in up], [v[2] - v[0] for v in up]],
        markersize=5, elinewidth=0.8, **{"linestyle": "none", **look, "label": label or None},
    )  # fmt: skip


def _lines(axes: Any, group: Group, dots: list[Dot], view: View) -> None:
    bound, before = limit(group, view.y), group.baseline.get(view.y)
    if bound is not None:
        axes.axhline(view.score(bound), color="#a8324a", lw=1, ls="--", label="budget")
    if isinstance(before, (int, float)) and before != bound:
        axes.axhline(view.score(before), color="#8b8f98", lw=0.8, ls=":", label="before")
    chosen = [dot for dot in dots if dot.record is group.chosen]
    if chosen:
        axes.plot(chosen[-1].values[view.x][0], view.up(chosen[-1])[0], "o", ms=13, mfc="none", mec="#22252b", label="chosen")


def _save(figure: Any, out: Path) -> None:
    temporary = out.with_name(f".{out.stem}.part{out.suffix}")
    fixed = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(out.suffix.lower())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, dpi=160, metadata=fixed)
        os.replace(temporary, out)
    except OSError as error:
        raise TautError(f"cannot write the picture {out}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
