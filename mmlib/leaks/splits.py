"""The order of the splits, and the values that stand in several of them."""

from collections.abc import Sequence

import numpy as np


def crossing(values: Sequence[str], splits: np.ndarray) -> tuple[np.ndarray, int]:
    """(rows,) bool: rows whose value also stands in an earlier split; and how many such values.

    Empty cells do not count.
    """
    order = {name: place for place, name in enumerate(split_order(splits))}
    first: dict[str, int] = {}
    for value, name in zip(values, splits):
        first[value] = min(first.get(value, len(order)), order[name])
    rows = np.array(
        [bool(value) and order[name] > first[value] for value, name in zip(values, splits)]
    )
    return rows, len({value for value, row in zip(values, rows) if row})


def split_order(splits: np.ndarray) -> list[str]:
    """The names of the splits in the order of their use: train, val, test, others."""
    usual = ["train", "val", "test"]
    return sorted(
        set(splits.tolist()),
        key=lambda name: (usual.index(name) if name in usual else len(usual), name),
    )


def describe_crossing(
    values: Sequence[str], splits: np.ndarray, rows: Sequence[str], what: str
) -> str:
    """How many values, and rows of which splits, stand in several splits, with an example.

    ``rows`` says where each row stands in the manifest, ``what`` names the values: "454 of 900
    scenes stand in both train and test (1,362 rows of test; first line 9 as line 3)".
    """
    order, (repeats, several) = split_order(splits), crossing(values, splits)
    later = np.flatnonzero(repeats).tolist()
    torn = {values[row] for row in later}
    homes = {str(name) for value, name in zip(values, splits) if value in torn}
    names = [name for name in order if name in homes]
    counts = [(name, int((splits[later] == name).sum())) for name in names]
    parts = [f"{count:,} rows of {name}" for name, count in counts if count]
    where = f"both {names[0]} and {names[1]}"
    if len(names) != 2:
        where = "several of " + ", ".join(names)
    first = min(
        (row for row, value in enumerate(values) if value == values[later[0]]),
        key=lambda row: order.index(str(splits[row])),
    )
    return (
        f"{several:,} of {len(set(values) - {''}):,} {what} stand in {where} ({', '.join(parts)}; "
        f"first {rows[later[0]]} as {rows[first]})"
    )
