"""Text for people: numbers with units, and HTML in which nothing from a record can become markup."""

from __future__ import annotations

import html
import json
import math
from typing import Any

VOID = {"br", "hr", "input", "meta"}


class Safe(str):
    """Markup that is finished; any other string is escaped when it is put into a page."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Safe:
    """One element. Children and attribute values are escaped; ``None`` and ``False`` are left out; ``class_`` is ``class``.

    Example:
        >>> tag("p", "a < b", class_="note", hidden=True)
        '<p class="note" hidden>a &lt; b</p>'
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    return Safe(opening if name in VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Any) -> Safe:
    """Children after one another; lists are flattened, ``None`` left out, strings escaped."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Safe) else html.escape(str(child)))
    return Safe("".join(parts))


def script_json(data: Any) -> Safe:
    """JSON that can stand inside a script element: no character in it can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def short(value: float) -> str:
    """A number with three significant digits and no needless zeros.

    Example:
        >>> short(0.123456), short(12.0), short(98765.4), short(1e-9)
        ('0.123', '12', '98,765', '1e-09')
    """
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 2:
        return f"{value:,.0f}"
    if size < -4:
        return f"{value:.2g}"
    text = f"{value:.{2 - size}f}"
    return text.rstrip("0").rstrip(".")


def scaled(value: float, units: tuple[str, ...]) -> str:
    """A number in the largest unit (steps of 1000) in which it is at least one.

    Example:
        >>> scaled(304_200, ("B", "kB", "MB")), scaled(999, ("B", "kB", "MB"))
        ('304 kB', '999 B')
    """
    index = 0
    while abs(value) >= 999.5 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    return f"{short(value)} {units[index]}".rstrip()


def size(value: float | None) -> str:
    """Bytes: ``1.23 MB``, a thousand to the kilobyte."""
    return "–" if value is None else scaled(value, ("B", "kB", "MB", "GB", "TB"))


def count(value: float | None) -> str:
    """A count: ``74.2 k``."""
    return "–" if value is None else scaled(value, ("", "k", "M", "G", "T"))


def milliseconds(value: float | None) -> str:
    """A latency, below a tenth of a millisecond in microseconds."""
    if value is None:
        return "–"
    return f"{short(value * 1000)} µs" if abs(value) < 0.1 else f"{short(value)} ms"


def times(value: float | None) -> str:
    """A ratio: ``41.3×``."""
    return "–" if value is None else f"{short(value)}×"


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return "–"
    if value < 120:
        return f"{short(value)} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def score(value: float | None, percent: bool) -> str:
    """A metric: a fraction as a percentage with two digits, anything else as it is."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if percent else short(value)


def change(value: float, percent: bool) -> str:
    """A signed difference of metrics, of fractions in percentage points."""
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{100 * abs(value):.2f} points" if percent else f"{sign}{short(abs(value))}"


def setting(value: Any, limit: int = 400) -> str:
    """A setting in one line: ``rank = 8, k = 16``.

    Example:
        >>> setting({"rank": 8, "scheme": {"rows": True}})
        'rank = 8, scheme = {"rows": true}'
    """
    if isinstance(value, dict):
        text = ", ".join(f"{k} = {v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
    elif isinstance(value, str):
        text = value
    else:
        text = "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
