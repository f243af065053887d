"""Settings, refusals and bookkeeping of neuron removal."""

import logging

import pytest
import torch
from laws.shrink_laws import CASES, Case, parameters
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from taut.compressors.base import Code, DenseCode
from taut.compressors.coded import attach
from taut.errors import LayerError, TautError
from taut.resize import resize
from taut.shrink import remove_zeros, shrink, shrinkable

BY_NAME: dict[str, Case] = {case.name: case for case in CASES}


class Net(nn.Module):
    """A network from modules and a function."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args):
        return self.run(self, *args)


def mlp(hidden=16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


X = torch.randn(5, 4)


def test_least_important_go_and_values_stay():
    model = mlp(4)
    with torch.no_grad():
        model[0].weight[1] *= 1e-3
        model[2].weight[:, 1] *= 1e-3
    small = shrink(model, X, keep=0.75)
    assert torch.equal(small[0].weight, model[0].weight[[0, 2, 3]])
    assert torch.equal(small[2].weight, model[2].weight[:, [0, 2, 3]])


def test_fisher_keeps_what_the_loss_needs():
    model = mlp(6)
    with torch.no_grad():
        model[0].bias[:] = 1.0
        model[0].weight[0] *= 50  # large, but nobody listens
        model[2].weight[:, 0] = 0.0
    data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(3)]
    small = shrink(model, X, keep=5 / 6, importance="fisher", data=data)
    assert torch.equal(small[2].weight, model[2].weight[:, 1:])
    dicts = [{"input": x, "y": y} for x, y in data]
    own = shrink(
        model, X, 5 / 6, importance="fisher", data=dicts, loss=lambda m, b: functional.cross_entropy(m(b["input"]), b["y"])
    )
    assert torch.equal(own[2].weight, small[2].weight)
    assert all(p.grad is None for p in model.parameters())


def test_fisher_is_the_sum_over_units():
    from taut.shrink_importance import fisher_values

    model, batch = mlp(6), (torch.randn(8, 4), torch.randint(0, 3, (8,)))
    values = fisher_values(model, [batch], None)
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(values[name], p.detach() ** 2 * p.grad**2)


def test_batch_norm_scale():
    case = BY_NAME["cnn"]
    model = case.network()
    with torch.no_grad():
        model[1].weight[:] = torch.tensor([1.0, 0.01, 1, 1, -2, 0.02, 1, 1])
    small = shrink(model, case.input(), {"0": 0.75}, importance="batchnorm")
    assert small[1].weight.tolist() == [1.0, 1.0, 1.0, -2.0, 1.0, 1.0]
    with pytest.raises(TautError, match="batch norm"):
        shrink(mlp(), X, importance="batchnorm")


def test_own_importance():
    seen = {}

    def first_ones(layers, slices):
        seen[layers] = {key: tuple(m.shape) for key, m in slices.items()}
        return -torch.arange(16.0)

    small = shrink(mlp(), X, keep=0.25, importance=first_ones)
    assert seen == {("0",): {("0.weight", 0): (16, 4), ("0.bias", 0): (16, 1), ("2.weight", 1): (16, 3)}}
    assert small[0].out_features == 4
    with pytest.raises(TautError, match="expected 16 numbers"):
        shrink(mlp(), X, importance=lambda layers, slices: torch.zeros(3))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_round_to(scope):
    case = BY_NAME["separable"]
    small = shrink(case.network(), case.input(), keep=0.4, round_to=4, scope=scope)
    widths = {n: m.out_channels for n, m in small.named_modules() if isinstance(m, nn.Conv2d)}
    assert all(w % 4 == 0 and w > 0 for w in widths.values()), widths
    assert min(widths.values()) < 8


@pytest.mark.parametrize("round_to", [1, 8])
def test_never_empties_a_layer(round_to):
    small = shrink(mlp(32), X, keep=0.001, round_to=round_to)
    assert small[0].out_features == round_to


def test_global_scope_ranks_layers_together():
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[0].weight[:5] *= 0.1  # this layer has weak units, the next has none
        model[2].weight.copy_(torch.sign(model[2].weight))
    small = shrink(model, X, keep=0.8)
    assert small[0].out_features < small[2].out_features
    assert small[0].out_features + small[2].out_features == 16


def test_fractions_by_pattern_and_protection():
    case = BY_NAME["residual"]
    model, x = case.network(), case.input()
    small = shrink(model, x, {"a1": 0.5, "stem": 0.5, "a2": 0.75})
    assert (small.a1.out_channels, small.stem.out_channels, small.b1.out_channels) == (5, 9, 16)
    small = shrink(model, x, 0.5, scope="layer", protect=["b*"])
    assert (small.b1.out_channels, small.shortcut.out_channels, small.stem.out_channels) == (16, 14, 6)
    with pytest.raises(LayerError, match="names no layer"):
        shrink(model, x, {"nope": 0.5})
    with pytest.raises(LayerError, match="network's output"):
        shrink(model, x, {"fc": 0.5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"keep": {}}, "empty"),
        ({"scope": "both"}, "scope"),
        ({"round_to": 0}, "round_to"),
        ({"importance": "luck"}, "unknown importance"),
        ({"importance": "fisher"}, "needs data"),
        ({"importance": "fisher", "data": []}, "empty"),
        ({"importance": "fisher", "data": [torch.zeros(2, 4)]}, "give loss="),
        ({"keep": 0.99}, "removes nothing"),
        ({"round_to": 16}, "removes nothing"),
        ({"protect": ["0"]}, "removes nothing"),
    ],
)
def test_bad_settings_say_so(settings, message):
    with pytest.raises(TautError, match=message):
        shrink(mlp(), X, **settings)


def test_keep_all_is_a_copy():
    model = mlp()
    same = shrink(model, X, keep=1.0)
    assert same is not model and torch.equal(same(X), model(X))


def test_fixed_sizes_in_forward():
    def run(net, x):
        return net.fc2(functional.relu(net.fc1(functional.relu(net.conv(x)).view(-1, 8 * 36))))

    model = Net(run, conv=nn.Conv2d(1, 8, 3), fc1=nn.Linear(288, 10), fc2=nn.Linear(10, 2))
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(TautError, match=r"conv.*x\.flatten\(1\).*protect"):
        shrink(model, x)
    assert shrink(model, x, protect=["conv"]).fc1.out_features == 5
    assert shrink(model, x, {"fc1": 0.5}).fc1.out_features == 5
    assert "flatten" in shrinkable(model, x)["conv"]


def test_reasons():
    def flat_last(net, x):
        return net.fc(functional.relu(net.conv(x)).permute(0, 2, 3, 1).flatten(1))

    x = torch.randn(2, 1, 6, 6)
    assert "cannot be followed" in shrinkable(Net(flat_last, conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(64, 2)), x)["conv"]

    lstm = Net(lambda n, x: n.fc(n.lstm(n.inp(x))[0][:, -1]), inp=nn.Linear(4, 8), lstm=nn.LSTM(8, 6), fc=nn.Linear(6, 2))
    said = shrinkable(lstm, torch.randn(2, 5, 4))
    assert "lstm" in said["inp"] and "output" in said["fc"] and "linear layers" in said["lstm.weight_ih_l0"]

    tied = Net(lambda n, x: n.head(n.fc(n.emb(x))), emb=nn.Embedding(9, 6), fc=nn.Linear(6, 6), head=nn.Linear(6, 9))
    tied.head.weight = tied.emb.weight
    assert "shared" in shrinkable(tied, torch.zeros(2, 3, dtype=torch.long))["fc"]

    unused = Net(lambda n, x: n.b(n.a(x)), a=nn.Linear(4, 8), b=nn.Linear(8, 2), c=nn.Linear(3, 3))
    assert shrinkable(unused, X) == {
        "a": 8, "b": "its channels are the network's output", "c": "the example input does not pass through it"
    }  # fmt: skip


def test_transformer_keeps_its_residual_stream():
    case = BY_NAME["encoder"]
    said = shrinkable(case.network(), case.input())
    assert said["layer.linear1"] == 24
    assert "attention" in said["layer.linear2"].lower()


def test_attention_by_hand_stays_and_the_rest_shrinks():
    def run(n, x):
        q, k, v = n.qkv(x).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = (functional.scaled_dot_product_attention(q, k, v)).transpose(1, 2).reshape(2, 5, 8)
        return n.down(functional.gelu(n.up(x + y)))

    model = Net(run, qkv=nn.Linear(8, 24), up=nn.Linear(8, 32), down=nn.Linear(32, 3))
    x = torch.randn(2, 5, 8)
    small = shrink(model, x)
    assert (small.qkv.out_features, small.up.out_features) == (24, 16)
    assert "does not run" in shrinkable(model, x)["qkv"]


NORMS = {
    "group": lambda: nn.GroupNorm(2, 8),
    "each channel": lambda: nn.GroupNorm(8, 8),
    "instance": lambda: nn.InstanceNorm2d(8, affine=True),
    "bare": lambda: nn.InstanceNorm2d(8),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.filterwarnings("ignore:input's size")
def test_channel_norms(norm):
    def build():
        return nn.Sequential(nn.Conv2d(2, 8, 3), NORMS[norm](), nn.ReLU(), nn.Conv2d(8, 3, 3))

    model = build()
    x = torch.randn(2, 2, 8, 8)
    small = shrink(model, x)
    assert small[0].out_channels == getattr(small[1], "num_features", getattr(small[1], "num_channels", 0)) == 4
    fresh = build()
    resize(fresh, {n: small.state_dict()[n].shape for n in small.__dict__["_taut_dense_shapes"]})
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(fresh(x), small(x))


def test_layer_norm_and_reuse_and_embedding():
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))
    assert shrink(model, X)[1].normalized_shape == (8,)
    twice = Net(lambda n, x: n.c(n.b(n.b(n.a(x)).relu())), a=nn.Linear(4, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 2))
    assert shrink(twice, X).b.weight.shape == (4, 4)
    words = Net(lambda n, x: n.c(n.e(x).mean(1)), e=nn.Embedding(9, 8), c=nn.Linear(8, 2))
    assert shrink(words, torch.zeros(2, 3, dtype=torch.long)).e.embedding_dim == 4


def test_several_inputs_by_tuple_and_by_name():
    def run(n, a, b):
        return {"out": n.c(torch.cat([n.a(a), n.b(b)], -1).relu())}

    model = Net(run, a=nn.Linear(4, 8), b=nn.Linear(3, 6), c=nn.Linear(14, 2))
    small = shrink(model, (X, torch.randn(5, 3)), scope="layer")
    assert (small.a.out_features, small.b.out_features, small.c.in_features) == (4, 3, 7)
    named = Net(lambda n, x: n.c(n.a(x).relu()), a=nn.Linear(4, 8), c=nn.Linear(8, 2))
    named.forward = lambda x: named.run(named, x)
    assert named(x=X).shape == (5, 2)


def test_compressed_and_parametrized_layers_are_refused():
    model = mlp()
    attach(model[0], "weight", _half(model[0].weight))
    with pytest.raises(TautError, match="shrink first, then compress"):
        shrink(model, X)
    with pytest.raises(TautError, match="shrink first"):
        remove_zeros(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)), X)


def _half(weight: torch.Tensor) -> Code:
    return DenseCode(DenseCode(weight.detach()))


def test_example_input_that_does_not_fit():
    with pytest.raises(TautError, match="fails on example_input"):
        shrink(mlp(), torch.zeros(1, 5))
    noisy = Net(lambda n, x: n.b(functional.dropout(n.a(x))), a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    with pytest.raises(TautError, match="differ from run to run"):
        shrink(noisy, X)


def test_quiet_but_logged(capsys, recwarn, caplog):
    with caplog.at_level(logging.DEBUG, logger="taut.shrink"):
        shrink(mlp(), X)
    assert capsys.readouterr() == ("", "") and not recwarn.list
    assert "0: 8 of 16 channels kept" in caplog.text and "2 stays as it is" in caplog.text


def test_users_hooks_see_nothing_and_stay():
    model, calls = mlp(), []
    model[0].register_forward_hook(lambda *args: calls.append(1))
    small = shrink(model, X)
    assert not calls
    small(X)
    assert calls == [1]


def test_half_and_double_precision_and_no_grad():
    for dtype in (torch.float64, torch.bfloat16):
        with torch.no_grad():
            small = shrink(mlp().to(dtype), X.to(dtype))
        assert small[0].weight.dtype == dtype and small[0].weight.requires_grad


def test_zeros_with_batch_norm_behind():
    """A filter of zeros whose batch norm sends something below zero into a ReLU; another whose norm sends a constant."""
    case = BY_NAME["cnn"]
    model, x = case.network(), case.input()
    with torch.no_grad():
        model[4].weight[:4] = 0.0
        model[5].bias[:3] = -100.0  # silent for ever
        model[5].bias[3] = 100.0  # a constant, flattened into a linear layer: goes into its bias
    small = remove_zeros(model, x)
    assert small[4].out_channels == 8
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0], model[1].bias[0] = 0.0, 0.0, 50.0  # behind it, a padded convolution
    assert remove_zeros(model, x)[0].out_channels == 8


def test_zeros_are_only_removed_where_they_are_zero_for_every_input():
    model = mlp(4)
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([-1e-6, 0, 0, 0])
        model[0].bias[0] = 0.0
    x = X.clone()
    x[:, 0] = x[:, 0].abs()  # silent on this input, not on others
    assert remove_zeros(model, x)[0].out_features == 4
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    small = remove_zeros(model, x)
    assert small[0].out_features == 1 and torch.equal(small(X), model(X))


def test_zeros_next_to_the_networks_input():
    """What is added from the input is not constant, whatever the example shows."""
    model = Net(lambda n, x: n.b(n.a(x) + x[:, :1]), a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    with torch.no_grad():
        model.a.weight[:3], model.a.bias[:3] = 0.0, 0.0
    assert remove_zeros(model, torch.zeros(1, 4)).a.out_features == 6


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"0.weight": (8, 4, 1)}, "0.weight"),
        ({"0.weight": (17, 4)}, "0.weight"),
        ({"0.weight": (0, 4)}, "0.weight"),
        ({"0.weight": (8, 4)}, "0.bias"),
        ({"9.weight": (8, 4)}, "9.weight"),
        ({"0.nope": (8, 4)}, "0.nope"),
    ],
)
def test_resize_refuses(shapes, message):
    model = mlp()
    with pytest.raises(LayerError, match=message):
        resize(model, shapes)
    assert model[0].weight.shape == (16, 4) and model[0].out_features == 16


def test_resize_refuses_what_does_not_divide():
    conv = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4))
    with pytest.raises(LayerError, match="groups"):
        resize(conv, {"0.weight": (6, 2, 3, 3), "0.bias": (6,)})
    with pytest.raises(LayerError, match="groups"):
        resize(nn.Sequential(nn.GroupNorm(4, 8)), {"0.weight": (6,), "0.bias": (6,)})
    with pytest.raises(LayerError, match="kernel"):
        resize(conv, {"0.weight": (8, 2, 1, 3)})
    with pytest.raises(LayerError, match="MultiheadAttention"):
        resize(nn.Sequential(nn.MultiheadAttention(8, 2)), {"0.in_proj_weight": (12, 4)})


def test_resize_ties_and_plain_parameters():
    model = Net(lambda n, x: x, a=nn.Linear(4, 6), b=nn.Linear(4, 6), t=nn.ConvTranspose2d(4, 6, 3))
    model.b.weight = model.a.weight
    model.scale = nn.Parameter(torch.ones(6, 1), requires_grad=False)
    bias = {"a.bias": (3,), "b.bias": (3,), "t.bias": (2,)}
    resize(model, {"a.weight": (3, 4), "scale": (3, 1), "t.weight": (4, 2, 3, 3), **bias})
    assert model.a.weight is model.b.weight and model.b.out_features == 3
    assert model.scale.shape == (3, 1) and not model.scale.requires_grad
    assert (model.t.in_channels, model.t.out_channels) == (4, 2)


def test_repeated_removal_drops_parameters_each_time():
    case = BY_NAME["concat"]
    x = case.input()
    models = [case.network()]
    for _ in range(3):
        models.append(shrink(models[-1], x, 0.7))
    counts = [parameters(m) for m in models]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 4
