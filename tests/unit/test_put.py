"""Codes inside models: every kind of layer, every way a model is copied, moved, trained and read back."""

from __future__ import annotations

import copy
import sys
import types
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from taut.compressors import Chain, Code, Codebook, Compressor, DenseCode, LowRank, Prune, Quantize, TransposedCode
from taut.compressors.coded import Factored, attach, attached, release
from taut.errors import LayerError
from taut.layers import Alias, bake, codes, find_layers, put

METHODS = [
    LowRank(rank=2, scheme=2),
    Prune(density=0.3),
    Codebook(k=4),
    Quantize(bits=4, per="row"),
    Chain(LowRank(rank=2), Codebook(k=4)),
    Chain(Prune(density=0.3), Codebook(k=4)),
]
methods = pytest.mark.parametrize("method", METHODS, ids=str)


class Conv1D(nn.Module):
    """Stands for the class of Hugging Face's GPT-2: a linear layer whose weight is kept input first."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@pytest.fixture(autouse=True)
def _fake_transformers(monkeypatch):
    fake = types.ModuleType("transformers.pytorch_utils")
    fake.Conv1D = Conv1D
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", fake)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **settings: object) -> None:
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Tied(nn.Module):
    """An embedding whose table is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.body = nn.Linear(12, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.table(x)))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10, bias=False)), (4, 12)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=4, padding_mode="circular", padding=1),
        ),
        (2, 4, 9, 9),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 8, 3, dilation=2)), (2, 4, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(4, 8, 2)), (2, 4, 5, 5, 5)),
    "hf": (lambda: nn.Sequential(Conv1D(10, 12), nn.Tanh(), Conv1D(8, 10)), (4, 12)),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (2, 5, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (2, 5, 6)),
    "rnn": (lambda: Recurrent(nn.RNN, bias=False), (2, 5, 6)),
    "lstm, projected": (lambda: Recurrent(nn.LSTM, proj_size=4), (2, 5, 6)),
    "tied": (Tied, None),
    "transformer": (lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)), (2, 5, 8)),
}
models = pytest.mark.parametrize("name", MODELS)


def build(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = MODELS[name]
    return make(), torch.randint(0, 20, (3, 5)) if shape is None else torch.randn(shape)


def compressed(name: str, method: Compressor, scale: str = "double") -> tuple[nn.Module, nn.Module, Tensor, dict[str, Code]]:
    """A model with codes, the same model with the dense weights they decode to, an input, and the codes."""
    model, x = build(name)
    if scale == "double":
        model, x = model.double(), x.double() if x.is_floating_point() else x
    reference, put_in = copy.deepcopy(model), {}
    there = find_layers(reference)
    for layer_name, layer in find_layers(model).items():
        chosen = method if method.refuses(layer) is None else Codebook(k=4)
        code = put_in[layer_name] = chosen.compress(layer.weight)
        # ``weight`` is a view where it is kept transposed
        there[layer_name].weight.data.copy_(code.decompress())
        put(model, layer, code)
    return model, reference, x, put_in


def same(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@methods
@models
def test_outputs_are_those_of_the_decoded_weights(name, method):
    model, reference, x, _ = compressed(name, method)
    assert same(model(x), reference(x))
    for network in (model, reference):
        network.eval()
    with torch.no_grad():
        assert same(model(x), reference(x))
        assert same(model(x), reference(x))  # the second time from the cache
    with torch.inference_mode():
        assert same(model(x), reference(x))
    assert same(model(x), reference(x))


@methods
@models
def test_copies_are_whole_and_apart(name, method):
    model, reference, x, _ = compressed(name, method)
    model(x).sum().backward()
    twin = copy.deepcopy(model)
    expected = reference(x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert same(model(x), expected)
    assert not same(twin(x), expected)
    plain = bake(copy.deepcopy(model))
    assert same(plain(x), expected)
    assert same(model(x), expected)  # taking codes from a copy leaves the original whole


@methods
@models
def test_baked_models_are_plain(name, method):
    model, reference, x, _ = compressed(name, method)
    plain = bake(model)
    assert same(plain(x), reference(x))
    assert not any(type(module).__name__.startswith("Parametrized") for module in plain.modules())
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in plain.parameters())
    if not any(isinstance(m, Factored) for m in plain.modules()):
        assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in reference.state_dict().items()}
        assert len(list(plain.parameters())) == len(list(reference.parameters()))  # ties too
    plain(x).sum().backward()
    copy.deepcopy(plain)


@methods
@models
def test_codes_are_read_back(name, method):
    model, reference, _, put_in = compressed(name, method)
    state = codes(model)
    assert set(state) == set(reference.state_dict())
    layers = find_layers(reference)
    for layer_name, code in put_in.items():
        layer = layers[layer_name]
        found = state[layer.path]
        if layer.kind == "hf_conv1d":
            assert isinstance(found, TransposedCode)
            found = found.part
        assert found.equals(code)
    for path, value in state.items():
        if isinstance(value, Alias):
            assert value.of in state
        else:
            dense = value.decompress() if isinstance(value, Code) else value
            assert torch.equal(dense, reference.state_dict()[path])


@methods
@models
def test_codes_put_into_a_fresh_model_compute_the_same(name, method):
    model, _, x, _ = compressed(name, method)
    fresh = copy.deepcopy(build(name)[0]).double()
    layers = find_layers(fresh)
    paths = {layer.path: layer for layer in layers.values()}
    state = codes(model)
    for path, value in state.items():
        if isinstance(value, Code):
            put(fresh, paths[path], value)
        elif isinstance(value, Tensor):
            owner, _, key = path.rpartition(".")
            getattr(fresh.get_submodule(owner), key).data.copy_(value)
    assert torch.equal(fresh(x), model(x))


@methods
@models
def test_training_reaches_the_free_tensors_and_keeps_the_structure(name, method):
    model, _, x, put_in = compressed(name, method)
    paths = {layer_name: layer.path for layer_name, layer in find_layers(build(name)[0]).items()}
    before, free = model(x).detach(), {k: p.detach().clone() for k, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
    moved = {k for k, p in model.named_parameters() if not torch.equal(p, free[k])}
    # a bias before a batch norm, or of the keys in attention, changes nothing
    assert {k for k in free if "bias" not in k and free[k].numel()} <= moved
    assert not same(model(x), before, 1e-6)
    for layer_name, old in put_in.items():
        new = codes(model)[paths[layer_name]]
        new = new.part if isinstance(new, TransposedCode) else new
        if type(old).__name__ in ("PruneCode", "CodebookCode", "QuantizeCode"):
            zeros = old.decompress() == 0
            if type(old).__name__ == "PruneCode" or getattr(old, "zero", False):
                assert not new.decompress()[zeros].any()
            assert old.with_free(list(new.free())).equals(new)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=False),
        lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    ],
    ids=["sgd", "momentum", "foreach", "fused"],
)
@pytest.mark.parametrize("name", ["mlp", "hf", "lstm", "tied", "transformer"])
def test_the_cached_weight_follows_training(name, make):
    model, _, x, _ = compressed(name, Codebook(k=4))
    optimizer = make(model.parameters())
    seen = []
    for _ in range(3):
        model.eval()
        with torch.no_grad():
            seen.append(model(x))
            assert torch.equal(model(x), seen[-1])
        assert same(bake(model)(x), seen[-1])
        model.train()
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
    assert not same(seen[0], seen[1], 1e-6)
    assert not same(seen[1], seen[2], 1e-6)


def test_the_cached_weight_follows_writes_to_data_and_state_dicts():
    model, _, x, _ = compressed("mlp", Prune(density=0.5))
    other = compressed("mlp", Prune(density=0.5))[0]
    model.eval(), other.eval()
    with torch.no_grad():
        first = model(x)
    saved = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict({k: 2 * v for k, v in saved.items()})
    with torch.no_grad():
        assert not same(model(x), first)
    model.load_state_dict(saved, assign=True)
    with torch.no_grad():
        assert torch.equal(model(x), first)
    loss = model(x).sum()  # a pass with gradients, and then a write that counts no version
    loss.backward()
    for parameter in model.parameters():
        parameter.data.mul_(2)
    with torch.no_grad():
        assert not same(model(x), first)


@methods
@models
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_change_their_precision(name, method, dtype):
    model, reference, x, _ = compressed(name, method)
    with torch.no_grad():
        model(x)
        model, reference = model.to(dtype), reference.to(dtype)
        x = x.to(dtype) if x.is_floating_point() else x
        out = model(x)
        assert out.dtype == dtype
        assert all(v.dtype == dtype for c in codes(model).values() if isinstance(c, Code) for v in c.free())
        tolerance = 1e-4 if dtype == torch.float32 else 0.15
        assert float((out.double() - reference(x).double()).norm() / reference(x).double().norm()) < tolerance
    copy.deepcopy(model)
    model(x).sum().backward()


def test_half_and_double():
    model, _, x, _ = compressed("mlp", Chain(LowRank(rank=2), Codebook(k=4)))
    expected = model(x)
    assert model.half()(x.half()).dtype == torch.float16
    assert same(model.double()(x), expected, 1e-2)


@methods
def test_tied_weights_stay_one(method):
    model, reference, x, _ = compressed("tied", method)
    table, head = model.table.parametrizations, model.head.parametrizations
    assert [id(p) for p in table.parameters()] == [id(p) for p in head.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(x) ** 2).mean().backward()
    optimizer.step()
    assert torch.equal(model.table.weight, model.head.weight)
    assert codes(model)["head.weight"] == Alias("table.weight")
    assert find_layers(model)["table"].tied == ("head",)
    for version in (copy.deepcopy(model), bake(model), copy.deepcopy(model).float()):
        assert torch.equal(version.table.weight, version.head.weight)
        assert find_layers(version)["table"].tied == ("head",)
    plain = bake(model)
    assert plain.table.weight is plain.head.weight
    # codes that replace codes, and dense weights that replace codes
    put(model, find_layers(model)["table"], Prune(density=0.5).compress(model.table.weight))
    assert torch.equal(model.table.weight, model.head.weight)
    put(model, find_layers(model)["table"], DenseCode(reference.table.weight.detach().clone()))
    assert model.table.weight is model.head.weight
    assert torch.equal(model.head.weight, reference.head.weight)


def test_a_code_replaces_a_code():
    for name in ("mlp", "lstm", "hf"):
        model, _, x, _ = compressed(name, Codebook(k=4))
        for method in (Prune(density=0.5), Quantize(bits=4)):
            layers = find_layers(model)
            for layer in layers.values():
                with torch.no_grad():
                    put(model, layer, method.compress(layer.weight))
            assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
            model(x).sum().backward()


def test_a_dense_code_is_the_weight_itself():
    for name in MODELS:
        model, x = build(name)
        expected = model(x)
        for layer in find_layers(model).values():
            put(model, layer, DenseCode(layer.weight.detach().clone()))
        assert torch.equal(model(x), expected)
        assert all(isinstance(value, Tensor | Alias) for value in codes(model).values())


def test_a_layer_of_a_copy_finds_its_place_by_name():
    model, x = build("mlp")
    layers, twin, expected = find_layers(model), copy.deepcopy(model), model(x)
    put(twin, layers["0"], Codebook(k=2).compress(layers["0"].weight))
    assert torch.equal(model(x), expected)
    assert isinstance(attached(twin[0], "weight"), Code)


def test_frozen_layers_stay_frozen():
    for method in (LowRank(rank=2), Codebook(k=4), Chain(LowRank(rank=2), Codebook(k=4))):
        model, x = build("mlp")
        model[0].requires_grad_(False)
        layer = find_layers(model)["0"]
        put(model, layer, method.compress(layer.weight))
        assert not any(p.requires_grad for p in model[0].parameters())
        model(x).sum().backward()
        assert not any(p.requires_grad for p in bake(model)[0].parameters())


def test_putting_draws_no_random_numbers():
    model, _ = build("mlp")
    layer = find_layers(model)["0"]
    state = torch.get_rng_state()
    put(model, layer, LowRank(rank=2).compress(layer.weight))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_fast_path_of_attention_reads_the_decoded_weights():
    model, reference, x, put_in = compressed("transformer", LowRank(rank=2), "single")
    assert isinstance(model[0].linear1, Factored)
    model.eval(), reference.eval()
    with torch.no_grad():
        fast = model(x)
        assert same(fast, reference(x), 1e-5)
    assert same(fast, model(x), 1e-5)
    assert same(model[0].linear1.weight, put_in["0.linear1"].decompress(), 1e-6)


def test_wrong_shapes_are_refused():
    model, _ = build("mlp")
    layer = find_layers(model)["0"]
    for method in (LowRank(rank=2), Codebook(k=2), Prune()):
        with pytest.raises(LayerError, match=r"\(9, 9\)"):
            put(model, layer, method.compress(torch.randn(9, 9)))
    with pytest.raises(LayerError, match=r"\(9, 9\)"):
        attach(model[0], "weight", DenseCode(torch.randn(9, 9)))
    put(model, layer, LowRank(rank=2).compress(layer.weight))
    with pytest.raises(LayerError, match="already two layers"):
        put(model, layer, Codebook(k=2).compress(torch.randn(16, 12)))


def test_biases_take_codes_too():
    layer = nn.Linear(4, 6)
    attach(layer, "bias", Quantize(bits=4).compress(layer.bias))
    out = layer(torch.randn(2, 4))
    out.sum().backward()
    assert layer.parametrizations.bias.original0.grad is not None
    assert isinstance(release(layer, "bias"), nn.Parameter)
    assert type(layer) is nn.Linear


@dataclass(frozen=True, eq=False)
class UnitSignsCode(Code):
    """Signs alone: a code without free tensors."""

    signs: Tensor

    def decompress(self) -> Tensor:
        return self.signs.double()


def test_a_code_may_have_nothing_to_train():
    model, x = build("tied")
    model = model.double()
    layer = find_layers(model)["table"]
    put(model, layer, UnitSignsCode(layer.weight.detach().sign().to(torch.int8)))
    assert find_layers(model)["table"].tied == ("head",)
    assert codes(model)["head.weight"] == Alias("table.weight")
    model(x).sum().backward()
    assert set(bake(model).table.weight.unique().tolist()) == {-1.0, 1.0}
    assert bake(model).table.weight is not None


def test_refusals_say_why():
    def reason(module: nn.Module, method: Compressor) -> str | None:
        return method.refuses(find_layers(nn.Sequential(module))["0"])

    assert reason(nn.Linear(32, 32), LowRank(rank=16)) == "rank 16 would hold 1,024 parameters, the dense layer has 1,024"
    assert reason(nn.Linear(30, 30), LowRank(rank=40)) == "rank 40 is above 30, the full rank of a weight of shape (30, 30)"
    assert reason(nn.Conv2d(8, 8, 3, groups=2), LowRank(rank=2)) == "the convolution has 2 groups; low rank needs one"
    assert reason(nn.Linear(32, 32), LowRank(rank=15)) is None
    assert reason(nn.Linear(30, 30), Chain(LowRank(rank=40), Codebook())) == reason(nn.Linear(30, 30), LowRank(rank=40))
    assert all(reason(nn.Linear(3, 3), method) is None for method in (Prune(), Codebook(), Quantize()))
