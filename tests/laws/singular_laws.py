"""What every way of thresholding singular values must satisfy, as plain functions of ``shrink(w, threshold, memory)``."""

import copy

import torch


def exact(w, threshold):
    """The obvious reference, in double precision."""
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    return (u * (s - threshold).clamp_min(0)) @ vt


def assert_near(shrunk, w, threshold, tolerance, where=""):
    """Within ``tolerance`` of what the exact step changes, and the rounding of the largest numbers."""
    answer = exact(w, threshold)
    bound = tolerance * float((w.double() - answer).norm()) + 8 * torch.finfo(w.dtype).eps * float(w.double().norm())
    error = float((shrunk.double() - answer).norm())
    assert error <= bound, f"{where} the error {error:.3g} is {error / bound:.3g} times what is allowed"


def check_one_call(shrink, w, threshold, tolerance):
    """Without a memory: the exact result, within the tolerance; shape and dtype kept, the input untouched; zero from zero."""
    kept = w.clone()
    shrunk = shrink(w, threshold, None)
    assert torch.equal(w, kept), "the input was changed"
    assert shrunk.shape == w.shape and shrunk.dtype == w.dtype
    assert_near(shrunk, w, threshold, tolerance)
    assert torch.equal(shrink(w, 0.0, None), w), "a threshold of zero changes the matrix"
    assert not shrink(torch.zeros_like(w), threshold, None).any(), "zero does not stay zero"
    assert not shrink(w, 4 * float(torch.linalg.matrix_norm(w.double(), 2)), None).any(), "a large threshold leaves something"


def check_turned_over(shrink, w, threshold, tolerance):
    """The transpose gives the transpose, and twice the matrix at twice the threshold gives twice the result."""
    shrunk = shrink(w, threshold, None).double()
    for other in (shrink(w.mT.contiguous(), threshold, None).double().mT, shrink(2 * w, 2 * threshold, None).double() / 2):
        bound = 2 * tolerance * float((w.double() - shrunk).norm()) + 16 * torch.finfo(w.dtype).eps * float(w.double().norm())
        assert float((other - shrunk).norm()) <= bound


def check_path(shrink, path, threshold, tolerance):
    """Along a training: each result, moved by the next of the path's changes, is the next input; every call stays near exact."""
    memory, w = {}, path[0]
    for number, change in enumerate(path[1:]):
        shrunk = shrink(w, threshold, memory)
        assert_near(shrunk, w, threshold, tolerance, f"call {number}:")
        w = shrunk + change
    return memory


def check_rank(shrink, path, threshold, tolerance):
    """Along a training: what is below the threshold is gone. The rank of the result is that of the exact one."""
    memory, w = {}, path[0]
    for number, change in enumerate(path[1:]):
        shrunk = shrink(w, threshold, memory)
        values = torch.linalg.svdvals(w.double())
        # neither values at the threshold nor rounding decide
        sure, possible = int((values > 1.1 * threshold).sum()), int((values > 0.9 * threshold).sum())
        rank = int(torch.linalg.matrix_rank(shrunk.double(), atol=1e-5 * float(values[0]), rtol=0.0))
        assert sure <= rank <= possible, f"call {number}: rank {rank}, between {sure} and {possible} singular values stand"
        w = shrunk + change


def check_memory(shrink, path, threshold, tolerance):
    """The memory is tensors and plain numbers, is never changed in place, and a copy of it goes on with the same bits."""
    memory, w = {}, path[0]
    for change in path[1:]:
        before = dict(memory)
        kept = copy.deepcopy(before)
        again = copy.deepcopy(memory)
        shrunk = shrink(w, threshold, memory)
        assert all(isinstance(value, torch.Tensor | int | float) for value in memory.values())
        same = {key: torch.equal(value, before[key]) for key, value in kept.items() if isinstance(value, torch.Tensor)}
        assert all(same.values()), "a tensor of the memory was changed in place"
        assert torch.equal(shrunk, shrink(w, threshold, again)), "a copy of the memory gives another result"
        w = shrunk + change
