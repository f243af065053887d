"""Broken ways of removing neurons, each of which turns a law red."""

import copy
from dataclasses import replace

import pytest
import torch
from laws import shrink_laws as laws

from taut.resize import resize
from taut.shrink import remove_zeros, shrink
from taut.shrink_graph import find_groups
from taut.shrink_groups import workpiece
from taut.shrink_narrow import fault, narrow, randomized

MLP, CNN, RESIDUAL = laws.CASES[:3]


def wrong_columns(model, x, keep):
    """The reader loses other inputs than those that its source lost."""
    small = shrink(model, x, keep)
    small.get_submodule("4").weight.data = small.get_submodule("4").weight.data.roll(1, 1)
    return small


def one_side_of_the_join(model, x, keep):
    """Two layers that are added keep different channels."""
    small = shrink(model, x, keep)
    full = model.a2.weight.detach()[:, : small.a2.weight.shape[1]]
    small.a2.weight.data = full.flip(0)[: small.a2.weight.shape[0]].clone()
    return small


def nothing_removed(model, x, keep=1.0, scope="global"):
    return copy.deepcopy(model)


def stale_attributes(model, x, keep, scope):
    small = shrink(model, x, keep, scope=scope)
    small.get_submodule("2").in_features += 1
    return small


def ragged(model, x, keep, scope):
    """One layer is spared."""
    return shrink(model, x, keep, scope=scope, protect=["2"])


def touches_the_input(model, x, keep):
    small = shrink(model, x, keep)
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    return small


def leaves_hooks(model, x, keep):
    model.register_forward_hook(lambda *_: None)
    return shrink(model, x, keep)


def changes_flags(model, x, keep):
    return shrink(model, x, keep).requires_grad_(True)


def shares_tensors(model, x, keep):
    small = shrink(model, x, keep)
    small.get_submodule("4").bias = model.get_submodule("4").bias
    return small


def by_chance(model, x, keep, importance, seed):
    return shrink(model, x, keep, importance="random", seed=int(torch.randint(1 << 30, ())))


def backwards(model, x, keep, scope):
    return shrink(model, x, 1.25 - keep, scope=scope)


def forgets_shapes(model, x, keep):
    small = shrink(model, x, keep)
    small.__dict__["_taut_dense_shapes"].popitem()
    return small


def forgets_first_shapes(model, x, keep):
    """A second removal writes down the shapes after the first."""
    model.__dict__.pop("_taut_dense_shapes", None)
    return shrink(model, x, keep)


def resizes_weights_only(model, shapes):
    for name, shape in shapes.items():
        path, _, key = name.rpartition(".")
        model.get_submodule(path).__dict__["_parameters"][key] = torch.nn.Parameter(torch.zeros(shape))


def drops_constants(model, x):
    """Units without weights go, and what their biases sent on goes with them."""
    groups, _ = find_groups(workpiece(model), x)
    small = copy.deepcopy(model)
    narrow(small, groups, [torch.arange(3, g.units) if g.layers == ("0",) else torch.arange(g.units) for g in groups])
    return small


def twice_as_wide(model, x, round_to=1):
    return remove_zeros(model, x, round_to=2 * round_to)


FAULTS = [
    (lambda: laws.check_equals_masking(wrong_columns, MLP), "wrong columns"),
    (lambda: laws.check_equals_masking(one_side_of_the_join, RESIDUAL), "one side of the join"),
    (lambda: laws.check_really_smaller(nothing_removed, MLP), "nothing removed"),
    (lambda: laws.check_really_smaller(stale_attributes, MLP), "stale attributes"),
    (lambda: laws.check_really_smaller(ragged, MLP), "one layer spared"),
    (lambda: laws.check_input_untouched(touches_the_input, MLP), "touches the input"),
    (lambda: laws.check_input_untouched(leaves_hooks, MLP), "leaves hooks"),
    (lambda: laws.check_input_untouched(changes_flags, MLP), "changes flags"),
    (lambda: laws.check_input_untouched(shares_tensors, MLP), "shares tensors"),
    (lambda: laws.check_deterministic(by_chance, MLP, importance="random", seed=0), "by chance"),
    (lambda: laws.check_monotone(backwards, MLP, "layer"), "backwards"),
    (lambda: laws.check_loads_into_fresh(forgets_shapes, resize, MLP), "forgets shapes"),
    (lambda: laws.check_loads_into_fresh(forgets_first_shapes, resize, CNN), "forgets first shapes"),
    (lambda: laws.check_loads_into_fresh(shrink, resizes_weights_only, MLP), "resizes weights only"),
    (lambda: laws.check_zeros_removed(nothing_removed, MLP, "unread"), "zeros kept"),
    (lambda: laws.check_zeros_removed(drops_constants, MLP, "unmade"), "drops constants"),
    (lambda: laws.check_zeros_removed(lambda m, x: shrink(remove_zeros(m, x), x, 0.9), MLP, "unread"), "removes more"),
    (lambda: laws.check_zeros_rounded(lambda m, x, round_to=1: remove_zeros(m, x), MLP, "unread"), "widths as they come"),
    (lambda: laws.check_zeros_rounded(twice_as_wide, MLP, "unread"), "too wide"),
]


@pytest.mark.parametrize("law", [law for law, _ in FAULTS], ids=[name for _, name in FAULTS])
def test_law_turns_red(law):
    with pytest.raises(AssertionError):
        law()


@pytest.mark.parametrize("case", [CNN, RESIDUAL], ids=lambda case: case.name)
def test_proof_finds_a_wrong_coupling(case):
    model, x = case.network(), case.input()
    work = workpiece(model)
    group = next(g for g in find_groups(work, x)[0] if any(s.side == "in" for s in g.slots))
    kept = [torch.arange(1, group.units)]
    trial = randomized(work, x)
    assert fault(*trial, [group], kept) is None
    slots = tuple(replace(s, channels=s.channels.roll(1, 0)) if s.side == "in" else s for s in group.slots)
    assert "cannot be followed" in fault(*trial, [replace(group, slots=slots)], kept)
    slots = tuple(s for s in group.slots if s.side != "in")
    assert "does not run" in fault(*trial, [replace(group, slots=slots)], kept)
