"""The original's outputs in recovery: asked for once for each sample that comes again, the same as if asked for every time."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

from taut.budget import Recovery
from taut.budget import answers as module
from taut.budget.answers import Answers
from taut.budget.recover import recover
from taut.objective import Objective

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 6, generator=G), torch.randint(0, 3, (24,), generator=G)
LABELLED = list(zip(X.split(8), Y.split(8), strict=True))
ONE = 8 * (3 * 4 + module.KEY)
"""Bytes of the outputs for one batch, and of what tells its samples apart."""


class Counted(nn.Module):
    """A network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.calls = nn.Linear(6, 3), 0

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.layer(x.float())


class Moving:
    """Other inputs in every epoch."""

    def __len__(self) -> int:
        return len(LABELLED)

    def __iter__(self):
        return iter([(x + torch.rand(1), y) for x, y in LABELLED])


class Shuffled(Moving):
    """The same inputs in every epoch, in another order and in other batches."""

    def __iter__(self):
        order = torch.randperm(len(X))
        return iter([(X[at], Y[at]) for at in order.split(8)])


class Compared(Counted):
    """A network whose outputs for a sample depend on the others of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.mean()


# one more where samples were in other batches too, or twice in one
FORMS = {
    "labelled": (LABELLED, module.ROOM, 3),
    "inputs alone": ([x for x, _ in LABELLED], module.ROOM, 3),
    "by name": ([{"x": x, "labels": y} for x, y in LABELLED], module.ROOM, 3),
    "other labels": ([{"x": x, "labels": y} for x in X.split(8) for y in (Y[:8], 2 - Y[:8])], module.ROOM, 6 + 1),
    "with something else": ([{"x": x, "labels": None} for x, _ in LABELLED], module.ROOM, 12),
    "other kinds of the same bytes": ([torch.zeros(8, 6), torch.zeros(8, 6).int()], module.ROOM, 2 + 1),
    "other shapes of the same bytes": ([torch.zeros(8, 6), torch.zeros(2, 4, 6)], module.ROOM, 2 + 1),
    "half precision, not contiguous": ([x.bfloat16().t().contiguous().t() for x, _ in LABELLED], module.ROOM, 3),
    "none in a batch": ([torch.zeros(0, 6)], module.ROOM, 4),
    "no room": (LABELLED, 0, 12),
    "room for two": (LABELLED, 2 * ONE, 6),
}


@pytest.mark.parametrize(("batches", "room", "calls"), FORMS.values(), ids=FORMS)
def test_each_batch_is_asked_about_once_in_four_epochs(batches, room, calls):
    teacher = Counted()
    answers = Answers(teacher, room)
    found = [[answers(batch) for batch in batches] for _ in range(4)]
    assert teacher.calls == calls
    assert all(torch.equal(a, answers.ask(batch)) for epoch in found for a, batch in zip(epoch, batches, strict=True))


def fine_tuned(train, room, monkeypatch):
    monkeypatch.setattr(Answers.__init__, "__defaults__", (room,))
    teacher = Counted()
    torch.manual_seed(2)
    student = nn.Linear(6, 3)
    recover(student, teacher, train, Objective(), Recovery(epochs=4, mix=False), seed=5, deadline=inf)
    return teacher.calls, student.weight.detach()


def check_the_same(train, calls, monkeypatch):
    asked, weight = fine_tuned(train, module.ROOM, monkeypatch)
    every, again = fine_tuned(train, 0, monkeypatch)
    assert (asked, every) == (calls, 12)
    assert torch.equal(weight, again), "another network"


CASES = [(LABELLED, 3), (Moving(), 12), (Shuffled(), 4)]


@pytest.mark.parametrize(("train", "calls"), CASES, ids=["fixed", "moving", "shuffled"])
def test_recovery_is_the_same_with_fewer_calls(train, calls, monkeypatch):
    check_the_same(train, calls, monkeypatch)


def test_answers_to_other_batches_are_seen(monkeypatch):
    monkeypatch.setattr(module, "_digests", lambda x: [bytes([row]) for row in range(len(x))])
    with pytest.raises(AssertionError, match="another network"):
        check_the_same(LABELLED, 1, monkeypatch)


@pytest.mark.parametrize(("train", "looks"), [(LABELLED, 12), (Moving(), 5)], ids=["fixed", "moving"])
def test_batches_that_never_come_again_are_soon_not_compared(train, looks, monkeypatch):
    digests, seen = module._digests, []
    monkeypatch.setattr(module, "_digests", lambda x: seen.append(0) or digests(x))
    answers = Answers(Counted(), 2 * ONE)
    for _ in range(4):
        for batch in train:
            assert torch.equal(answers(batch), answers.ask(batch))
    assert len(seen) == looks  # two are remembered, and three more waited for


def test_samples_in_other_batches_are_not_asked_about_again_where_they_stand_for_themselves():
    for network, calls in ((Counted(), 4), (Compared(), 12)):
        answers = Answers(network)
        for _ in range(4):
            for batch in Shuffled():
                found, before = answers(batch), network.calls
                assert torch.allclose(found, answers.ask(batch), atol=1e-6)
                network.calls = before
        assert network.calls == calls
