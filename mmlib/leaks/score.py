"""What can be told from a column, cross-validated, and the bound beyond which that is
suspicious.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.manifest import Manifest
from mmlib.data.targets import read_target

FOLDS = 5
MAX_ROWS = 5_000  # a score within half a point needs no more
# standard errors over chance: one false alarm in millions of looks, so that many looks stay clean
ERRORS = 5


class Task(NamedTuple):
    """The target as the checks see it. Numbers are cut into fifths."""

    codes: np.ndarray  # (rows,) class of each row, -1 = no target
    classes: list[str]
    folds: np.ndarray  # (rows,) 0 .. FOLDS - 1; a group lies in one fold
    groups: np.ndarray  # (rows,) group of each row; its own where there are none


class Score(NamedTuple):
    """Accuracy on held-out rows, beside the bound it was held against and the share of the
    commonest class.
    """

    accuracy: float
    bound: float
    majority: float

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.1%} of held-out rows (bound {self.bound:.1%}, majority "
            f"{self.majority:.1%})"
        )

    @property
    def suspicious(self) -> bool:
        return self.accuracy >= self.bound


class ClassScore(NamedTuple):
    """How well one class is told from all others: mean of the shares of its own and of the other
    held-out rows that are told right. Chance is a half, however rare the class is."""

    name: str
    accuracy: float
    bound: float

    def __str__(self) -> str:
        return (
            f"class {self.name!r} from all others, {self.accuracy:.1%} of held-out rows, both "
            f"sides weighed alike (bound {self.bound:.1%}, chance 50.0%)"
        )

    @property
    def suspicious(self) -> bool:
        return self.accuracy >= self.bound


def read_task(manifest: Manifest, seed: int) -> Task | None:
    """The manifest's target, or None where it has none that can be told apart (that is said
    where training begins).
    """
    if manifest.target is None:
        return None
    known = np.array([bool(cell) for cell in manifest.target])
    try:
        target = read_target(
            [cell for cell in manifest.target if cell], column=manifest.target_name or ""
        )
        values = target.encode([cell for cell in manifest.target if cell]).numpy()
    except ValueError:
        return None
    classes = target.classes
    if classes is None:
        values = np.unique(
            np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values), return_inverse=True
        )[1]
        classes = [f"part {part}" for part in range(1, values.max() + 2)]
    codes = np.full(len(manifest), -1)
    codes[known] = values
    alone = [f"\0{row}" for row in range(len(manifest))]
    names = (
        alone
        if manifest.group is None
        else [name or own for name, own in zip(manifest.group, alone)]
    )
    groups = np.unique(np.array(names), return_inverse=True)[1]
    return Task(
        codes,
        classes,
        np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % FOLDS,
        groups,
    )


def choose_rows(task: Task, usable: np.ndarray, seed: int) -> np.ndarray:
    """Rows with a target that are ``usable`` (rows,) bool: at most MAX_ROWS, drawn by ``seed``;
    none where there is one class only.
    """
    rows = np.flatnonzero(usable & (task.codes >= 0))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
    several = len(np.unique(task.codes[rows])) > 1 and len(np.unique(task.folds[rows])) > 1
    return rows if several else rows[:0]


def bound(task: Task, rows: np.ndarray, room: float) -> tuple[float, float]:
    """The bound and the majority's share.

    The bound leaves ``room`` of the majority's errors and lies ERRORS standard errors over it.
    The standard error counts groups, not rows: rows of one group are no independent witnesses.
    """
    majority = np.bincount(task.codes[rows]).max() / len(rows)
    error = np.sqrt(majority * (1 - majority) / len(np.unique(task.groups[rows])))
    return max(1 - room * (1 - majority), majority + ERRORS * error), majority


def lookup(task: Task, rows: np.ndarray, values: Sequence[Any], room: float) -> Score:
    """A table value -> commonest class, made on four folds and asked on the fifth; ``values``
    has one for each of ``rows``.
    """
    return score(task, rows, lookup_shares(task, rows, values), room)


def tree(task: Task, rows: np.ndarray, features: Any, leaves: int, room: float) -> Score:
    """A decision tree of at most ``leaves`` leaves on ``features`` (len(rows), F), dense or sparse,
    in five folds.

    A leaf per class is the least that can name every class: what so small a tree gets right needs
    no looking, reading or hearing.
    """
    return score(task, rows, tree_shares(task, rows, features, leaves), room)


def score(task: Task, rows: np.ndarray, shares: np.ndarray, room: float) -> Score:
    """How often the class of the largest share (len(rows), K) is right, beside its bound."""
    codes = np.unique(task.codes[rows])
    right = np.mean(codes[shares.argmax(axis=1)] == task.codes[rows])
    return Score(float(right), *bound(task, rows, room))


def lookup_shares(task: Task, rows: np.ndarray, values: Sequence[Any]) -> np.ndarray:
    """(len(rows), K) float32: share of each class that ``rows`` have, among the rows of other folds
    with the same value; among all of them where none has it."""
    names: dict[Any, int] = {}
    value = np.array([names.setdefault(value, len(names)) for value in values])
    codes, code = np.unique(task.codes[rows], return_inverse=True)
    shares = np.zeros((len(rows), len(codes)), np.float32)
    for held in _held(task, rows):
        prior = np.bincount(code[~held], minlength=len(codes)).astype(np.float32)
        table = np.zeros((len(names), len(codes)), np.float32)
        np.add.at(table, (value[~held], code[~held]), 1)
        table[table.sum(axis=1) == 0] = prior
        table += 1e-3 * prior / max(prior.sum(), 1)  # of equal ones the commoner
        shares[held] = (table / table.sum(axis=1, keepdims=True))[value[held]]
    return shares


def tree_shares(task: Task, rows: np.ndarray, features: Any, leaves: int) -> np.ndarray:
    """(len(rows), K) float32: share of each class that ``rows`` have, in the row's leaf of a tree
    grown on the other folds."""
    codes, code = np.unique(task.codes[rows], return_inverse=True)
    shares = np.zeros((len(rows), len(codes)), np.float32)
    for held in _held(task, rows):
        model = grow(features[~held], code[~held], leaves)
        shares[np.ix_(held, model.classes_)] = model.predict_proba(features[held])
    return shares


def grow(features: Any, codes: np.ndarray, leaves: int) -> Any:
    """scikit-learn's tree of at most ``leaves`` leaves, fitted to ``features`` (rows, F)."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        max_leaf_nodes=max(2, leaves), min_samples_leaf=2, random_state=0
    )
    with warnings.catch_warnings():  # that many classes have one row: the bounds know
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return model.fit(features, codes)


def _held(task: Task, rows: np.ndarray) -> Iterator[np.ndarray]:
    """(len(rows),) bool, for each fold that has rows in it and rows beside it."""
    for fold in range(FOLDS):
        held = task.folds[rows] == fold
        if held.any() and not held.all():
            yield held


def one_class(task: Task, rows: np.ndarray, shares: np.ndarray, room: float) -> ClassScore:
    """The class that ``shares`` (len(rows), K) tell best from all others, and its bound.

    A row is taken for one of the class where its share is over the class's own: so a class counts
    as much as all others together. With many classes chance has many tries, and the bound rises.
    """
    from scipy.stats import norm

    codes, code = np.unique(task.codes[rows], return_inverse=True)
    mine = code[:, None] == np.arange(len(codes))  # (rows, K)
    taken = np.zeros_like(mine)
    for held in _held(task, rows):
        taken[held] = shares[held] > mine[~held].mean(axis=0) + 1e-6
    right = (
        (taken & mine).sum(axis=0) / mine.sum(axis=0)
        + (~taken & ~mine).sum(axis=0) / (~mine).sum(axis=0)
    ) / 2  # (K,)
    groups = task.groups[rows]
    inside = np.array([len(np.unique(groups[own])) for own in mine.T])
    outside = np.array([len(np.unique(groups[~own])) for own in mine.T])
    errors = norm.isf(norm.sf(ERRORS) / len(codes))
    bounds = np.maximum(1 - room / 2, 0.5 + errors * np.sqrt(1 / inside + 1 / outside) / 4)
    best = int(np.argmax(right - bounds))
    return ClassScore(task.classes[codes[best]], float(right[best]), float(bounds[best]))


def told_by(task: Task, rows: np.ndarray, shares: np.ndarray, room: float) -> str | None:
    """What the ``shares`` (len(rows), K) tell beyond their bounds: the target, else one class;
    or None.
    """
    overall, single = score(task, rows, shares, room), one_class(task, rows, shares, room)
    if overall.suspicious:
        return f"the target in {overall}" + (
            f", class {single.name!r} best" if shares.shape[1] > 2 else ""
        )
    return str(single) if single.suspicious else None
