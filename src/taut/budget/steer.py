"""Steering a trained network onto compressible weights, so that its measured loss never leaves the bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

from torch import nn

from taut.budget.budget import Budget
from taut.budget.course import Course
from taut.budget.steering import Steered, Steering, SteerStep
from taut.compressors.base import Compressor
from taut.layers import check_model
from taut.objective import Loss, Metric


def steer(
    model: nn.Module, plan: Mapping[str, Compressor], train: Iterable, val: Iterable, budget: Budget | None = None, *,
    how: Steering | None = None, loss: Loss | None = None, metric: Metric | None = None, seed: int = 0,
    time_limit: float | None = None, progress: Callable[[SteerStep], None] | None = None,
) -> Steered:  # fmt: skip
    r"""Move a trained network's weights onto the sets that ``plan`` names for its layers, while the measured loss holds.

    With the *trained* weights ``v``, the *current* ones ``w`` and a set of compressible weights ``S`` (``k`` shared values, a
    rank, a mask):

    .. math:: \min_w D(w) = \sum_l a_l \min_{s \in S_l} \|w_l - s\|^2 \quad\text{subject to}\quad L(w) \le L(v) + \epsilon

    For shared values the inner minimum is over the codebook's entries for each weight. Each step expands the loss around the
    *current* weights, ``L(w + d) = L(w) + g d + d h d / 2`` with the constant its own loss, moves as near to the present targets
    (the projections, with codebooks centred anew) as the bound on the whole expansion and the trust region allow
    (:func:`taut.budget.subproblem.solve`), trains on within what was gained, and measures. A step is kept if and only if the
    *measured* network is within ``budget``; the radius follows how well the prediction held
    (:class:`taut.budget.trust_region.TrustRegion`). When a step would reach all targets the coded network is measured, what its
    codes leave free is trained, and it is kept under the same rule. Khoram and Li, *DNN model compression under accuracy
    constraints*, with curvature, since at a trained optimum the gradient predicts nothing.

    With a budget of the metric, a step on the way is kept too if its loss is above the original's by no more than one standard
    error of its measurement; the coded network has to hold the metric.

    ``plan`` maps layer names or patterns to compressors, as for :func:`taut.apply`. ``model`` is not changed. ``time_limit`` in
    seconds. ``progress`` is called with every measured candidate. If the sets are out of reach, ``reached`` is false and
    ``model`` is the nearest network within the budget.

    Example:
        >>> import torch
        >>> from taut.compressors import Codebook
        >>> _ = torch.manual_seed(0)
        >>> data = [(x, (x[:, 0] > 0).long()) for x in torch.randn(16, 32, 8)]
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        >>> for x, y in 4 * data:
        ...     optimizer.zero_grad(); nn.functional.cross_entropy(net(x), y).backward(); optimizer.step()
        >>> found = steer(net, {"*": Codebook(k=4)}, data, data, Budget(loss_increase=0.05))
        >>> found.reached, len(found.model[0].weight.unique()) <= 4
        (True, True)
    """
    check_model(model)
    deadline = time.monotonic() + (time_limit or inf)
    course = Course(model, plan, train, val, budget or Budget(metric_drop=0.0), how or Steering(), (loss, metric), seed, deadline)
    return course.run(progress or (lambda step: None))
