"""The table of study ``speed``: for each way and level what was removed, and how much faster the network is in each batch."""

from typing import Any

from md_tables import markdown

Record = dict[str, Any]


def table(records: list[Record]) -> str:
    """In Markdown: a row a way and level, in the order of the records; two times faster with half of the MACs is a share of 1."""
    found: dict[tuple[str, float], dict[int, Record]] = {}
    for record in records:
        found.setdefault((record["method"], record["setting"]["level"]), {})[record["setting"]["batch"]] = record["setting"]
    batches = sorted({batch for row in found.values() for batch in row})
    rows = []
    for (way, level), row in sorted(found.items(), key=lambda item: item[0][1]):
        cells = [way, f"{level:g}×"]
        for batch in batches:
            cells += _cells(row[batch]) if batch in row else 2 * ["—"]
        rows.append(cells)
    per_batch = [f"batch {batch}: {told}" for batch in batches for told in ("faster, for MACs fewer (share)", "in torch")]
    return markdown(["way", "level", *per_batch], rows)


def _cells(setting: Record) -> list[str]:
    """The speed-up with its range, the ratio of multiply-adds and the share of it; and the speed-up in torch."""
    low, high, share = setting["speedup_low"], setting["speedup_high"], setting["share"]
    faster = f"{setting['speedup']:.2f}× <small>{low:.2f}–{high:.2f}</small> for {setting['mac_ratio']:.2f}× ({share:.2f})"
    return [faster, f"{setting['speedup_torch']:.2f}×"]


TABLES = {"speed": table}
