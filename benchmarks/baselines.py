"""Train the networks that the studies compress, and keep their weights and the figures they start from.

    python benchmarks/baselines.py lenet-300-100 mnist --data-dir FOLDER --seed 0

writes ``benchmarks/baselines/lenet-300-100-mnist-s0.safetensors`` and adds a line to
``benchmarks/results/baselines.jsonl``. The recipe is the one in ``taut.bench.recipes``; nothing is chosen by validation or
test data. With ``--on`` the weights that are there are trained on (``MORE``), from a higher learning rate down again (warm
restarts: Loshchilov and Hutter 2017), and take their place.
"""

import argparse
import logging
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from running import Spent
from safetensors.torch import load_file, save_file

from taut.bench.data import Splits, load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, answers, train
from taut.precision import PRECISIONS
from taut.records import append_record
from taut.statistics import wilson

HERE = Path(__file__).parent
MORE = {("resnet-20", "cifar-10"): {"epochs": 30, "lr": 0.05, "sizes": {0: 24, 0.4: 32}}}
"""In place of the recipe's, where a network is trained on."""
FURTHER = 1000
"""Added to the seed where a network is trained on: in another order."""
log = logging.getLogger("baselines")


def path(network: str, dataset: str, seed: int = 0) -> Path:
    """Where the weights of a baseline are."""
    return HERE / "baselines" / f"{network}-{dataset}-s{seed}.safetensors"


def save(model: torch.nn.Module, target: Path, told: dict[str, str] | None = None) -> None:
    """Write the weights, whole or not at all, with what is ``told`` of them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, target.with_suffix(".part"), metadata=told)
    os.replace(target.with_suffix(".part"), target)


def trained(network: str, dataset: str, seed: int = 0) -> torch.nn.Module:
    """The committed baseline, in evaluation mode."""
    model = build(network, seed)
    model.load_state_dict(load_file(path(network, dataset, seed)))
    return model.eval()


def machine() -> dict:
    """The processor and its cores."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    return {"cores": os.cpu_count(), "processor": processor}


def versions() -> dict[str, str]:
    """Of Python, torch and taut."""
    try:
        taut = version("taut")
    except PackageNotFoundError:
        taut = "source"
    return {"python": platform.python_version(), "torch": torch.__version__, "taut": taut}


def figures(model: torch.nn.Module, splits: Splits) -> dict:
    """Validation and test accuracy, with the 95 % interval of the latter."""
    loss, right = answers(model, splits.val)
    _, right_test = answers(model, splits.test)
    interval = wilson(int(right_test.sum()), len(right_test))
    return {
        "metric_val": float(right.mean()),
        "loss_val": loss,
        "metric_test": float(right_test.mean()),
        "metric_test_interval": interval,
    }


def main() -> None:
    """Train one baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted({network for network, _ in RECIPES}))
    parser.add_argument("dataset", choices=sorted({dataset for _, dataset in RECIPES}))
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=None, help="in place of the recipe's")
    parser.add_argument("--on", action="store_true", help="train on the weights that are there")
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="of the arithmetic, in place of the recipe's")
    parser.add_argument("--resume", type=Path, help="keep the training in this file after every epoch, and go on from there")
    options = parser.parse_args()
    if (options.network, options.dataset) not in RECIPES:
        parser.error(f"no recipe for {options.network} on {options.dataset}")
    if options.on and (options.network, options.dataset) not in MORE:
        parser.error(f"--on has no settings for {options.network} on {options.dataset}: add them to MORE")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    others = {key: value for key in ("epochs", "precision") if (value := getattr(options, key))}
    recipe = RECIPES[options.network, options.dataset] | others
    model, seed = build(options.network, options.seed), options.seed
    if options.on:
        recipe |= MORE[options.network, options.dataset] | others
        model, seed = trained(options.network, options.dataset, options.seed), options.seed + FURTHER
    torch.set_num_threads(options.threads)
    splits, spent = load(options.dataset, options.data_dir), Spent(options.resume)

    def progress(epoch: int, epochs: int, loss: float) -> None:
        spent.tick(epoch, epochs, loss)
        log.info("%d/%d loss %.4f, %.0f s", epoch, epochs, loss, spent.seconds)

    train(model, splits, seed=seed, threads=options.threads, progress=progress, checkpoint=options.resume, **recipe)
    keep(model, splits, options, recipe, others, spent.seconds)


def keep(
    model: torch.nn.Module, splits: Splits, options: argparse.Namespace, recipe: dict, others: dict, seconds: float,
) -> None:  # fmt: skip
    """Write the weights and the record; ``others``: settings in place of the recipe's."""
    target = path(options.network, options.dataset, options.seed)
    save(model, target)
    command = [
        "python benchmarks/baselines.py",
        options.network,
        options.dataset,
        f"--seed {options.seed} --threads {options.threads}",
    ]
    command += [f"--{key} {value}" for key, value in others.items()]
    command += ["--on"] * options.on + ["--data-dir DIR"] * bool(options.data_dir)
    record = {
        "study": "baselines",
        "network": options.network,
        "dataset": options.dataset,
        "training": "plain",
        "method": "none",
        "setting": recipe | {"trained_on": options.on},
        "seed": options.seed,
        **figures(model, splits),
        "params": sum(p.numel() for p in model.parameters()),
        "bytes": target.stat().st_size,
        "train_seconds": round(seconds, 1),
        "command": " ".join(command),
        "version": versions(),
        "machine": machine(),
    }
    append_record(HERE / "results" / "baselines.jsonl", record)
    log.info("%s: validation %.2f %%, test %.2f %%", target, 100 * record["metric_val"], 100 * record["metric_test"])


if __name__ == "__main__":
    main()
