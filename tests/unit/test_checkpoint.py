"""A training that is interrupted and called again ends with the weights of one that was not."""

from contextlib import suppress

import pytest
import torch

from taut.bench.data import Splits, load
from taut.bench.networks import build
from taut.bench.recipes import train
from taut.compressors import Codebook
from taut.errors import TautError
from taut.parametrizations import SparseVariationalDropout
from taut.regularizers import Distance, NuclearSparseGroup
from taut.reparametrize import wrap

WAYS = {
    "adam": {"optimizer": "adam", "schedule": "onecycle"},
    "sgd, nuclear": {"optimizer": "sgd", "regularizers": {"*": NuclearSparseGroup(1e-3, 1e-3)}, "every": 3, "warmup": 6},
    # remembers its projection between steps
    "learning-compression": {"regularizers": {"*": Distance(Codebook(k=4), 0.1, growth=1.5, period=4)}},
    # draws noise in every pass
    "noise": {"noisy": True},
}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def splits():
    whole = load("digits")
    return Splits(whole.name, whole.train.take(200), whole.val, whole.test)


def trained(splits, settings, checkpoint=None, until=4, **more):
    settings = dict(settings)
    model = build("digits-cnn", 1)
    if settings.pop("noisy", False):
        training = wrap(model, {"*": SparseVariationalDropout()})
        settings["penalty"] = lambda done: done * training.penalty() / 200

    def progress(epoch, epochs, loss):
        if epoch == until:
            raise Killed

    settings |= {"epochs": 4, "batch_size": 50, "augment": "shift1", "seed": 3, "threads": 1, "checkpoint": checkpoint} | more
    with suppress(Killed):
        train(model, splits, progress=progress if until < 4 else None, **settings)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_training_ends_where_a_whole_one_does(way, splits, tmp_path):
    whole = trained(splits, WAYS[way])
    path = tmp_path / "deep" / "training.ckpt"
    for until in (1, 3):
        trained(splits, WAYS[way], path, until)
    state = torch.get_rng_state()
    resumed = trained(splits, WAYS[way], path)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are its own"
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # a finished one is not trained again
    assert all(torch.equal(whole[name], value) for name, value in trained(splits, WAYS[way], path).items())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_lost_state_would_be_seen(splits, tmp_path):
    """The law above can fail: without the optimizer's state the weights are others."""
    path = tmp_path / "training.ckpt"
    trained(splits, WAYS["adam"], path, until=2)
    kept = torch.load(path, weights_only=True)
    for values in kept["state"]["stepper"]["state"].values():
        values["exp_avg"].zero_()
    torch.save(kept, path)
    whole, resumed = trained(splits, WAYS["adam"]), trained(splits, WAYS["adam"], path)
    assert not all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("changed", "told"), [({"lr": 0.5}, "lr was 0.001 and is 0.5"), ({"epochs": 9}, "epochs was 4 and is 9")]
)
def test_another_training_is_refused(splits, tmp_path, changed, told):
    trained(splits, WAYS["adam"], tmp_path / "a.ckpt", until=1)
    with pytest.raises(TautError, match=told):
        trained(splits, WAYS["adam"], tmp_path / "a.ckpt", **changed)


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_broken_file_is_one_clear_error(splits, tmp_path, keep):
    path = tmp_path / "a.ckpt"
    trained(splits, WAYS["adam"], path, until=1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TautError, match="no checkpoint of a training.*delete it"):
        trained(splits, WAYS["adam"], path)
