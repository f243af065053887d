"""The parts of the page that are text: cards, budget, layers, the front as a table, how to reproduce."""

from __future__ import annotations

from typing import Any

from taut.records import number
from taut.report import text
from taut.report.model import COSTS, Dot, Group, Record, dense_bytes, front
from taut.report.text import Safe, join, tag

ALONE = {"", "dense", "left alone", "none", "unchanged"}


def table(caption: str, heads: list[tuple[str, str]], rows: list[tuple[str, list[Any]]], class_: str) -> Safe:
    """A table that a phone shows as a list of cards; roles are written out because that display would hide them.

    ``heads``: ``(title, class of the column)``; ``rows``: ``(class of the row, cells)``, the first cell names the row.
    """
    head = tag(
        "tr", [tag("th", title, scope="col", role="columnheader", class_=kind or None) for title, kind in heads], role="row"
    )
    body = []
    for row_class, cells in rows:
        first = tag("th", cells[0], scope="row", role="rowheader", data_label=heads[0][0])
        rest = [
            tag(
                "td",
                cell,
                role="cell",
                data_label=title,
                class_=" ".join(filter(None, [kind, "blank" if cell == "" else ""])) or None,
            )
            for cell, (title, kind) in zip(cells[1:], heads[1:], strict=True)
        ]
        body.append(tag("tr", first, rest, role="row", class_=row_class or None))
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
        role="table",
        class_=class_,
    )


def cards(group: Group) -> Safe | None:
    """The headline: what the chosen network costs against the one before."""
    chosen, before = group.chosen, group.baseline
    if chosen is None:
        return None
    stated = group.summary.get("ratio")
    ratios: Record = stated if isinstance(stated, dict) else {}
    shown: list[Safe] = []
    for key, title, write in (
        ("bytes", "smaller file", text.size),
        ("params", "fewer parameters", text.count),
        ("macs", "fewer MACs", text.count),
        ("latency_ms", "faster", text.milliseconds),
    ):
        was, now = dense_bytes(before) if key == "bytes" else number(before, key), number(chosen, key)
        ratio = number(ratios, key.removesuffix("_ms")) or (was / now if was and now else None)
        if now is None or ratio is None:
            continue
        if 0.995 <= ratio <= 1.005:
            title = {"faster": "as fast as before", "smaller file": "as large as before"}.get(
                title, title.replace("fewer", "as many")
            )
        elif ratio < 1:
            title = {"faster": "the speed: slower"}.get(title, f"{title} (it grew)")
        shown.append(_card(text.times(ratio), title, f"{write(was)} → {write(now)}", first=not shown))
    was, now = number(before, "metric_val"), number(chosen, "metric_val")
    if now is not None:
        detail = "validation metric" if was is None else f"from {text.score(was, group.percent)}"
        sub = "" if was is None else f" ({text.change(now - was, group.percent)})"
        shown.append(_card(text.score(now, group.percent), "metric on validation data", detail + sub))
    return tag("ul", shown, class_="cards", aria_label="The chosen network against the one before") if shown else None


def _card(value: str, title: str, detail: str, first: bool = False) -> Safe:
    return tag(
        "li",
        tag("strong", value, class_="value"),
        tag("span", title, class_="title"),
        tag("span", detail, class_="detail"),
        class_="card first" if first else "card",
    )


def choice_note(group: Group) -> Safe | None:
    """Which point the cards describe, and by what it was chosen."""
    if group.chosen is None:
        reason = "No point in these records loses nothing on validation data, so none is singled out."
        return tag("p", reason, class_="note")
    if group.chosen.get("best"):
        return tag("p", "The chosen network: the cheapest one measured within the budget, on validation data.", class_="note")
    point = ", ".join(p for p in (str(group.chosen.get("method") or ""), text.setting(group.chosen.get("setting"), 120)) if p)
    return tag("p", f"The smallest file with no drop of the validation metric: {point or 'see the curve'}.", class_="note")


def layers(group: Group) -> Safe | None:
    """What was done to each layer of the chosen network."""
    rows = (group.chosen or {}).get("layers")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not rows:
        return None
    total = sum(number(row, "bytes") or 0 for row in rows)
    heads = [("Layer", ""), ("What was done", ""), ("Bytes before", "num"), ("Bytes after", "num"), ("Smaller", "num"),
             ("Share of the file", "share"), ("Parameters", "num"), ("MACs", "num"), ("Why", "why")]  # fmt: skip
    body = [("alone" if _alone(row) else "", _layer(row, total)) for row in rows]
    return table(f"{len(rows)} tensors, in the order of the network", heads, body, "layers")


def _alone(row: Record) -> bool:
    return str(row.get("what") or "").strip().lower() in ALONE


def _layer(row: Record, total: float) -> list[Any]:
    was, now = number(row, "bytes_before"), number(row, "bytes")
    done = tag("span", "left alone", class_="tag") if _alone(row) else tag("span", str(row["what"]))
    share = "" if not total or now is None else _share(now / total)
    return [
        str(row.get("name", "")), done, text.size(was), text.size(now), text.times(was / now if was and now else None), share,
        _from_to(row, "params_before", "params"), _from_to(row, "macs_before", "macs"), str(row.get("why") or ""),
    ]  # fmt: skip


def _from_to(row: Record, before: str, after: str) -> str:
    was, now = number(row, before), number(row, after)
    if now is None:
        return "–"
    return text.count(now) if was is None or was == now else f"{text.count(was)} → {text.count(now)}"


def _share(fraction: float) -> Safe:
    bar = tag("span", tag("span", style=f"width:{100 * fraction:.1f}%"), class_="bar", aria_hidden="true")
    return join(bar, tag("span", f"{100 * fraction:.1f} %", class_="percent"))


def front_table(group: Group) -> Safe | None:
    """The Pareto front in bytes (or the first cost there is): the plot in words."""
    cost = next((key for key in COSTS if group.has(key)), None)
    score = "metric_val" if group.has("metric_val") else "loss_val"
    dots = front(group.dots, cost, score, group.maximize) if cost else []
    if not dots:
        return None
    heads = [("Method", ""), ("Setting", "why"), ("Bytes", "num"), ("Smaller", "num"), ("Parameters", "num"), ("MACs", "num"),
             ("Latency", "num"), ("Validation metric", "num"), ("Validation loss", "num"), ("Test metric", "num")]  # fmt: skip
    shown = dots if len(dots) <= 40 else [dots[round(i * (len(dots) - 1) / 39)] for i in range(40)]
    few = "" if shown is dots else f"; {len(shown)} of {len(dots)} points, evenly chosen"
    caption = f"No other kept point is cheaper in {COSTS[cost].lower()} and at least as good{few}" if cost else ""
    return table(caption, heads, [("", _front_row(dot, group)) for dot in shown], "front")


def _front_row(dot: Dot, group: Group) -> list[Any]:
    loss = dot.mid("loss_val")
    name = group.names[dot.series] + (f" ({dot.runs} runs, median)" if dot.runs > 1 else "")
    return [
        name, text.setting(dot.record.get("setting"), 200), text.size(dot.mid("bytes")), text.times(dot.mid("bytes_ratio")),
        text.count(dot.mid("params")), text.count(dot.mid("macs")), text.milliseconds(dot.mid("latency_ms")),
        text.score(dot.mid("metric_val"), group.percent), "–" if loss is None else text.short(loss),
        text.score(dot.mid("metric_test"), group.percent),
    ]  # fmt: skip


def reproduce(group: Group, sources: list[str]) -> Safe:
    """The settings of the run: command, seeds, version, machine."""
    record = group.chosen or _agreed(group.records)
    find = {**group.summary, **{k: v for k, v in record.items() if v is not None}}
    command = find.get("command")
    seeds = sorted({text.setting(r["seed"]) for r in group.records if r.get("seed") is not None}, key=lambda s: (len(s), s))
    machine = find.get("machine")
    if isinstance(machine, dict) and set(machine) == {"cores", "processor"}:
        machine = f"{machine['processor']}, {machine['cores']} cores"
    facts = [
        ("Network", find.get("network")), ("Data set", find.get("dataset")), ("Training", find.get("training")),
        ("Method", find.get("method")), ("Setting", text.setting(find.get("setting"), 2000)),
        ("Seed" if len(seeds) < 2 else "Seeds", _listed(seeds)), ("taut", find.get("version")), ("torch", find.get("torch")),
        ("Machine", text.setting(machine)), ("Training time", _time(find, "train_seconds")),
        ("Compression time", _time(find, "compress_seconds")), ("Records", ", ".join(sources)),
    ]  # fmt: skip
    rows = [join(tag("dt", name), tag("dd", str(value))) for name, value in facts if value not in (None, "", [])]
    parts = [tag("dl", rows, class_="facts")]
    if isinstance(command, str) and command:
        copy = tag("button", "Copy", type="button", class_="copy needs-js", aria_label="Copy the command")
        parts.insert(0, tag("div", tag("pre", tag("code", command)), copy, class_="command"))
    return join(parts)


def _agreed(records: list[Record]) -> Record:
    """What all records say alike."""
    first = records[0]
    return {key: value for key, value in first.items() if all(record.get(key) == value for record in records[1:])}


def _listed(words: list[str]) -> str:
    return ", ".join(words) if len(words) <= 12 else f"{', '.join(words[:12])} and {len(words) - 12} more"


def _time(record: Record, key: str) -> str | None:
    value = number(record, key)
    return None if value is None else text.seconds(value)
