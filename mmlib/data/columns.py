"""Numbers and categories of a table: what is fitted on the training rows, and cells -> a store."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmlib.data.numbers import is_number, not_numbers
from mmlib.data.problems import did_you_mean
from mmlib.data.store import Columns
from mmlib.data.table import BETWEEN, join_cells, split_cell

FARTHEST = 10.0  # standard deviations: farther out, a number counts as that
MOST = 10_000  # categories of a column; rarer ones are as if never seen
MANY = 0.5  # categories per training row: with more, a column names rows
_CURE = (
    "; correct it, or empty the cell where the value is not known; if the column holds categories, "
    "write all of them as words"
)


@dataclass(frozen=True)
class Fitted:
    """The columns of one table: mean and deviation of each number, the values of each category.

    A column is of numbers where all its training cells are numbers, otherwise of categories. The
    order of the tokens is that of ``numbers``, then that of ``categories``.

    >>> table = Fitted.fit(["age", "colour"], [join_cells(["3", "red"]), join_cells(["5", ""])])
    >>> table
    Fitted(columns=['age', 'colour'], numbers={'age': [4.0, 1.0]}, categories={'colour': ['red']})
    >>> store = table.encode([join_cells(["6", "blue"])])
    >>> store.numbers, store.categories, store.mask
    (array([[2.]], dtype=float32), array([[0]]), array([[ True, False]]))
    """

    columns: list[str]
    numbers: dict[str, list[float]] = field(default_factory=dict)
    categories: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def fit(cls, columns: Sequence[str], rows: Sequence[str]) -> "Fitted":
        """From the joined cells of the training rows.

        Raises ValueError for a column without a training cell.
        """
        numbers, categories = {}, {}
        for column, cells in _by_column(columns, rows).items():
            there = [cell for cell in cells if cell]
            if not there:
                raise ValueError(
                    f"column {column!r} of the table is empty in all training rows: leave it out"
                )
            if all(is_number(cell) for cell in there):
                values = np.array([float(cell) for cell in there])
                numbers[column] = [float(values.mean()), float(values.std())]
            else:
                often = Counter(there).most_common(MOST)
                categories[column] = sorted(value for value, _ in often)
        return cls(list(columns), numbers, categories)

    def encode(self, rows: Sequence[str]) -> Columns:
        """Joined cells (R) -> scaled numbers, categories, and which of them are there.

        A number is its distance from the training mean in standard deviations, at most
        ``FARTHEST``; in a column of one value all are 0. A category that training never had is 0
        and missing.
        """
        cells = _by_column(self.columns, rows)
        numbers = np.zeros((len(rows), len(self.numbers)), dtype=np.float32)
        categories = np.zeros((len(rows), len(self.categories)), dtype=np.int64)
        there = np.zeros(numbers.shape, dtype=bool)
        for i, (column, (mean, std)) in enumerate(self.numbers.items()):
            there[:, i] = [bool(cell) for cell in cells[column]]
            values = np.array([float(cell) if cell else mean for cell in cells[column]])
            scaled = (values - mean) / (std if std > 1e-12 * abs(mean) else math.inf)
            numbers[:, i] = scaled.clip(-FARTHEST, FARTHEST)
        for i, (column, known) in enumerate(self.categories.items()):
            place = {value: k for k, value in enumerate(known, 1)}
            categories[:, i] = [place.get(cell, 0) for cell in cells[column]]
        return Columns(numbers, categories, np.concatenate([there, categories > 0], axis=1))

    def cell(self, values: Mapping[str, Any]) -> str:
        """The joined cells of one sample, given by column; missing, None and NaN are empty.

        Raises ValueError for an unknown column, and where a number is none.
        """
        for name in values:
            if name not in self.columns:
                hint = did_you_mean(name, self.columns)
                raise ValueError(f"no column {name!r}; the table has {self.columns}{hint}")
        cells = {name: _as_text(values.get(name)) for name in self.columns}
        for name in self.numbers:
            if cells[name] and not is_number(cells[name]):
                (why,) = not_numbers([cells[name]], surely=True).values()
                raise ValueError(f"column {name!r}, {cells[name]!r}: {why}")
        return join_cells(list(cells.values()))

    def unseen(self, rows: Sequence[str]) -> int:
        """How many cells of these rows have a category that training never had."""
        cells = _by_column(self.columns, rows)
        return sum(
            bool(cell) and cell not in known
            for column, known in ((c, set(v)) for c, v in self.categories.items())
            for cell in cells[column]
        )


def _by_column(columns: Sequence[str], rows: Sequence[str]) -> dict[str, list[str]]:
    split = [split_cell(row, len(columns)) for row in rows]
    return {column: [row[i] for row in split] for i, column in enumerate(columns)}


def _as_text(value: Any) -> str:
    missing = value is None or isinstance(value, float) and math.isnan(value)
    return "" if missing else str(value).strip().replace(BETWEEN, " ")


def wrong_cells(
    columns: Sequence[str], rows: Sequence[str], fitted: Fitted | None
) -> list[tuple[int, str, str, str]]:
    """Each cell of a column of numbers that is none: row, column, cell, and what is wrong.

    Before anything is fitted, a column in which nine of ten cells were meant to be numbers is one
    of numbers.
    """
    found = []
    for column, cells in _by_column(columns, rows).items():
        there = [i for i, cell in enumerate(cells) if cell]
        surely = fitted is not None and column in fitted.numbers
        if fitted is not None and not surely:
            continue
        odd = not_numbers([cells[i] for i in there], surely=surely, few=True)
        found += [(there[i], column, cells[there[i]], why + _CURE) for i, why in odd.items()]
    return found


def describe(fitted: Fitted, train: Sequence[str], others: Sequence[str]) -> list[str]:
    """What the columns hold, in words, and warnings about those that can tell nothing."""
    sizes = [f"{name} ({len(known)})" for name, known in fitted.categories.items()]
    parts = [f"numbers {', '.join(fitted.numbers)}"] * bool(fitted.numbers)
    parts += [f"categories {', '.join(sizes)}"] * bool(sizes)
    if unseen := fitted.unseen(others):
        parts.append(f"{unseen:,} cells of categories never seen in training")
    lines = ["; ".join(parts)]
    constant = [name for name, (mean, std) in fitted.numbers.items() if std <= 1e-12 * abs(mean)]
    constant += [name for name, known in fitted.categories.items() if len(known) == 1]
    lines += [f"warning: column {name!r} has one value in training" for name in constant]
    lines += [
        f"warning: column {name!r} has {len(known):,} categories in {len(train):,} training rows: "
        "it rather names the rows, and is learned by heart; leave it out"
        for name, known in fitted.categories.items()
        if len(known) > max(20, MANY * len(train))
    ]
    return lines
