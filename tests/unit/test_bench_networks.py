import pytest
import torch

from taut.bench.networks import NETWORKS, build
from taut.errors import TautError
from taut.layers import find_layers

# parameters, channels, size, layers with a weight that a method works on
FACTS = {
    "digits-cnn": (75_114, 1, 8, 6),
    "fashion-cnn": (375_018, 1, 28, 7),
    "digits-resnet": (1_228_394, 1, 8, 13),
    "fashion-resnet": (1_228_394, 1, 28, 13),
    "lenet-300-100": (266_610, 1, 28, 3),
    "lenet-5-caffe": (431_080, 1, 28, 4),
    "resnet-20": (272_474, 3, 32, 22),
    "vgg-small": (1_756_842, 3, 32, 9),
    "bnn-small": (964_170, 3, 32, 5),
}


def test_every_network_is_in_the_table():
    assert {*FACTS, "char-transformer"} == set(NETWORKS)


@pytest.mark.parametrize("name", FACTS)
def test_network_has_its_parameters_layers_and_shapes(name):
    parameters, channels, size, layers = FACTS[name]
    model = build(name).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    x = torch.randn(3, channels, size, size)
    assert model(x).shape == (3, 10)
    assert len(find_layers(model)) == layers
    # each image has its own answer, whatever else is in the batch
    assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)
    # what the documentation says is what there is
    assert f"{parameters:,}" in build.__doc__


def test_the_language_model_looks_at_what_came_before_alone():
    model = build("char-transformer").eval()
    assert f"{sum(p.numel() for p in model.parameters()):,}" in build.__doc__
    x = torch.randint(0, 97, (2, 40))
    changed = x.clone()
    changed[:, 25:] = 0
    now, then = model(x), model(changed)
    assert now.shape == (2, 40, 97)
    assert torch.allclose(now[:, :25], then[:, :25], atol=1e-6)
    assert not torch.allclose(now[:, 25:], then[:, 25:], atol=1e-2)
    # where a character is counts too
    assert not torch.allclose(model(x[:, 1:])[:, 0], now[:, 1], atol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_seed_same_weights_and_the_global_state_is_left_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = build(name, 1).state_dict()
    assert torch.equal(torch.rand(1), expected)
    two, other = build(name, 1).state_dict(), build(name, 2).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(TautError, match="digits-cnn"):
        build("alexnet")
