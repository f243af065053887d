"""Docstrings for the site: the source writes plain text with ``roles``, doctests under ``Example:`` and displayed formulas."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`]+)`")
MATH = re.compile(r"^\.\. math:: *(.*(?:\n(?=\S).*)*)", re.MULTILINE)


def readable(text: str) -> str:
    """The docstring as the site's parser understands it.

    Example:
        >>> readable("See :func:`taut.save`.")
        'See `taut.save`.'
    """
    text = ROLE.sub(lambda match: f"`{match[1]}`", text)
    text = MATH.sub(lambda match: "```tex\n" + match[1] + "\n```", text)
    return re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


class Docstrings(Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
