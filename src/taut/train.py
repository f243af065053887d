"""Training towards a compressible network: any torch optimizer, with proximal steps on the weights of chosen layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from taut.errors import LayerError, TautError
from taut.layers import Layer, find_layers, select
from taut.regularizers.base import Regularizer

KEY = "prox"  # what the wrapper adds to the state dict
# What it adds to each parameter group, as schedulers add ``initial_lr``: both travel with any checkpoint of the inner optimizer.
STEPS = "prox_steps"  # optimizer steps so far
PENDING = "prox_lr"  # sum of the learning rates since the last proximal step


class ProxOptimizer(Optimizer):
    """Wrap an optimizer so that it minimises the loss plus a penalty on the weights of chosen layers.

    After every ``every``-th step of ``optimizer``, each chosen weight becomes ``prox(w, t)``, where ``t`` is the sum of the
    learning rates of its own parameter group over these steps: ``lr * every`` at a constant rate. Biases, norms and frozen
    weights are left alone; tied weights are treated once. This reaches exact zeros and exact low rank, which the gradient of a
    penalty does not. (Alvarez and Salzmann, *Compression-aware training of deep networks*, NIPS 2017, take one proximal step
    an epoch; ``every`` spares decompositions in the same way.) Where training stops between two proximal steps,
    :meth:`flush` makes up for the rest.

    It is a torch optimizer: ``param_groups``, ``state`` and ``defaults`` are those of ``optimizer`` itself, so schedulers,
    gradient clipping and ``torch.amp.GradScaler`` work on it. A step that the scaler skips counts for nothing and shrinks
    nothing. The state dict is the inner optimizer's plus what the proximal steps remember of each weight
    (:meth:`Regularizer.warm_prox`). The counters are kept in the parameter groups, so that a checkpoint of the inner optimizer
    alone holds them too. A state dict without them (plain training) starts them anew.

    **Strength.** With plain gradient descent the fixed points are the stationary points of ``loss + r``, at the strength stated.
    Other optimizers scale the gradient and not the proximal step, so their fixed points are those of another strength:

    - momentum b without dampening multiplies the gradient by 1 / (1 - b): it acts as ``(1 - b) * strength``, a tenth at 0.9;
    - Adam and RMSprop divide the gradient by the root of its mean square v: each weight feels ``strength * sqrt(v)``, which
      is weak wherever gradients are small;
    - decoupled weight decay (``AdamW``) acts on the weight as the prox does, unscaled: beside it, ``weight_decay=d`` is
      ``L2(d)`` to first order in the step, and its strength compares with the others as stated;
    - coupled weight decay (``SGD``, ``Adam``) is part of the gradient and is scaled with it: beside momentum b the prox
      at ``strength`` weighs against ``weight_decay=d`` as against ``L2(d / (1 - b))``.

    Choose ``strength`` accordingly. The learning-rate schedule scales gradient and proximal step alike and changes no fixed
    point. :func:`taut.strengths.even` gives every layer the strength that suits its size, from one number.

    Args:
        optimizer: the inner optimizer, over the parameters of ``model``.
        model: whose layers the patterns name.
        regularizers: ``{pattern: regularizer}``, by layer names of :func:`taut.find_layers`. An exact name beats a pattern,
            otherwise the first match wins; ``None`` leaves a layer alone.
        every: steps between two proximal steps, whose step is ``every`` times as long.
        warmup: steps over which the strength rises, in proportion, from 0 to what is stated: a network that has learnt nothing
            yet has nothing to choose between.

    Example:
        >>> from taut.regularizers import L1
        >>> model = nn.Linear(1, 1, bias=False)
        >>> optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, {"*": L1(0.25)})
        >>> for _ in range(40):  # (w - 1)^2 / 2 + |w| / 4 is least at 0.75
        ...     optimizer.zero_grad()
        ...     (model.weight - 1).square().sum().div(2).backward()
        ...     optimizer.step()
        >>> round(model.weight.item(), 6)
        0.75
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        regularizers: Mapping[str, Regularizer | None],
        every: int = 1,
        warmup: int = 0,
    ) -> None:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, ProxOptimizer):
            raise TautError(
                f"ProxOptimizer wraps a torch optimizer that is not a ProxOptimizer, got {type(optimizer).__name__}; "
                "give all patterns to one wrapper"
            )
        if not isinstance(every, int) or every < 1:
            raise TautError(f"every counts optimizer steps and must be an integer of at least 1, got {every!r}")
        if not isinstance(warmup, int) or warmup < 0:
            raise TautError(f"warmup counts optimizer steps and must be an integer of at least 0, got {warmup!r}")
        # sets up hooks and profiling as torch does for a restored optimizer: parameters and state are the inner one's
        super().__setstate__(
            {"inner": optimizer, "every": every, "warmup": warmup, "memory": {}, "chosen": assign(model, regularizers)}
        )
        groups = self._groups()
        for layer, _ in self.chosen:
            check_held(layer, groups)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's parameter groups."""
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> dict[Tensor, Any]:
        """The inner optimizer's state."""
        return self.inner.state

    @state.setter
    def state(self, state: dict[Tensor, Any]) -> None:
        self.inner.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The inner optimizer's default options (schedulers look for momentum here)."""
        return self.inner.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.inner.defaults = defaults

    @property
    def steps(self) -> int:
        """The optimizer steps so far; those that a gradient scaler skipped are not among them."""
        return max((group.get(STEPS, 0) for group in self.param_groups), default=0)

    @steps.setter
    def steps(self, steps: int) -> None:
        for group in self.param_groups:
            group[STEPS] = steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimizer, and every ``every``-th time the proximal step; returns the closure's loss."""
        loss = self.inner.step() if closure is None else self.inner.step(closure)
        self.stepped()
        return loss

    def stepped(self) -> None:
        """Count a step that the inner optimizer has made, with the proximal step where it is due.

        For training loops that step the inner optimizer themselves; :meth:`step` does it by itself.
        """
        self.steps += 1
        risen = self._risen()
        for group in self.param_groups:
            if group.get("lr") is not None:
                group[PENDING] = group.get(PENDING, 0.0) + risen * group["lr"]
        if self.steps % self.every == 0:
            self.flush()

    def flush(self) -> None:
        """The proximal step for the optimizer steps since the last one, in place; nothing if there were none.

        With ``every`` above 1, call it where training ends (or the weights are looked at), so that zeros and ranks are exact.

        Example:
            >>> from taut.regularizers import L1
            >>> model = nn.Linear(1, 1, bias=False)
            >>> _ = nn.init.zeros_(model.weight)
            >>> optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, {"*": L1(0.25)}, every=10)
            >>> for _ in range(12):  # (w - 0.1)^2 / 2 + |w| / 4 is least at 0
            ...     optimizer.zero_grad()
            ...     (model.weight - 0.1).square().sum().div(2).backward()
            ...     optimizer.step()
            >>> model.weight.item() != 0, optimizer.flush(), model.weight.item()
            (True, None, 0.0)
        """
        self._apply(lambda group: group.get(PENDING, 0.0))

    def prox(self) -> None:
        """Apply the proximal operators to the chosen weights now, in place, for ``every`` steps at the present learning rate."""
        self._apply(lambda group: group["lr"] * self.every * self._risen())

    def _risen(self) -> float:
        """The part of the strength that warm-up has reached; as penalties are linear in it, the part of the step to take."""
        return min(1.0, self.steps / self.warmup) if self.warmup else 1.0

    @torch.no_grad()
    def _apply(self, length: Callable[[dict[str, Any]], float]) -> None:
        """One proximal step of the length that a parameter group has, in full precision wherever it is called."""
        groups = self._groups()
        for layer, regularizer in self.chosen:
            group = check_held(layer, groups)
            if group is None:
                continue
            if group.get("lr") is None:
                raise TautError(f"{layer.name}: its parameter group has no learning rate, which the proximal step needs; set lr")
            weight, step = layer.weight, float(length(group))
            try:
                with torch.autocast(weight.device.type, enabled=False):
                    weight.copy_(regularizer.warm_prox(weight, step, self.memory.setdefault(layer.name, {})))
            except TautError as error:
                raise TautError(f"{layer.name}: {regularizer}: {error}") from error
        for group in self.param_groups:
            group[PENDING] = 0.0

    @torch.no_grad()
    def penalty(self) -> float:
        """The sum of the penalties at the present weights, in units of the loss."""
        return sum(float(regularizer.value(layer.weight)) for layer, regularizer in self.chosen)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as the inner optimizer does."""
        self.inner.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the inner optimizer."""
        self.inner.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, and under ``"prox"`` the step counter and what the proximal steps remember."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        memory = {name: dict(kept) for name, kept in self.memory.items() if kept}
        state = {**self.inner.state_dict(), KEY: {"steps": self.steps} | ({"memory": memory} if memory else {})}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state)
            state = state if changed is None else changed
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` or the inner optimizer's returned; the training goes on bit for bit."""
        state = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state)
            state = state if changed is None else changed
        own = state.get(KEY, {})
        self.inner.load_state_dict({key: value for key, value in state.items() if key != KEY})
        self.steps = int(own.get("steps", self.steps))
        self.memory = copy.deepcopy(own.get("memory", {}))
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("inner", "every", "warmup", "chosen", "memory")}

    def __repr__(self) -> str:
        layers = "".join(f"\n    {layer.name}: {regularizer}" for layer, regularizer in self.chosen)
        return f"ProxOptimizer (every={self.every}{layers}\n{self.inner!r})"

    def _groups(self) -> dict[int, dict[str, Any]]:
        """The parameter group of every parameter, read anew: groups are added and replaced during training."""
        return {id(p): group for group in self.inner.param_groups for p in group["params"]}


def check_held(layer: Layer, groups: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """The parameter group that holds a layer's weight, ``None`` for a frozen one; any other that cannot be shrunk is an error."""
    leave_out = f"leave the layer out with {{{layer.name!r}: None}}"
    if parametrize.is_parametrized(layer.module, layer.parameter):
        raise LayerError(
            f"{layer.name}: the weight is computed from other parameters (it is stored as a code, or parametrized) and cannot be "
            f"shrunk in place; {leave_out}, or train before compressing"
        )
    weight = getattr(layer.module, layer.parameter)
    if not weight.requires_grad:
        return None
    if hasattr(weight, "placements"):
        raise LayerError(
            f"{layer.name}: the weight is sharded over processes (a DTensor) and a proximal step needs it whole; {leave_out}, or "
            "train data-parallel (DistributedDataParallel)"
        )
    if id(weight) not in groups:
        raise LayerError(
            f"{layer.name}: the optimizer does not hold the weight of shape {tuple(weight.shape)}; add it to the optimizer, or "
            f"{leave_out}"
        )
    return groups[id(weight)]


def assign(model: nn.Module, regularizers: Mapping[str, Regularizer | None]) -> list[tuple[Layer, Regularizer]]:
    """The layers that patterns choose, with the regularizer of each: exact names first, then the first pattern that matches.

    Example:
        >>> from taut.regularizers import L1, Nuclear
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [(layer.name, str(r)) for layer, r in assign(model, {"*": Nuclear(0.1), "2": L1(0.2)})]
        [('0', 'Nuclear(strength=0.1, view=matrix)'), ('2', 'L1(strength=0.2)')]
    """
    layers = find_layers(model)
    owner = {name: layer.name for layer in layers.values() for name in (layer.name, *layer.tied)}
    chosen: dict[str, Regularizer | None] = {}
    for pattern, regularizer in sorted(regularizers.items(), key=lambda item: item[0] not in owner):
        if regularizer is not None and not isinstance(regularizer, Regularizer):
            raise TautError(f"{pattern!r}: expected a regularizer such as Nuclear(1e-3), got {regularizer!r}")
        for name in select(owner, pattern):
            chosen.setdefault(owner[name], regularizer)
    return [(layers[name], r) for name in layers if (r := chosen.get(name)) is not None]
