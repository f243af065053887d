"""The command line: what each command prints and writes, and how it ends."""

import json
import logging
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.main import get_command
from typer.testing import CliRunner

from taut.cli import app, screen
from taut.cli.export import _random
from taut.cli.inputs import method, read_weights, regularizers, seconds, user_data, user_object
from taut.cli.search import watched
from taut.codec.files import save
from taut.compressors import Chain, Code, Codebook, Compressor, LowRank
from taut.errors import TautError
from taut.regularizers import Regularizer

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))

def batches():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return list(zip(x.split(64), y.split(64)))

def data():
    return batches()[:2], batches()[2:3], batches()[3:]

def no_val():
    return {"train": batches()}

def nothing():
    return 7

def example():
    return torch.zeros(1, 8)

not_a_function = 3

def not_a_model():
    return 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a user's own module ``cli_net`` and its weights; the command is run in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("cli_net", None)
    (tmp_path / "cli_net.py").write_text(NET)
    (tmp_path / "broken_net.py").write_text("import no_such_package_anywhere")
    torch.manual_seed(0)
    w = {"0.weight": torch.randn(32, 8), "0.bias": torch.zeros(32), "2.weight": torch.randn(2, 32), "2.bias": torch.zeros(2)}
    save_file(w, tmp_path / "w.safetensors")
    save(w, tmp_path / "w.taut")
    yield tmp_path
    sys.modules.pop("cli_net", None)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def told(*arguments):
    """The JSON a command prints; stdout holds nothing else."""
    return json.loads(succeed(*arguments, "--json").stdout)


def fail(code, *arguments):
    """The one message on stderr of a command that fails, without a traceback and with nothing on stdout."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return " ".join(result.stderr.split())


def test_every_command_is_there_documented_and_has_json():
    commands = get_command(app).commands
    assert list(commands) == ["demo", "compress", "train", "sweep", "report", "inspect", "verify", "decode", "export"]
    for name, command in commands.items():
        assert command.help, name
        options = [option for parameter in command.params for option in parameter.opts]
        assert "--json" in options, name
        assert all(getattr(parameter, "help", None) for parameter in command.params), name


def test_demo_of_an_unknown_set():
    assert "digits, fashion-mnist" in fail(1, "demo", "--data", "no-such-set", "--out", "unmade")
    assert not Path("unmade").exists()


def test_version_and_no_arguments():
    assert succeed("--version").stdout.strip().count(".") == 2
    assert run().exit_code in (0, 2)
    assert run("no-such-command").exit_code == 2
    assert run("inspect").exit_code == 2


# -- files ------------------------------------------------------------------------------------------------------------------


def test_inspect_says_where_the_bytes_go(place):
    info = told("inspect", "w.taut")
    assert info["bytes"] == (place / "w.taut").stat().st_size
    assert info["overhead"] + sum(t["bytes"] for t in info["tensors"]) == info["bytes"]
    assert [t["name"] for t in info["tensors"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    text = succeed("inspect", "w.taut").stdout
    assert "0.weight" in text
    assert f"{info['bytes']:,}" in text


def test_verify(place):
    assert told("verify", "w.taut") == {"file": "w.taut", "bytes": (place / "w.taut").stat().st_size, "whole": True}
    data = bytearray((place / "w.taut").read_bytes())
    data[len(data) // 2] ^= 1
    (place / "flipped.taut").write_bytes(data)
    (place / "cut.taut").write_bytes((place / "w.taut").read_bytes()[:-7])
    for name in ("flipped.taut", "cut.taut", "missing.taut"):
        assert name in fail(1, "verify", name)
        assert name in fail(1, "inspect", name, "--json")


def test_decode_gives_the_tensors_back(place):
    done = told("decode", "w.taut", "--out", "back.safetensors")
    assert done["bytes"] == (place / "back.safetensors").stat().st_size
    want, have = load_file(place / "w.safetensors"), load_file(place / "back.safetensors")
    assert want.keys() == have.keys()
    assert all(torch.equal(want[name], have[name]) for name in want)


def test_decode_into_no_folder_leaves_nothing(place):
    assert "no/such" in fail(1, "decode", "w.taut", "--out", "no/such/back.safetensors")
    assert sorted(p.name for p in place.iterdir() if p.suffix == ".part") == []


def test_export_checks_and_writes(place):
    options = ("--model", "cli_net:build", "--onnx", "m.onnx")
    done = told("export", "w.taut", *options, "--example", "cli_net:example")
    assert done["bytes"] == (place / "m.onnx").stat().st_size
    assert done["max_difference"] < 1e-4
    assert _random("2,8").shape == (2, 8)
    assert "--shape" in fail(2, "export", "w.taut", *options)
    assert fail(2, "export", "w.taut", *options, "--shape", "2,8", "--example", "cli_net:example")
    assert "1,3,32,32" in fail(1, "export", "w.taut", *options, "--shape", "2,eight")


def test_export_in_8_bit_integers_tells_what_it_did(place):
    options = ("--model", "cli_net:build", "--onnx", "m.onnx", "--int8")
    done = told("export", "w.taut", *options, "--data", "cli_net:data")
    assert done["bytes"] == (place / "m.onnx").stat().st_size and done["weights"] == 2
    assert done["before"]["count"] == done["after"]["count"] == 64 and done["latency"] > 0
    assert "metric" in succeed("export", "w.taut", *options, "--data", "cli_net:data").stdout
    assert "--data" in fail(2, "export", "w.taut", *options)
    assert "--data" in fail(2, "export", "w.taut", *options[:-1], "--shape", "1,8", "--data", "cli_net:data")
    assert "--shape" in fail(2, "export", "w.taut", *options, "--data", "cli_net:data", "--shape", "1,8")


# -- compress ---------------------------------------------------------------------------------------------------------------


def test_compress_weights_alone_keeps_the_bound(place):
    torch.manual_seed(0)
    save_file({"a": torch.randn(64, 64), "b": torch.randn(9)}, place / "big.safetensors")
    done = told("compress", "--weights", "big.safetensors", "--max-error", 0.02, "--out", "big.taut")
    assert done["bytes_after"] == (place / "big.taut").stat().st_size
    assert 0 < done["max_error"] <= 0.02
    assert done["ratio"] == pytest.approx(4 * (64 * 64 + 9) / done["bytes_after"])
    succeed("decode", "big.taut", "--out", "back.safetensors")
    want, have = load_file(place / "big.safetensors"), load_file(place / "back.safetensors")
    assert (want["a"] - have["a"]).norm() <= 0.02 * want["a"].norm()
    again = succeed("compress", "--weights", "big.safetensors", "--max-error", 0.1, "--out", "b")
    assert "largest relative error" in again.stdout


OPTIONS = ("--model", "cli_net:build", "--weights", "w.safetensors", "--data", "cli_net:data", "--out", "out")


@pytest.fixture
def own_method(place):
    """The example of a method in the user's own file, as ``cli_method``; its names are forgotten afterwards."""
    (place / "cli_method.py").write_text((Path(__file__).parents[2] / "examples" / "my_method.py").read_text())
    yield "cli_method:PowersOfTwo"
    for registry in (Compressor.registry, Code.registry):
        for name in [name for name, kind in registry.items() if kind.__module__ == "cli_method"]:
            del registry[name]
    sys.modules.pop("cli_method", None)


def test_compress_delivers_five_files_that_agree(place, own_method):
    """With a method of the user's own among those that are tried."""
    options = ("--max-drop", 5, "--method", own_method, "--time-limit", "3s", "--no-recover")
    summary = told("compress", *OPTIONS, *options)
    out = place / "out"
    names = {"model.taut", "model.onnx", "curve.jsonl", "report.html", "summary.json"}
    assert names <= {path.name for path in out.iterdir()} <= {*names, "search"}
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["compressed"]["bytes"] == (out / "model.taut").stat().st_size < summary["baseline"]["bytes"]
    assert summary["budget"]["value"] == 0.05
    assert summary["baseline"]["metric"] - summary["compressed"]["metric"] <= 0.05
    assert summary["test"]["samples"] == 64
    assert "PowersOfTwo" in (out / "curve.jsonl").read_text()


def test_a_graph_that_travels_needs_no_code_to_be_exported(place):
    summary = told("compress", *OPTIONS, "--max-drop", 5, "--max-steps", 2, "--no-recover", "--graph")
    file = place / "out" / "model.taut"
    assert summary["compressed"]["bytes"] == file.stat().st_size
    assert summary["ratio"]["bytes"] == pytest.approx(4 * summary["baseline"]["params"] / file.stat().st_size)
    done = told("export", file, "--onnx", "m.onnx")
    assert done["bytes"] == (place / "m.onnx").stat().st_size and done["inputs"] == ["input"]
    assert (place / "m.onnx").read_bytes() == (place / "out" / "model.onnx").read_bytes()
    assert "leave them out" in fail(2, "export", file, "--onnx", "m.onnx", "--shape", "2,8")
    assert "no graph travels" in fail(1, "export", "w.taut", "--onnx", "m.onnx")


def test_compress_needs_either_way_whole(place):
    assert "--model" in fail(2, "compress", "--weights", "w.safetensors", "--out", "out")
    assert "--weights" in fail(2, "compress", "--max-error", 0.1, "--out", "out")
    assert "leave out --data" in fail(2, "compress", "--weights", "w.taut", "--max-error", 0.1, "--data", "x:y", "--out", "o")
    assert fail(2, "compress", *OPTIONS, "--minimize", "joy")


WRONG = {
    "--model": {
        "cli_net": "package.module:name",
        "cli_net:nothing_there": "has no nothing_there",
        "no_such_module:build": "cannot import no_such_module",
        "broken_net:build": "no_such_package_anywhere",
        "cli_net:not_a_function": "not a function but int",
        "cli_net:not_a_model": "not a torch.nn.Module",
    },
    "--data": {
        "cli_net:no_val": "val is needed",
        "cli_net:nothing": "returned int",
        "no-such-set": "digits",
    },
    "--weights": {"none.safetensors": "no such file", "cli_net.py": "cannot read weights", "other.safetensors": "does not fit"},
    "--method": {"NoSuch": "not known", "LowRank(rank=": "LowRank", "LowRank(rnk=3)": "rnk", "no_module_here:X": "cannot import"},
    "--time-limit": {"soon": "10m"},
    "--max-drop": {"-1": "not negative", "nan": "finite"},
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in WRONG.items() for value in values])
def test_a_wrong_option_is_one_clear_message(place, option, value):
    save_file({"other": torch.zeros(3)}, place / "other.safetensors")
    arguments = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True)) | {option: value}
    message = fail(1, "compress", *(part for pair in arguments.items() for part in pair))
    if option == "--model" and ":" not in value:
        assert "lenet-300-100" in message  # a bare name is one of the benchmarks'
    else:
        assert WRONG[option][value] in message
    assert not (place / "out" / "model.taut").exists()


class Trap:
    """Unpickling it writes a file."""

    def __reduce__(self):
        return (open, ("sprung", "w"))


def test_weights_never_run_code(place):
    torch.save({"0.weight": Trap()}, place / "trap.pt")
    assert "cannot read weights" in fail(1, "compress", *OPTIONS[:2], "--weights", "trap.pt", *OPTIONS[4:])
    assert not (place / "sprung").exists()


def test_weights_in_every_form(place):
    want = load_file(place / "w.safetensors")
    torch.save(want, place / "w.pt")
    torch.save({"state_dict": want, "epoch": 3}, place / "wrapped.pt")
    torch.save([1, 2], place / "list.pt")
    for name in ("w.safetensors", "w.pt", "wrapped.pt", "w.taut"):
        assert all(torch.equal(want[key], value) for key, value in read_weights(place / name).items()), name
    with pytest.raises(TautError, match="not a dict of tensors"):
        read_weights(place / "list.pt")


# -- how a command ends -----------------------------------------------------------------------------------------------------


def test_interrupt_says_how_to_go_on(place, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["taut.cli.compress"], "search", stop)
    assert "the same command goes on" in fail(130, "compress", *OPTIONS)
    monkeypatch.setattr(sys.modules["taut.cli.artifacts"], "check", stop)
    assert "interrupted" in fail(130, "verify", "w.taut")


def test_ctrl_c_that_falls_into_a_finalizer_is_not_lost(monkeypatch):
    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # Python says that the exception was ignored
    # a shell's jobs in the background are started with the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(screen.Interrupted, match="go on"), screen.resumable("go on") as going:
            going()
            Finalized()
            reached = True
            going(1, 2)
        assert reached
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_search_asks_at_every_point_whether_it_goes_on():
    point = SimpleNamespace(step=1, kept=True, metric=0.5, loss=0.1, bytes=10)
    asked = []
    with watched(lambda: asked.append(1)) as watch:
        watch.point(point)
        watch.point(point)
    assert len(asked) == 2


def test_a_program_keeps_its_own_answer_to_ctrl_c():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        with screen.resumable("go on") as going:
            signal.raise_signal(signal.SIGINT)
            going()
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]


def test_a_full_disk_is_one_message(place, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device", "w.taut")

    monkeypatch.setattr(sys.modules["taut.cli.artifacts"], "check", full)
    assert "w.taut: No space left on device" in fail(1, "verify", "w.taut")


def test_a_fault_of_taut_is_no_user_error(place, monkeypatch):
    """A bug keeps its traceback: only what a user can mend is made into a message."""

    def bug(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["taut.cli.artifacts"], "check", bug)
    assert isinstance(run("verify", "w.taut").exception, ZeroDivisionError)


def test_the_log_is_as_it_was_after_a_command():
    before = (logging.getLogger("taut").level, list(logging.getLogger("taut").handlers))
    with screen.narrated():
        logging.getLogger("taut.x").info("seen")
    assert before == (logging.getLogger("taut").level, list(logging.getLogger("taut").handlers))


# -- train, sweep, report ---------------------------------------------------------------------------------------------------


def test_train_writes_the_weights_it_measured(place):
    options = ("--network", "digits-cnn", "--data", "digits", "--epochs", 1, "--out", "t.safetensors")
    done = told("train", *options, "--regularizer", "group-lasso=1e-4@stem*", "--regularizer", "l1=1e-6")
    assert done["training"] == "GroupLasso(strength=0.0001, view=rows) on stem* + L1(strength=1e-06) on *"
    assert done["recipe"]["epochs"] == 1
    have = load_file(place / "t.safetensors")
    assert sum(have[name].numel() for name in have if "running" not in name and "num_batches" not in name) == done["params"]
    assert "lenet-300-100" in fail(1, "train", "--network", "x", "--data", "digits", "--out", "t")
    assert "not known" in fail(1, "train", *options, "--regularizer", "zzz=1")
    assert "names no layer" in fail(1, "train", *options, "--regularizer", "l1=1@zzz")


def test_sweep_runs_what_is_missing_and_report_draws_it(place):
    (place / "cli_points.py").write_text(
        "def point(seed, size):\n    open('calls', 'a').write('x')\n"
        "    return {'bytes': size, 'metric_val': 0.9 - seed / 100, 'method': 'LowRank', 'seed': seed}\n"
    )
    spec = {"study": "s", "run": "cli_points:point", "grid": {"seed": [0, 1], "size": [10, 20]}}
    (place / "grid.json").write_text(json.dumps(spec))
    for _ in range(2):
        done = told("sweep", "grid.json", "--out", "s.jsonl")
        assert [r["bytes"] for r in done["records"]] == [10, 20, 10, 20]
    assert (place / "calls").read_text() == "xxxx"
    assert told("report", "s.jsonl", "s.jsonl", "--out", "s.svg")["bytes"] == (place / "s.svg").stat().st_size
    page = told("report", "s.jsonl", "--out", "s.html")
    assert page["bytes"] == (place / "s.html").stat().st_size
    told("report", "s.jsonl", "--choose", "size", "--only", "seed=1", "--only", "method=LowRank", "--out", "c.svg")
    assert "no records with seed=7" in fail(1, "report", "s.jsonl", "--only", "seed=7")
    assert "'rank'; they have seed, size" in fail(1, "report", "s.jsonl", "--choose", "rank")
    assert "is not KEY=VALUE" in fail(1, "report", "s.jsonl", "--only", "seed")
    assert "none.jsonl" in fail(1, "report", "none.jsonl", "--out", "n.html")
    assert not (place / "n.html").exists()
    (place / "grid.json").write_text(json.dumps(spec | {"run": "no_such_module:f"}))
    assert "no_such_module" in fail(1, "sweep", "grid.json", "--out", "s.jsonl")


# -- what is named on the command line --------------------------------------------------------------------------------------


def test_methods_as_they_are_written_in_python():
    known = Compressor.registry
    assert method("LowRank", known, "--method") == LowRank()
    assert method("low_rank(rank=3)", known, "--method") == LowRank(rank=3)
    assert method("Chain(LowRank(rank=8), Codebook(k=4))", known, "-m") == Chain(LowRank(rank=8), Codebook(k=4))
    for text in ("__import__('os').getcwd()", "LowRank(rank=open('x'))", "(lambda: 1)()", "LowRank(**{})", ""):
        with pytest.raises(TautError, match="--method"):
            method(text, known, "--method")


def test_regularizers_with_and_without_a_pattern():
    known = Regularizer.registry
    plan = regularizers(["nuclear=1e-3", "GroupLasso(1e-4, view='columns')@fc*"], known)
    assert str(plan["*"]) == "Nuclear(strength=0.001, view=matrix)"
    assert str(plan["fc*"]) == "GroupLasso(strength=0.0001, view=columns)"
    with pytest.raises(TautError, match="--regularizer"):
        regularizers(["nuclear=lots"], known)


def test_lengths_of_time():
    assert [seconds(t) for t in ("5", "5s", "1.5m", "2h", "1h30m", "1m5s")] == [5, 5, 90, 7200, 5400, 65]
    assert seconds(None) is None
    for text in ("", "m", "5x", "-5", "1s1m"):
        with pytest.raises(TautError, match="1h30m"):
            seconds(text)


def test_data_by_name_and_by_function(place):
    assert len(user_data("cli_net:data")["train"]) == 2
    assert user_object("--data", "cli_net:data").__module__ == "cli_net"
    named = user_data("digits", seed=1, batch_size=100)
    assert [len(named[part]) for part in ("train", "val", "test")] == [11, 1, 1]
