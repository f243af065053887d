import gzip
import struct

import numpy as np
import pytest
import torch
from torch import nn

from taut.bench import data
from taut.bench.data import Batches, load
from taut.bench.formats import read_cifar, read_idx, read_svhn
from taut.bench.recipes import answers, evaluate, train
from taut.errors import TautError


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def made(n: int, seed: int = 0, shape: tuple[int, ...] = (28, 28)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, *shape), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)


def write_mnist(folder, gz: bool, train: int = 100, test: int = 30) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", train), ("t10k", test)):
        images, labels = made(n, seed=n)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            (folder / f"{part}-{kind}-ubyte{'.gz' if gz else ''}").write_bytes(gzip.compress(content, mtime=0) if gz else content)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (0,)])
def test_idx_reads_what_was_written(tmp_path, shape, gz):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / ("x.gz" if gz else "x")
    path.write_bytes(gzip.compress(idx_bytes(array), mtime=0) if gz else idx_bytes(array))
    assert np.array_equal(read_idx(path), array)


GOOD = idx_bytes(made(3)[0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x", b"", "no IDX file"),
        ("x", b"\x89PNG rest of a picture", "no IDX file"),
        ("x", GOOD[:-1], "holds 2351"),
        ("x", GOOD + b"!", "holds more"),
        ("x", GOOD[:9], "header"),
        ("x", bytes([0, 0, 8, 0]), "header"),
        ("x", idx_bytes(made(1)[0], kind=13), "0x0d"),
        ("x", bytes([0, 0, 8, 3]) + b"\xff" * 12, "more than any data set"),
        ("x.gz", GOOD, "cannot read"),
        ("x.gz", gzip.compress(GOOD, mtime=0)[:-20], "cannot read"),
        ("x.gz", gzip.compress(GOOD, mtime=0)[:40] + b"\0" * 60, "cannot read"),
    ],
)
def test_a_broken_idx_file_is_one_clear_error(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TautError, match=says) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_every_cut_of_an_idx_file_is_an_error(tmp_path):
    content = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))
    for end in range(len(content)):
        (tmp_path / "x").write_bytes(content[:end])
        with pytest.raises(TautError):
            read_idx(tmp_path / "x")


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("name", "inside"), [("mnist", "."), ("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_idx_data_sets_in_every_layout(tmp_path, name, inside, gz):
    write_mnist(tmp_path / inside, gz)
    splits = load(name, tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (80, 20, 30)
    assert splits.example_input.shape == (1, 1, 28, 28)
    assert (splits.train.x.dtype, splits.train.y.dtype) == (torch.float32, torch.int64)
    # the parts hold every image once, and normalisation can be undone
    images, _ = made(100, seed=100)
    black = splits.train.black
    assert float(black) == pytest.approx(-images.mean() / images.std(), abs=0.02)
    raw = torch.cat([splits.train.x, splits.val.x]) - black
    grey_level = raw[raw > 1e-3].min()
    back = (raw / grey_level).round().to(torch.uint8).numpy()[:, 0]
    assert sorted(image.tobytes() for image in back) == sorted(image.tobytes() for image in images)


def test_val_is_stratified_and_fixed_by_the_seed(tmp_path):
    write_mnist(tmp_path, gz=False, train=1000)
    one, again, other = load("mnist", tmp_path), load("mnist", tmp_path), load("mnist", tmp_path, seed=1)
    assert torch.bincount(one.val.y).tolist() == [20] * 10
    assert torch.equal(one.val.x, again.val.x) and torch.equal(one.train.x, again.train.x)
    assert not torch.equal(one.val.y, other.val.y)
    assert len(torch.unique(one.train.y[:100])) == 10  # the order is random


def test_digits_is_whole_normalised_and_stratified():
    splits = load("digits")
    assert (len(splits.train), len(splits.val), len(splits.test), splits.classes) == (1100, 297, 400, 10)
    assert abs(float(splits.train.x.mean())) < 1e-5 and float(splits.train.x.std()) == pytest.approx(1, abs=1e-3)
    assert torch.cat([splits.train.x, splits.val.x, splits.test.x]).unique(dim=0).shape[0] == 1797
    for part in (splits.train, splits.val, splits.test):
        counts = torch.bincount(part.y, minlength=10) / len(part)
        assert float((counts - 0.1).abs().max()) < 0.01
    assert float(splits.train.black) == float(splits.train.x.min())


def write_cifar(folder, n: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        images, labels = made(n, seed=i, shape=(3, 32, 32))
        (folder / name).write_bytes(np.concatenate([labels[:, None], images.reshape(n, -1)], axis=1).tobytes())


def test_cifar_reads_what_was_written(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    images, labels = read_cifar([tmp_path / "cifar-10-batches-bin" / f"data_batch_{i}.bin" for i in (1, 2)])
    expected = [made(20, seed=i, shape=(3, 32, 32)) for i in (0, 1)]
    assert np.array_equal(images, np.concatenate([e[0] for e in expected]))
    assert np.array_equal(labels, np.concatenate([e[1] for e in expected]))
    splits = load("cifar-10", tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (80, 20, 20)
    assert splits.train.x.mean((0, 2, 3)).abs().max() < 1e-5 and splits.train.black.shape == (3, 1, 1)


@pytest.mark.parametrize(("content", "says"), [(b"", "0 bytes"), (b"\0" * 3000, "3000 bytes"), (b"\x0b" * 3073, "label 11")])
def test_a_broken_cifar_file_is_one_clear_error(tmp_path, content, says):
    (tmp_path / "b.bin").write_bytes(content)
    with pytest.raises(TautError, match=says):
        read_cifar([tmp_path / "b.bin"])


def test_svhn_reads_what_was_written(tmp_path):
    from scipy.io import savemat

    for part, n in (("train", 50), ("test", 20)):
        images, labels = made(n, shape=(32, 32, 3))
        labels = np.where(labels == 0, 10, labels)  # the data set's own way to write the digit 0
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
    x, y = read_svhn(tmp_path / "train_32x32.mat")
    expected, digits = made(50, shape=(32, 32, 3))
    assert np.array_equal(x, expected.transpose(0, 3, 1, 2)) and np.array_equal(y, digits)
    splits = load("svhn", tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (40, 10, 20)
    with pytest.raises(TautError, match="fetch the file again"):
        cut = tmp_path / "cut.mat"
        cut.write_bytes((tmp_path / "train_32x32.mat").read_bytes()[:2000])
        read_svhn(cut)
    savemat(tmp_path / "other.mat", {"X": np.zeros((4, 4), np.uint8), "y": np.zeros(4)})
    with pytest.raises(TautError, match=r"\(4, 4\)"):
        read_svhn(tmp_path / "other.mat")
    savemat(tmp_path / "none.mat", {"z": np.zeros(4)})
    with pytest.raises(TautError, match="lacks"):
        read_svhn(tmp_path / "none.mat")


@pytest.mark.parametrize(
    ("name", "says"),
    [("mnist", "--data-dir"), ("fashion-mnist", "dataset-fashion-mnist"), ("cifar-10", "binary"), ("svhn", "train_32x32")],
)
def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch, name, says):
    with pytest.raises(TautError, match=says):
        load(name, tmp_path)
    with pytest.raises(TautError, match="choose one of digits, mnist"):
        load("imagenet")
    if name != "fashion-mnist":
        with pytest.raises(TautError, match=says):
            load(name)


def test_fashion_mnist_is_the_real_one_where_debian_puts_it():
    if not data.DEBIAN_FASHION.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    splits = load("fashion-mnist")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50_000, 10_000, 10_000)
    assert torch.bincount(splits.val.y).tolist() == [1000] * 10


def test_batches_are_deterministic_whole_and_go_on_where_they_stopped():
    train = load("digits").train
    batches = Batches(train, 64, seed=3, augment="shift1")
    epochs = [[(x.clone(), y) for x, y in batches] for _ in range(3)]
    assert len(batches) == len(epochs[0]) == 18 and batches.epoch == 3
    assert all(torch.equal(torch.cat([y for _, y in e]).bincount(), train.y.bincount()) for e in epochs)
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1])
    resumed = Batches(train, 64, seed=3, augment="shift1")
    resumed.epoch = 2
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(resumed, epochs[2]))
    other = Batches(train, 64, seed=4)
    assert not torch.equal(next(iter(other))[1], epochs[0][0][1])
    again = Batches(train, 64, seed=3, augment="shift1", repeat=2)
    for epoch in (0, 1, 0, 1):
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(again, epochs[epoch], strict=True))


def test_batches_in_order_are_the_split():
    val = load("digits").val
    xs, ys = zip(*Batches(val, 50, shuffle=False))
    assert torch.equal(torch.cat(xs), val.x) and torch.equal(torch.cat(ys), val.y)
    plain = Batches(val, 50)
    order = torch.cat([x for x, _ in plain])
    assert torch.equal(order.flatten(1).sort(0).values, val.x.flatten(1).sort(0).values)


@pytest.mark.parametrize(
    ("options", "says"), [({"batch_size": 0}, "at least 1"), ({"batch_size": 8, "augment": "mixup"}, "shift1"),
                          ({"batch_size": 8, "repeat": 0}, "repeat after 0")]
)
def test_bad_batches_are_one_clear_error(options, says):
    with pytest.raises(TautError, match=says):
        Batches(load("digits").val, **options)
    with pytest.raises(TautError, match="at least 1"):
        Batches(load("digits").val.take(0), 8)


# -- text ------------------------------------------------------------------------------------------------------------------


def test_text_has_whole_files_in_one_part_and_each_answer_is_the_next_character(tmp_path):
    for i in range(40):
        (tmp_path / f"m{i:02d}.py").write_text(chr(33 + i) * 300)
    splits = load("python-source", tmp_path)
    for part, files in (("test", {0, 20}), ("val", {10, 30}), ("train", set(range(40)) - {0, 10, 20, 30})):
        split = getattr(splits, part)
        assert set((split.x.unique() - 2).tolist()) == files
        assert split.x.shape == split.y.shape == (300 * len(files) // 128 - (300 * len(files) % 128 == 0), 128)
        text = torch.cat([split.x.flatten(), split.y[-1, -1:]])
        assert torch.equal(text[1:], split.y.flatten())
    assert splits.classes == 97 and splits.example_input.dtype == torch.int64


def test_too_little_text_is_one_clear_error(tmp_path):
    (tmp_path / "only.py").write_text("x = 1")
    with pytest.raises(TautError, match="holds 1 modules"):
        load("python-source", tmp_path)


def test_a_language_model_learns_and_is_judged_by_the_character(tmp_path):
    for i in range(12):
        (tmp_path / f"m{i:02d}.py").write_text("for i in range(10): print(i)\n" * 60)
    splits = load("python-source", tmp_path)
    model = nn.Sequential(nn.Embedding(97, 32), nn.Linear(32, 97))
    train(model, splits, epochs=20, batch_size=8, lr=0.05, threads=1)
    loss, right = answers(model, splits.val)
    assert len(right) == splits.val.y.numel() and right.mean() > 0.6 and loss < 1
    assert evaluate(model, splits.val) == (loss, right.mean())
