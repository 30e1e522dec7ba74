"""The target column -> classification, regression or labels: classes, numbers, or several of K."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmlib.data import labels as several
from mmlib.data.numbers import continuous, is_number, not_numbers
from mmlib.renamed import OLD_TASKS, warn

TASKS = ("classification", "regression", "labels")
STEPS = 1000  # the least deviation of different numbers, in units of their last digit


@dataclass(frozen=True)
class Target:
    """What a model predicts: one of ``classes``, any of ``labels``, or a number (both are None).

    float32 has seven digits. Where numbers differ only beyond them (times: 1,700,000,000 and a few
    seconds), ``centre`` is their mean: it is subtracted in float64, the model predicts what is
    left, and ``centre`` is added to its answer. Elsewhere it is 0.

    >>> Target(["cat", "dog"]).encode(["dog", "cat"])
    tensor([1, 0])
    >>> Target(None, labels=["red", "round"], separator=";").encode(["round;red", ""])
    tensor([[1., 1.],
            [0., 0.]])
    """

    classes: list[str] | None
    mean: float = 0.0  # of the training rows, where the target is a number
    std: float = 1.0
    why: str = ""  # what was found, and for numbers why it is a regression, in words
    centre: float = 0.0
    labels: list[str] | None = None
    separator: str | None = None  # of the labels in a cell; None: each label has a column
    shares: list[float] = field(default_factory=list)  # of the training rows that have each label

    @property
    def task(self) -> str:
        """One of ``TASKS``."""
        if self.labels is not None:
            return "labels"
        return "regression" if self.classes is None else "classification"

    def encode(self, values: Sequence[str]) -> Tensor:
        """(N,) int64 class indices, float32 numbers less ``centre``, or (N, K) float32 labels."""
        if self.labels is not None:
            return several.encode(values, self.labels, self.separator)
        if self.classes is None:
            numbers = [float(value) - self.centre for value in values]
            return torch.tensor(numbers, dtype=torch.float32)
        index = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([index[value] for value in values], dtype=torch.int64)


def read_target(
    values: Sequence[str],
    task: str | None = None,
    column: str = "target",
    columns: Sequence[str] = (),
) -> Target:
    """Classes, numbers or labels, from the cells of the training rows.

    ``task`` is one of ``TASKS``; None lets a rule decide: labels where the target has several
    ``columns``; regression when every cell is a number, and some are not whole or there are over 20
    different ones that make over 5% of the rows; else classification. Classes are sorted, by value
    when all are whole numbers. Raises ValueError, naming ``column``, where there is nothing to
    learn, no number to predict, and where cells were meant to be numbers and are not.

    >>> read_target(["dog", "cat", "dog"]).classes
    ['cat', 'dog']
    >>> read_target(["0.5", "1.5", "4"]).mean
    2.0
    >>> read_target(["0.5", "1.5", "4"], task="classification").classes
    ['0.5', '1.5', '4']
    >>> read_target(["red;round", "red", ""], task="labels").labels
    ['red', 'round']
    """
    task = check_task(task)
    if not values:
        raise ValueError(f"target column {column!r}: no training rows with a target")
    if columns and task not in (None, "labels"):
        raise ValueError(
            f"the target has the columns {list(columns)}, one for each label, and task is {task!r}"
            ": name one column, or choose task='labels'"
        )
    if task == "labels" or columns:
        return _labels(values, column, columns)
    for place, why in odd_numbers(values, task).items():
        raise ValueError(
            f"target column {column!r} should hold numbers, but has {values[place]!r}: {why}. "
            f"{TO_CORRECT}"
        )
    distinct = set(values)
    whole = all(is_number(value) and float(value).is_integer() for value in distinct)
    numbers = [float(value) for value in values if is_number(value)]
    measured = len(numbers) == len(values) and continuous(numbers, len(values))
    if task == "regression" or (task is None and measured):
        many = f"there are {len(distinct)} different ones in {len(values)} rows"
        return _numbers(values, column, many if whole else "some are not whole")
    classes = sorted(distinct, key=lambda v: (float(v), v)) if whole else sorted(distinct)
    if len(classes) == 1:
        raise ValueError(
            f"target column {column!r} has one class in the training rows: {classes[0]!r}; there "
            "is nothing to learn. Name another column with --target, or add rows of another class"
        )
    return Target(classes, why=f"{column}: {len(classes)} classes")


TO_CORRECT = (
    "In such a column are expected numbers only. Correct these cells; where the number is not "
    "known, empty the cell and leave its row out with --on-error skip; if these are names of "
    "classes, choose classification (--task classification)"
)


def odd_numbers(values: Sequence[str], task: str | None) -> dict[int, str]:
    """By place, what is wrong with cells that should be numbers; nothing where they are classes."""
    if task not in (None, "regression"):
        return {}
    return not_numbers(values, surely=task == "regression")


def _labels(values: Sequence[str], column: str, columns: Sequence[str]) -> Target:
    if columns:
        labels, separator, how = list(columns), None, "a column each"
    else:
        labels, separator = several.find_labels(values, column)
        how = f"separated by {separator!r}"
    encoded = several.encode(values, labels, separator)
    why = f"{column}: {len(labels)} labels, {how}"
    return Target(None, why=why, labels=labels, separator=separator, shares=several.shares(encoded))


def check_task(task: str | None, depth: int = 2) -> str | None:
    """The task, under its present name; an old one warns, see ``renamed.warn`` for ``depth``.

    Raises ValueError for an unknown task.
    """
    if task in OLD_TASKS:
        warn(f"task={task!r}", f"task={OLD_TASKS[task]!r}", depth + 1)
        return OLD_TASKS[task]
    if task is not None and task not in TASKS:
        raise ValueError(f"task is {task!r}, expected {', '.join(map(repr, TASKS))} or None")
    return task


def _numbers(values: Sequence[str], column: str, why: str) -> Target:
    numbers = np.array([float(value) for value in values])
    if np.float32(numbers.std()) == 0:
        raise ValueError(
            f"target column {column!r} has one value in the training rows: {values[0]!r}; there "
            "is nothing to learn"
        )
    mean, std, largest = float(numbers.mean()), float(numbers.std()), np.abs(numbers).max()
    if std < STEPS * np.finfo(np.float64).eps * largest:
        raise ValueError(
            f"target column {column!r} has numbers around {mean:.6g} that differ by only "
            f"{std:.2g}, beyond the digits of float64: subtract what they have in common"
        )
    fine = std >= STEPS * np.finfo(np.float32).eps * largest
    why = f"{column}: regression, since all cells are numbers and {why}"
    return Target(None, mean, std, why, 0.0 if fine else mean)


def alike(classes: Sequence[str]) -> list[str]:
    """Classes that may be one, in words.

    They differ only in case, spaces or Unicode form, or as 1 and 1.0 do. Classes that look the same
    (an accent as a character of its own, or not) are shown by their codes.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(repr(float(plain)) if is_number(plain) else plain, []).append(name)
    several = [names for names in groups.values() if len(names) > 1]
    looks = [{unicodedata.normalize("NFKC", name) for name in names} for names in several]
    return [
        " and ".join(map(repr if len(look) == len(names) else ascii, names))
        for names, look in zip(several, looks, strict=True)
    ]


def check_target(target: Target, values: Sequence[str], splits: Sequence[str], column: str) -> None:
    """Raise ValueError where rows have a class that no training row has, or no number.

    The message names class, split and count.
    """
    if target.labels is not None:
        unseen = Counter[tuple[str, str]]()
        if target.separator is not None:
            unseen = several.unseen(values, splits, target.labels, target.separator)
        _refuse_unseen(unseen, "label(s)", column)
        return
    if target.classes is None:
        bad = [value for value in values if not is_number(value)]
        if bad:
            raise ValueError(
                f"target column {column!r} has {bad[0]!r}, expected a number as in training"
            )
        return
    known = set(target.classes)
    pairs = zip(values, splits, strict=True)
    unseen = Counter((value, split) for value, split in pairs if value not in known)
    _refuse_unseen(unseen, "class(es)", column)


def _refuse_unseen(unseen: Counter[tuple[str, str]], what: str, column: str) -> None:
    """Raise ValueError where rows have a class or a label that no training row has."""
    if not unseen:
        return
    shown = ", ".join(
        f"{value!r} ({count} rows in {split})"
        for (value, split), count in sorted(unseen.items())[:10]
    )
    count = len({value for value, _ in unseen})
    raise ValueError(
        f"target column {column!r} has {count} {what} unseen in training: {shown}; put rows "
        "of each into train (by a split column, where the split is drawn here), or take these "
        "rows out"
    )
