"""How well cheap features predict the target on held-out rows, and the bound of what is suspicious.

Every score is cross-validated: a small model is fitted on four folds and judged on the fifth.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.manifest import Manifest
from mmlib.data.targets import read_target

FOLDS = 5
MAX_ROWS = 5_000  # enough rows for a score within half a point
# Standard errors over chance. A clean manifest is tested many times (each column, class and split);
# at five, a false alarm comes once in millions of tests.
ERRORS = 5


class Task(NamedTuple):
    """The target as the checks see it: classes. A target of numbers is cut into fifths."""

    codes: np.ndarray  # (rows,) class of each row, -1 = no target
    classes: list[str]
    folds: np.ndarray  # (rows,) 0 .. FOLDS - 1; a group lies in one fold
    groups: np.ndarray  # (rows,) group of each row; without a group column each row has its own


class Score(NamedTuple):
    """Accuracy on held-out rows, the bound for it, and the share of the most frequent class."""

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
        """Whether the bound is reached."""
        return self.accuracy >= self.bound


class ClassScore(NamedTuple):
    """How well one class is separated from all others: balanced accuracy on held-out rows.

    That is the mean of two shares: of its own rows that are recognised, and of the other rows that
    are rejected. Chance is a half, however rare the class is.
    """

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
        """Whether the bound is reached."""
        return self.accuracy >= self.bound


def read_task(manifest: Manifest, seed: int) -> Task | None:
    """The manifest's target, or None where it has none that a model could learn.

    Why a target cannot be learned is said where training begins. Labels with a column each are not
    judged.
    """
    if manifest.target is None or manifest.target_columns:
        return None
    known = np.array([bool(cell) for cell in manifest.target])
    cells = [cell for cell in manifest.target if cell]
    try:
        target = read_target(cells, column=manifest.target_name or "")
        values = target.encode(cells).numpy()
    except ValueError:
        return None
    classes = target.classes
    if classes is None:
        fifth = np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values)
        values = np.unique(fifth, return_inverse=True)[1]
        classes = [f"part {part}" for part in range(1, values.max() + 2)]
    codes = np.full(len(manifest), -1)
    codes[known] = values
    groups = _groups(manifest)
    folds = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % FOLDS
    return Task(codes, classes, folds, groups)


def _groups(manifest: Manifest) -> np.ndarray:
    """(rows,) the group of each row; a row without a group's name has a group of its own."""
    given = [""] * len(manifest) if manifest.group is None else manifest.group
    names = [name or f"\0{row}" for row, name in enumerate(given)]
    return np.unique(np.array(names), return_inverse=True)[1]


def choose_rows(task: Task, usable: np.ndarray, seed: int) -> np.ndarray:
    """Rows with a target that are ``usable`` (rows,) bool: at most MAX_ROWS, drawn by ``seed``.

    No rows where they have one class or one fold only: there is nothing to predict.
    """
    rows = np.flatnonzero(usable & (task.codes >= 0))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
    several = len(np.unique(task.codes[rows])) > 1 and len(np.unique(task.folds[rows])) > 1
    return rows if several else rows[:0]


def bound(task: Task, rows: np.ndarray, room: float) -> tuple[float, float]:
    """The accuracy that is suspicious, and that of always answering the most frequent class.

    At the bound only the share ``room`` of the majority's errors is left, and it lies at least
    ERRORS standard errors above the majority. The standard error counts groups, not rows: rows of
    one group are not independent.
    """
    majority = np.bincount(task.codes[rows]).max() / len(rows)
    error = np.sqrt(majority * (1 - majority) / len(np.unique(task.groups[rows])))
    return max(1 - room * (1 - majority), majority + ERRORS * error), majority


def score_lookup(task: Task, rows: np.ndarray, values: Sequence[Any], room: float) -> Score:
    """The score of a table that gives each value its most frequent class.

    ``values`` has one value for each of ``rows``.
    """
    return score(task, rows, lookup_shares(task, rows, values), room)


def score_tree(task: Task, rows: np.ndarray, features: Any, leaves: int, room: float) -> Score:
    """The score of a decision tree with at most ``leaves`` leaves.

    ``features`` is (len(rows), F), dense or sparse. One leaf for each class is the smallest tree
    that can name every class: what it gets right takes no seeing, reading or hearing.
    """
    return score(task, rows, tree_shares(task, rows, features, leaves), room)


def score(task: Task, rows: np.ndarray, shares: np.ndarray, room: float) -> Score:
    """How often the class with the largest of ``shares`` (len(rows), K) is right."""
    codes = np.unique(task.codes[rows])
    right = np.mean(codes[shares.argmax(axis=1)] == task.codes[rows])
    return Score(float(right), *bound(task, rows, room))


def lookup_shares(task: Task, rows: np.ndarray, values: Sequence[Any]) -> np.ndarray:
    """(len(rows), K) float32: the share of each class among other folds' rows of the same value.

    K counts the classes that ``rows`` have. Where no row of the other folds has the value, it is
    the share among all of them.
    """
    names: dict[Any, int] = {}
    value = np.array([names.setdefault(value, len(names)) for value in values])
    codes, code = np.unique(task.codes[rows], return_inverse=True)
    shares = np.zeros((len(rows), len(codes)), np.float32)
    for held in _held_out(task, rows):
        prior = np.bincount(code[~held], minlength=len(codes)).astype(np.float32)
        table = np.zeros((len(names), len(codes)), np.float32)
        np.add.at(table, (value[~held], code[~held]), 1)
        table[table.sum(axis=1) == 0] = prior
        table += 1e-3 * prior / max(prior.sum(), 1)  # a tie goes to the more frequent class
        shares[held] = (table / table.sum(axis=1, keepdims=True))[value[held]]
    return shares


def tree_shares(task: Task, rows: np.ndarray, features: Any, leaves: int) -> np.ndarray:
    """(len(rows), K) float32: the share of each class in the row's leaf.

    The tree is fitted on the other folds. K counts the classes that ``rows`` have.
    """
    codes, code = np.unique(task.codes[rows], return_inverse=True)
    shares = np.zeros((len(rows), len(codes)), np.float32)
    for held in _held_out(task, rows):
        model = fit_tree(features[~held], code[~held], leaves)
        shares[np.ix_(held, model.classes_)] = model.predict_proba(features[held])
    return shares


def fit_tree(features: Any, codes: np.ndarray, leaves: int) -> Any:
    """scikit-learn's tree of at most ``leaves`` leaves, fitted to ``features`` (rows, F)."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        max_leaf_nodes=max(2, leaves), min_samples_leaf=2, random_state=0
    )
    # scikit-learn warns where many classes have one row; the bounds allow for that.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return model.fit(features, codes)


def _held_out(task: Task, rows: np.ndarray) -> Iterator[np.ndarray]:
    """For each fold (len(rows),) bool: which rows it holds out; not where it has all or none."""
    for fold in range(FOLDS):
        held = task.folds[rows] == fold
        if held.any() and not held.all():
            yield held


def one_class(task: Task, rows: np.ndarray, shares: np.ndarray, room: float) -> ClassScore:
    """The class that ``shares`` (len(rows), K) separate best from all others, and its bound.

    A row is taken for one of the class where its share is above the share of the class in the other
    folds: so the class counts as much as all others together. With more classes there are more
    chances for a lucky one, and the bound rises.
    """
    from scipy.stats import norm

    codes, code = np.unique(task.codes[rows], return_inverse=True)
    member = code[:, None] == np.arange(len(codes))  # (rows, K)
    taken = np.zeros_like(member)
    for held in _held_out(task, rows):
        taken[held] = shares[held] > member[~held].mean(axis=0) + 1e-6
    recognised = (taken & member).sum(axis=0) / member.sum(axis=0)
    rejected = (~taken & ~member).sum(axis=0) / (~member).sum(axis=0)
    balanced = (recognised + rejected) / 2  # (K,)
    groups = task.groups[rows]
    inside = np.array([len(np.unique(groups[own])) for own in member.T])
    outside = np.array([len(np.unique(groups[~own])) for own in member.T])
    errors = norm.isf(norm.sf(ERRORS) / len(codes))
    bounds = np.maximum(1 - room / 2, 0.5 + errors * np.sqrt(1 / inside + 1 / outside) / 4)
    best = int(np.argmax(balanced - bounds))
    return ClassScore(task.classes[codes[best]], float(balanced[best]), float(bounds[best]))


def suspicion(task: Task, rows: np.ndarray, shares: np.ndarray, room: float) -> str | None:
    """What the ``shares`` (len(rows), K) predict suspiciously well, in words, or None.

    It is the whole target, or else one class of it.
    """
    overall, single = score(task, rows, shares, room), one_class(task, rows, shares, room)
    if overall.suspicious:
        best = f", class {single.name!r} best" if shares.shape[1] > 2 else ""
        return f"the target in {overall}{best}"
    return str(single) if single.suspicious else None
