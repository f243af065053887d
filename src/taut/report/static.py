"""A static picture of a curve, for papers, slides and a README."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taut.errors import ExtraError, TautError
from taut.report.model import COSTS, SCORES, Dot, Group, front, read_groups
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
) -> Path:
    """Draw records as a picture (``.png``, ``.svg`` or ``.pdf``) and return its path.

    ``x``: a cost (``bytes``, ``params``, ``macs``, ``latency_ms``), drawn as the ratio to the network before where that is known;
    ``y``: ``metric_val``, ``loss_val`` or ``metric_test``. Several studies or networks become panels side by side. The same
    records give the same file. ``choose``, ``only``: as for :func:`taut.report.report`.

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
            _draw(axes, group, x, y, title or group.label)
        _save(figure, out)
    return out


def _draw(axes: Any, group: Group, cost: str, y: str, title: str) -> None:
    x = f"{cost}_ratio" if group.has(f"{cost}_ratio") else cost
    dots = [dot for dot in group.dots if x in dot.values and y in dot.values]
    scale = 100 if group.percent and y != "loss_val" else 1
    best = front(dots, cost, y, group.maximize)
    axes.plot([d.values[x][0] for d in best], [scale * d.values[y][0] for d in best], color="#8b8f98", lw=1.2, zorder=1)
    for series, name in enumerate(group.names):
        own = [dot for dot in dots if dot.series == series]
        look = {"color": COLORS[series % len(COLORS)], "marker": MARKERS[series % len(MARKERS)]}
        kept = sorted((dot for dot in own if dot.kept), key=lambda dot: dot.values[x][0])
        # the points of a search lie where its steps fell; those of a sweep are one curve
        joined = len(kept) > 1 and not any("step" in dot.record for dot in kept)
        _points(axes, kept, x, y, scale, {**look, "label": name[:60], "linestyle": "-" if joined else "none", "lw": 1.0})
        _points(axes, [dot for dot in own if not dot.kept], x, y, scale, {**look, "alpha": 0.25, "markerfacecolor": "none"})
    _lines(axes, group, dots, x, y, scale)
    shown = focused([d.values[y][0] for d in dots], [d.values[y][0] for d in best], limit(group, y))
    margin = (max(shown) - min(shown) or 0.01) * 0.08
    axes.set_ylim(scale * (min(shown) - margin), scale * (max(shown) + margin))
    costs = [dot.values[x][0] for dot in dots]
    if min(costs) > 0 and max(costs) / min(costs) > 4:
        axes.set_xscale("log")
    axes.set_xlabel(x_title(x))
    axes.set_ylabel(SCORES[y] + (" (%)" if scale == 100 else ""))
    axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=10)
    axes.grid(axis="y", color="#e3e5e9", lw=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _points(axes: Any, dots: list[Dot], x: str, y: str, scale: float, look: dict[str, Any]) -> None:
    if not dots:
        return
    label = str(look.get("label", "")).replace("$", r"\$")
    across, up = ([dot.values[key] for dot in dots] for key in (x, y))
    axes.errorbar(
        [v[0] for v in across],
        [scale * v[0] for v in up],
        xerr=[[v[0] - v[1] for v in across], [v[2] - v[0] for v in across]],
        yerr=[[scale * (v[0] - v[1]) for v in up], [scale * (v[2] - v[0]) for v in up]],
        markersize=5, elinewidth=0.8, **{"linestyle": "none", **look, "label": label or None},
    )  # fmt: skip


def _lines(axes: Any, group: Group, dots: list[Dot], x: str, y: str, scale: float) -> None:
    bound, before = limit(group, y), group.baseline.get(y)
    if bound is not None:
        axes.axhline(scale * bound, color="#a8324a", lw=1, ls="--", label="budget")
    if isinstance(before, (int, float)) and before != bound:
        axes.axhline(scale * before, color="#8b8f98", lw=0.8, ls=":", label="before")
    chosen = [dot for dot in dots if dot.record is group.chosen]
    if chosen:
        axes.plot(chosen[-1].values[x][0], scale * chosen[-1].values[y][0], "o", ms=13, mfc="none", mec="#22252b", label="chosen")


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
