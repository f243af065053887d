"""The page: records in, one HTML file out that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from taut.errors import ExtraError, TautError
from taut.report import sections, svg, verdict
from taut.report.model import Group, read_groups
from taut.report.payload import moves, payload, rank_correlation
from taut.report.text import Safe, join, script_json, tag


def report(
    curve: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    title: str | None = None,
    *,
    choose: Sequence[str] = (),
    only: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Draw records as one self-contained HTML page and return its path.

    ``curve``: a file of JSON lines, or several. A ``summary.json`` beside a search's file adds its test result and command. The
    page holds plotly (about 5 MB) and asks the network for nothing. It is replaced as a whole, or left as it was.
    ``choose``: settings that were tried, such as ``["strength"]``: the best of them on validation data is drawn, as one curve
    (:func:`taut.selection.choose`). ``only``: ``{key: values}`` that a record or its setting must have.

    Raises:
        ExtraError: plotly is not installed.

    A file without records, a broken line or a place that cannot be written raise a :class:`TautError`.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "curve.jsonl").write_text('{"method": "LowRank", "bytes": 100, "metric_val": 0.98}')
        >>> report(folder / "curve.jsonl", folder / "report.html").name
        'report.html'
    """
    paths = [Path(curve)] if isinstance(curve, (str, os.PathLike)) else [Path(path) for path in curve]
    groups = read_groups(paths, choose, only)
    page = _page(groups, title or _title(groups), [path.name for path in paths])
    out = Path(out)
    _write(out, page)
    return out


def _title(groups: list[Group]) -> str:
    return (
        groups[0].label
        if len(groups) == 1
        else ", ".join(dict.fromkeys(group.study for group in groups if group.study)) or "taut"
    )


def _write(out: Path, page: str) -> None:
    """Whole or not at all: a reader never sees half a page."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(page)
            os.chmod(temporary, 0o644)
            os.replace(temporary, out)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TautError(f"cannot write the page {out}: {error.strerror or error}") from error


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ExtraError("plotly", "report") from error
    return get_plotlyjs().replace("\r\n", "\n")


def _asset(name: str) -> str:
    return (resources.files("taut.report") / name).read_text(encoding="utf-8")


def _page(groups: list[Group], title: str, sources: list[str]) -> str:
    scripts = [_plotly(), _asset("page.js")]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Safe(_asset("page.css"))),
    )
    data = tag("script", script_json({"groups": [payload(group) for group in groups]}), type="application/json", id="data")
    articles = [_article(group, index, sources) for index, group in enumerate(groups)]
    body = tag(
        "body",
        _header(groups, title),
        tag("main", articles),
        tag("footer", tag("p", "Made with taut. Every figure is measured on the files that were written.")),
        data,
        [tag("script", Safe(script)) for script in scripts],
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(groups: list[Group], title: str) -> Safe:
    select = None
    if len(groups) > 1:
        options = [tag("option", group.label, value=index) for index, group in enumerate(groups)]
        select = tag("label", "Show ", tag("select", options, id="group"), class_="choose needs-js")
    return tag("header", tag("p", "taut", class_="word"), tag("h1", title), select)


def _article(group: Group, index: int, sources: list[str]) -> Safe:
    parts = [
        tag("h2", group.label, class_="grouptitle"),
        sections.cards(group),
        sections.choice_note(group),
        _curve_section(group, index),
        _section("Budget", verdict.statement(group)),
        _section("Layers", sections.layers(group)),
        _moves_section(group),
        _section("To reproduce it", sections.reproduce(group, sources)),
    ]
    return tag("article", parts, id=f"group-{index}", data_group=index)


def _section(title: str, content: Safe | None, class_: str | None = None) -> Safe | None:
    return None if content is None else tag("section", tag("h2", title), content, class_=class_)


def _curve_section(group: Group, index: int) -> Safe:
    static = svg.panels(group)
    if static is None:
        return tag(
            "section", tag("h2", "Curve"), tag("p", "These records hold no measured pair of a cost and a score.", class_="note")
        )
    used = sorted({dot.series for dot in group.dots})
    press = {"type": "button", "aria_pressed": "true"}
    legend = [tag("li", tag("button", svg.legend_symbol(i), " ", group.names[i], data_series=i, **press)) for i in used]
    plot = tag(
        "div", class_="plot curve needs-js", role="img", aria_label="Accuracy against compression; the table below says the same"
    )
    note = _drawn(group)
    front = sections.front_table(group)
    return _section(
        "Accuracy against compression",
        join(
            tag("div", class_="controls needs-js", role="group", aria_label="Axes of the plot"),
            tag("ul", legend, class_="legend", aria_label="Methods; press to hide or show"),
            plot,
            static,
            tag("p", note, class_="note"),
            tag("details", tag("summary", "The Pareto front as a table"), front, class_="fronttable") if front else None,
        ),
        class_="curves",
    )  # type: ignore[return-value]


def _drawn(group: Group) -> str:
    told = "The broad grey line is the Pareto front of all kept points; a coloured line joins the best points of one method."
    if any(dot.runs > 1 for dot in group.dots):
        told += " A point is the median of its runs; the bars reach from the least to the most."
    if any(not dot.kept for dot in group.dots):
        told += " Faint open marks were measured and rejected."
    points = sum(dot.runs for dot in group.dots)
    if points < group.total:
        told += (
            f" Drawn are {len(group.dots):,} points of {group.total:,} records: all on a front, and an even choice of the rest."
        )
    return told


def _moves_section(group: Group) -> Safe | None:
    found = moves(group)
    if len(found) < 2:
        return None
    rank = rank_correlation([m[0] for m in found], [m[1] for m in found])
    told = "The prediction only orders the moves; the measurement decides which are kept."
    if rank is not None:
        told += f" Rank correlation of predicted and measured change: {rank:.2f} over {len(found):,} moves."
    plot = tag("div", class_="plot moves needs-js", role="img", aria_label="Predicted against measured change of the loss")
    return _section(
        "Predicted and measured change of the loss",
        join(plot, svg.moves_panel(found), tag("p", told, class_="note")),
        class_="prediction",
    )
