"""Draw every published curve again, from the committed records alone.

    python benchmarks/curves.py                    into docs/images
    python benchmarks/curves.py --out DIR low-rank        some of them, elsewhere

Where a study tried settings (the strength of a penalty), the one with the best mean on validation data is drawn for each method
and level, as ``taut report --choose strength`` does; test data has no say.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from taut.errors import TautError
from taut.records import append_records, read_records
from taut.report import static_plot
from taut.selection import matching

HERE = Path(__file__).parent
LENET, FASHION, RESNET = ("lenet-300-100", "mnist"), ("lenet-5-caffe", "fashion-mnist"), ("resnet-20", "cifar-10")


def _family(name: str, on: tuple[str, str] = LENET, **more: Any) -> tuple[str, dict[str, Any]]:
    """A family of study ``train-taut`` on a network and its data: test error against parameters, one curve a way of training."""
    only = {"network": [on[0]], "dataset": [on[1]], "method": [name]}
    return "train-taut", {"x": "params", "y": "metric_test", "error": True, "choose": ["strength"], "only": only, **more}


def _ways(title: str, methods: list[str]) -> tuple[str, dict[str, Any]]:
    """Some ways of study ``pull-taut`` on LeNet-300-100: test error against the ratio of bytes."""
    only = {"network": [LENET[0]], "method": methods}
    return "pull-taut", {"title": f"LeNet-300-100 on MNIST, {title}", "y": "metric_test", "error": True, "only": only}


FIGURES: dict[str, tuple[str, dict[str, Any]]] = {
    "demo": ("demo", {"title": "digits: no drop of validation accuracy allowed", "only": {"network": ["digits-cnn"]}}),
    "demo-fashion": ("demo", {"title": "Fashion-MNIST: no drop allowed", "only": {"network": ["fashion-cnn"]}}),
    "first-path": ("first-path", {}),
    "no-training": ("no-training", {
        "title": "LeNet-5-Caffe on MNIST, nothing trained", "error": True, "only": {"network": ["lenet-5-caffe"]},
    }),
    "zero-loss": ("zero-loss-curves", {
        "title": "LeNet-300-100 on MNIST, all that was searched", "error": True, "only": {"network": ["lenet-300-100"]},
    }),
    "zero-loss-lenet-5": ("zero-loss-curves", {
        "title": "LeNet-5-Caffe on MNIST, all that was searched", "error": True, "only": {"network": ["lenet-5-caffe"]},
    }),
    "pull-taut": _ways("20 epochs each", [
        "steering", "k-means by damped curvature", "uniform", "damped entropy codebook", "deep compression", "adaptive precision",
        "hashed after training", "hashed", "loss-aware binary",
    ]),
    "pull-taut-codebooks": _ways("so many values in each layer", [
        "steering", "k-means", "k-means by curvature", "k-means by damped curvature", "learning-compression",
    ]),
    "low-rank": _family("low-rank", title="low rank, no fine-tuning"),
    "low-rank-tuned": _family("low-rank, fine-tuned", title="low rank, fine-tuned"),
    "narrow": _family("narrow low-rank", title="low rank on fewer inputs, no fine-tuning"),
    "narrow-tuned": _family("narrow low-rank, fine-tuned", title="low rank on fewer inputs, fine-tuned"),
    "pruning": _family("pruning", x="bytes", title="pruning, no fine-tuning"),
    "pruning-tuned": _family("pruning, fine-tuned", x="bytes", title="pruning, fine-tuned"),
    "neurons": _family("neurons", title="removed neurons, no fine-tuning"),
    "neurons-tuned": _family("neurons, fine-tuned", title="removed neurons, fine-tuned"),
    "fashion-low-rank": _family("low-rank", FASHION, title="LeNet-5-Caffe, low rank, no fine-tuning"),
    "fashion-low-rank-tuned": _family("low-rank, fine-tuned", FASHION, title="LeNet-5-Caffe, low rank, fine-tuned"),
    "fashion-pruning": _family("pruning", FASHION, x="bytes", title="LeNet-5-Caffe, pruning, no fine-tuning"),
    "resnet-low-rank": _family("low-rank", RESNET, x="macs", title="ResNet-20, low rank, no fine-tuning"),
    "resnet-low-rank-tuned": _family("low-rank, fine-tuned", RESNET, x="macs", title="ResNet-20, low rank, fine-tuned"),
}


def last_search(study: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The records to draw; of searches that were recorded again and again, each network's last."""
    records = matching(read_records(HERE / "results" / f"{study}.jsonl"), settings.get("only", {}))
    if study.endswith("-curves"):
        return [_apart(record) for record in records]
    last: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record.get("step") == 0:
            last.pop(record["network"], None)
        last.setdefault(record["network"], []).append(record)
    return [record for found in last.values() for record in found]


def _apart(record: dict[str, Any]) -> dict[str, Any]:
    """A point of a search, not to be taken for one of another search that has the same settings: a curve for each way."""
    setting = record["setting"]
    return record | {"method": f"{setting['methods']}, {record['method']}", "setting": setting | {"bytes": record["bytes"]}}


def main() -> None:
    """Draw the figures that are asked for; those without records are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; all of them if none is given")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "images")
    args = parser.parse_args()
    for name in args.names or FIGURES:
        study, settings = FIGURES[name]
        with tempfile.TemporaryDirectory() as temporary:
            drawn = Path(temporary) / "records.jsonl"
            try:
                append_records(drawn, last_search(study, settings))
                print(static_plot(drawn, args.out / f"{name}.png", **settings))
            except TautError as error:
                print(f"{name}: {error}")


if __name__ == "__main__":
    main()
