"""The target column -> classes or numbers."""
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LARGEST = 1e37  # of numbers: beyond, they and their differences are infinite in float32
STEPS = 1000         # of the last digit: what a deviation must have for differences to be told apart


@dataclass(frozen=True)
class Target:
    """What is to be predicted: one of ``classes``, or a number (``classes`` None) with this training mean and deviation.

    float32 has seven digits: where numbers differ only beyond them (times of a clock: 1,700,000,000 and a few seconds) ``centre``, their
    mean, is taken off in float64, and the model's world is what is left. Added to its answer, it gives the number back.
    """

    classes: list[str] | None
    mean: float = 0.0
    std: float = 1.0
    why: str = ""  # how classes and numbers were told apart, in words
    centre: float = 0.0

    def encode(self, values: Sequence[str]) -> Tensor:
        """(N,) int64 class indices, or float32 numbers less ``centre``."""
        if self.classes is None:
            return torch.tensor([float(value) - self.centre for value in values], dtype=torch.float32)
        index = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([index[value] for value in values], dtype=torch.int64)


def read_target(values: Sequence[str], task: str | None = None, column: str = "target") -> Target:
    """Classes or numbers, from the training rows' cells: ``task`` "classes" or "numbers" says which, None lets the rule decide.

    The rule: numbers when every cell is a number, and some are not whole or there are over 20 different ones that make
    over 5% of the rows; classes otherwise. Classes are sorted, by value when all are whole numbers.
    """
    if task not in (None, "classes", "numbers"):
        raise ValueError(f"task is {task!r}, expected 'classes', 'numbers' or None")
    if not values:
        raise ValueError(f"target column {column!r}: no training rows with a target")
    distinct = set(values)
    strange = sorted(value for value in distinct if not _is_number(value))
    if task == "numbers" and strange:
        raise ValueError(f"target column {column!r} has {strange[0]!r}, expected numbers only, below {LARGEST:g}; "
                         "correct it, or predict classes")
    whole = not strange and all(float(value).is_integer() for value in distinct)
    many = len(distinct) > max(20, 0.05 * len(values))
    if task == "numbers" or (task is None and not strange and (not whole or many)):
        return _numbers(values, column, "some are not whole" if not whole else f"{len(distinct)} different ones in {len(values)} rows")
    classes = sorted(distinct, key=(lambda v: (float(v), v)) if whole else None)
    if len(classes) == 1:
        raise ValueError(f"target column {column!r} has one class in the training rows: {classes[0]!r}; there is nothing to tell apart. "
                         "Name another column with --target, or add rows of another class")
    return Target(classes, why=f"{column}: {len(classes)} classes")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) < LARGEST


def _numbers(values: Sequence[str], column: str, why: str) -> Target:
    numbers = np.array([float(value) for value in values])
    if np.float32(numbers.std()) == 0:
        raise ValueError(f"target column {column!r} has one value in the training rows: {values[0]!r}; there is nothing to learn")
    mean, std, largest = float(numbers.mean()), float(numbers.std()), np.abs(numbers).max()
    if std < STEPS * np.finfo(np.float64).eps * largest:
        raise ValueError(f"target column {column!r} has numbers around {mean:.6g} that differ by {std:.2g} only, beyond the digits that a "
                         "computer keeps: take away what all have in common")
    fine = std >= STEPS * np.finfo(np.float32).eps * largest
    return Target(None, mean, std, f"{column}: numbers, since all are numbers and {why}", 0.0 if fine else mean)


def alike(classes: Sequence[str]) -> list[str]:
    """Lists, in words, of classes that may be one: they differ only in case, spaces, Unicode form (e with its accent as one sign or two)
    or as 1 and 1.0. What would look the same is shown by its codes.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(repr(float(plain)) if _is_number(plain) else plain, []).append(name)
    return [" and ".join(map(repr if len({unicodedata.normalize("NFKC", name) for name in names}) == len(names) else ascii, names))
            for names in groups.values() if len(names) > 1]


def check_target(target: Target, values: Sequence[str], splits: Sequence[str], column: str) -> None:
    """Raise ValueError where rows have a class that no training row has (naming class, split and count), or no number."""
    if target.classes is None:
        bad = [value for value in values if not _is_number(value)]
        if bad:
            raise ValueError(f"target column {column!r} has {bad[0]!r}, expected a number as in training")
        return
    unseen = Counter((value, split) for value, split in zip(values, splits) if value not in set(target.classes))
    if unseen:
        shown = ", ".join(f"{value!r} ({count} rows in {split})" for (value, split), count in sorted(unseen.items())[:10])
        count = len({value for value, _ in unseen})
        raise ValueError(
            f"target column {column!r} has {count} class(es) unseen in training: {shown}; put rows "
            "of each into train (by a split column, where the split is drawn here), or take these "
            "rows out")
