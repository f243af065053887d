"""What removing neurons must satisfy, on a table of small networks whose wiring is written down by hand."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional


class Flat(nn.Sequential):
    """A plain chain, so that layer names are numbers."""


class Residual(nn.Module):
    """Two residual blocks: one with an identity shortcut, one with a strided 1x1 shortcut."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a1, self.bna1 = nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.a2, self.bna2 = nn.Conv2d(10, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.b1, self.bnb1 = nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.b2, self.bnb2 = nn.Conv2d(16, 14, 3, padding=1), nn.BatchNorm2d(14)
        self.shortcut, self.bns = nn.Conv2d(12, 14, 1, stride=2), nn.BatchNorm2d(14)
        self.fc = nn.Linear(14, 5)

    def forward(self, x):
        x = functional.relu(self.bn0(self.stem(x)))
        x = functional.relu(x + self.bna2(self.a2(functional.relu(self.bna1(self.a1(x))))))
        y = self.bnb2(self.b2(functional.relu(self.bnb1(self.b1(x)))))
        x = functional.relu(y + self.bns(self.shortcut(x)))
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads the concatenation of all before it; one tensor is concatenated with itself."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 8, 3, padding=1)
        self.c3 = nn.Conv2d(14, 10, 3, padding=1)
        self.c4 = nn.Conv2d(34, 8, 1)
        self.fc = nn.Linear(8 * 16, 4)

    def forward(self, x):
        a = functional.relu(self.bn(self.c1(x)))
        b = functional.relu(self.c2(a))
        c = functional.relu(self.c3(torch.cat([a, b], 1)))
        d = functional.relu(self.c4(torch.cat([a, c, b, c], 1)))
        return self.fc(functional.max_pool2d(d, 2).flatten(1))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions, one depthwise layer with two outputs a channel, one with four groups."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.dw, self.bn = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.pw = nn.Conv2d(8, 8, 1)
        self.dw2 = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(self.pw(functional.relu(self.bn(self.dw(x)))))
        x = functional.relu(self.grouped(functional.relu(self.dw2(x))))
        return self.fc(x.amax((2, 3)))


class Gated(nn.Module):
    """The two halves of a layer are multiplied: their channels go in pairs."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(5, 20), nn.Linear(10, 3)

    def forward(self, x):
        a, b = self.up(x).chunk(2, -1)
        return self.down(a * b.sigmoid())


class Encoder(nn.Module):
    """A transformer layer: only the hidden units of its feed-forward part can go."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=24, batch_first=True, dropout=0.0)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.layer(x).mean(1))


def _mlp() -> nn.Module:
    return Flat(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.PReLU(12), nn.Linear(12, 4))


def _cnn() -> nn.Module:
    return Flat(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 5),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network, its input's shape, and by hand: what each layer reads.

    ``reads``: ``{layer: layers whose outputs it reads, in the order of concatenation}``, in the order of use; ``same``: layers
    whose outputs are added, so that they must keep the same channels; ``free``: layers that can be narrowed.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    reads: dict[str, tuple[str, ...]]
    free: tuple[str, ...]
    same: tuple[tuple[str, ...], ...] = ()
    follow: dict[str, str] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """The network with weights, norms and running statistics that all differ from each other, in evaluation mode."""
        torch.manual_seed(1)
        model = self.build()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.dim() == 1:
                    tensor.uniform_(0.5, 1.5) if "var" in name or name.endswith("weight") else tensor.normal_(0, 0.3)
        return model.eval()

    def input(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(2))


CASES = (
    Case("mlp", _mlp, (3, 6), {"0": (), "2": ("0",), "4": ("2",)}, ("0", "2")),
    Case("cnn", _cnn, (2, 1, 8, 8), {"0": (), "4": ("0",), "9": ("4",), "12": ("9",)}, ("0", "4", "9")),
    Case(
        "residual", Residual, (2, 3, 8, 8),
        {"stem": (), "a1": ("stem",), "a2": ("a1",), "b1": ("stem",), "b2": ("b1",), "shortcut": ("stem",), "fc": ("b2",)},
        ("stem", "a1", "a2", "b1", "b2", "shortcut"), (("stem", "a2"), ("b2", "shortcut")),
    ),
    Case(
        "concat", Dense, (2, 2, 8, 8),
        {"c1": (), "c2": ("c1",), "c3": ("c1", "c2"), "c4": ("c1", "c3", "c2", "c3"), "fc": ("c4",)},
        ("c1", "c2", "c3", "c4"),
    ),
    Case(
        "separable", Separable, (2, 3, 6, 6),
        {"stem": (), "pw": ("stem",), "grouped": ("dw2",), "fc": ("grouped",)},
        ("stem", "dw", "pw", "dw2", "grouped"), (("stem", "dw"),), {"dw": "stem", "dw2": "pw"},
    ),
    Case("gated", Gated, (3, 5), {"up": (), "down": ("up",)}, ("up",)),
    Case("encoder", Encoder, (2, 4, 8), {"layer.linear1": (), "layer.linear2": ("layer.linear1",)}, ("layer.linear1",)),
)  # fmt: skip


def kept_channels(case: Case, full: nn.Module, small: nn.Module) -> dict[str, list[int]]:
    """Which output channels of each layer are left, found by looking for the small weight's rows in the full weight."""
    kept: dict[str, list[int]] = {}
    for name, sources in case.reads.items():
        for follower, leader in case.follow.items():
            if leader in kept and follower not in kept:
                kept[follower] = _rows(full, small, follower, None)
        kept[name] = _rows(full, small, name, _inputs(full, name, sources, kept))
    for follower in case.follow:
        kept.setdefault(follower, _rows(full, small, follower, None))
    return kept


def _inputs(full: nn.Module, name: str, sources: tuple[str, ...], kept: dict[str, list[int]]) -> list[int] | None:
    """The inputs of a layer that are left, after concatenation and flattening."""
    if not sources:
        return None
    widths = [full.get_submodule(s).weight.shape[0] for s in sources]
    module = full.get_submodule(name)
    reads = getattr(module, "in_features", getattr(module, "in_channels", 0))
    if 2 * reads == sum(widths):  # two halves, multiplied
        first = [c for c in kept[sources[0]] if c < reads]
        assert kept[sources[0]] == first + [c + reads for c in first], f"{name}: the halves keep different channels"
        return first
    stride = reads // sum(widths)
    offsets = [sum(widths[:i]) for i in range(len(widths))]
    channels = [o + c for o, s in zip(offsets, sources, strict=True) for c in kept[s]]
    return [c * stride + k for c in channels for k in range(stride)]


def _rows(full: nn.Module, small: nn.Module, name: str, inputs: list[int] | None) -> list[int]:
    old, new = full.get_submodule(name).weight.detach(), small.get_submodule(name).weight.detach()
    if inputs is not None and old.shape[1] > max(inputs):
        old = old[:, inputs]
    if old.shape[1:] != new.shape[1:]:  # grouped: the inputs left in the first group
        per_group = full.get_submodule(name).weight.shape[1]
        old = full.get_submodule(name).weight.detach()[:, [i for i in inputs if i < per_group]]
    assert old.shape[1:] == new.shape[1:], f"{name}: reads {tuple(new.shape[1:])}, its sources leave {tuple(old.shape[1:])}"
    found = [next((i for i in range(len(old)) if torch.equal(old[i], row)), None) for row in new]
    assert None not in found, f"{name}: a row is no row of the original"
    return found


def masked_outputs(case: Case, full: nn.Module, kept: dict[str, list[int]], x: torch.Tensor) -> torch.Tensor:
    """The slow way: the full network, where every layer's input is set to zero in the removed channels."""
    full = copy.deepcopy(full)
    for name, sources in case.reads.items():
        inputs = _inputs(full, name, sources, kept)
        if inputs is not None:
            full.get_submodule(name).register_forward_pre_hook(_mask_hook(full.get_submodule(name), inputs))
    return full(x)


def _mask_hook(module: nn.Module, inputs: list[int]):
    def hook(_module, args):
        dim = 1 if isinstance(module, nn.Conv2d) else -1
        keep = torch.zeros(args[0].shape[dim]).index_fill(0, torch.tensor(inputs), 1.0)
        return (args[0] * keep.view([-1 if d == dim % args[0].dim() else 1 for d in range(args[0].dim())]),)

    return hook


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def check_equals_masking(shrink: Callable, case: Case) -> None:
    """The small network computes what the full one does when the removed channels are read as zeros."""
    full, x = case.network(), case.input()
    small = shrink(full, x, keep=0.5)
    kept = kept_channels(case, full, small)
    torch.testing.assert_close(small(x), masked_outputs(case, full, kept, x), rtol=1e-5, atol=1e-5)
    for names in case.same:
        assert len({tuple(kept[n]) for n in names}) == 1, f"{names} are added, but keep different channels"


def check_really_smaller(shrink: Callable, case: Case) -> None:
    """Every layer that can be narrowed is, by the right amount, and its attributes say so."""
    full, x = case.network(), case.input()
    small = shrink(full, x, keep=0.5, scope="layer")
    assert parameters(small) < 0.8 * parameters(full)
    for name in case.free:
        old, new = full.get_submodule(name).weight.shape[0], small.get_submodule(name).weight.shape[0]
        assert new == old // 2, f"{name}: {old} -> {new}"
    for name, module in small.named_modules():
        check_attributes(name, module)


def check_attributes(name: str, module: nn.Module) -> None:
    """The sizes that a module states are those of its weights."""
    if isinstance(module, nn.Linear):
        assert (module.out_features, module.in_features) == tuple(module.weight.shape), name
    elif isinstance(module, nn.Conv2d):
        assert (module.out_channels, module.in_channels // module.groups) == tuple(module.weight.shape[:2]), name
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        assert {module.num_features} == {len(t) for t in (module.weight, module.bias, module.running_mean)}, name
    elif isinstance(module, nn.LayerNorm):
        assert module.normalized_shape == tuple(module.weight.shape), name
    elif isinstance(module, nn.PReLU):
        assert module.num_parameters == len(module.weight), name


def check_input_untouched(shrink: Callable, case: Case) -> None:
    """The model given keeps its weights, modes, gradient flags and hooks, and shares no tensor with the result."""
    full, x = case.network(), case.input()
    next(full.parameters()).requires_grad_(False)
    full.train()
    before = {name: tensor.clone() for name, tensor in full.state_dict().items()}
    flags = {name: p.requires_grad for name, p in full.named_parameters()}
    small = shrink(full, x, keep=0.5)
    after = full.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == {name: p.requires_grad for name, p in full.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in small.named_parameters()}
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in full.modules())
    shared = {t.data_ptr() for t in full.state_dict().values()} & {t.data_ptr() for t in small.state_dict().values()}
    assert not shared


def check_deterministic(shrink: Callable, case: Case, **settings) -> None:
    """The same settings give the same network, bit for bit."""
    full, x = case.network(), case.input()
    torch.manual_seed(3)
    first = shrink(full, x, keep=0.5, **settings).state_dict()
    torch.manual_seed(4)
    second = shrink(full, x, keep=0.5, **settings).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def check_monotone(shrink: Callable, case: Case, scope: str) -> None:
    """Keeping more never gives a smaller network."""
    full, x = case.network(), case.input()
    counts = [parameters(shrink(full, x, keep=keep, scope=scope)) for keep in (0.25, 0.5, 0.75, 1.0)]
    assert counts == sorted(counts), counts
    assert counts[0] < counts[-1] == parameters(full)


def check_loads_into_fresh(shrink: Callable, resize: Callable, case: Case) -> None:
    """A fresh full-size network, resized, takes the shrunk weights and gives the same outputs."""
    full, x = case.network(), case.input()
    small = shrink(shrink(full, x, keep=0.75), x, keep=0.6)
    dense = small.__dict__["_taut_dense_shapes"]
    state, original = small.state_dict(), full.state_dict()
    assert dense == {n: tuple(original[n].shape) for n in state if state[n].shape != original[n].shape}
    fresh = case.build().eval()
    resize(fresh, {name: tuple(state[name].shape) for name in dense})
    fresh.load_state_dict(state)
    for name, module in fresh.named_modules():
        check_attributes(name, module)
        assert repr(module) == repr(small.get_submodule(name))
    assert torch.equal(fresh(x), small(x))


def check_zeros_removed(remove_zeros: Callable, case: Case, how: str) -> None:
    """Units that nobody reads, or that send nothing, go; the outputs stay."""
    full, x = case.network(), case.input()
    dead = _kill(case, full, how)
    small = remove_zeros(full, x)
    torch.testing.assert_close(small(x), full(x), rtol=1e-5, atol=1e-5)
    y = torch.randn_like(x)
    torch.testing.assert_close(small(y), full(y), rtol=1e-5, atol=1e-5)
    if dead:
        assert parameters(small) < parameters(full), "no dead unit was removed"
        name, count = dead
        assert small.get_submodule(name).weight.shape[0] == full.get_submodule(name).weight.shape[0] - count


def check_zeros_rounded(remove_zeros: Callable, case: Case, how: str) -> None:
    """Widths are the least multiples that the units in use need, or what they were; the outputs stay."""
    full, x = case.network(), case.input()
    dead = _kill(case, full, how)
    exact = remove_zeros(full, x)
    for multiple in (2, 4):
        small = remove_zeros(full, x, round_to=multiple)
        torch.testing.assert_close(small(x), full(x), rtol=1e-5, atol=1e-5)
        if dead:
            wide, needed, got = (net.get_submodule(dead[0]).weight.shape[0] for net in (full, exact, small))
            assert got == min(wide, -(-needed // multiple) * multiple), (wide, needed, multiple, got)


def _kill(case: Case, full: nn.Module, how: str) -> tuple[str, int] | None:
    """Make three units of the first layer idle, as a group lasso does: unread, or with no weights at all."""
    name = next(iter(case.reads))
    readers = [n for n, sources in case.reads.items() if sources == (name,)]
    if not readers or any(name in s and len(s) > 1 for s in case.reads.values()) or any(name in n for n in case.same):
        return None
    if case.name == "gated":
        return None
    stride = max(full.get_submodule(readers[0]).weight.shape[1] // full.get_submodule(name).weight.shape[0], 1)
    with torch.no_grad():
        if how == "unread":
            for reader in readers:
                full.get_submodule(reader).weight[:, : 3 * stride] = 0.0
            return name, 3
        for key, tensor in full.get_submodule(name).state_dict().items():
            tensor[:3] = torch.zeros(()) if key == "weight" else torch.tensor([-0.2, 0.0, 0.3])
    return (name, 3) if case.name in ("mlp", "encoder") else None
