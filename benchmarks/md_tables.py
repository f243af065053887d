"""Tables in Markdown, as the pages of results have them."""

from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with these heads and cells.

    Example:
        >>> print(markdown(["way", "bytes"], [["k-means", "400"]]))
        | way | bytes |
        |---|---|
        | k-means | 400 |
    """
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
