"""Rows of words -> the same words, padded with spaces so that columns stand under each other."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 0) -> list[list[str]]:
    """The first ``left`` columns end with spaces, the others begin with them.

    >>> for row in aligned([["fusion", "tokens"], ["join", "53"]], left=1):
    ...     print("  ".join(row))
    fusion  tokens
    join        53
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = lambda i, cell: cell.ljust(widths[i]) if i < left else cell.rjust(widths[i])
    return [[pad(i, cell) for i, cell in enumerate(row)] for row in rows]
