"""Study ``large``: checkpoints from 10 MB to 4 GB, compressed and decoded without a model and without data.

    python benchmarks/large.py --dir DIR                about ten minutes, 10 GB of disk
    python benchmarks/large.py --dir DIR --sizes 10 100

A checkpoint of transformer blocks is made, sharded, in ``DIR``: its weights are normal, with rows and columns of their own
scales. Then, as a user would, ``taut compress --max-error`` and ``taut decode`` run in processes of their own; what is recorded
of each is the time on the clock, from start to end, and the most memory that it and its workers held together (their
proportional set sizes, twenty times a second). Every decoded tensor is held against the bound. One record a size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from taut.deliver import machine
from taut.records import append_records, read_records
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "large.jsonl"
BLOCKS = {10: (448, 1), 30: (512, 2), 100: (1024, 2), 300: (1024, 6), 1000: (2048, 5), 4000: (4096, 5)}
"""Width and number of blocks of a checkpoint of about so many megabytes; the last holds 4.03 GB."""
MAX_ERROR = 0.02


def main() -> None:
    """Measure every size that has no record yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="where the checkpoint and the files are for the time being")
    parser.add_argument("--sizes", type=int, nargs="+", choices=sorted(BLOCKS), default=sorted(BLOCKS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    known = {(r["setting"]["size"], r["setting"]["workers"]) for r in (read_records(args.out) if args.out.exists() else [])}
    for size in args.sizes:
        if (size, args.workers) not in known:
            with tempfile.TemporaryDirectory(dir=args.dir) as folder:
                record = point(Path(folder), size, args.workers)
            append_records(args.out, [record])
            print(record, flush=True)


def point(folder: Path, size: int, workers: int) -> dict[str, Any]:
    """The record of one size."""
    index, packed, back = make(folder, *BLOCKS[size]), folder / "w.taut", folder / "back.safetensors"
    compress = ["compress", "--weights", index, "--max-error", MAX_ERROR, "--workers", workers, "--out", packed]
    compressed = run(*compress)
    decoded = run("decode", packed, "--workers", workers, "--out", back)
    params, error = check(index, back)
    return {
        "study": "large", "network": "transformer-blocks", "dataset": "none", "training": "made",
        "method": "grid, one bound for all", "setting": {"size": size, "workers": workers, "max_error": MAX_ERROR}, "seed": 0,
        "params": params, "max_error": error,
        "bytes": packed.stat().st_size, "baseline": {"params": params, "bytes": 4 * params},
        "compress_seconds": compressed[0], "compress_memory": compressed[1], "decode_seconds": decoded[0],
        "decode_memory": decoded[1], "version": VERSION, "machine": machine(), "torch": torch.__version__,
    }  # fmt: skip


def make(folder: Path, width: int, blocks: int) -> Path:
    """A sharded checkpoint, a block each; the path of its index."""
    where: dict[str, str] = {}
    for block, tensors in enumerate(block_weights(width, blocks)):
        shard = f"model-{block:05}.safetensors"
        named = {f"blocks.{block}.{name}": weight for name, weight in tensors.items()}
        save_file(named, folder / shard)
        where |= dict.fromkeys(named, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index


def block_weights(width: int, blocks: int) -> Iterator[dict[str, torch.Tensor]]:
    """Attention, feed-forward network and norms of transformer blocks."""
    shapes = {"qkv": (3 * width, width), "out": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
    rng = np.random.default_rng(0)
    for _ in range(blocks):
        tensors = {"norm": torch.ones(width)}
        for name, (rows, columns) in shapes.items():
            weight = rng.standard_normal((rows, columns), dtype=np.float32)
            weight *= np.exp(0.3 * rng.standard_normal((rows, 1), dtype=np.float32)) / np.sqrt(columns)
            weight *= np.exp(0.2 * rng.standard_normal((1, columns), dtype=np.float32))
            tensors[name] = torch.from_numpy(weight)
        yield tensors


def run(*arguments: Any) -> tuple[float, int]:
    """Seconds and peak memory of one command of taut."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "taut", *map(str, arguments)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, held(process))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(process.stderr.read().decode())
    return seconds, peak


def held(process: psutil.Process) -> int:
    """Bytes that a process and those it started hold, pages that they share counted once."""
    total = 0
    for one in [process, *children(process)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it has ended
    return total


def children(process: psutil.Process) -> list[psutil.Process]:
    """All processes that it started."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def check(index: Path, back: Path) -> tuple[int, float]:
    """The number of weights, and the largest relative error of a tensor, which must keep the bound."""
    where, worst, params = json.loads(index.read_text())["weight_map"], 0.0, 0
    with safe_open(back, "pt") as now:
        for name, shard in where.items():
            with safe_open(index.parent / shard, "pt") as then:
                weight, decoded = then.get_tensor(name), now.get_tensor(name)
            assert weight.shape == decoded.shape and weight.dtype == decoded.dtype, name
            norm = partial(torch.linalg.vector_norm, dtype=torch.float64)
            error = float(norm(weight - decoded) / norm(weight))
            assert error <= MAX_ERROR * (1 + 1e-6), f"{name}: relative error {error}"
            worst, params = max(worst, error), params + weight.numel()
    return params, worst


if __name__ == "__main__":
    main()
