"""Eigendecompositions that hold where LAPACK's do not."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.errors import TautError


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix.

    Rows of zeros are split off first: their unit vectors are eigenvectors of the value 0. The Gram matrix of a weight of which
    group sparsity left a few rows has many. On such matrices ``torch.linalg.eigh`` with MKL 2024.2 gives an error or, silently,
    NaN: often in single precision, now and then in double. Where the rest still fails in single precision, double is used.

    Raises:
        TautError: no decomposition is found.

    Example:
        >>> values, vectors = eigh(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]))
        >>> values.tolist(), vectors.abs().tolist()
        ([-1.0, 0.0, 2.0], [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    """
    live = (matrix != 0).any(1)
    if bool(live.all()):
        return _decomposed(matrix)
    order = live.argsort(descending=True)  # the live rows first
    count = int(live.sum())
    values, vectors = matrix.new_zeros(len(matrix)), torch.eye(len(matrix)).to(matrix)
    if count:
        some = order[:count]
        values[:count], vectors[:count, :count] = _decomposed(matrix[some[:, None], some])
    ascending = values.argsort()
    return values[ascending], vectors[order.argsort()][:, ascending]


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor]:
    # mps has no double precision
    for tried in (matrix,) if matrix.device.type == "mps" or matrix.dtype == torch.float64 else (matrix, matrix.double()):
        try:
            values, vectors = torch.linalg.eigh(tried)
        except torch.linalg.LinAlgError:
            continue
        if bool(values.isfinite().all() and vectors.isfinite().all()):
            return values.to(matrix), vectors.to(matrix)
    bad = int((~matrix.isfinite()).sum())
    why = f"{bad} of its values are NaN or infinite" if bad else "LAPACK finds none"
    raise TautError(f"no eigendecomposition of a matrix of shape {tuple(matrix.shape)}: {why}; lower the learning rate")
