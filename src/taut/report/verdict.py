"""The budget: what was allowed, whether it held on validation data, and what data never used in the search say."""

from __future__ import annotations

from dataclasses import dataclass

from taut.records import number
from taut.report import text
from taut.report.model import Group, Record
from taut.report.text import Safe, tag


@dataclass(frozen=True)
class Test:
    """A metric on test data: ``change`` (after minus before) with its interval, where there is one."""

    before: float | None
    after: float
    change: float | None
    low: float | None
    high: float | None


def read_test(told: Record) -> Test | None:
    """From the ``test`` object of a summary or a record (``before``, ``after``, ``difference``, ``difference_interval``)."""
    before = number(told, "before") if "before" in told else number(told, "metric_before")
    after = number(told, "after") if "after" in told else number(told, "metric_after")
    if after is None:
        return None
    difference = number(told, "difference")
    if difference is None and before is not None:
        difference = after - before
    interval = told.get("difference_interval")
    ends = [number({"v": end}, "v") for end in interval] if isinstance(interval, list) else []
    low, high = ends if len(ends) == 2 and None not in ends else (None, None)
    return Test(before, after, difference, low, high)


def allowed(group: Group) -> tuple[str, float] | None:
    """The kind of the budget and its value, if the records state one."""
    kind, value = group.budget.get("kind"), number(group.budget, "value")
    return (kind, value) if kind in {"metric_drop", "loss_increase"} and value is not None else None


def limit(group: Group, key: str) -> float | None:
    """Where the budget's line lies on the axis ``key`` (``metric_val`` or ``loss_val``)."""
    stated = allowed(group)
    if stated is None or {"metric_drop": "metric_val", "loss_increase": "loss_val"}[stated[0]] != key:
        return None
    reference = number(group.budget, "reference")
    reference = number(group.baseline, key) if reference is None else reference
    if reference is None:
        return None
    worse = 1 if key == "loss_val" or not group.maximize else -1
    return reference + worse * stated[1]


def statement(group: Group) -> Safe | None:
    """The section's content, or ``None`` where neither a budget nor a test was recorded."""
    parts = [part for part in (_on_validation(group), _on_test(group)) if part is not None]
    return tag("div", parts, class_="verdicts") if parts else None


def _on_validation(group: Group) -> Safe | None:
    stated = allowed(group)
    if stated is None:
        return None
    kind, value = stated
    key, what = ("metric_val", "metric") if kind == "metric_drop" else ("loss_val", "loss")
    amount = text.change(value, group.percent).lstrip("+±") if kind == "metric_drop" else text.short(value)
    worse = "fall" if kind == "metric_drop" and group.maximize else "rise"
    rule = (
        f"The validation {what} must not {worse} at all."
        if value == 0
        else f"The validation {what} may {worse} by at most {amount}."
    )
    was, now, bound = number(group.baseline, key), number(group.chosen or {}, key), limit(group, key)
    if now is None or bound is None:
        return _verdict("open", "No network was chosen", rule, "")
    held = now >= bound if kind == "metric_drop" and group.maximize else now <= bound
    write = (lambda v: text.score(v, group.percent)) if kind == "metric_drop" else (lambda v: "–" if v is None else text.short(v))
    detail = f"It went from {write(was)} to {write(now)}; the bound was {write(bound)}."
    return _verdict("good" if held else "bad", "Held on validation data" if held else "Broken on validation data", rule, detail)


def _on_test(group: Group) -> Safe | None:
    test = read_test(group.test)
    if test is None:
        return None
    stated = allowed(group)
    room = stated[1] if stated and stated[0] == "metric_drop" else 0.0
    grade, title = _grade(test, room, 1 if group.maximize else -1, stated is not None and stated[0] == "metric_drop")
    samples = number(group.test, "samples")
    data = f"{samples:,.0f} test samples" if samples else "Test data"
    rule = f"{data}, never used in the search, looked at once."
    detail = f"The metric went from {text.score(test.before, group.percent)} to {text.score(test.after, group.percent)}"
    if test.change is not None:
        detail += f", a change of {text.change(test.change, group.percent)}"
    if test.low is not None and test.high is not None:
        detail += f"; 95 % interval {text.change(test.low, group.percent)} to {text.change(test.high, group.percent)}"
    return _verdict(grade, title, rule, detail + ".", _strip(test, room, group))


def _grade(test: Test, room: float, sign: int, stated: bool) -> tuple[str, str]:
    """In words: the estimate against the budget, and what its interval leaves open."""
    if test.change is None:
        return "open", "Measured on test data"
    gain = sign * test.change
    ends = None if test.low is None or test.high is None else sorted((sign * test.low, sign * test.high))
    aim = "the budget" if stated else "no drop"
    if gain >= -room:
        if ends and ends[0] >= -room:
            return "good", f"Held on test data: the whole interval is within {aim}"
        return "good", "Held on test data" + ("; the interval also allows a larger drop" if ends else "")
    if ends and ends[1] >= -room:
        return "open", f"Slightly beyond {aim} on test data; the interval includes it"
    return "bad", f"Beyond {aim} on test data"


def _verdict(grade: str, title: str, rule: str, detail: str, strip: Safe | None = None) -> Safe:
    mark = {"good": "✓", "bad": "✕", "open": "○"}[grade]
    return tag(
        "div",
        tag("h3", tag("span", mark, class_="mark", aria_hidden="true"), " ", title),
        tag("p", rule),
        tag("p", detail) if detail else None,
        strip,
        class_=f"verdict {grade}",
    )


def _strip(test: Test, room: float, group: Group) -> Safe | None:
    """The change with its interval on a line, against zero and the budget."""
    if test.change is None or test.low is None or test.high is None:
        return None
    bound = -room if group.maximize else room
    values = [test.low, test.high, test.change, 0.0, bound]
    least, most = min(values), max(values)
    margin = (most - least or 1e-3) * 0.08
    least, most = least - margin, most + margin

    def at(value: float) -> str:
        return f"{100 * (value - least) / (most - least):.2f}%"

    marks = [
        tag("line", x1="0", x2="100%", y1="22", y2="22", class_="axis"),
        tag("line", x1=at(0), x2=at(0), y1="10", y2="34", class_="zero"),
        tag("line", x1=at(bound), x2=at(bound), y1="6", y2="38", class_="budget") if room else None,
        tag("line", x1=at(test.low), x2=at(test.high), y1="22", y2="22", class_="interval"),
        tag("circle", cx=at(test.change), cy="22", r="6", class_="dot"),
        tag("text", "no change", x=at(0), y="54", class_="label", text_anchor=_anchor(at(0))),
        tag("text", "budget", x=at(bound), y="54", class_="label", text_anchor=_anchor(at(bound)))
        if _apart(at(0), at(bound))
        else None,
    ]
    told = f"Change {text.change(test.change, group.percent)} with its 95 % interval, against no change and the budget"
    return tag("svg", marks, class_="strip", height="60", width="100%", role="img", aria_label=told)


def _anchor(place: str) -> str:
    share = float(place.rstrip("%"))
    return "start" if share < 15 else "end" if share > 85 else "middle"


def _apart(one: str, other: str) -> bool:
    return abs(float(one.rstrip("%")) - float(other.rstrip("%"))) > 25
