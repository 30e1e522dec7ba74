"""Several labels a row: a cell such as ``red;round``, or a column of 0 and 1 for each label."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from mmlib.data.numbers import is_number

SEPARATORS = (";", "|", ",")  # of the labels in a cell: the first that stands in a training cell
COLUMNS = ";"  # between the cells of a row where each label has a column
UNKNOWN = "?"  # a cell that says so; its labels are left out of the loss
_FLAGS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def find_labels(cells: Sequence[str], column: str) -> tuple[list[str], str]:
    """The labels in the cells of one column, sorted, and what separates them.

    Raises ValueError where no cell has two labels, and none has no label.

    >>> find_labels(["red;round", "", "red"], "tags")
    (['red', 'round'], ';')
    """
    separator = next((mark for mark in SEPARATORS if any(mark in cell for cell in cells)), ";")
    labels = sorted({label for cell in cells for label in split(cell, separator)})
    if not labels:
        raise ValueError(f"target column {column!r}: no training row has a label")
    if not any(len(split(cell, separator)) != 1 for cell in cells):
        raise ValueError(
            f"target column {column!r}: every training row has exactly one label; separate several "
            "labels of a row by ';' (red;round), give a column of 0 and 1 for each label "
            "(--target red,round), or choose classification"
        )
    return labels, separator


def split(cell: str, separator: str) -> list[str]:
    """The labels of a cell, without the spaces around them; none for an unknown cell.

    >>> split("red; round;", ";")
    ['red', 'round']
    """
    parts = [part.strip() for part in cell.split(separator)]
    return [] if parts == [UNKNOWN] else [part for part in parts if part]


def encode(cells: Sequence[str], labels: Sequence[str], separator: str | None) -> Tensor:
    """(N, K) float32: 1 where a row has the label, 0 where not, NaN where it is not known.

    ``separator`` None: a cell holds a flag for each label, see ``flag``.

    >>> encode(["red;round", "", "?"], ["red", "round"], ";")
    tensor([[1., 1.],
            [0., 0.],
            [nan, nan]])
    """
    if separator is None:
        flags = [[flag(one) for one in cell.split(COLUMNS)] for cell in cells]
        return torch.tensor(flags, dtype=torch.float32).reshape(len(cells), len(labels))
    place = {label: i for i, label in enumerate(labels)}
    found = torch.zeros(len(cells), len(labels))
    for row, cell in zip(found, cells, strict=True):
        if cell == UNKNOWN:
            row.fill_(math.nan)
        row[[place[label] for label in split(cell, separator)]] = 1
    return found


def flag(cell: str) -> float:
    """Whether a row has a label: 1, 0, a number between, true, yes; NaN for an empty cell or ?.

    Raises ValueError for anything else.

    >>> flag("1"), flag("no"), flag("")
    (1.0, 0.0, nan)
    """
    if cell in ("", UNKNOWN):
        return math.nan
    value = float(cell) if is_number(cell) else _FLAGS.get(cell.lower(), -1.0)
    if not 0 <= value <= 1:
        raise ValueError("expected 1 if the row has this label, 0 if not, nothing if not known")
    return value


def wrong_flags(cells: Sequence[str], columns: Sequence[str]) -> list[tuple[int, str, str, str]]:
    """Each cell that is no flag: its row, its column, what stands there and what is wrong."""
    found = []
    for row, cell in enumerate(cells):
        parts = cell.split(COLUMNS)
        if len(parts) != len(columns):
            found.append((row, ", ".join(columns), cell, f"has {COLUMNS!r}, expected 0 or 1"))
            continue
        for column, part in zip(columns, parts, strict=True):
            try:
                flag(part)
            except ValueError as error:
                found.append((row, column, part, str(error)))
    return found


def unseen(
    cells: Sequence[str], splits: Sequence[str], labels: Sequence[str], separator: str
) -> Counter[tuple[str, str]]:
    """By label and split, the rows with a label that no training row has."""
    known = set(labels)
    return Counter(
        (label, name)
        for cell, name in zip(cells, splits, strict=True)
        for label in set(split(cell, separator)) - known
    )


def shares(encoded: Tensor) -> list[float]:
    """The share of the rows (N, K) that have each label, among those where it is known.

    Half a row is added to both sides: no share is 0 or 1, which would be sure without evidence.

    >>> shares(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, math.nan]]))
    [0.625, 0.16666666666666666]
    """
    known = encoded.isfinite().sum(dim=0).double()
    return ((encoded.nan_to_num().double().sum(dim=0) + 0.5) / (known + 1)).tolist()


def describe(encoded: Tensor, labels: Sequence[str]) -> list[str]:
    """How many labels a row has, and warnings about labels that all or none of the rows have."""
    known = encoded.isfinite()
    has = encoded.nan_to_num() >= 0.5
    none, unknown = int((known.all(dim=1) & ~has.any(dim=1)).sum()), int((~known).sum())
    lines = [
        f"{has.sum() / max(1, len(encoded)):.2f} labels a row, {none:,} rows have none of them, "
        f"{unknown:,} labels of rows are not known"
    ]
    for label, yes, there in zip(labels, has.unbind(dim=1), known.unbind(dim=1), strict=True):
        if not yes.any() or bool((yes | ~there).all()):
            which = "all" if yes.any() else "none"
            lines.append(f"warning: {which} of the training rows have the label {label!r}")
    return lines
