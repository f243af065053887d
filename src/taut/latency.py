"""How long a network takes: candidates timed in turn, in one run, with the spread.

Two runs of one program differ by more than two networks often do (clock, caches, neighbours), so what is compared is timed
``A B B A A B …`` in a single run, and the medians come with their quartiles. A timing in which the system gave the processor to
another program (wall time well above the thread's own processor time) is repeated: it says nothing about the network.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from taut.errors import TautError
from taut.flat import flatten, rebuild, with_batch
from taut.graph import to_graph
from taut.layers import call, evaluating
from taut.runtime import feed, processor, session

LIMIT_SECONDS = 30.0
ENOUGH = 5  # timings that make a median
DISTURBED = 1.1  # wall time over processor time


@dataclass(frozen=True)
class Latency:
    """The time of one call on a batch: the median, the quartiles ``low`` and ``high``, in milliseconds, over ``runs`` timings.

    ``disturbed``: how many more were left out because another program had the processor.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    disturbed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a record."""
        return dict(vars(self))


@dataclass(frozen=True)
class Timing:
    """How to time. ``repeats``: undisturbed timings of each candidate, in at most three times as many rounds; ``warmup``: calls
    before the first; ``min_seconds``: one timing takes at least this long (a short call is repeated within it); ``limit``: stop
    after so many seconds, with at least five timings.
    """

    repeats: int = 25
    warmup: int = 3
    min_seconds: float = 1e-3
    limit: float = LIMIT_SECONDS

    def __post_init__(self) -> None:
        if self.repeats < 2 or self.warmup < 0 or self.min_seconds <= 0 or self.limit <= 0:
            raise TautError(f"{self}: give at least 2 repeats, and positive times")


def time_in_turn(runners: Mapping[str, Callable[[], object]], timing: Timing | None = None, *, batch: int = 1, threads: int = 1,
                 device: str | None = None) -> dict[str, Latency]:  # fmt: skip
    """Time every runner, all in turn; ``batch``, ``threads`` and ``device`` only label the result.

    Every round times each candidate once, and every other round goes backwards, so that a drift of the machine's speed hits
    all alike. Garbage collection waits meanwhile.

    Example:
        >>> table = time_in_turn({"short": lambda: sum(range(1000)), "long": lambda: sum(range(10000))}, Timing(repeats=5))
        >>> table["short"].median_ms < table["long"].median_ms
        True
    """
    timing = timing or Timing()
    if not runners:
        raise TautError("nothing to time; give at least one candidate")
    collecting = gc.isenabled()
    gc.disable()
    try:
        loops = {name: _loops(run, timing) for name, run in runners.items()}
        clean: dict[str, list[float]] = {name: [] for name in runners}
        rough: dict[str, list[float]] = {name: [] for name in runners}
        stop = time.perf_counter() + timing.limit
        for turn in range(3 * timing.repeats):
            for name in list(runners) if turn % 2 == 0 else reversed(list(runners)):
                wall, own = _seconds(runners[name], loops[name])
                (rough if wall > DISTURBED * own else clean)[name].append(wall / loops[name])
            few, many = min(map(len, clean.values())), turn + 1
            if few >= timing.repeats or (many >= ENOUGH and time.perf_counter() > stop):
                break
    finally:
        if collecting:
            gc.enable()
    label = (batch, threads, device or processor())
    return {name: _summary(clean[name], rough[name], label) for name in runners}


def _loops(run: Callable[[], object], timing: Timing) -> int:
    """How many calls make one timing long enough for the clock."""
    for _ in range(timing.warmup):
        run()
    loops = 1
    while (taken := _seconds(run, loops)[0]) < timing.min_seconds:
        loops = max(loops + 1, min(10 * loops, int(1.2 * loops * timing.min_seconds / max(taken, 1e-9))))
    return loops


def _seconds(run: Callable[[], object], loops: int) -> tuple[float, float]:
    """Wall time, and the processor time that this thread had of it."""
    own, start = time.thread_time(), time.perf_counter()
    for _ in range(loops):
        run()
    return time.perf_counter() - start, time.thread_time() - own


def _summary(clean: list[float], rough: list[float], label: tuple[int, int, str]) -> Latency:
    """Of the undisturbed timings; where those are too few (long calls on a busy machine), of the fastest quarter of all."""
    everything = sorted(clean + rough)
    times = clean if len(clean) >= ENOUGH else everything[: max(ENOUGH, len(everything) // 4)]
    low, _, high = quantiles(times, n=4, method="inclusive")
    return Latency(1e3 * median(times), 1e3 * low, 1e3 * high, len(times), *label, len(everything) - len(times))


def ratio(latencies: Mapping[str, Latency], a: str, b: str) -> float:
    """How many times slower ``a`` is than ``b``, by their medians: ``ratio(t, "original", "compressed")`` is the speed-up.

    Example:
        >>> ratio({"a": Latency(3.0, 2.9, 3.1, 9), "b": Latency(1.5, 1.4, 1.6, 9)}, "a", "b")
        2.0
    """
    for name in (a, b):
        if name not in latencies:
            raise TautError(f"{name!r} was not timed; there are: {', '.join(latencies)}")
    return latencies[a].median_ms / latencies[b].median_ms


def time_onnx(paths: Mapping[str, str | Path], example_input: Any, *, batch: int = 1, threads: int = 1,
              timing: Timing | None = None) -> dict[str, Latency]:  # fmt: skip
    """Time ONNX files in turn through ONNX Runtime, on the example input repeated to ``batch`` rows."""
    sized = with_batch(example_input, batch)
    runners = {}
    for name, path in paths.items():
        running = session(path, threads)
        runners[name] = partial(running.run, None, feed(running, sized))
    return time_in_turn(runners, timing, batch=batch, threads=threads)


def time_models_onnx(models: Mapping[str, nn.Module], example_input: Any, *, batch: int = 1, threads: int = 1,
                     timing: Timing | None = None) -> dict[str, Latency]:  # fmt: skip
    """Time models in turn as ONNX graphs, through files that are thrown away.

    The graphs are traced, which takes a tenth of a second where an export takes seconds, and not checked: this is for comparing
    candidates. What ships goes through ``export_onnx``.
    """
    with tempfile.TemporaryDirectory(prefix="taut-") as folder:
        paths = _graphs(models, example_input, folder, fixed=False)
        return time_onnx(paths, example_input, batch=batch, threads=threads, timing=timing)


def time_torch(models: Mapping[str, nn.Module], example_input: Any, *, batch: int = 1, threads: int = 1,
               timing: Timing | None = None) -> dict[str, Latency]:  # fmt: skip
    """Time models in turn in torch itself, in evaluation mode, each on the device its weights are on."""
    sized = with_batch(example_input, batch)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    modes = ExitStack()
    try:
        runners, devices = {}, set()
        for name, model in models.items():
            modes.enter_context(evaluating(model))
            device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
            moved = rebuild(sized, iter([t.to(device) for _, t in flatten(sized)]))
            runners[name] = partial(_forward, model, moved, device)
            devices.add(processor() if device.type == "cpu" else torch.cuda.get_device_name(device))
        return time_in_turn(runners, timing, batch=batch, threads=threads, device=", ".join(sorted(devices)))
    finally:
        modes.close()
        torch.set_num_threads(before)


def _forward(model: nn.Module, batch: Any, device: torch.device) -> None:
    with torch.no_grad():
        call(model, batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_fixed_onnx(models: Mapping[str, nn.Module], example_input: Any, *, timing: Timing | None = None) -> dict[str, Latency]:
    """Time models in turn as ONNX graphs of the example input's own shape, whatever its dimensions mean."""
    with tempfile.TemporaryDirectory(prefix="taut-") as folder:
        return _time_files(_graphs(models, example_input, folder, fixed=True), example_input, timing)


def ratios_onnx(before: nn.Module, after: nn.Module, example_input: Any, *, rounds: int = 5, fixed: bool = False,
                timing: Timing | None = None) -> Iterator[float]:  # fmt: skip
    """How many times as long ``after`` takes as ``before``, once for each of ``rounds`` pairs of fresh ONNX Runtime sessions.

    Where a session's buffers come to lie moves its time by up to 10 %, for as long as the session lives: repeats in one session
    do not average that away, fresh sessions do. The example input goes in with one row, or as it is with ``fixed``.
    """
    sized = example_input if fixed else with_batch(example_input, 1)
    with tempfile.TemporaryDirectory(prefix="taut-") as folder:
        paths = _graphs({"before": before, "after": after}, example_input, folder, fixed)
        yield from ratios_files(paths, sized, rounds=rounds, timing=timing)


def ratios_files(paths: Mapping[str, Path], inputs: Any, *, rounds: int = 5, timing: Timing | None = None) -> Iterator[float]:
    """As :func:`ratios_onnx`, of the ONNX files ``{"before": path, "after": path}``, which take the same inputs."""
    for _ in range(rounds):
        yield ratio(_time_files(paths, inputs, timing or Timing(repeats=9, warmup=2)), "after", "before")


def _graphs(models: Mapping[str, nn.Module], example_input: Any, folder: str, fixed: bool) -> dict[str, Path]:
    """The models as files; the graphs are of the example's own shape if ``fixed``, else of any batch."""
    paths = {name: Path(folder, f"{number}.onnx") for number, name in enumerate(models)}
    for name, model in models.items():
        graph = to_graph(model, example_input, dynamic_batch=not fixed, ways=("trace",) if fixed else ("trace", "export"))
        paths[name].write_bytes(graph.proto.SerializeToString())
    return paths


def _time_files(paths: Mapping[str, Path], inputs: Any, timing: Timing | None) -> dict[str, Latency]:
    """ONNX files on one input, in turn, in fresh sessions of one thread."""
    running = {name: session(path) for name, path in paths.items()}
    return time_in_turn({name: partial(run.run, None, feed(run, inputs)) for name, run in running.items()}, timing)
