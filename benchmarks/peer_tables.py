"""The table of study ``peers``: for each way the smallest file within drops of validation accuracy, medians over the seeds."""

from statistics import median
from typing import Any

from md_tables import markdown
from within import smallest

DROPS = (0.0, 0.5, 1.0)

Record = dict[str, Any]


def table(records: list[Record]) -> str:
    """In Markdown: a row a network and way, in the order of the records; the smallest file of each drop in bold."""
    rows = []
    for network in sorted({r["network"] for r in records}):
        ways = dict.fromkeys(r["method"] for r in records if r["network"] == network)
        found = {way: [r for r in records if (r["network"], r["method"]) == (network, way)] for way in ways}
        cells = {way: [_cell(found[way], drop) for drop in DROPS] for way in ways}
        least = [min((cell[0] for cell in column if cell[0]), default=0) for column in zip(*cells.values(), strict=True)]
        for way in ways:
            told = zip(cells[way], least, strict=True)
            rows.append([network, way, *(_bold(text) if size and size == best else text for (size, text), best in told)])
    return markdown(["network", "way", *(f"at most {drop:g} points less" for drop in DROPS)], rows)


def _bold(text: str) -> str:
    """With its first word in bold."""
    first, rest = text.split(" ", 1)
    return f"**{first}** {rest}"


def _cell(found: list[Record], drop: float) -> tuple[float, str]:
    """The median size, 0 where not every seed has one, and what is told of it."""
    best = smallest(found, drop)
    if len(best) < len({r["seed"] for r in found}):
        return 0, "—"
    size, ratio = median(r["bytes"] for r in best), median(r["baseline"]["bytes"] / r["bytes"] for r in best)
    change = median(100 * (r["metric_test"] - r["baseline"]["metric_test"]) for r in best)
    speed = median(r["baseline"]["latency_ms"] / r["latency_ms"] for r in best)
    return size, f"{size:,.0f} ({ratio:.0f}×), test {round(change, 2) + 0.0:+.2f}, {speed:.1f}× as fast"


TABLES = {"side by side": table}
