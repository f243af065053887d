"""Variational Bayes: the closed form against brute force."""

import pytest
import torch
from laws.vbmf_laws import check_estimated_noise, check_known_noise, check_scale_and_turn

from taut.errors import TautError
from taut.numeric.vbmf import evbmf


def noisy(rows, columns, rank, noise, seed):
    draw = torch.Generator().manual_seed(seed)
    shape = {"generator": draw, "dtype": torch.float64}
    signal = torch.randn(rows, rank, **shape) @ torch.randn(rank, columns, **shape)
    return signal + noise**0.5 * torch.randn(rows, columns, **shape)


CASES = [(5, 8, 0, 1.0), (6, 6, 1, 0.3), (6, 20, 2, 0.5), (9, 4, 1, 0.1), (8, 12, 3, 2.0), (1, 7, 1, 0.2)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_a_known_noise_it_is_the_global_minimum(case):
    matrix = noisy(*case, seed=1)
    for factor in (0.3, 1.0, 3.0):
        check_known_noise(evbmf, matrix, factor * case[3])


@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_the_noise_maximises_the_evidence(case):
    check_estimated_noise(evbmf, noisy(*case, seed=2))


@pytest.mark.parametrize("case", [(30, 50, 4, 0.5), (40, 40, 0, 1.0), (64, 20, 3, 0.1)], ids=str)
def test_it_sees_the_rank_of_a_signal_in_noise(case):
    matrix = noisy(*case, seed=3)
    check_scale_and_turn(evbmf, matrix)
    assert evbmf(matrix).rank == case[2]
    assert evbmf(matrix).noise == pytest.approx(case[3], rel=0.1)


def test_without_noise_the_rank_is_the_matrix_s_own():
    assert evbmf(torch.zeros(3, 4)).rank == 0
    assert evbmf(noisy(20, 30, 2, 0.0, seed=4)).rank == 2
    assert evbmf(noisy(20, 30, 2, 0.0, seed=4).float()).rank == 2


@pytest.mark.parametrize(("matrix", "noise"), [(torch.zeros(3), None), (torch.zeros(0, 3), None), (torch.ones(2, 2), 0.0)])
def test_mistakes_are_named(matrix, noise):
    with pytest.raises(TautError):
        evbmf(matrix, noise)
