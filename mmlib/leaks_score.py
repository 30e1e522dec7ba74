"""What can be told from a column, cross-validated, and the bound beyond which that is suspicious."""
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.manifest import Manifest
from mmlib.data.targets import read_target

FOLDS = 5
MAX_ROWS = 5_000   # a score within half a point needs no more
ERRORS = 5         # standard errors over chance: one false alarm in millions of looks, so that many looks stay clean


class Task(NamedTuple):
    """The target as the checks see it. Numbers are cut into fifths."""

    codes: np.ndarray      # (rows,) class of each row, -1 = no target
    classes: list[str]
    folds: np.ndarray      # (rows,) 0 .. FOLDS - 1; a group lies in one fold
    groups: np.ndarray     # (rows,) group of each row; its own where there are none


class Score(NamedTuple):
    """Accuracy on held-out rows, beside the bound it was held against and the share of the commonest class."""

    accuracy: float
    bound: float
    majority: float

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} of held-out rows (bound {self.bound:.1%}, majority {self.majority:.1%})"

    @property
    def suspicious(self) -> bool:
        return self.accuracy >= self.bound


def read_task(manifest: Manifest, seed: int) -> Task | None:
    """The manifest's target, or None where it has none that can be told apart (that is said where training begins)."""
    if manifest.target is None:
        return None
    known = np.array([bool(cell) for cell in manifest.target])
    try:
        target = read_target([cell for cell in manifest.target if cell], column=manifest.target_name or "")
        values = target.encode([cell for cell in manifest.target if cell]).numpy()
    except ValueError:
        return None
    classes = target.classes
    if classes is None:
        values = np.unique(np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values), return_inverse=True)[1]
        classes = [f"part {part}" for part in range(1, values.max() + 2)]
    codes = np.full(len(manifest), -1)
    codes[known] = values
    alone = [f"\0{row}" for row in range(len(manifest))]
    names = alone if manifest.group is None else [name or own for name, own in zip(manifest.group, alone)]
    groups = np.unique(np.array(names), return_inverse=True)[1]
    return Task(codes, classes, np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % FOLDS, groups)


def choose_rows(task: Task, usable: np.ndarray, seed: int) -> np.ndarray:
    """Rows with a target that are ``usable`` (rows,) bool: at most MAX_ROWS, drawn by ``seed``; none where there is one class only."""
    rows = np.flatnonzero(usable & (task.codes >= 0))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
    several = len(np.unique(task.codes[rows])) > 1 and len(np.unique(task.folds[rows])) > 1
    return rows if several else rows[:0]


def bound(task: Task, rows: np.ndarray, room: float) -> tuple[float, float]:
    """The bound and the majority's share. The bound leaves ``room`` of the majority's errors and lies ERRORS standard errors over it.

    The standard error counts groups, not rows: rows of one group are no independent witnesses.
    """
    majority = np.bincount(task.codes[rows]).max() / len(rows)
    error = np.sqrt(majority * (1 - majority) / len(np.unique(task.groups[rows])))
    return max(1 - room * (1 - majority), majority + ERRORS * error), majority


def lookup(task: Task, rows: np.ndarray, values: Sequence[Any], room: float) -> Score:
    """A table value -> commonest class, made on four folds and asked on the fifth; ``values`` has one for each of ``rows``."""
    right = 0
    for fold in range(FOLDS):
        held = task.folds[rows] == fold
        pairs = Counter((value, code) for value, code, out in zip(values, task.codes[rows].tolist(), held) if not out)
        table = {value: code for (value, code), _ in sorted(pairs.items(), key=lambda pair: pair[1])}  # the commonest comes last
        top = np.bincount(task.codes[rows][~held], minlength=1).argmax()
        right += sum(table.get(value, top) == code for value, code, out in zip(values, task.codes[rows].tolist(), held) if out)
    return Score(right / len(rows), *bound(task, rows, room))


def tree(task: Task, rows: np.ndarray, features: Any, leaves: int, room: float) -> Score:
    """A decision tree of at most ``leaves`` leaves on ``features`` (len(rows), F), dense or sparse, in five folds.

    A leaf per class is the least that can name every class: what so small a tree gets right needs no looking, reading or hearing.
    """
    from sklearn.tree import DecisionTreeClassifier
    right = 0
    for fold in range(FOLDS):
        held = task.folds[rows] == fold
        if held.any() and not held.all():
            model = DecisionTreeClassifier(max_leaf_nodes=max(2, leaves), min_samples_leaf=2, random_state=0)
            right += (model.fit(features[~held], task.codes[rows][~held]).predict(features[held]) == task.codes[rows][held]).sum()
    return Score(right / len(rows), *bound(task, rows, room))
