"""Faults planted in the elimination of inputs: each must turn a law red."""

import dataclasses

import pytest
import torch
from laws.columns_laws import check_choices, check_next_to_go, check_regression

from taut.compressors import Chain
from taut.fewer_inputs import narrow_choices
from taut.numeric.elimination import fewer_columns


def takes_nothing_over(matrix, moments, counts):
    """Drops columns and leaves the others as they were."""
    for stays, _, lost in fewer_columns(matrix, moments, counts):
        yield stays, matrix[:, stays], lost


def by_norm(matrix, moments, counts):
    """Ranks the columns by their norm alone."""
    for count in counts:
        stays = torch.zeros(matrix.shape[1], dtype=torch.bool)
        stays[matrix.norm(dim=0).topk(count).indices] = True
        root = torch.linalg.lstsq(moments[stays][:, stays], moments[stays] @ matrix.T, driver="gelsd").solution
        yield stays, root.T, 0.0


def says_half(matrix, moments, counts):
    for stays, values, lost in fewer_columns(matrix, moments, counts):
        yield stays, values, lost / 2


def forgets_what_the_rank_loses(model, layers, data):
    found = narrow_choices(model, layers, data)
    return {n: [(m, p, 0.0 if isinstance(m, Chain) else loss) for m, p, loss in options] for n, options in found.items()}


def miscounts(model, layers, data):
    """Counts one number too many for factors."""
    found = narrow_choices(model, layers, data)
    return {n: [(m, p + isinstance(m, Chain), loss) for m, p, loss in options] for n, options in found.items()}


def other_columns(model, layers, data):
    """Chooses by magnitude what it judged by activation."""
    return {
        n: [
            (dataclasses.replace(m, first=dataclasses.replace(m.first, by="magnitude")) if isinstance(m, Chain) else m, p, loss)
            for m, p, loss in options
        ]
        for n, options in narrow_choices(model, layers, data).items()
    }


@pytest.mark.parametrize("eliminate", [takes_nothing_over, says_half, by_norm])
def test_the_law_of_the_regression_sees(eliminate):
    with pytest.raises(AssertionError):
        check_regression(eliminate, 11, 1)


def test_the_law_of_the_next_to_go_sees():
    with pytest.raises(AssertionError):
        check_next_to_go(by_norm, 11, 1)


@pytest.mark.parametrize("choices", [forgets_what_the_rank_loses, miscounts, other_columns])
def test_the_law_of_the_choices_sees(choices):
    with pytest.raises(AssertionError):
        check_choices(choices, 0)
