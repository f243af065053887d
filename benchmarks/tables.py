"""Write the tables of ``docs/results`` again, from the committed records alone.

    python benchmarks/tables.py

In ``train-taut.md``, between ``<!-- table: NETWORK, DATASET, METHOD -->`` and ``<!-- end -->``, stands the mean test error of
each way of training at each level, at the strength that is the best on validation data (``taut.selection.choose``), with the
least and the largest of the seeds where there are several. In ``zero-loss.md``, after ``<!-- chosen: STUDY, NETWORK, DATASET
-->``, or ``…, images as they are -->``, the median over the seeds of the chosen points of study ``zero-loss`` or ``records``,
and each seed's (of several ways the smallest). In ``pull-taut.md``, ``binary.md``, ``peers.md`` and ``speed.md`` the tables of
``pull_tables.py``, ``binary_tables.py``, ``peer_tables.py`` and ``speed_tables.py``; ``any`` stands for every network.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import binary_tables
import peer_tables
import pull_tables
import speed_tables
from md_tables import markdown
from references import AS_THEY_ARE

from taut.records import read_records
from taut.selection import choose, matching

TABLES = pull_tables.TABLES | binary_tables.TABLES | peer_tables.TABLES | speed_tables.TABLES
HERE = Path(__file__).parent
NAMES = ("train-taut", "zero-loss", "pull-taut", "binary", "peers", "speed")
PAGES = [HERE.parent / "docs" / "results" / f"{name}.md" for name in NAMES]
TABLE = re.compile(r"<!-- (table|chosen|" + "|".join(TABLES) + r"): (.+?), (.+?), (.+?) -->\n.*?<!-- end -->", re.DOTALL)
AIMS = {"zero-loss": ("max_drop", "allowed drop, points"), "records": ("target_error", "test error aimed at, %")}

Record = dict[str, Any]


def table(records: Iterable[Record], network: str, dataset: str, method: str) -> str:
    """The table of one method, in Markdown: a row a way of training, a column a level."""
    wanted = {"network": [network], "dataset": [dataset], "method": [method]}
    cells: dict[str, dict[float, list[Record]]] = {}
    found = matching(records, wanted)
    if not found:
        return "No records yet."
    for record in choose(found, ["strength"]):
        cells.setdefault(record["training"], {}).setdefault(record["setting"]["level"], []).append(record)
    levels = sorted({level for row in cells.values() for level in row})
    rows = []
    for name, row in cells.items():
        best = [_cell(row.get(level, []), [other.get(level, []) for other in cells.values()]) for level in levels]
        seeds = sorted({len(found) for found in row.values()})
        rows.append([name, *best, " or ".join(map(str, seeds))])
    return markdown(["trained with", *(f"{level:g}x" for level in levels), "seeds"], rows)


def _error(found: list[Record]) -> float:
    return fmean(100 * (1 - record["metric_test"]) for record in found)


def _cell(found: list[Record], column: list[list[Record]]) -> str:
    """The mean error in percent, in bold where no other way's is lower; least and largest of the seeds in small."""
    if not found:
        return "—"
    text = f"{_error(found):.2f}"
    if len(column) > 1 and _error(found) == min(_error(other) for other in column if other):
        text = f"**{text}**"
    if len(found) == 1:
        return text
    errors = sorted(100 * (1 - record["metric_test"]) for record in found)
    return f"{text} <small>{errors[0]:.2f}–{errors[-1]:.2f}</small>"


def chosen(records: Iterable[Record], study: str, network: str, dataset: str) -> str:
    """The table of a study of chosen points, in Markdown: a row an aim."""
    key, told = AIMS[study]
    dataset, as_they_are = dataset.removesuffix(AS_THEY_ARE), dataset.endswith(AS_THEY_ARE)
    these = [record for record in records if (record["network"], record["dataset"]) == (network, dataset)]
    these = [record for record in these if record["setting"]["methods"].endswith(AS_THEY_ARE) == as_they_are]
    if not these:
        return "No records yet."
    smallest: dict[tuple[float, int], Record] = {}  # of several ways, all of them within the aim on validation data
    for record in sorted(these, key=lambda record: -record["bytes"]):
        smallest[record["setting"][key], record["seed"]] = record
    found: dict[float, list[Record]] = {}
    for (aim, _), record in smallest.items():
        found.setdefault(aim, []).append(record)
    change_of = "change of test error, points"
    head = [told, "ratio", "bytes", "test error, %", change_of, "each seed's change, with 95 % interval"]
    rows = []
    for aim, seeds in sorted(found.items()):
        seeds.sort(key=lambda record: record["seed"])
        ratio, size = ([f(r) for r in seeds] for f in (lambda r: r["ratio"]["bytes"], lambda r: r["bytes"]))
        error, change = ([f(r) for r in seeds] for f in (lambda r: 100 * (1 - r["metric_test"]), _change))
        cells = [f"{aim:g}", _middle(ratio, ".0f" if min(ratio) >= 10 else ".1f"), _middle(size, ",.0f"), _middle(error, ".2f")]
        cells.append(_signed(median(change)))
        rows.append([*cells, "; ".join(map(_certain, seeds))])
    return markdown(head, rows)


def _change(record: Record) -> float:
    """By how many points the test error rose."""
    return -100 * record["test"]["difference"]


def _middle(values: list[float], form: str) -> str:
    """The median, with the least and the largest in small."""
    text = f"{median(values):{form}}"
    return text if len(values) == 1 else f"{text} <small>{min(values):{form}}–{max(values):{form}}</small>"


def _certain(record: Record) -> str:
    low, high = (-100 * end for end in reversed(record["test"]["difference_interval"]))
    return f"{_signed(_change(record))} ({_signed(low)} to {_signed(high)})"


def _signed(points: float) -> str:
    """With its sign and two digits; what rounds to nothing is +0.00 and never -0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"


def studies() -> dict[str, list[Record]]:
    """The committed records of each study."""
    files = {study: HERE / "results" / f"{study}.jsonl" for study in {*NAMES, *AIMS}}
    return {study: read_records(file) if file.exists() else [] for study, file in files.items()}


def filled(text: str, records: dict[str, list[Record]]) -> str:
    """A page with its tables as the records of each study have them."""

    def fill(match: re.Match[str]) -> str:
        kind, *what = match.groups()
        if kind in TABLES:
            these = {"dataset": [what[2]]} | ({} if what[1] == "any" else {"network": [what[1]]})
            found = matching(records[what[0]], these)
            written = TABLES[kind](found) if found else "No records yet."
        else:
            written = table(records["train-taut"], *what) if kind == "table" else chosen(records[what[0]], *what)
        return f"<!-- {kind}: {', '.join(what)} -->\n{written}\n<!-- end -->"

    return TABLE.sub(fill, text)


def main() -> None:
    """Write the pages."""
    records = studies()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), records), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
