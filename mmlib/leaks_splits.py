"""Which split comes first, and what stands in several: what all checks across splits ask."""
from collections.abc import Sequence

import numpy as np


def crossing(values: Sequence[str], splits: np.ndarray) -> tuple[np.ndarray, int]:
    """(rows,) bool: rows whose value also stands in an earlier split; and how many values stand in several. Empty cells do not count."""
    order = {name: place for place, name in enumerate(split_order(splits))}
    first: dict[str, int] = {}
    for value, name in zip(values, splits):
        first[value] = min(first.get(value, len(order)), order[name])
    rows = np.array([bool(value) and order[name] > first[value] for value, name in zip(values, splits)])
    return rows, len({value for value, row in zip(values, rows) if row})


def split_order(splits: np.ndarray) -> list[str]:
    """Split names in the order of their use: train, val, test, others."""
    usual = ["train", "val", "test"]
    return sorted(set(splits.tolist()), key=lambda name: (usual.index(name) if name in usual else len(usual), name))
