"""Study ``train-taut``: which way of training gives the best accuracy at any compression?

    python benchmarks/train_taut.py lenet-300-100 mnist --data-dir DIR --workers 2
    python benchmarks/train_taut.py lenet-300-100 mnist --data-dir DIR --slice       a few minutes: one seed, three ways

Every way of ``trainings.py`` trains the network with the same data, augmentation, epochs and schedule, at its strengths, for
every seed. Each trained network is then compressed to every level (the network's parameters divided by it) by the method of
its family, as it is and after the same short fine-tuning, and the network at hand is measured, coded, on validation and test
data. One record a level and network, appended to ``benchmarks/results/train-taut.jsonl``; finished points are not run again.

How a level is met (which sensitivity shares out the ranks, which importance ranks the weights) is chosen on validation data
for each network. The strength of a way at a level is chosen when the curves are drawn, on validation data too.

The outside peer's way needs ``pip install torchao --no-deps``; without it that way alone fails.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from trainings import EVERY, WAYS, Training

from taut import apply, shrink, sweep
from taut.bench.data import Batches, Splits, load
from taut.bench.networks import build
from taut.bench.recipes import evaluate, train
from taut.codec.files import sizes
from taut.compressors import Prune
from taut.deliver import machine
from taut.errors import TautError
from taut.layers import bake, find_layers
from taut.measure import fisher_diagonal, ledger
from taut.parametrizations import SparseVariationalDropout, Variational
from taut.ranks import Sensitivity, factorize, ranks_by_budget
from taut.reparametrize import Wrapped, wrap
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "train-taut.jsonl"
LEVELS = (2, 5, 10, 20, 40, 80)
RECIPE = {"batch_size": 128, "augment": "shift1", "optimizer": "sgd", "schedule": "cosine"}
LR = 0.05
TUNING = {"optimizer": "adam", "schedule": "onecycle", "lr": 2e-3}
"""Of the fine-tuning: factors are of all scales, which one learning rate for SGD does not suit."""
EPOCHS = {"lenet-300-100": (30, 5), "lenet-5-caffe": (15, 3)}
"""Of training, and of the fine-tuning after compression."""
DATA = "TAUT_DATA_DIR"
SLICE: dict[str, list[Any]] = {"way": ["plain", "nuclear", "group lasso"], "rank": [1, 2], "seed": [0]}

Candidates = Iterator[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Trained:
    """A trained network: ``model`` in evaluation mode; ``training``, where parametrizations are still in it."""

    model: nn.Module
    training: Wrapped | None
    splits: Splits
    calibration: list[Any]

    @property
    def example(self) -> torch.Tensor:
        return self.splits.example_input


def point(network: str, dataset: str, way: str, rank: int, seed: int, epochs: int, tuning: int) -> list[dict[str, Any]]:
    """Train one way at its ``rank``-th strength, compress to every level, and measure: the records."""
    torch.set_num_threads(1)
    splits = load(dataset, os.environ.get(DATA) or None)
    strength = WAYS[way].strengths[rank]
    start = perf_counter()
    training = WAYS[way].at(strength)
    later = round(training.early * epochs)
    trained = fit(training, build(network, seed), splits, epochs - later, seed)
    seconds = perf_counter() - start
    shared = {
        "network": network, "dataset": dataset, "training": f"{way} {strength:g}", "seed": seed, "train_seconds": seconds,
        "version": VERSION, "machine": machine(), "torch": torch.__version__, "latency_ms": None,
    }  # fmt: skip
    before = shared["baseline"] = measured(plain(trained), trained)
    knobs = {"way": way, "strength": strength, "epochs": epochs}
    # a network that collapsed can be compressed to no level: it has this record alone
    records = [shared | before | {"method": "as trained", "setting": {**knobs, "level": 1, "tuned": 0}}]
    for family in WAYS[way].families:
        for level in [strength] if family == "hashed" else LEVELS:
            found = best(FAMILIES[family](trained, level), splits)
            if found is None:
                continue  # no network of this family is so small
            how, small = found
            setting = {**knobs, "level": level}
            start = perf_counter()
            if later:
                small = tune(small, splits, later, seed)
                shared["train_seconds"] = seconds + perf_counter() - start
            more: dict[str, Any] = {"method": family, "setting": {**setting, "tuned": 0}, "how": how}
            records.append(shared | measured(small, trained) | more)
            tuned = tune(small, splits, tuning, seed)
            more = {"method": f"{family}, fine-tuned", "setting": {**setting, "tuned": tuning}, "how": how}
            records.append(shared | measured(tuned, trained) | more | {"compress_seconds": perf_counter() - start})
    return records


def rising(training: Wrapped, price: float) -> Callable[[float], torch.Tensor]:
    """The penalty of a parametrized network, up over a third: from a random start all of it would take all weights away."""
    return lambda done: min(1.0, 3 * done) * price * training.penalty()


def fit(how: Training, model: nn.Module, splits: Splits, epochs: int, seed: int) -> Trained:
    """One way of training. The last layer has no penalty: its rows are the classes."""
    names = list(find_layers(model))
    training, penalty = None, None
    if how.parametrization is not None:
        training = wrap(model, dict.fromkeys(names, how.parametrization))
        price = how.price / (len(splits.train) if how.examples else 1)
        penalty = rising(training, price)
    regularizers = None if how.regularizer is None else {names[-1]: None, "*": how.regularizer}
    steps = -(-len(splits.train) // RECIPE["batch_size"]) * epochs
    train(
        model, splits, **RECIPE, epochs=epochs, lr=LR, weight_decay=how.decay, regularizers=regularizers, every=EVERY,
        warmup=steps // 10 if regularizers else 0, per=how.per, seed=seed, penalty=penalty,
        around=None if how.around is None else partial(how.around, model),
    )  # fmt: skip
    calibration = [batch for _, batch in zip(range(16), Batches(splits.train, 128, seed=seed), strict=False)]
    return Trained(model, training, splits, calibration)


def tune(model: nn.Module, splits: Splits, epochs: int, seed: int) -> nn.Module:
    """What the codes leave free, trained a little more; the same for every method."""
    return train(copy.deepcopy(model), splits, **{**RECIPE, **TUNING}, epochs=epochs, seed=seed + 1000)


def best(candidates: Candidates, splits: Splits) -> tuple[str, nn.Module] | None:
    """The candidate with the lowest validation loss."""
    scored = [(evaluate(model, splits.val)[0], how, model) for how, model in candidates]
    return min(scored, key=lambda item: item[:2])[1:] if scored else None


def measured(model: nn.Module, trained: Trained) -> dict[str, Any]:
    """What a record says of a network, as it would ship."""
    loss, accuracy = evaluate(model, trained.splits.val)
    totals = ledger(model, trained.example, *sizes(model)).totals()
    costs = {key: totals[key] for key in ("params", "nonzeros", "macs", "bytes")}
    return {"loss_val": loss, "metric_val": accuracy, "metric_test": evaluate(model, trained.splits.test)[1], **costs}


def plain(trained: Trained) -> nn.Module:
    """The network with ordinary weights."""
    return trained.model if trained.training is None else bake(copy.deepcopy(trained.training).finalize())


def room(trained: Trained, level: float) -> float:
    """The parameters that a level allows."""
    return sum(p.numel() for p in plain(trained).parameters()) / level


def low_rank(trained: Trained, level: float) -> Candidates:
    """Units that do nothing are removed, ranks shared out for a number of parameters, factors made explicit."""
    model = plain(trained)
    for by in ("energy", "activation", "fisher"):
        sensitivity = Sensitivity(by, None if by == "energy" else trained.calibration)
        choose = partial(ranks_by_budget, budget=room(trained, level), sensitivity=sensitivity)
        try:
            yield by, factorize(model, trained.example, choose, trained.calibration)
        except TautError:
            return  # rank 1 everywhere is too much


def pruning(trained: Trained, level: float) -> Candidates:
    """The weights that matter least over all layers go; for a distribution over weights, those that are mostly noise."""
    model, count = plain(trained), int(room(trained, level))
    if trained.training is not None:
        yield "noise", by_noise(trained, count)
        return
    layers = find_layers(model)
    fisher = fisher_diagonal(model, trained.calibration, layers)
    yield "magnitude", keep(model, {n: layer.weight.detach().abs() for n, layer in layers.items()}, count)
    yield "fisher", keep(model, {n: fisher[n].sqrt() * layer.weight.detach().abs() for n, layer in layers.items()}, count)


def random(trained: Trained, level: float) -> Candidates:
    """Any weights: what a ranking has to beat."""
    model = plain(trained)
    yield "random", apply(model, {"*": Prune(density=1 / level, by="random")})


def keep(model: nn.Module, scores: dict[str, torch.Tensor], count: int) -> nn.Module:
    """The network with the ``count`` weights of the largest score over all layers, and at least one in each."""
    least = torch.cat([s.flatten() for s in scores.values()]).topk(count).values[-1]
    kept = copy.deepcopy(model)
    plan = {}
    with torch.no_grad():
        for name, layer in find_layers(kept).items():
            layer.module.weight.mul_(scores[name] >= least)
            plan[name] = Prune(density=max(1, int(layer.weight.count_nonzero())) / layer.weight.numel())
    return apply(kept, plan)


def by_noise(trained: Trained, count: int) -> nn.Module:
    """The threshold, the same for all layers, that keeps ``count`` weights."""
    copied = copy.deepcopy(trained.training)
    assert copied is not None
    pairs = list(copied.latents().values())
    signal = torch.cat([(mean.abs().log() - log_sigma).detach().flatten() for _, (mean, log_sigma) in pairs])
    least = float(signal.topk(count).values[-1])
    for latent, _ in pairs:
        # |mu| / sigma, or log alpha = 2 (log sigma - log |mu|)
        latent.threshold = -2 * least if isinstance(latent, KINDS[SparseVariationalDropout]) else float(torch.tensor(least).exp())
    return copied.finalize()


KINDS = {kind: type(kind().latent(torch.ones(1, 1))) for kind in (Variational, SparseVariationalDropout)}


def neurons(trained: Trained, level: float) -> Candidates:
    """Whole units go, by one ranking over all layers, until the network has the parameters of the level."""
    model, most = plain(trained), room(trained, level)
    for importance in ("magnitude", "fisher"):
        data = trained.calibration if importance == "fisher" else None
        low, high, found = 0.0, 1.0, None
        for _ in range(9):
            middle = (low + high) / 2
            try:
                small = shrink(model, trained.example, keep=middle, importance=importance, data=data)
            except TautError:
                low = middle
                continue
            if sum(p.numel() for p in small.parameters()) <= most:
                low, found = middle, small
            else:
                high = middle
        if found is not None:
            yield importance, found


def hashed(trained: Trained, level: float) -> Candidates:
    """As it was trained: the number of values was set before."""
    assert trained.training is not None
    yield "hashed", copy.deepcopy(trained.training).finalize()


FAMILIES: dict[str, Callable[[Trained, float], Candidates]] = {
    "low-rank": low_rank, "pruning": pruning, "random": random, "neurons": neurons, "hashed": hashed,
}  # fmt: skip


def specs(network: str, dataset: str, short: bool) -> list[dict[str, Any]]:
    """The sweeps of the study: one a seed and way, since each way has its own number of strengths."""
    epochs, tuning = EPOCHS[network]
    fixed = {"network": network, "dataset": dataset, "epochs": 5 if short else epochs, "tuning": 1 if short else tuning}
    made = []
    for seed in SLICE["seed"] if short else (0, 1, 2):
        for way in SLICE["way"] if short else WAYS:
            every = range(len(WAYS[way].strengths))
            ranks = [i for i in every if not short or len(every) == 1 or i in SLICE["rank"]]
            grid = {"way": [way], "rank": ranks, "seed": [seed]}
            made.append({"study": "train-taut", "run": "train_taut:point", "grid": grid, "fixed": fixed})
    return made


def main() -> None:
    """Run the sweeps, one way after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(EPOCHS))
    parser.add_argument("dataset", choices=["mnist", "fashion-mnist"])
    parser.add_argument("--data-dir", type=Path, help="folder of the IDX files")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="as tasks of a Ray cluster")
    parser.add_argument("--slice", action="store_true", help="three ways, two strengths, one seed, few epochs")
    parser.add_argument("--out", type=Path, help="instead of the committed results")
    args = parser.parse_args()
    if args.data_dir is not None:
        os.environ[DATA] = str(args.data_dir)
    out = args.out or (RESULTS.with_stem("train-taut-slice") if args.slice else RESULTS)
    failed = []
    for spec in specs(args.network, args.dataset, args.slice):
        try:
            sweep(spec, out, workers=args.workers, ray=args.ray, progress=lambda *how_far: print(*how_far, flush=True))
            print(spec["grid"], "is done", flush=True)
        except TautError as error:
            failed.append(error)  # the other ways are run all the same
            print(error, flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} sweeps had points that failed; the same command runs those again")


if __name__ == "__main__":
    main()
