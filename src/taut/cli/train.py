"""``taut train``: a network of the benchmarks, trained as it is or towards a compressible set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors.torch import save as dumped

from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, evaluate
from taut.bench.recipes import train as run
from taut.cli.inputs import regularizers
from taut.cli.screen import Json, bar, command, emit
from taut.codec.writer import atomic
from taut.compressors import Compressor
from taut.regularizers import Regularizer


@command
def train(
    network: Annotated[str, typer.Option(help="The network by name, e.g. lenet-300-100.")],
    data: Annotated[str, typer.Option(help="The data set by name, e.g. mnist.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    data_dir: Annotated[Path | None, typer.Option(help="The folder of the data set's files.")] = None,
    regularizer: Annotated[
        list[str] | None, typer.Option(help="Train towards a set: nuclear=1e-3, or nuclear=1e-3@fc* for some layers.")
    ] = None,
    every: Annotated[int, typer.Option(help="Steps between two proximal steps.")] = 1,
    warmup: Annotated[int, typer.Option(help="Steps over which the strengths rise from 0.")] = 0,
    per: Annotated[
        str | None, typer.Option(help="params or macs: strengths per parameter or multiply-add, so that one suits all layers.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate, instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights, the split and the order of the data.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a network of the benchmarks and write its weights."""
    penalties = regularizers(regularizer or [], {**Compressor.registry, **Regularizer.registry})
    splits, model = load(data, data_dir, seed), build(network, seed)
    recipe: dict[str, Any] = {"epochs": 30, **RECIPES.get((network, data), {})}
    recipe |= {name: value for name, value in (("epochs", epochs), ("lr", lr), ("batch_size", batch_size)) if value is not None}
    start = time.monotonic()
    with bar(f"training {network} on {data}") as step:
        run(
            model, splits, **recipe, regularizers=penalties or None, every=every, warmup=warmup, per=per, seed=seed,
            progress=lambda epoch, total, _loss: step(epoch, total),
        )  # fmt: skip
    took = time.monotonic() - start
    with atomic(out) as file:
        file.write(dumped(model.state_dict()))
    loss, metric = evaluate(model, splits.val)
    result = {
        "network": network, "dataset": data, "training": " + ".join(f"{r} on {p}" for p, r in penalties.items()) or "plain",
        "recipe": recipe, "seed": seed, "metric_val": metric, "loss_val": loss, "metric_test": evaluate(model, splits.test)[1],
        "params": sum(p.numel() for p in model.parameters()), "nonzeros": sum(int(p.count_nonzero()) for p in model.parameters()),
        "train_seconds": took, "weights": out,
    }  # fmt: skip
    told = f"validation {metric:.4f} (loss {loss:.4f}), test {result['metric_test']:.4f}, {took:.0f} s; weights in {out}"
    emit(result, as_json, told)
