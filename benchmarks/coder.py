"""Study ``coder``: what coding weights by their neighbours saves, and how fast it is.

    python benchmarks/coder.py                 two minutes; from the committed baselines, no data needed

The weights of the committed baselines, pruned by magnitude and put on four shared values, or put on a grid: the length of all
weights' records with the codec as it is, and without the models of ``taut.codec.neighbours``; the time to encode and decode
them, each the fastest of five, on one thread, and to decode them with constriction alone; and how many weights a second. A large
matrix of normal numbers, in which neighbours tell nothing, shows the speed of one model for all weights. One record a network
and setting.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from taut.codec import coder, contexts, records
from taut.compressors import Chain, Codebook, Prune, Quantize
from taut.compressors.base import Code, Compressor
from taut.deliver import machine
from taut.records import append_records, read_records
from taut.version import VERSION

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "coder.jsonl"
METHODS: dict[str, Compressor] = {
    "pruned to 5 %, 4 values": Chain(Prune(density=0.05), Codebook(k=4, keep_zero=False)),
    "pruned to 20 %, 4 values": Chain(Prune(density=0.2), Codebook(k=4, keep_zero=False)),
    "grid of 4 bits": Quantize(bits=4),
}
REPEATS = 5


def main() -> None:
    """Measure what has no record yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    known = {(r["network"], r["method"]) for r in (read_records(out) if out.exists() else [])}
    for network, weights, methods in cases():
        for name, method in methods.items():
            if (network, name) in known:
                continue
            record = {"study": "coder", "network": network, "method": name} | measured([method.compress(w) for w in weights])
            append_records(out, [record | {"version": VERSION, "machine": machine(), "torch": torch.__version__}])
            print(record, flush=True)


def cases() -> Iterator[tuple[str, list[torch.Tensor], dict[str, Compressor]]]:
    """Names, weights, and what they are compressed by."""
    for path in sorted((HERE / "baselines").glob("*-s0.safetensors")):
        yield path.stem, [t for t in load_file(path).values() if t.dim() > 1], METHODS
    noise = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    yield "normal numbers, 4096 x 4096", [noise], {"grid, a step of 0.3 deviations": Quantize(step=0.3)}


def measured(codes: list[Code]) -> dict[str, Any]:
    """Lengths with and without neighbours, and times."""
    with patch.object(contexts, "fits", lambda shape: False):
        before = sum(len(_encoded(code)) for code in codes)
    for code in codes:  # compiled before it is timed
        records.decode(_encoded(code), 1 << 26)
    encoded = [_encoded(code) for code in codes]
    count = sum(code.decompress().numel() for code in codes)
    seconds = {
        "encode": _fastest(lambda: [_encoded(code) for code in codes]),
        "decode": _fastest(lambda: [records.decode(data, 1 << 26) for data in encoded]),
    }
    with patch.object(coder, "MANY", 1 << 62):  # no row is long enough for taut's own loop
        slow = _fastest(lambda: [records.decode(data, 1 << 26) for data in encoded])
    return {
        "bytes": sum(map(len, encoded)), "baseline": {"bytes": before, "decode_seconds": slow}, "weights": count,
        "encode_seconds": seconds["encode"], "decode_seconds": seconds["decode"],
        "decoded_per_second": count / seconds["decode"],
    }  # fmt: skip


def _encoded(code: Code) -> bytes:
    records._recent._records.clear()
    return records.encode(code)


def _fastest(run: Any) -> float:
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
