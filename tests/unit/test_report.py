"""The page and the picture: everything measured is there, nothing in a record becomes markup, nothing is asked of the network."""

import importlib
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from taut.errors import ExtraError, TautError
from taut.records import KEYS
from taut.report import report, static_plot
from taut.report.model import LIMIT, Dot, Group, front, read_groups
from taut.report.payload import payload, rank_correlation
from taut.report.svg import Axis
from taut.report.text import script_json, setting, size, tag, times
from taut.report.verdict import read_test, statement

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--"
BEFORE = {"params": 1000, "nonzeros": 1000, "macs": 5000, "bytes": 4100, "metric_val": 0.98, "loss_val": 0.06, "latency_ms": 2.0}


def record(**more):
    return {
        "study": "s", "network": "net", "dataset": "data", "training": "plain", "method": "LowRank",
        "setting": {"rank": 8}, "seed": 0,
        "metric_val": 0.97, "metric_test": 0.96, "loss_val": 0.08, "params": 500, "nonzeros": 400, "macs": 2500, "bytes": 1000,
        "latency_ms": 1.0, "latency_spread": [0.9, 1.2], "baseline": BEFORE, "train_seconds": 3.0, "compress_seconds": 2.0,
        "version": "0.1.0", "machine": {"cores": 2, "processor": "cpu"}, **more,
    }  # fmt: skip


def search():
    """What a search leaves: steps, some of them rejected, and the chosen network at the end."""
    layer = {"name": "fc1.weight", "what": "Codebook(k=16)", "why": "", "params_before": 900, "params": 450, "nonzeros": 300,
             "bytes_before": 3600, "bytes": 200, "macs_before": 900, "macs": 450}  # fmt: skip
    alone = {**layer, "name": "fc2.weight", "what": "dense", "why": "a rank would add parameters", "bytes": 100}
    budget = {"kind": "metric_drop", "value": 0.005}
    steps = [
        record(method="Codebook", step=i, kept=i % 3 != 2, predicted=0.001 * i, measured=0.002 * i, radius=0.1,
               bytes=1000 - 50 * i, metric_val=0.98 + 0.001 * (i % 3), layers=[layer, alone], budget=budget)
        for i in range(8)
    ]  # fmt: skip
    test = {"before": 0.975, "after": 0.972, "samples": 400, "difference": -0.003, "difference_interval": [-0.01, 0.004]}
    return [*steps, {**steps[7], "best": True, "test": test, "command": "taut demo --seed 0"}]


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


class Page(HTMLParser):
    """Checks nesting, and keeps attributes, scripts and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.scripts, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name, attrs):
        self.tags.append((name, dict(attrs)))
        if name == "script":
            self.scripts.append("")
        if name not in {"meta", "br", "hr", "input"}:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open.pop() == name, name

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def page_of(path):
    page = Page(path.read_text())
    return page, json.loads(page.scripts[0])


@pytest.fixture(autouse=True)
def small_bundle(request, monkeypatch):
    """Plotly's five megabytes are written and parsed only where a test is about them."""
    if "whole_bundle" not in request.fixturenames:
        # by module: the package's attribute ``report`` is the function
        monkeypatch.setattr(importlib.import_module("taut.report.page"), "_plotly", lambda: "/* plotly */")


@pytest.fixture
def whole_bundle():
    """Marks a test that needs plotly itself."""


@pytest.fixture
def drawn(tmp_path):
    write(tmp_path / "curve.jsonl", search())
    return page_of(report(tmp_path / "curve.jsonl", tmp_path / "report.html"))


def test_the_page_asks_for_nothing(tmp_path, whole_bundle):
    page, _ = page_of(report(write(tmp_path / "curve.jsonl", search()), tmp_path / "report.html"))
    assert len(page.scripts) == 3 and len(page.scripts[1]) > 1e6
    for _name, attributes in page.tags:
        assert not set(attributes) & {"src", "href", "srcset", "action", "onclick", "onload"}
    assert not re.search(r"@import|url\(", (resources.files("taut.report") / "page.css").read_text())
    policy = next(a["content"] for n, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2 and "http" not in policy
    assert "unsafe-inline' 'unsafe-eval" not in policy and "script-src 'sha256-" in policy


def test_everything_measured_is_on_the_page(drawn):
    page, data = drawn
    for words in ("smaller file", "Held on validation data", "interval", "fc1.weight", "Codebook(k=16)", "left alone",
                  "a rank would add parameters", "3.6 kB", "200 B", "taut demo --seed 0", "cpu, 2 cores", "0.1.0",
                  "Rank correlation of predicted and measured change: 1.00", "400 test samples"):  # fmt: skip
        assert words in page.text, words
    group = data["groups"][0]
    assert set(group["titles"]) == {
        "bytes", "params", "macs", "latency_ms", "bytes_ratio", "params_ratio", "macs_ratio", "latency_ms_ratio",
        "metric_val", "loss_val", "metric_test",
    }  # fmt: skip
    assert (
        len(group["dots"]) == 9 and sum("x" in dot for dot in group["dots"]) == 2 and sum("best" in d for d in group["dots"]) == 1
    )
    assert group["limits"] == {"metric_val": pytest.approx(0.975)}
    assert len(group["moves"]) == 7  # the first step moved nothing


def test_tables_have_heads_and_plots_have_names(drawn):
    page, _ = drawn
    scopes = [attributes.get("scope") for name, attributes in page.tags if name == "th"]
    assert scopes and set(scopes) == {"col", "row"}
    assert all("aria-label" in a or a.get("aria-hidden") for n, a in page.tags if n == "svg")
    assert sum(name == "caption" for name, _ in page.tags) == sum(name == "table" for name, _ in page.tags) == 2
    assert next(a for n, a in page.tags if n == "html")["lang"] == "en"


@pytest.mark.parametrize(
    "key", ["study", "network", "dataset", "training", "method", "command", "version", "machine", "setting", "seed"]
)
def test_nothing_in_a_record_becomes_markup(tmp_path, key):
    evil = [{**r, key: {EVIL: EVIL} if key == "setting" else EVIL} for r in search()]
    for layer in evil[-1]["layers"]:
        layer.update(name=EVIL, what=EVIL, why=EVIL)
    page, _ = page_of(report(write(tmp_path / "c.jsonl", evil), tmp_path / "r.html", title=EVIL))
    assert len(page.scripts) == 3 and not [n for n, _ in page.tags if n == "img"]
    assert EVIL in page.text


@pytest.mark.parametrize("text", [EVIL, "\u2028\u2029", "<!--<script>", "]]>", "\x00\ud800"])
def test_json_in_a_script_stays_json(text):
    made = script_json({"a": text})
    assert not set(made) & set("<>&\u2028\u2029") and made.isascii() and json.loads(made) == {"a": text}


@pytest.mark.parametrize("missing", KEYS)
def test_any_key_may_be_missing_or_null(tmp_path, missing):
    records = [{k: v for k, v in record().items() if k != missing}, record(**{missing: None})]
    page_of(report(write(tmp_path / "c.jsonl", records), tmp_path / "r.html"))


@pytest.mark.parametrize(
    "records",
    [[{}], [{"bytes": 0, "metric_val": 1.0}], [{"bytes": 10, "metric_val": -3.5}], [{"metric_val": 0.5}],
     [{"bytes": "7", "metric_val": [1]}],
     [record(baseline=3, latency_spread=[None, 1], layers="none", budget=[], setting=[1], machine=None, step="x", test=3)],
     [record(layers=[{}, {"name": 3, "bytes": 0}], best=True, budget={"kind": "loss_increase", "value": 0.1})],
     [record(bytes=float("nan"), metric_val=float("inf"))]],
)  # fmt: skip
def test_odd_records_still_draw(tmp_path, records):
    page_of(report(write(tmp_path / "c.jsonl", records), tmp_path / "r.html"))


def test_fifty_thousand_records_are_thinned_and_the_page_says_so(tmp_path):
    records = [
        {"method": f"m{i % 5}", "setting": {"i": i}, "bytes": 10 + (i * 7919) % 50_000,
         "metric_val": ((i * 104_729) % 50_021) / 50_021,
         "loss_val": 0.1, "baseline": {"params": 100_000}}
        for i in range(50_000)
    ]  # fmt: skip
    page, data = page_of(report(write(tmp_path / "c.jsonl", records), tmp_path / "r.html"))
    dots = data["groups"][0]["dots"]
    assert LIMIT - 10 <= len(dots) <= LIMIT and "of 50,000 records" in page.text
    kept = {dot["v"]["bytes"] for dot in dots}
    everything = read_everything(records)
    assert {dot.values["bytes"][0] for dot in front(everything, "bytes", "metric_val")} <= kept
    assert (tmp_path / "r.html").stat().st_size < 3e6


def read_everything(records):
    return [Dot(r, {k: (r[k],) * 3 for k in ("bytes", "metric_val")}, 0) for r in records]


def test_seeds_become_a_median_with_its_spread(tmp_path):
    records = [
        record(seed=i, metric_val=value, bytes=b) for i, (value, b) in enumerate([(0.95, 900), (0.97, 1000), (0.96, 1100)])
    ]
    (group,) = read_groups(write(tmp_path / "c.jsonl", [*records, record(setting={"rank": 9})]))
    assert [dot.runs for dot in group.dots] == [3, 1]
    assert group.dots[0].values["metric_val"] == (0.96, 0.95, 0.97) and group.dots[0].values["bytes"] == (1000, 900, 1100)
    assert group.dots[0].values["bytes_ratio"] == (4.0, pytest.approx(4000 / 1100), pytest.approx(4000 / 900))
    assert group.dots[1].values["latency_ms"] == (1.0, 0.9, 1.2)


def test_groups_series_and_several_files(tmp_path):
    one = [record(method=m, training=t) for m in ("A", "B") for t in ("plain", "l1")]
    two = [record(network="other", method="A"), record(method="C")]
    files = [write(tmp_path / "a.jsonl", one), write(tmp_path / "b.jsonl", two)]
    groups = read_groups(files)
    assert [group.label for group in groups] == ["s · net · data", "s · other · data"]
    assert groups[0].names == ["A · plain", "A · l1", "B · plain", "B · l1", "C · plain"] and groups[1].names == ["A"]
    page, data = page_of(report(files, tmp_path / "r.html"))
    assert len(data["groups"]) == 2 == sum(name == "option" for name, _ in page.tags) and "a.jsonl, b.jsonl" in page.text


def test_without_a_chosen_record_the_smallest_without_a_drop_is_shown(tmp_path):
    points = [
        record(setting=i, bytes=b, metric_val=m, metric_test=t)
        for i, (b, m, t) in enumerate([(500, 0.97, 1), (700, 0.98, 0), (900, 0.99, 1)])
    ]
    (group,) = read_groups(write(tmp_path / "c.jsonl", points))
    assert group.chosen["bytes"] == 700
    (group,) = read_groups(write(tmp_path / "c.jsonl", points[:1]))
    assert group.chosen is None


def test_a_summary_beside_the_file_is_read(tmp_path):
    write(tmp_path / "curve.jsonl", [{k: v for k, v in r.items() if k not in {"test", "command", "budget"}} for r in search()])
    test = {"before": 0.9, "after": 0.95, "difference": 0.05, "difference_interval": [0.01, 0.09]}
    budget = {"kind": "metric_drop", "value": 0.0, "maximize": True}
    (tmp_path / "summary.json").write_text(
        json.dumps({"test": test, "budget": budget, "command": "taut compress --x", "ratio": {"bytes": 12.5}})
    )
    page, _ = page_of(report(tmp_path / "curve.jsonl", tmp_path / "r.html"))
    for words in ("12.5×", "taut compress --x", "whole interval is within the budget", "must not fall at all"):
        assert words in page.text
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(TautError, match=r"summary\.json"):
        report(tmp_path / "curve.jsonl", tmp_path / "r.html")


@pytest.mark.parametrize(
    ("value", "difference", "interval", "words"),
    [
        (0.0, 0.01, [0.001, 0.02], "whole interval is within the budget"),
        (0.0, 0.01, [-0.01, 0.02], "also allows a larger drop"),
        (0.0, -0.01, [-0.03, 0.01], "the interval includes it"),
        (0.0, -0.02, [-0.03, -0.01], "Beyond the budget"),
        (0.05, -0.02, [-0.03, -0.01], "whole interval is within the budget"),
        (0.0, -0.02, None, "Beyond the budget"),
    ],
)
def test_the_verdict_on_test_data(value, difference, interval, words):
    test = {"before": 0.9, "after": 0.9 + difference, "difference": difference, "difference_interval": interval}
    group = Group("s", "n", "d", summary={"test": test, "budget": {"kind": "metric_drop", "value": value}})
    assert words in statement(group)


def test_a_metric_that_is_better_when_smaller():
    test = {"before": 3.0, "after": 2.9, "difference": -0.1, "difference_interval": [-0.2, -0.05]}
    budget = {"kind": "metric_drop", "value": 0.0, "maximize": False}
    assert "whole interval is within the budget" in statement(Group("s", "n", "d", summary={"test": test, "budget": budget}))


@pytest.mark.parametrize("told", [{}, {"before": 1}, {"after": None}, {"after": "x"}])
def test_no_test_result(told):
    assert read_test(told) is None


@pytest.mark.parametrize(
    ("content", "message"), [("", "no records"), ('{"a": 1}\n{oops\n{"a": 2}\n', r"bad\.jsonl, line 2"), (None, "cannot read")]
)
def test_bad_files_name_the_place_and_leave_the_old_page(tmp_path, content, message):
    out = tmp_path / "r.html"
    out.write_text("old")
    if content is not None:
        (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(TautError, match=message):
        report(tmp_path / "bad.jsonl", out)
    assert out.read_text() == "old" and not list(tmp_path.glob(".r.html*"))


def test_no_files_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(TautError, match="no file"):
        report([], tmp_path / "r.html")
    path = write(tmp_path / "c.jsonl", [record()])
    with pytest.raises(TautError, match="cannot write"):
        report(path, path / "r.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TautError, match="cannot write"):
        report(path, tmp_path / "folder")
    assert not list(tmp_path.glob(".folder*"))


@pytest.mark.parametrize(("module", "draw", "out"), [("plotly.offline", report, "a.html"), ("matplotlib", static_plot, "a.png")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, whole_bundle, module, draw, out):
    path = write(tmp_path / "c.jsonl", [record()])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExtraError, match=r"taut\[report\]"):
        draw(path, tmp_path / out)


def test_the_same_records_give_the_same_page_and_picture(tmp_path):
    path = write(tmp_path / "c.jsonl", search())
    for draw, name in ((report, "html"), (static_plot, "svg")):
        made = [draw(path, tmp_path / f"{i}.{name}").read_bytes() for i in "ab"]
        assert made[0] == made[1]


def heights(path, tmp_path, **how):
    """Where a static plot puts its curves, as ``{name: heights}``, and whether its axis is logarithmic."""
    from unittest.mock import patch

    figures = []
    with patch("taut.report.static._save", lambda figure, out: figures.append(figure)):
        static_plot(path, tmp_path / "a.png", **how)
    axes = figures[0].axes[0]
    drawn = zip(axes.containers, axes.get_legend_handles_labels()[1][-len(axes.containers) :], strict=True)
    return {name: list(curve[0].get_ydata()) for curve, name in drawn}, axes.get_yscale()


def test_errors_are_one_minus_the_metric_on_a_logarithmic_axis(tmp_path):
    rows = [record(method="a", setting={"rank": i}, bytes=10 * i, metric_val=1 - 0.01 * i) for i in (1, 2, 4)]
    other = [{**row, "method": "b", "metric_val": 0.1} for row in rows]
    path = write(tmp_path / "c.jsonl", rows + other)
    found, axis = heights(path, tmp_path, error=True)
    assert axis == "log"
    assert sorted(found["a"]) == pytest.approx([1.0, 2.0, 4.0]) and found["b"] == pytest.approx([90.0] * 3)
    found, axis = heights(path, tmp_path)
    assert axis == "linear" and sorted(found["a"]) == pytest.approx([96.0, 98.0, 99.0])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_static_plots(tmp_path, suffix):
    path = write(tmp_path / "c.jsonl", [*search(), record(network="$x_1$", method="$\\frac$")])
    for x, y in itertools.product(("bytes", "latency_ms"), ("metric_val", "loss_val")):
        out = static_plot(path, tmp_path / f"{x}.{suffix}", x=x, y=y)
        assert out.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("out", "axes", "message"),
    [("a.gif", {}, "file type"), ("a.png", {"x": "size"}, "one of bytes"), ("a.png", {"y": "loss"}, "one of")],
)
def test_static_plots_that_cannot_be_drawn(tmp_path, out, axes, message):
    with pytest.raises(TautError, match=message):
        static_plot(write(tmp_path / "c.jsonl", [record()]), tmp_path / out, **axes)


def test_static_plots_without_the_numbers(tmp_path):
    with pytest.raises(TautError, match="no record holds"):
        static_plot(write(tmp_path / "c.jsonl", [{"bytes": 3}]), tmp_path / "a.png")


def test_the_report_imports_no_torch():
    """Seen from the report itself: the package's own ``__init__`` may import what it likes."""
    code = (
        "import sys, types, pathlib; root = types.ModuleType('taut'); root.__path__ = [sys.argv[1]]; sys.modules['taut'] = root\n"
        "import taut.report, taut.sweep, taut.records; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    )
    root = Path(str(resources.files("taut.report"))).parent
    assert subprocess.run([sys.executable, "-c", code, str(root)], env={"PATH": ""}).returncode == 0


def test_payload_spreads_are_triples_and_single_values_numbers(tmp_path):
    (group,) = read_groups(write(tmp_path / "c.jsonl", [record(seed=0), record(seed=1, metric_val=0.99)]))
    (dot,) = payload(group)["dots"]
    assert dot["v"]["metric_val"] == [pytest.approx(0.98), 0.97, 0.99] and dot["v"]["bytes"] == 1000 and dot["n"] == 2


def test_rank_correlation_with_ties_and_constants():
    scipy = pytest.importorskip("scipy.stats")
    a, b = [1, 2, 2, 3, 7, 7, -1], [2, 2, 5, 1, 9, 8, 0]
    assert rank_correlation(a, b) == pytest.approx(scipy.spearmanr(a, b).statistic)
    assert rank_correlation([1, 1], [1, 2]) is None


@pytest.mark.parametrize("values", [[1, 1000], [0, 5], [-3, -1], [2, 2], [0, 0], [0.98, 0.99], [1e-9, 1e9]])
def test_axis_ticks_are_round_and_inside(values):
    axis = Axis(values, 0, 100)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 22 and all(-1e-6 <= axis.at(t) <= 100 + 1e-6 for t in ticks)
    assert all(0 <= axis.at(v) <= 100 for v in values)


def test_words():
    assert tag("a", None, ["<", tag("b")], title='"') == '<a title="&quot;">&lt;<b></b></a>'
    assert (size(None), size(0), size(999.9), size(1_234_567)) == ("–", "0 B", "1 kB", "1.23 MB")
    assert (times(41.26), times(0.5)) == ("41.3×", "0.5×") and setting("x" * 500).endswith("…") and setting(None) == ""


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme):
    """WCAG AA: text 4.5, graphics 3, on both backgrounds of each theme."""
    css = (resources.files("taut.report") / "page.css").read_text()
    colours = dict(re.findall(r"--([\w]+): (#\w{6})", re.findall(r":root \{(.*?)\}", css, re.S)[theme]))
    for ground in ("paper", "surface"):
        for name in ("ink", "soft", "good", "bad", "accent"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in [*(f"c{i}" for i in range(8)), "front", "bar"]:
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)
