"""How well the rows of train can be separated from those of test: a shift between splits.

A shift is not a leak. It is reported because a score must be read with it in mind.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mmlib.leaks.columns import continuous, is_identifier
from mmlib.leaks.score import ERRORS, FOLDS, MAX_ROWS

# The AUROC above chance that is tolerated: a shift that is hardly visible hardly hurts a model.
SMALL = 0.1


class DomainScore(NamedTuple):
    """How well the rows of train and of another split can be separated, on held-out rows."""

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
        """Whether the bound is reached."""
        return self.auroc >= self.bound


class _Sides(NamedTuple):
    """The rows of the two splits that are compared."""

    rows: np.ndarray  # (N,) rows of the manifest
    is_test: np.ndarray  # (N,) bool
    names: tuple[str, str]


def _choose_sides(
    splits: np.ndarray, usable: np.ndarray, groups: np.ndarray, seed: int
) -> _Sides | None:
    """Rows of train and of test (or of val, where there is no test) that are ``usable`` (rows,).

    At most MAX_ROWS of them; None where a side has too few groups for FOLDS folds.
    """
    other = next((name for name in ("test", "val") if (splits == name).any()), None)
    if other is None:
        return None
    random, parts = np.random.default_rng(seed), []
    for name in ("train", other):
        part = np.flatnonzero((splits == name) & usable)
        if len(part) > MAX_ROWS // 2:
            part = random.choice(part, MAX_ROWS // 2, replace=False)
        parts.append(part)
    if min(len(np.unique(groups[part])) for part in parts) < 2 * FOLDS:
        return None
    is_test = np.repeat([False, True], [len(part) for part in parts])
    return _Sides(np.concatenate(parts), is_test, ("train", other))


def _domain_score(sides: _Sides, score: np.ndarray, groups: np.ndarray) -> DomainScore:
    """The AUROC of a score (N,) of how likely each row is of test, and its bound.

    The bound lies ERRORS standard errors above chance, of the AUROC where the two splits do not
    differ (Mann and Whitney, 1947), counting groups instead of rows.
    """
    from sklearn.metrics import roc_auc_score

    groups = groups[sides.rows]
    a, b = len(np.unique(groups[sides.is_test])), len(np.unique(groups[~sides.is_test]))
    bound = 0.5 + max(SMALL, ERRORS * np.sqrt((a + b + 1) / (12 * a * b)))
    return DomainScore(float(roc_auc_score(sides.is_test, score)), bound, sides.names)


def domain_classifier(
    features: np.ndarray | Sequence[str],
    splits: np.ndarray,
    usable: np.ndarray,
    groups: np.ndarray,
    folds: np.ndarray,
    seed: int,
) -> DomainScore | None:
    """Separate the splits by logistic regression, in five folds; None where there are few rows.

    ``features`` are cheap features (rows, F) of a modality, or its texts, of which the words count.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = _choose_sides(splits, usable, groups, seed)
    if sides is None:
        return None
    rows, is_test, _ = sides
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
        if held.any() and len(np.unique(is_test[~held])) == 2:
            # Weights that would still move a little separate the splits as well.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                score[held] = model.fit(x[~held], is_test[~held]).predict_proba(x[held])[:, 1]
    return _domain_score(sides, score, groups)


def domain_table(
    values: Sequence[str], splits: np.ndarray, groups: np.ndarray, folds: np.ndarray, seed: int
) -> DomainScore | None:
    """Separate the splits by the share of test rows at each value of a column, in five folds.

    Numbers are cut into tenths. None for identifiers and for groups that are kept in one split,
    which say nothing, and where there are few rows.
    """
    sides = _choose_sides(splits, np.ones(len(values), bool), groups, seed)
    if sides is None:
        return None
    rows, is_test, _ = sides
    if is_identifier([values[row] for row in rows], splits[rows]):
        return None
    numbers = continuous(values)
    if numbers is not None:
        tenths = np.nanquantile(numbers, np.arange(0.1, 1, 0.1))
        values = np.searchsorted(tenths, numbers).astype(str).tolist()
    code = np.unique(np.array([values[row] for row in rows]), return_inverse=True)[1]
    score = np.zeros(len(rows))
    for fold in range(FOLDS):
        held = folds[rows] == fold
        total = np.bincount(code[~held], minlength=code.max() + 1)
        of_test = np.bincount(code[~held & is_test], minlength=code.max() + 1)
        score[held] = ((of_test + is_test.mean()) / (total + 1))[code[held]]
    return _domain_score(sides, score, groups)
