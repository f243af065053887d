"""The course of a steering: step after step towards the sets, each of them measured."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from taut.apply import assign
from taut.budget.budget import Budget
from taut.budget.loss_model import fit
from taut.budget.recover import OutOfTime, Project, Recovery, recover
from taut.budget.steering import Steered, Steering, SteerStep
from taut.budget.subproblem import Part, solve
from taut.budget.trust_region import TrustRegion
from taut.compressors.base import Code, Compressor, Stats
from taut.errors import LayerError, TautError
from taut.layers import batch_size, find_layers, put
from taut.measure import Evaluation, evaluate, reestimate_batchnorm
from taut.objective import Loss, Metric, Objective, batches_of, has_target, inputs_of

log = logging.getLogger(__name__)

LEAST = 1e-3
"""The radius, as a fraction of the first, below which a steering has come to its end."""
NEAR, HALF = 0.01, 0.5
"""A step goes half of the way at most, until the distance is a hundredth of the weights: what is left is for training to move."""
DOUBT = 100.0
"""The most that a rejected prediction is distrusted."""

Tensors = Mapping[str, Tensor]


class Course:
    """One steering: the kept network, and what every step of it shares."""

    def __init__(
        self, model: nn.Module, plan: Mapping[str, Compressor], train: Iterable, val: Iterable, budget: Budget, how: Steering,
        own: tuple[Loss | None, Metric | None], seed: int, deadline: float,
    ) -> None:  # fmt: skip
        self.original = copy.deepcopy(model).eval().requires_grad_(False)
        self.train, self.val = batches_of(train, "training"), batches_of(val, "validation")
        labelled = has_target(next(iter(self.val))) or own[0] is not None
        self.objective = Objective(*own, None if labelled else self.original)
        self.budget, self.how, self.seed, self.deadline = budget, how, seed, deadline
        self.kept = copy.deepcopy(model).eval()
        self.plan = _plan(self.kept, plan)
        self.baseline = self.found = evaluate(self.kept, self.val, self.objective)
        self.doubt = 1.0
        """How many times more than predicted the last rejected step cost."""
        self.scale = {n: float(w.double().square().mean().sqrt()) or 1.0 for n, w in self._weights(self.kept).items()}

    def run(self, progress: Callable[[SteerStep], None]) -> Steered:
        """Step until the weights are in their sets, or the radius, the steps or the time are used up."""
        region, steps, reached = TrustRegion(self.how.radius), list[SteerStep](), False
        try:
            while len(steps) < self.how.steps and region.radius > LEAST * self.how.radius and not reached:
                step, region, reached = self._step(len(steps), region)
                steps.append(step)
                progress(step)
        except OutOfTime:
            log.info("the time limit came during step %d; what was kept before stands", len(steps))
        return Steered(self.kept, reached, tuple(steps), self.baseline, self.found)

    def _step(self, index: int, region: TrustRegion) -> tuple[SteerStep, TrustRegion, bool]:
        if time.monotonic() > self.deadline:
            raise OutOfTime
        weights, stats = self._weights(self.kept), self._stats(index)
        codes = {n: self.plan[n].compress(w, stats[n]) for n, w in weights.items()}
        targets = {n: code.decompress() for n, code in codes.items()}
        near = self._distance(weights, targets) < NEAR
        parts = self._parts(weights, targets, stats, region.radius, 1.0 if near else HALF)
        solved = solve(parts, self._room() / self.doubt)
        arrives = near and all(torch.allclose(d, part.gap) for d, part in zip(solved.steps, parts, strict=True))
        moved = {n: (weights[n].double() + d).to(weights[n]) for n, d in zip(weights, solved.steps, strict=True)}
        candidate = self._coded(codes, index) if arrives else self._moved(moved, targets, index)
        found = evaluate(candidate, self.val, self.objective)
        kept = self._holds(found, arrives)
        step = SteerStep(
            index, 0.0 if arrives else self._distance(self._weights(candidate), targets), found.loss, found.metric,
            solved.predicted, found.loss - self.found.loss, found.paired_error(self.found), region.radius, solved.multiplier,
            kept, arrives,
        )  # fmt: skip
        region = region.updated(predicted=step.predicted, measured=step.measured, error=step.error, kept=kept)
        if kept:
            self.kept, self.found = candidate, found
        else:
            self.doubt = min(DOUBT, max(1.0, step.measured / step.predicted)) if step.predicted > 0 else self.doubt
            if arrives:  # not all of the way, or the same step would come again
                region = TrustRegion(min(region.radius, HALF * self._furthest(parts)))
        return step, region, kept and arrives

    def _parts(
        self, weights: Tensors, targets: Tensors, stats: Mapping[str, Stats], radius: float, share: float
    ) -> list[Part]:  # fmt: skip
        """The problem of the step that goes ``share`` of the way."""
        parts, slopes = [], self._slopes()
        for n, w in weights.items():
            fisher, scale = stats[n].fisher, self.scale[n]
            curvature = torch.zeros_like(w) if self.how.model == "linear" or fisher is None else fisher
            gap = share * (targets[n].double() - w.double())
            # a distance counts in parts of the layer's own weights
            parts.append(Part(gap, slopes[n].double(), curvature.double(), radius * scale, scale**-2))
        return parts

    def _furthest(self, parts: list[Part]) -> float:
        """The longest way of a weight, in root mean squares of its layer."""
        return max(float(part.gap.abs().max()) / scale for part, scale in zip(parts, self.scale.values(), strict=True))

    def _bound(self) -> float:
        """What the loss may be on the way: the budget's or, for a metric, what no measurement tells from the original's."""
        losses = self.baseline.losses
        error = float(losses.std()) / sqrt(len(losses)) if len(losses) > 1 else 0.0
        increase = self.budget.loss_increase
        return self.baseline.loss + (error if increase is None else increase)

    def _room(self) -> float:
        """What a step may add to the loss; where the metric has let it rise, as much again as no measurement would tell."""
        bound = self._bound()
        if self.budget.loss_increase is None:
            bound += max(0.0, self.found.loss - self.baseline.loss)
        return bound - self.found.loss

    def _holds(self, found: Evaluation, arrives: bool) -> bool:
        """A metric jumps where the loss glides: on the way a loss that no measurement tells from the original's is good too."""
        if self.budget.holds(self.baseline, found):
            return True
        return not arrives and self.budget.loss_increase is None and found.loss <= self._bound()

    def _stats(self, index: int) -> dict[str, Stats]:
        model = fit(self.kept, self.train, self.objective, seed=self.seed + index, samples=self.how.samples)
        return {n: model.stats(n) for n in self.plan}

    def _slopes(self) -> dict[str, Tensor]:
        """The gradient of the mean training loss, over the same samples as the curvature."""
        layers = {n: layer for n, layer in find_layers(self.kept).items() if n in self.plan}
        sums, seen = {n: torch.zeros_like(layer.weight) for n, layer in layers.items()}, 0
        raw = [getattr(layer.module, layer.parameter) for layer in layers.values()]
        for batch in self.train if self.how.model != "curvature" else ():
            size = batch_size(inputs_of(batch))
            grads = torch.autograd.grad(self.objective.training_loss(self.kept, batch)[0], raw)
            for (n, layer), grad in zip(layers.items(), grads, strict=True):
                sums[n] += size * (grad.t() if layer.kind == "hf_conv1d" else grad)
            seen += size
            if seen >= self.how.samples:
                break
        return {n: total / max(seen, 1) for n, total in sums.items()}

    def _moved(self, moved: dict[str, Tensor], targets: dict[str, Tensor], index: int) -> nn.Module:
        """The network after a step, trained on without going back."""
        candidate = copy.deepcopy(self.kept)
        layers = {n: layer for n, layer in find_layers(candidate).items() if n in self.plan}
        for n, layer in layers.items():
            layer.weight.detach().copy_(moved[n])
        if self.how.train is not None:
            reach = {n: (moved[n] - targets[n]).norm() for n in moved}

            def project(_done: float) -> None:
                for n, layer in layers.items():
                    w = layer.weight.detach()  # asked for every time: recovery lays weights out anew
                    off = w - targets[n]
                    w.copy_(targets[n] + off * (reach[n] / off.norm().clamp(min=1e-30)).clamp(max=1.0))

            self._recover(candidate, self.how.train, index, project)
        return candidate.eval()

    def _coded(self, codes: Mapping[str, Code], index: int) -> nn.Module:
        """The network in its sets, with what the codes leave free trained."""
        candidate = copy.deepcopy(self.kept)
        for n, layer in find_layers(candidate).items():
            if n in codes:
                put(candidate, layer, codes[n])
        if self.how.finish is not None:
            self._recover(candidate, self.how.finish, index, None)
        return candidate.eval()

    def _recover(self, candidate: nn.Module, how: Recovery, index: int, project: Project | None) -> None:
        seed = 100_000 * self.seed + index
        recover(candidate, self.original, self.train, self.objective, how, seed=seed, deadline=self.deadline, project=project)
        reestimate_batchnorm(candidate, self.train)

    def _weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {n: layer.weight.detach() for n, layer in find_layers(model).items() if n in self.plan}

    def _distance(self, weights: Tensors, targets: Tensors) -> float:
        """The root of the mean, over layers, of the squared distances to the targets, in mean squares of the trained weights."""
        shares = [(w - targets[n]).double().square().mean() / self.scale[n] ** 2 for n, w in weights.items()]
        return sqrt(float(sum(shares)) / len(shares))


def _plan(model: nn.Module, plan: Mapping[str, Compressor]) -> dict[str, Compressor]:
    """The method of each layer, all of them fit for it."""
    layers = find_layers(model)
    chosen = assign(layers, plan)
    if not chosen:
        raise TautError("the plan names no layer to steer")
    for name, method in chosen.items():
        reason = method.refuses(layers[name])
        if reason:
            raise LayerError(f"{name}: {method} cannot be used: {reason}")
    return chosen
