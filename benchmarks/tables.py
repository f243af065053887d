"""Write the tables of ``docs/results/train-taut.md`` again, from the committed records alone.

    python benchmarks/tables.py

Between ``<!-- table: NETWORK, DATASET, METHOD -->`` and ``<!-- end -->`` stands the mean test error of each way of training at
each level, at the strength that is the best on validation data (``taut.selection.choose``), with the least and the largest of
the seeds where there are several.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from taut.records import read_records
from taut.selection import choose, matching

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "train-taut.md"
TABLE = re.compile(r"<!-- table: (.+?), (.+?), (.+?) -->\n.*?<!-- end -->", re.DOTALL)

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
    head = "| trained with | " + " | ".join(f"{level:g}x" for level in levels) + " | seeds |"
    rows = [head, "|---" * (len(levels) + 2) + "|"]
    for name, row in cells.items():
        best = [_cell(row.get(level, []), [other.get(level, []) for other in cells.values()]) for level in levels]
        seeds = sorted({len(found) for found in row.values()})
        rows.append(f"| {name} | " + " | ".join(best) + f" | {' or '.join(map(str, seeds))} |")
    return "\n".join(rows)


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


def main() -> None:
    """Write the page."""
    records = read_records(HERE / "results" / "train-taut.jsonl")

    def filled(match: re.Match[str]) -> str:
        network, dataset, method = match.groups()
        return f"<!-- table: {network}, {dataset}, {method} -->\n{table(records, network, dataset, method)}\n<!-- end -->"

    PAGE.write_text(TABLE.sub(filled, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
