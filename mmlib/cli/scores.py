"""Scores as a line for a person."""

import math
from collections.abc import Mapping
from typing import Any

# the scores of mmlib.recipes that a line shows, in its order
NAMES = {
    "accuracy": "accuracy",
    "subset_accuracy": "all labels right",
    "mean_absolute_error": "mean absolute error",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "r2": "R2",
    "auroc": "AUROC",
}
# these have their standard error and this baseline beside them
BASELINES = {
    "accuracy": "most frequent class",
    "subset_accuracy": "always the most frequent labels",
    "mean_absolute_error": "always the training mean",
}


def line(split: str, scores: Mapping[str, Any]) -> str:
    """The scores of a split, with their standard error and what needs no model beside them.

    >>> line("test", {"accuracy": 0.882, "accuracy_error": 0.0242, "accuracy_baseline": 0.511,
    ...     "log_loss": 0.301, "rows": 178, "without_modalities": 0})
    'test  accuracy 0.882 +- 0.024 (178 rows; most frequent class 0.511)  log loss 0.301'
    """
    parts = [f"{split:4}"]
    for name, words in NAMES.items():
        if name not in scores:
            continue
        part = f"{words} {number(scores[name])}"
        if name in BASELINES:
            rows = f"{scores['rows']:,} row" + "s" * (scores["rows"] != 1)
            if scores["without_modalities"]:
                rows += f", {scores['without_modalities']:,} of them without any modality"
            base = f"{BASELINES[name]} {number(scores[f'{name}_baseline'])}"
            error = scores[f"{name}_error"]
            if not math.isnan(error):  # of one row it is undefined
                part += f" +- {number(error)}"
            part += f" ({rows}; {base})"
        parts.append(part)
    return "  ".join(parts)


def number(value: float) -> str:
    """Three digits; "undefined" for NaN, as of the R2 of one row.

    >>> number(0.88202), number(23456.7), number(0.00012), number(math.nan)
    ('0.882', '2.35e+04', '0.00012', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
