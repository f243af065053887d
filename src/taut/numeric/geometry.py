"""Which weights lie beside each other: the line above in an image or a kernel, the channel before."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np


def of_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(stride, period) in a row of a convolution's weight: the length of a kernel's line and of a kernel, 0 where there is none.

    Example:
        >>> of_shape((32, 16, 5, 5)), of_shape((32, 16, 7)), of_shape((300, 784))
        ((5, 25), (0, 7), (0, 0))
    """
    kernel = prod(shape[2:])
    return (shape[-1] if len(shape) > 3 and 1 < shape[-1] < kernel else 0), (kernel if kernel > 1 else 0)


def distances(matrix: np.ndarray, most: int = 2) -> list[int]:
    """At which distances, from 2 on, rows are like themselves: the highest peaks of their autocorrelation, the best first.

    Of rows that are images it finds the length of a line.

    Example:
        >>> lines = np.sin(np.arange(12) / 2 + 6 * np.random.default_rng(0).random((50, 12, 1)))
        >>> images = lines + np.random.default_rng(1).normal(size=(50, 12, 12)).cumsum(axis=1)
        >>> distances(images.reshape(50, 144), most=1)
        [12]
    """
    size = matrix.shape[1]
    if size < 8:
        return []
    spectrum = np.fft.rfft(matrix - matrix.mean(axis=1, keepdims=True), 2 * size, axis=1)
    alike = np.fft.irfft((spectrum.real**2 + spectrum.imag**2).sum(axis=0))[: size // 2 + 1]
    peaks = np.flatnonzero(alike[2:-1] > np.maximum(0, np.maximum(alike[1:-2], alike[3:]))) + 2
    return [int(i) for i in peaks[np.argsort(-alike[peaks])][:most]]
