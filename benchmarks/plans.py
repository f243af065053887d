"""What study ``train-taut`` runs on each network: epochs, levels, which ways of training meet which family of compression."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainings import WAYS


@dataclass(frozen=True)
class Plan:
    """One network's part of the study: ``epochs`` of training, and of the ``tuning`` after compression; ``levels`` of ``unit``;
    ``pairs`` of ways and families, all of them by default; ``ranks``: which of a way's strengths are tried, all if not named;
    ``strengths``: a way's own, where not those that it has everywhere; ``decay``: the least weight decay, of every way;
    ``sizes``: of the part of the images that is shown (``taut.bench.recipes.train``).
    ``choosing``: how many images of the validation data say how a level is met, all by default.
    ``schemes``: the matricisations of convolutions that low rank tries, ``matrix``: the one whose rank is penalised.
    """

    epochs: int
    tuning: int
    levels: tuple[float, ...] = (2, 5, 10, 20, 40, 80)
    unit: str = "params"
    pairs: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {name: way.families for name, way in WAYS.items()})
    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    lr: float = 0.05
    decay: float = 0.0
    augment: str = "shift1"
    sizes: Mapping[float, int] | None = None
    choosing: int | None = None
    schemes: tuple[int, ...] = (1,)
    matrix: str = "matrix"

    def tried(self, way: str) -> tuple[float, ...]:
        """All strengths of a way."""
        return self.strengths.get(way, WAYS[way].strengths)


PLANS = {
    "lenet-300-100": Plan(30, 5),
    "lenet-5-caffe": Plan(
        15, 1, (2, 5, 10, 20, 40), ranks=dict.fromkeys(("l2", "nuclear + sparse group", "l1", "group lasso"), (1, 2)), pairs={
            "plain": ("low-rank", "pruning"), "l2": ("low-rank",), "nuclear + sparse group": ("low-rank",), "l1": ("pruning",),
            "group lasso": ("neurons",),
        },
    ),
    "resnet-20": Plan(
        20, 1, (1.5, 2, 2.8, 4), "macs", seeds=(0,), lr=0.1, decay=1e-4, augment="flip-crop", schemes=(1, 2),
        matrix="matrix2", sizes={0: 24, 0.75: 32}, choosing=2500,
        strengths={"nuclear": (7e-6,), "nuclear + sparse group": (7e-6,), "trained rank pruning": (0.97,)},
        pairs=dict.fromkeys(("plain", "nuclear + sparse group", "trained rank pruning", "nuclear"), ("low-rank",)),
    ),
}  # fmt: skip
SLICE = {"plain": (0,), "nuclear + sparse group": (1, 2), "group lasso": (1, 2)}
"""Ways and strengths of a run of a few minutes."""
