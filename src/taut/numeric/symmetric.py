"""Eigendecompositions that hold where LAPACK's single precision does not."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.errors import TautError


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix; in double precision where single fails.

    The Gram matrix of a weight with many zero rows has a multiple eigenvalue. With MKL 2024.2 ``torch.linalg.eigh`` in single
    precision then gives an error or, silently, NaN in more than half of the cases.

    Raises:
        TautError: double precision finds no decomposition either.

    Example:
        >>> values, vectors = eigh(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> values.tolist(), vectors.abs().tolist()
        ([1.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    """
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
