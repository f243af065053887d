"""Binarized networks: trained, compressed within the binary set, and never out of it unasked."""

import numpy as np
import pytest
import torch
from laws import binary_laws as laws
from torch import nn

from taut.apply import apply
from taut.bench.data import load as data
from taut.bench.networks import BINARY, build
from taut.bench.recipes import evaluate, train
from taut.binary import Sign, signs
from taut.codec.files import file_size, load, save
from taut.compressors.base import Compressor
from taut.compressors.binary import Binary, BinaryKernels, BinaryKernelsCode, shared
from taut.compressors.chain import Chain
from taut.compressors.codebook import Codebook
from taut.errors import LayerError, TautError
from taut.layers import bake, codes, find_layers
from taut.parametrizations import Binary as BinaryTraining
from taut.parametrizations import Entropy
from taut.reparametrize import wrap
from taut.xnor import packable

SCALES = ("none", "tensor", "row")


@pytest.mark.parametrize("sign", [signs, Sign()], ids=["function", "module"])
def test_there_are_two_signs(sign):
    laws.check_signs(sign)


def test_gradients_pass_straight_through():
    laws.check_straight_through(Sign())


@pytest.mark.parametrize("scale", SCALES)
def test_copies_learn_and_do_not_run_away(scale):
    laws.check_copy_gradient(BinaryTraining(scale))


@pytest.mark.parametrize("method", [*map(Binary, SCALES), BinaryKernels(k=5), BinaryKernels(k=600, scale="none")], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (16, 8, 3, 3), (5, 7, 2), (64, 32, 3, 3)], ids=str)
def test_codes_are_binary_and_small(method, shape):
    code = method.compress(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    laws.check_set(code)
    if isinstance(method, Binary) or method.k < 10:
        laws.check_bits(code)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8, 16, 40])
@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("kind", ["real", "binary", "ties"])
def test_codebooks_of_patterns(kind, bits, k):
    draw = np.random.default_rng(bits)
    kernels = draw.normal(size=(60, bits)) + 0.2
    kernels = {"real": kernels, "binary": np.sign(kernels) * draw.uniform(0.1, 1, (60, 1)), "ties": np.round(kernels)}[kind]
    laws.check_codebook(kernels, k)


def test_kernels_of_binary_weights_are_the_nearest_in_hamming_distance():
    w = Binary().compress(torch.randn(20, 10, 3, 3)).decompress()
    code = BinaryKernels(k=7).compress(w)
    assert isinstance(code, BinaryKernelsCode) and len(code.kernels) <= 7
    far = (signs(w).reshape(200, 1, 9) != (code.kernels.reshape(1, -1, 9) * 2.0 - 1)).sum(2)
    assert torch.equal(far.gather(1, code.indices.reshape(-1, 1).long())[:, 0], far.amin(1))


def test_binary_weights_whose_kernels_fit_stay_as_they_are():
    w = BinaryKernels(k=9).compress(torch.randn(20, 10, 3, 3)).decompress()
    assert torch.equal(BinaryKernels(k=9).compress(w).decompress(), w)
    assert torch.equal(BinaryKernels(k=512).compress(w).decompress(), w)
    assert torch.equal(Binary().compress(w).decompress(), w)


METHODS = [cls() for cls in Compressor.registry.values() if cls.__module__.startswith("taut.")]


@pytest.mark.parametrize("method", [*METHODS, Chain(Binary(), Codebook(k=3)), Chain(BinaryKernels(k=8), Codebook(k=3))], ids=str)
def test_no_method_leaves_the_binary_set(method):
    kept = laws.check_stays_binary(method)
    first = method.first if isinstance(method, Chain) else method
    assert (kept == "binary") == isinstance(first, Binary | BinaryKernels)


def test_leaving_the_set_on_purpose_and_in_training():
    model = apply(nn.Sequential(nn.Linear(20, 9)), {"0": Binary()})
    apply(bake(model), {"0": Codebook(k=3)})
    with pytest.raises(LayerError, match="baked|bake"):
        wrap(model, {"*": Entropy(levels=1)})
    wrapped = nn.Sequential(nn.Linear(20, 9))
    wrap(wrapped, {"*": BinaryTraining()})
    with pytest.raises(LayerError, match="binary"):
        apply(wrapped, {"0": Codebook(k=3)})


def test_what_binary_layers_read_is_binary():
    model, x, _ = laws.binarized()
    laws.check_padding(model, x, ("4", "9", "13"))
    network = build("bnn-small")
    names = [name for name in find_layers(network) if name.startswith("binary")]
    laws.check_padding(network, torch.randn(2, 3, 32, 32), names)


@pytest.mark.parametrize("method", [BinaryTraining(), BinaryTraining("none"), BinaryTraining("tensor")], ids=str)
def test_filters_are_removed_from_binary_networks(method, tmp_path):
    small, x = laws.check_shrink(method)
    save(small, tmp_path / "m.taut")
    again = load(tmp_path / "m.taut", into=laws.binarized()[0]).eval()
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert not any(packable(small, x)[name] for name in ("4", "9", "13"))


def test_shared_kernels_are_removed_with_their_filters():
    model, x, y = laws.binarized()
    model.eval()
    small, reference = (
        laws.shrink(m, x, keep={"4": 0.5}, importance="random")
        for m in (apply(model, {"4": BinaryKernels(k=6), "9": BinaryKernels(k=4)}), model)
    )
    code = codes(small)["9.weight"]
    assert isinstance(code, BinaryKernelsCode) and code.indices.shape == reference[9].weight.shape[:2] == (32, 12)


def test_a_network_with_other_codes_too_is_not_shrunk():
    model, x, _ = laws.binarized()
    with pytest.raises(TautError, match="shrink first"):
        laws.shrink(apply(model.eval(), {"4": Binary(), "9": Codebook(k=4)}), x)


@pytest.mark.parametrize("kernels", [1, 4, 1000])
def test_training_with_few_kernels(kernels):
    model, x, y = laws.binarized()
    training = wrap(model, {"4": BinaryTraining(kernels=kernels), "9": BinaryTraining(kernels=kernels)})
    state = {k: v.clone() for k, v in model.state_dict().items()}
    other = wrap(laws.binarized()[0], {"4": BinaryTraining(kernels=kernels), "9": BinaryTraining(kernels=kernels)})
    other.model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        before = model(x)
        assert torch.equal(training.finalize()(x), before)
    code = codes(model)["4.weight"]
    assert isinstance(code, BinaryKernelsCode) and len(code.kernels) <= kernels
    laws.check_set(code)
    with pytest.raises(LayerError, match="kernels"):
        wrap(nn.Sequential(nn.Linear(3, 3)), {"*": BinaryTraining(kernels=4)})


@pytest.mark.parametrize("scale", ["none", "tensor", "row"])
@pytest.mark.parametrize("shape", [(24, 20, 3, 3), (40, 60, 3, 3), (7, 5, 4), (6, 5, 5, 5), (9, 8), (4, 3, 1, 1)])
def test_kernels_stored_once_are_the_same_weights(shape, scale):
    laws.check_shared(shared, shape, scale)


@pytest.mark.parametrize("price", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("kernels", [16, 512])
@pytest.mark.parametrize("scale", ["none", "row"])
def test_bits_have_a_price(price, kernels, scale):
    laws.check_price(BinaryTraining(scale=scale, kernels=kernels, price=price), laws.copies())


def test_a_price_needs_kernels_and_is_no_negative_number():
    for wrong in ({"price": 0.1}, {"kernels": 4, "price": -0.1}, {"kernels": 4, "price": float("inf")}):
        with pytest.raises(TautError, match="price must be"):
            BinaryTraining(**wrong)


def test_what_bits_cost_travels_with_the_state():
    model, x, _ = laws.binarized()
    methods = {"4": BinaryTraining(kernels=64, price=0.3)}
    training = wrap(model, methods)
    model(x), model(x)
    other = wrap(laws.binarized()[0], methods)
    other.model.load_state_dict(model.state_dict())
    assert torch.equal(other.model.eval()(x), training.model.eval()(x))


def test_the_copies_come_back_from_training():
    model, x, _ = laws.binarized()
    before = model[4].weight.detach().clone()
    training = wrap(model, {"4": BinaryTraining()})
    assert torch.equal(training.unwrap()[4].weight, before) and isinstance(model[4].weight, nn.Parameter)
    wrap(model, {"4": BinaryTraining()}).finalize()
    with pytest.raises(TautError, match="finalize"):
        wrap(nn.Sequential(nn.Linear(4, 3)), {"*": Entropy(levels=1)}).unwrap()


def test_a_binarized_network_learns():
    digits = data("digits")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(1), nn.Linear(64, 256), nn.BatchNorm1d(256), Sign(), nn.Linear(256, 128, bias=False), nn.BatchNorm1d(128),
        Sign(), nn.Linear(128, 128, bias=False), nn.BatchNorm1d(128), nn.Linear(128, 10),
    )  # fmt: skip
    training = wrap(model, {"4": BinaryTraining(), "7": BinaryTraining()})
    train(model, digits, epochs=5, batch_size=64, lr=5e-3)
    model = training.finalize()
    assert evaluate(model, digits.val)[1] > 0.9
    assert 4 * 128 * (256 + 128) / sum(len_of(model, name) for name in ("4.weight", "7.weight")) > 28


def len_of(model, name):
    return laws.size(codes(model)[name])


def test_bnn_small_is_as_small_as_it_says():
    model = wrap(build("bnn-small"), {BINARY: BinaryTraining("none")}).finalize().eval()
    binary = sum(layer.weight.numel() for name, layer in find_layers(model).items() if name.startswith("binary"))
    stored = sum(laws.size(codes(model)[f"binary{i}.conv.weight"]) for i in (1, 2, 3))
    assert binary == 958_464 and stored <= binary / 8 + 100
    assert file_size(model) < 4 * 964_170 / 26
