"""``taut compress``: a network under a loss budget, or a file of weights under an error bound."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import ChainMap
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from taut.budget import Budget, Gradual, Result, Shrink
from taut.budget import compress as search
from taut.cli.inputs import build_model, load_weights, method, seconds, user_data, user_function
from taut.cli.screen import Json, bar, command, emit, resumable, size
from taut.cli.search import show, watched
from taut.codec.stream import compress_file
from taut.compressors import Compressor
from taut.deliver import deliver
from taut.parametrizations import Parametrization

HELD = Path("search")


class Minimize(StrEnum):
    """What can be made small."""

    BYTES = "bytes"
    PARAMS = "params"
    MACS = "macs"
    LATENCY = "latency"


@command
def compress(
    out: Annotated[Path, typer.Option(help="The folder for the results; with --max-error, the file to write.")],
    weights: Annotated[Path | None, typer.Option(help="Weights: safetensors, a torch state dict, or .taut.")] = None,
    model: Annotated[str | None, typer.Option(help="package.module:build, or a network of the benchmarks by name.")] = None,
    data: Annotated[str | None, typer.Option(help="package.module:data giving (train, val[, test]), or a set's name.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The folder of a data set given by name.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="What the metric may lose, in percentage points (default 0).")] = None,
    max_loss_increase: Annotated[float | None, typer.Option(help="What the validation loss may gain, absolute.")] = None,
    max_error: Annotated[float | None, typer.Option(help="No model, no data: the relative error of each tensor.")] = None,
    minimize: Annotated[Minimize, typer.Option(help="What to make small.")] = Minimize.BYTES,
    methods: Annotated[list[str] | None, typer.Option("--method", help="LowRank, or your.module:Name.")] = None,
    loss: Annotated[str | None, typer.Option(help="package.module:loss, called as loss(model, batch).")] = None,
    metric: Annotated[str | None, typer.Option(help="package.module:metric, called as metric(model, batches).")] = None,
    recover: Annotated[bool, typer.Option(help="Fine-tune after each step.")] = True,
    time_limit: Annotated[str | None, typer.Option(help="Stop after this long: 90s, 10m, 1h30m.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps of the search.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    batch: Annotated[int, typer.Option(help="The batch size at which latency is measured.")] = 1,
    graph: Annotated[bool, typer.Option("--graph", help="The graph travels in model.taut, for about a kilobyte.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="With --max-error: processes that take a tensor each.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="With --max-error: tensors as tasks of a Ray cluster.")] = False,
    as_json: Json = False,
) -> None:
    """Make a trained network smaller while its measured loss stays within a budget."""
    if max_error is not None:
        others = {"--model": model, "--data": data, "--max-drop": max_drop}
        _weights_only(weights, out, max_error, others, {"workers": workers, "ray": ray}, as_json)
        return
    if model is None or data is None:
        raise typer.BadParameter("give --model and --data (or --max-error, which needs neither)")
    network, parts = build_model(model), user_data(data, data_dir, seed)
    if weights is not None:
        load_weights(network, weights)
    fresh = build_model(model)
    rest = f"the search is kept in {out / HELD}: the same command goes on from there"
    with resumable(rest) as going, watched(going) as watch:
        result = search(
            network, parts["train"], parts["val"], _budget(max_drop, max_loss_increase), minimize.value,
            loss=user_function("--loss", loss) if loss else None, metric=user_function("--metric", metric) if metric else None,
            methods=_methods(methods), recover=recover, seed=seed, time_limit=seconds(time_limit), max_steps=max_steps,
            workdir=out / HELD, progress=watch.point, labels={"network": model, "dataset": data},
        )  # fmt: skip
        done = deliver(
            result, out, fresh, parts["val"], test=parts["test"], command=shlex.join(["taut", *sys.argv[1:]]),
            labels={"network": model, "dataset": data}, batch=batch, graph=graph,
        )  # fmt: skip
    _finish(result, out)
    show(result, done, as_json, resumes=True)


def _budget(max_drop: float | None, max_loss_increase: float | None) -> Budget:
    if max_drop is None and max_loss_increase is None:
        max_drop = 0.0
    return Budget(None if max_drop is None else max_drop / 100, max_loss_increase)


def _methods(texts: list[str] | None) -> list[Any] | None:
    # what the user's module registers is found too
    known: ChainMap[str, type] = ChainMap({"Gradual": Gradual, "Shrink": Shrink}, Compressor.registry, Parametrization.registry)
    return [method(text, known, "--method") for text in texts] if texts else None


def _finish(result: Result, out: Path) -> None:
    """What a finished search needed to go on is not needed any more; an unfinished one goes on when the command is repeated."""
    if result.complete:
        shutil.rmtree(out / HELD, ignore_errors=True)


def _weights_only(
    weights: Path | None, out: Path, max_error: float, others: dict[str, Any], how: dict[str, Any], as_json: bool
) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given or weights is None:
        fix = f"leave out {', '.join(given)}" if given else "give --weights"
        raise typer.BadParameter(f"--max-error works on --weights alone; {fix}")
    with bar("compressing", in_bytes=True) as step:
        done = compress_file(weights, out, max_error, progress=step, **how)
    result = {**vars(done), "ratio": done.ratio, "weights": weights, "out": out}
    told = f"{out}: {size(done.bytes_after)} from {size(done.bytes_before)}, {done.ratio:.2f} times smaller than 32-bit weights"
    worst = f"{done.quantized} of {done.tensors} tensors on a grid, the others exact; largest relative error {done.max_error:.3g}"
    emit(result, as_json, told, worst)
