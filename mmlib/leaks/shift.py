"""What tells the rows of train from those of test: a shift, which a leak check should say and a
score should be read with.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mmlib.leaks.columns import continuous, is_identifier
from mmlib.leaks.score import ERRORS, FOLDS, MAX_ROWS

# AUROC over chance that is let pass: a model that sees so little of a shift is hardly hurt by it
SMALL = 0.1


class Told(NamedTuple):
    """How well train and another split are told apart."""

    auroc: float
    bound: float
    names: tuple[str, str]

    def __str__(self) -> str:
        return (
            f"AUROC {self.auroc:.2f} between {self.names[0]} and {self.names[1]} rows (bound "
            f"{self.bound:.2f}, chance 0.50)"
        )

    @property
    def suspicious(self) -> bool:
        return self.auroc >= self.bound


def choose_sides(
    splits: np.ndarray, usable: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]] | None:
    """Rows of train and of test (or val, where there is no test), whether each is of test, and
    the names; None where there are few.
    """
    other = next((name for name in ("test", "val") if (splits == name).any()), None)
    if other is None:
        return None
    random, rows = np.random.default_rng(seed), []
    for name in ("train", other):
        mine = np.flatnonzero((splits == name) & usable)
        rows.append(
            mine
            if len(mine) <= MAX_ROWS // 2
            else random.choice(mine, MAX_ROWS // 2, replace=False)
        )
    chosen = np.concatenate(rows)
    if min(len(np.unique(groups[mine])) for mine in rows) < 2 * FOLDS:
        return None
    return chosen, np.repeat([False, True], [len(mine) for mine in rows]), ("train", other)


def _bound(side: np.ndarray, groups: np.ndarray) -> float:
    """The standard error of the AUROC under no difference (Mann and Whitney 1947), counting
    groups.
    """
    a, b = len(np.unique(groups[side])), len(np.unique(groups[~side]))
    return 0.5 + max(SMALL, ERRORS * np.sqrt((a + b + 1) / (12 * a * b)))


def domain_classifier(
    features: np.ndarray | Sequence[str],
    splits: np.ndarray,
    usable: np.ndarray,
    groups: np.ndarray,
    folds: np.ndarray,
    seed: int,
) -> Told | None:
    """Logistic regression on a modality's cheap features (rows, F), or on the words of its
    texts, in five folds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = choose_sides(splits, usable, groups, seed)
    if sides is None:
        return None
    rows, side, names = sides
    if isinstance(features, np.ndarray):
        x: Any = features[rows]
        model: Any = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=200, class_weight="balanced")
        )
    else:
        x = HashingVectorizer(n_features=2**14).transform([features[row] for row in rows])
        model = LogisticRegression(max_iter=200, class_weight="balanced")
    score = np.zeros(len(rows))
    for fold in range(FOLDS):
        held = folds[rows] == fold
        if held.any() and len(np.unique(side[~held])) == 2:
            with warnings.catch_warnings():  # weights that still move a little tell as much
                warnings.simplefilter("ignore", ConvergenceWarning)
                score[held] = model.fit(x[~held], side[~held]).predict_proba(x[held])[:, 1]
    return Told(float(roc_auc_score(side, score)), _bound(side, groups[rows]), names)


def tell_values(
    values: Sequence[str], splits: np.ndarray, groups: np.ndarray, folds: np.ndarray, seed: int
) -> Told | None:
    """The share of test rows at each value (numbers: at each tenth), in five folds.

    Identifiers and kept-apart groups say nothing.
    """
    from sklearn.metrics import roc_auc_score

    sides = choose_sides(splits, np.ones(len(values), bool), groups, seed)
    if sides is None or is_identifier([values[row] for row in sides[0]], splits[sides[0]]):
        return None
    rows, side, names = sides
    numbers = continuous(values)
    if numbers is not None:
        values = (
            np.searchsorted(np.nanquantile(numbers, np.arange(0.1, 1, 0.1)), numbers)
            .astype(str)
            .tolist()
        )
    code = np.unique(np.array([values[row] for row in rows]), return_inverse=True)[1]
    score = np.zeros(len(rows))
    for fold in range(FOLDS):
        held = folds[rows] == fold
        all_rows, of_test = (
            np.bincount(code[~held], minlength=code.max() + 1),
            np.bincount(code[~held & side], minlength=code.max() + 1),
        )
        score[held] = ((of_test + side.mean()) / (all_rows + 1))[code[held]]
    return Told(float(roc_auc_score(side, score)), _bound(side, groups[rows]), names)
