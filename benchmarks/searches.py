"""The whole curve of a search: every network it measured, beside the chosen ones that studies ``zero-loss`` and ``records`` hold.

    python benchmarks/searches.py zero-loss FOLDER/curve.jsonl …        of delivered folders, into the study's file of curves

The studies append to the same file themselves: ``benchmarks/results/STUDY-curves.jsonl``, one record a network, with its file's
bytes and its loss and accuracy on validation data; test data was not looked at for them. A curve that is there is left as it is.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any

from taut.curve import Point
from taut.records import append_records, read_records

RESULTS = Path(__file__).parent / "results"
SAME = ("study", "network", "dataset", "seed", "method", "bytes", "metric_val")

Record = dict[str, Any]


def teller(figure: str = "metric") -> Callable[[Point], None]:
    """Prints every point of a search that begins now: seconds, place, whether it is kept, its metric or loss, and bytes."""
    start = monotonic()

    def tell(point: Point) -> None:
        kept = "kept" if point.kept else "-"
        print(f"{monotonic() - start:6.0f} s {point.step:3d} {kept:4s} {getattr(point, figure):.4f} {point.bytes:8d}", flush=True)

    return tell


def curve_file(records: Path) -> Path:
    """Where the curves of a study stand: beside its records."""
    return records.with_name(f"{records.stem}-curves.jsonl")


def keep_curve(out: Path, records: Iterable[Record], way: Record, method: str) -> int:
    """Append the points of one search that the file lacks, named by their ``method``; return how many they were."""
    known = read_records(out) if out.exists() else []
    there = {tuple(record[key] for key in SAME) for record in known}
    kept = ("study", "network", "dataset", "seed", "params", "nonzeros", "macs", "bytes", "loss_val", "metric_val")
    new = [
        {key: record[key] for key in kept} | {
            "method": method, "training": f"seed {record['seed']}", "setting": way | {"point": record["step"]},
            "baseline": record["baseline"], "compress_seconds": record["compress_seconds"],
        }
        for record in records if record["step"] and not record.get("best")
    ]  # fmt: skip
    new = [record for record in new if tuple(record[key] for key in SAME) not in there]
    append_records(out, new)
    return len(new)


def main() -> None:
    """Take the curves of delivered folders; their searches are told from the chosen records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["zero-loss", "records"])
    parser.add_argument("curves", type=Path, nargs="+")
    args = parser.parse_args()
    file = RESULTS / f"{args.study}.jsonl"
    for path in args.curves:
        points = read_records(path)
        best = next(point for point in points if point.get("best"))
        same = (*SAME[:4], "step", "bytes")
        chosen = [r for r in read_records(file) if all(r[key] == best[key] for key in same)]
        if not chosen:
            print(f"{path}: no record was chosen from it")
            continue
        way = {key: chosen[-1]["setting"][key] for key in ("methods", "augment", "recovery", "reference")}
        name = re.sub(r".*epochs=(\d+).*", r"\1 epochs a step", way["recovery"])
        print(f"{path}: {keep_curve(curve_file(file), points, way, name)} points")


if __name__ == "__main__":
    main()
