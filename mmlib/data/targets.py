"""The target column -> classes or numbers; the split column, or none -> train, val and test."""
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
SPLIT_SEED = 0  # fixed: `evaluate` must find the test rows that `train` left out, whatever seed trained
STEPS = 1000         # so many units of the last digit a deviation must have, for numbers to differ
PART = 0.15          # of the rows, for val and for test


@dataclass(frozen=True)
class Target:
    """One of ``classes``, or a number (``classes`` None) with this training mean and deviation.

    float32 has seven digits. Where numbers differ only beyond them (times: 1,700,000,000 and a few
    seconds), ``centre`` is their mean: it is subtracted in float64, the model predicts what is
    left, and ``centre`` is added to its answer. Elsewhere it is 0.
    """

    classes: list[str] | None
    mean: float = 0.0
    std: float = 1.0
    why: str = ""  # how classes and numbers were told apart, in words
    centre: float = 0.0

    def encode(self, values: Sequence[str]) -> Tensor:
        """(N,) int64 class indices, or float32 numbers less ``centre``."""
        if self.classes is None:
            numbers = [float(value) - self.centre for value in values]
            return torch.tensor(numbers, dtype=torch.float32)
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
        raise ValueError(f"target column {column!r} has numbers around {mean:.6g} that differ by "
                         f"only {std:.2g}, beyond the digits of float64: subtract what they have in common")
    fine = std >= STEPS * np.finfo(np.float32).eps * largest
    why = f"{column}: numbers, since all are numbers and {why}"
    return Target(None, mean, std, why, 0.0 if fine else mean)


def alike(classes: Sequence[str]) -> list[str]:
    """Classes that may be one, in words: they differ in case, spaces, Unicode form, or as 1 and 1.0.

    Classes that look the same (an accent as a sign of its own, or not) are shown by their codes.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(repr(float(plain)) if _is_number(plain) else plain, []).append(name)
    several = [names for names in groups.values() if len(names) > 1]
    looks = [{unicodedata.normalize("NFKC", name) for name in names} for names in several]
    return [" and ".join(map(repr if len(look) == len(names) else ascii, names))
            for names, look in zip(several, looks)]


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
        raise ValueError(f"target column {column!r} has {len(unseen)} class(es) unseen in training: {shown}; "
                         "move rows of each into train, or take these rows out")


def choose_splits(split: Sequence[str] | None, target: Sequence[str] | None, group: Sequence[str] | None, rows: int) -> list[str]:
    """The split of every row. Without a split column: 70% train, 15% val, 15% test; without val rows: 15% of train becomes val.

    Stratified by target (numbers: by fifths) and by ``group`` where there is one: a group is never divided. The same rows
    in, the same splits out: no training seed enters.
    """
    strata = _strata(target, rows)
    if split is None:
        return _divide(np.arange(rows), strata, group, {"train": 1 - 2 * PART, "val": PART, "test": PART}, ["train"] * rows)
    if "val" in split or "train" not in split:
        return list(split)
    train = np.array([i for i, name in enumerate(split) if name == "train"])
    return _divide(train, strata, group, {"train": 1 - PART, "val": PART}, list(split))


def _strata(target: Sequence[str] | None, rows: int) -> np.ndarray:
    """(rows,) int: rows of one stratum are spread over the splits alike."""
    if target is None:
        return np.zeros(rows, dtype=np.int64)
    if len(set(target)) > 20 and all(_is_number(value) for value in target if value):
        numbers = np.array([float(value or 0) for value in target])
        return np.searchsorted(np.quantile(numbers, [0.2, 0.4, 0.6, 0.8]), numbers)
    return np.unique(np.array(target, dtype=object).astype(str), return_inverse=True)[1]


def _divide(chosen: np.ndarray, strata: np.ndarray, group: Sequence[str] | None, parts: dict[str, float], out: list[str]) -> list[str]:
    """Divide the ``chosen`` rows over ``parts``; in ``out`` all of them have the first part's name when this begins."""
    random, names = np.random.default_rng(SPLIT_SEED), list(parts)
    if group is None:
        for stratum in np.unique(strata[chosen]):
            rows = random.permutation(chosen[strata[chosen] == stratum])
            counts = [max(1, round(parts[name] * len(rows))) if len(rows) > 2 else 0 for name in names[1:]]  # one or two stay in train
            for row, name in zip(rows, [n for n, count in zip(names[1:], counts) for _ in range(count)]):
                out[row] = name
        return out
    alone = [group[row] or f"\0{row}" for row in chosen]  # a row without a group is its own
    for row, part in zip(chosen, _divide_groups(strata[chosen], alone, np.array(list(parts.values())), random)):
        out[row] = names[part]
    return out


def _divide_groups(strata: np.ndarray, group: list[str], parts: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(rows,) index of a part. Largest group first, each to the part that it brings closest to its share of every stratum."""
    strata = np.unique(strata, return_inverse=True)[1]
    names, index = np.unique(np.array(group), return_inverse=True)
    counts = np.zeros((len(names), strata.max() + 1))
    np.add.at(counts, (index, strata), 1)
    share = counts / counts.sum(axis=0)                                # (groups, strata)
    left = (counts > 0).sum(axis=0)                                    # groups yet to place that have the stratum
    filled, part = np.zeros((len(parts), counts.shape[1])), np.zeros(len(names), dtype=np.int64)
    order = random.permutation(len(names))
    for g in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        main = counts[g].argmax()
        empty = np.flatnonzero(filled[:, main] == 0)
        candidates = empty if left[main] <= len(empty) else np.arange(len(parts))  # a stratum with three groups has one in each part
        gap = filled[None] + share[g] * np.eye(len(parts))[candidates][:, :, None] - parts[None, :, None]
        part[g] = candidates[(gap ** 2).sum(axis=(1, 2)).argmin()]
        filled[part[g]] += share[g]
        left -= counts[g] > 0
    return part[index]
