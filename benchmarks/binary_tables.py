"""The tables of study ``binary``: layers that count bits against dense ones, and the binarized network against itself."""

from collections.abc import Callable
from statistics import median
from typing import Any

from md_tables import markdown

Record = dict[str, Any]


def layers(records: list[Record]) -> str:
    """A row a layer: its file, and how much faster than the dense one it is in each batch, alone and as a module."""
    found: dict[int, dict[int, Record]] = {}
    for record in records:
        if "shape" in record["setting"]:
            found.setdefault(record["setting"]["shape"][0], {})[record["setting"]["batch"]] = record  # the last run counts
    batches = sorted({batch for row in found.values() for batch in row})
    head = ["weights", "file, of float32", *(text for b in batches for text in (f"batch {b}, kernel", "module"))]
    rows = []
    for size, row in sorted(found.items()):
        small = next(iter(row.values()))
        cells = [f"{size} × {size}", f"1/{small['baseline']['bytes'] / small['bytes']:.1f}"]
        for batch in batches:
            setting = row[batch]["setting"]
            cells += [f"{setting['speedup']:.1f} times faster", f"{setting['module_speedup']:.1f}"]
        rows.append(cells)
    return markdown(head, rows)


def points(records: list[Record]) -> str:
    """A row a point of the network, the largest file first; medians where there are several seeds."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(_told(record["setting"]), []).append(record)
    rows = []
    for what, runs in sorted(found.items(), key=lambda item: -median(r["bytes"] for r in item[1])):
        size, ratio = _middle(runs, lambda r: r["bytes"]), _middle(runs, lambda r: r["baseline"]["bytes"] / r["bytes"])
        scores = [100 * _middle(runs, lambda r, part=part: r[f"metric_{part}"]) for part in ("val", "test")]
        faster = _middle(runs, lambda r: r["baseline"]["latency_ms"] / r["latency_ms"])
        cells = [what, f"{size:,.0f}", f"{ratio:.1f}×", *(f"{score:.2f} %" for score in scores)]
        rows.append([*cells, f"{faster:.1f}×", str(len(runs))])
    head = ["network", "bytes", "smaller", "validation", "test", "faster", "seeds"]
    return markdown(head, rows)


TABLES: dict[str, Callable[[list[Record]], str]] = {"layers": layers, "points": points}


def _middle(runs: list[Record], of: Callable[[Record], float]) -> float:
    return median(of(record) for record in runs)


def _told(how: Record) -> str:
    """What was done to the network, in words."""
    if "tuning" not in how:
        return "as trained"
    share, price, bits = how["keep"], how.get("price", 0), how.get("vector_bits", 8)
    what = [f"{share:.0%} of the filters".replace("%", " %")] if share < 1 else []
    what += [f"price of a bit {price:g}" if price else f"{how['kernels']} kernels"] if how["kernels"] else []
    what += [f"{how['tuning']} epochs" + ", distilled" * ("distill" in how)] if how["tuning"] else ["stored shorter"]
    what += [f"{bits}-bit norms"] if bits != 8 else []
    what += ["best epoch"] if "looks" in how else []
    return ", ".join(what)
