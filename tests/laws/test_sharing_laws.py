"""Weights that share values or bits: the laws of ``sharing_laws`` on taut's own methods."""

import numpy as np
import pytest
import torch
from laws import sharing_laws as laws
from torch import nn

from taut.codec.records import size
from taut.compressors import Chain, Codebook, Prune, Quantize
from taut.compressors.adaptive_precision import AdaptivePrecision, tolerances
from taut.compressors.base import Stats
from taut.compressors.codebook import EntropyCodebook, LinearCodebook
from taut.errors import LayerError, TautError
from taut.numeric.entropy_kmeans import entropy_kmeans_1d, rate_bits
from taut.numeric.kmeans import lloyd_1d
from taut.parametrizations.loss_aware import LossAware
from taut.reparametrize import wrap
from taut.shared_codebook import share_codebook, tie_codebooks

DRAW = np.random.default_rng(5)
WEIGHT = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)) * 0.1
HEAVY = torch.tensor(DRAW.standard_t(3, (20, 10, 3, 3)), dtype=torch.float32)


@pytest.mark.parametrize("seed", range(6))
def test_damping_is_added_to_the_curvature(seed):
    laws.check_damping(lambda k, damping: Codebook(k=k, by="fisher", damping=damping), seed)
    for damping in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TautError, match="damping is a finite number"):
            Codebook(damping=damping)


@pytest.mark.parametrize("damping", [0.3, 1.0, 100.0])
def test_damping_of_an_entropy_codebook_is_that_of_its_curvature(damping):
    fisher = torch.rand(60, 40, generator=torch.Generator().manual_seed(1)) ** 8
    damped = EntropyCodebook(by="fisher", damping=damping).compress(WEIGHT, Stats(fisher=fisher))
    double = fisher.double()
    added = EntropyCodebook(by="fisher").compress(WEIGHT, Stats(fisher=double + damping * double.mean()))
    assert damped.equals(added)
    assert not damped.equals(EntropyCodebook(by="fisher").compress(WEIGHT, Stats(fisher=fisher)))


@pytest.mark.parametrize("seed", range(40))
def test_an_entropy_codebook_is_the_optimum(seed):
    laws.check_entropy_optimum(entropy_kmeans_1d, seed)


@pytest.mark.parametrize("seed", range(4))
def test_a_weighted_entropy_codebook_is_stationary(seed):
    laws.check_entropy_stationary(entropy_kmeans_1d, seed)


@pytest.mark.parametrize("values", [DRAW.normal(size=300), DRAW.standard_t(2, 900), np.round(DRAW.normal(size=2000), 1)], ids=len)
def test_bits_buy_precision(values):
    laws.check_entropy_trade(entropy_kmeans_1d, values)


@pytest.mark.parametrize("method", [EntropyCodebook(0.2), EntropyCodebook(0.01), EntropyCodebook(1e-3, keep_zero=False)], ids=str)
def test_by_magnitude_it_is_idempotent(method):
    for w in (WEIGHT[:20], HEAVY[:8], WEIGHT[:20].half()):
        laws.check_idempotent_by_magnitude(method, w)


def test_a_histogram_starts_near_the_optimum():
    """More values than the exact range: no worse than the optimum of a sample of the range, by 1 %."""
    many = np.random.default_rng(1).normal(size=8000)
    for price in (0.1, 0.01):
        found = [laws.priced(v, np.ones(v.size), price, c[i], True) / v.size for v in (many, many[:1000]) for c, i in
                 [entropy_kmeans_1d(v, 256, price, None, True)]]  # fmt: skip
        # the table weighs less in the longer one
        assert found[0] < found[1] * 1.01


def test_an_entropy_codebook_beats_k_means_in_bytes_at_its_error():
    code = EntropyCodebook(price=0.01).compress(WEIGHT)
    error = float((code.decompress() - WEIGHT).square().sum())
    rival = next(c for k in range(2, 64) for c in [Codebook(k).compress(WEIGHT)]
                 if float((c.decompress() - WEIGHT).square().sum()) <= error)  # fmt: skip
    assert size(code) < size(rival)


@pytest.mark.parametrize("w", [WEIGHT, HEAVY, WEIGHT.repeat(4, 4)], ids=["normal", "heavy", "repeated"])
@pytest.mark.parametrize("factor", [0.1, 0.3, 1.0, 3.0])
def test_uniform_quantization_takes_the_bytes_of_its_entropy(w, factor):
    """Uniform steps and entropy coding, the best method of Choi et al. 2017: the codec does it for any ``Quantize``."""
    laws.check_bytes_near_entropy(Quantize(step=factor * float(w.std())), w)


@pytest.mark.parametrize("method", [Codebook(k=8), EntropyCodebook(price=0.03), LinearCodebook(k=16)], ids=str)
def test_codebooks_take_the_bytes_of_their_entropy(method):
    laws.check_bytes_near_entropy(method, WEIGHT)


def test_errors_of_entropy_codebooks():
    with pytest.raises(TautError, match="price"):
        EntropyCodebook(price=-1.0)
    with pytest.raises(TautError, match="price"):
        entropy_kmeans_1d([1.0], 2, float("nan"))
    with pytest.raises(TautError, match="k must be"):
        LinearCodebook(k=0)
    assert rate_bits(np.zeros(9, dtype=int)) == 0


@pytest.mark.parametrize("seed", range(6))
def test_linear_starts_are_lloyds_iteration(seed):
    rng = np.random.default_rng(seed)
    values, k = rng.standard_t(3, 200), int(rng.integers(2, 12))
    centers = np.linspace(values.min(), values.max(), k)
    for _ in range(200):
        near = np.abs(values[:, None] - centers).argmin(1)
        centers = np.array([values[near == c].mean() for c in range(centers.size) if (near == c).any()])
    assert np.allclose(lloyd_1d(values, k)[0], centers)
    assert 0.0 in lloyd_1d(values, k, keep_zero=True)[0]


@pytest.mark.parametrize("seed", range(12))
def test_tolerances_fill_the_budget(seed):
    laws.check_tolerances(tolerances, seed)


PRECISIONS = [AdaptivePrecision(0.1), AdaptivePrecision(0.004), AdaptivePrecision(0.05, by="fisher", spread=3.0)]


@pytest.mark.parametrize(
    "method", [*PRECISIONS, AdaptivePrecision(1.0), AdaptivePrecision(0.3, by="fisher", spread=1e9)], ids=str
)
def test_every_weight_has_the_fewest_digits(method):
    for w in (WEIGHT[:8, :9], HEAVY[:2], torch.zeros(2, 3), torch.tensor([1.0]), 1e-30 * WEIGHT[:3, :4]):
        laws.check_fewest_digits(method, w, laws.random_stats(w))


@pytest.mark.parametrize("method", PRECISIONS, ids=str)
def test_adaptive_precision_counts_all_bits(method):
    for w in (WEIGHT, HEAVY):
        laws.check_all_bits_are_counted(method, w, laws.random_stats(w))


def test_uniform_steps_with_entropy_coding_beat_adaptive_precision():
    """What the page says: at the same squared error its file is larger, because of the digits and the book-keeping."""
    for method in PRECISIONS[:2]:
        code = method.compress(WEIGHT)
        error = float((code.decompress() - WEIGHT).square().mean())
        uniform = Quantize(step=(12 * error) ** 0.5).compress(WEIGHT)
        assert float((uniform.decompress() - WEIGHT).square().mean()) < 1.05 * error
        assert 1.1 * size(uniform) < size(code) < 1.35 * size(uniform)


def test_loss_aware_training_is_the_papers():
    laws.check_loss_aware_training(wrap, LossAware(decay=0.9))
    with pytest.raises(TautError, match="decay"):
        LossAware(decay=1.0)


def convolutions():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 5))


def recurrent():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.Linear(5, 4).requires_grad_(False))


@pytest.mark.parametrize(
    "method", [Codebook(k=6), Codebook(k=5, keep_zero=False), EntropyCodebook(price=0.05), LinearCodebook(k=7)], ids=str
)
@pytest.mark.parametrize("name", ["convolutions", "linear"])
def test_layers_share_one_table(method, name, tmp_path):
    make, x = (convolutions, torch.randn(3, 2, 6, 6)) if name == "convolutions" else (recurrent, torch.randn(7, 5))
    laws.check_shared(share_codebook, method, make, x, tmp_path / "m.taut")


def test_a_shared_table_weighs_layers_by_their_curvature():
    """Where the loss does not feel a layer, the values are the other layer's."""
    model = convolutions()
    with torch.no_grad():
        model[4].weight.copy_(torch.linspace(5, 6, 180).reshape(5, 36))
    data = [(torch.randn(16, 2, 6, 6), torch.randint(0, 5, (16,)))]
    with torch.no_grad():
        model[2].weight.zero_()  # nothing of the first layer reaches the output
    shared = share_codebook(model, Codebook(k=4, by="fisher"), ["0", "4"], data)
    table = shared[0].parametrizations.weight.original0
    assert table is shared[4].parametrizations.weight.original0 and bool((table > 4).all())


def test_what_cannot_share_is_told():
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double())
    with pytest.raises(TautError, match=r"float32.*float64|float64.*float32"):
        share_codebook(mixed)
    with pytest.raises(TautError, match="no table"):
        share_codebook(mixed, Quantize(bits=4), "0")
    with pytest.raises(TautError, match="no table"):
        share_codebook(mixed, Chain(Prune(0.5), Codebook(4)), "0")
    with pytest.raises(LayerError, match="names no layer"):
        share_codebook(mixed, layers="conv*")
    assert tie_codebooks(mixed) == []
