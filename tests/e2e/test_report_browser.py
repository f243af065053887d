"""The page in a real browser: it draws, it fits a phone, it asks for nothing, it prints, and hostile names do nothing."""

import json
import random

import pytest
from browser import BINARY, Browser

from taut.report import report

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="no chromium binary")]
WHAT = [("Chain(first=Prune(density=0.1), second=Codebook(k=16))", ""), ("dense", "a rank would add parameters")]
EVIL = "</script><script>window.hit = 1</script><img src=x onerror='window.hit=1'><a href='javascript:window.hit=1'>x</a>"


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


def records(seed=0, name="digits-cnn", label="Prune → Codebook"):
    """A search with rejected trials and everything a record may hold."""
    rng = random.Random(seed)
    before = {"params": 74_218, "macs": 1.9e6, "bytes": 298_112, "metric_val": 0.9889, "loss_val": 0.041, "latency_ms": 0.34}
    layers = [
        {"name": f"{label}.{i}.weight.of.a.long.name", "what": w, "why": y, "params_before": 9000, "params": 4000,
         "nonzeros": 900, "bytes_before": 36_000, "bytes": 900, "macs_before": 9e4, "macs": 4e4}
        for i, (w, y) in enumerate(WHAT)
    ]  # fmt: skip
    made = []
    for step in range(1, 40):
        kept = rng.random() < 0.7
        made.append({
            "study": "compress", "network": name, "dataset": "digits", "training": "plain", "method": label,
            "setting": {label: "k=4"}, "seed": 0, "metric_val": 0.9889 + (0.002 if kept else -0.01) * rng.random(),
            "loss_val": 0.041 + 0.01 * rng.random(),
            "metric_test": 0.98, "params": 74_218 - 500 * step, "nonzeros": 10_000, "macs": 1.9e6 / step**0.3,
            "bytes": 298_112 // step, "latency_ms": 0.3, "latency_spread": [0.28, 0.34], "baseline": before, "kept": kept,
            "step": step, "layers": layers,
            "predicted": 0.002 * rng.random(), "measured": 0.004 * rng.random() - 0.001, "version": "0.1.0",
            "command": f"taut {label}", "machine": {"cores": 2, "processor": "cpu"},
            "budget": {"kind": "metric_drop", "value": 0.0},
        })  # fmt: skip
    test = {"before": 0.98, "after": 0.978, "samples": 360, "difference": -0.002, "difference_interval": [-0.011, 0.006]}
    return [*made, {**next(r for r in reversed(made) if r["kept"]), "best": True, "test": test}]


def draw(folder, *groups):
    path = folder / "curve.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for group in groups for r in group))
    return report(path, folder / "report.html")


def outside(browser):
    """Elements that reach beyond the right edge of the window."""
    script = """[...document.querySelectorAll('body *')].filter((e) => {
      const box = e.getBoundingClientRect();
      return box.width && box.right > innerWidth + 1 && !e.closest('.plot') && getComputedStyle(e).position !== 'absolute'
        && !e.closest('thead');
    }).map((e) => e.outerHTML.slice(0, 80))"""
    return browser.run(script)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_draws_without_an_error_or_a_request(tmp_path, browser, dark):
    page = draw(tmp_path, records())
    browser.open(page, dark=dark)
    assert browser.errors() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("document.querySelectorAll('.curve .point').length") >= 40
    assert browser.run("document.querySelectorAll('.moves .point').length") >= 30
    assert browser.run("document.querySelectorAll('.curve .lines path.js-line').length") >= 2
    assert browser.run("getComputedStyle(document.querySelector('.static')).display") == "none"
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(22, 24, 28)" if dark else "rgb(251, 250, 248)")


def test_nothing_reaches_beyond_the_window(tmp_path, browser):
    page = draw(tmp_path, records(label="a_very_long_name_without_any_break_" * 3))
    browser.open(page, width=375, height=812)
    for width in (375, 320, 700, 1000, 1280):
        browser.resize(width, 812)
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, width
        assert outside(browser) == [], width
        assert browser.run("document.querySelector('.curve .main-svg').getBoundingClientRect().width") <= width


def test_every_control_changes_the_plot(tmp_path, browser):
    browser.open(draw(tmp_path, records()))
    title = "document.querySelector('.curve .xtitle').textContent"
    seen = {browser.run(title)}
    for value in ("params", "macs", "latency_ms"):
        browser.run(f"document.querySelector('input[value={value}]').click()")
        seen.add(browser.run(title))
    browser.run("document.querySelector('.choice input[value=\"\"]').click()")
    seen.add(browser.run(title))
    assert len(seen) == 5
    for value in ("loss_val", "metric_test"):
        browser.run(f"document.querySelector('input[value={value}]').click()")
    assert "test" in browser.run("document.querySelector('.curve .annotation-text').textContent")
    browser.run("document.querySelector('.check input').click()")
    points = browser.run("document.querySelectorAll('.curve .point').length")
    browser.run("document.querySelector('.legend button').click()")
    assert browser.run("document.querySelector('.legend button').getAttribute('aria-pressed')") == "false"
    assert browser.run("document.querySelectorAll('.curve .point').length") < points
    assert browser.errors() == []


def test_the_selector_shows_one_network_at_a_time(tmp_path, browser):
    browser.open(draw(tmp_path, records(), records(1, name="lenet-5")))
    visible = "[...document.querySelectorAll('article')].map((a) => a.getBoundingClientRect().height > 0)"
    assert browser.run(visible) == [True, False]
    browser.run("{ const s = document.getElementById('group'); s.value = '1'; s.onchange(); }")
    assert browser.run(visible) == [False, True]
    assert browser.run("document.querySelectorAll('#group-1 .curve .point').length") >= 40
    assert browser.errors() == []


def test_hostile_names_do_nothing(tmp_path, browser):
    browser.open(draw(tmp_path, [{**r, "training": EVIL, "dataset": EVIL} for r in records(label=EVIL, name=EVIL)]))
    hover = """(() => { const plot = document.querySelector('.curve');
      plot.data.forEach((t, i) => {
        if (t.hovertext && t.x.length) Plotly.Fx.hover(plot, [{ curveNumber: i, pointNumber: 0 }]);
      });
      return plot.querySelector('.hoverlayer').textContent; })()"""
    assert "script" in browser.run(hover)
    assert browser.run("window.hit") is None and browser.errors() == []
    assert browser.run("document.querySelectorAll('img, a[href]').length") == 0


def test_print_shows_the_static_plots(tmp_path, browser):
    browser.open(draw(tmp_path, records()), width=680)
    browser.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('{}')].filter((e) => e.getBoundingClientRect().height > 0).length"
    assert browser.run(shown.format(".static svg")) >= 4 + 1
    assert browser.run(shown.format(".plot, .controls, .copy")) == 0
    assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="")


def test_without_scripts_the_static_plots_stand_in(tmp_path, browser):
    page = draw(tmp_path, records(), records(1, name="lenet-5"))
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.run("[...document.querySelectorAll('.static svg')].every((e) => e.getBoundingClientRect().height > 100)")
        assert browser.run("document.querySelectorAll('article[hidden]').length") == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_three_thousand_points_draw_in_reasonable_time(tmp_path, browser):
    rng = random.Random(0)
    many = [
        {"method": f"m{i % 6}", "setting": {"i": i}, "bytes": rng.randint(10, 99_999), "metric_val": rng.random()}
        for i in range(9000)
    ]
    browser.open(draw(tmp_path, many))
    assert browser.run("document.querySelectorAll('.curve .point').length") > 2000
    assert browser.errors() == []


def test_the_driver_sees_errors(tmp_path, browser):
    """Planted faults: what the tests above rely on being told."""
    page = tmp_path / "faulty.html"
    page.write_text(
        "<script>console.error('told'); throw new Error('thrown')</script><img src='gone.png'>"
        "<div style='width:2000px'>wide</div>"
    )
    browser.open(page)
    told = " ".join(map(str, browser.errors()))
    assert "told" in told and "thrown" in told and len(browser.requests()) == 2 and outside(browser)
