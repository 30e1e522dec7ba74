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


def classical(split: str, baselines: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    """The classical baselines of a split, and in words whether one does better than the model.

    >>> baselines = {"sound": {"method": "MFCC", "accuracy": 0.955, "accuracy_error": 0.016}}
    >>> for text in classical("test", baselines, {"accuracy": 0.882, "accuracy_error": 0.0242}):
    ...     print(text)
    test  classical baselines, accuracy: sound 0.955 (MFCC)
    A classical baseline does better here: sound 0.955 +- 0.016, the model 0.882 +- 0.024
    """
    name = next(score for score in BASELINES if score in scores)
    said = ", ".join(
        f"{key} {number(found[name])} ({found['method']})" for key, found in baselines.items()
    )
    lines = [f"{split:4}  classical baselines, {NAMES[name]}: {said}"]
    best, found = next(iter(baselines.items()))
    ahead = found[name] - scores[name]
    if ahead > 0 if name == "accuracy" else ahead < 0:
        theirs, ours = (
            f"{number(x[name])} +- {number(x[f'{name}_error'])}" for x in (found, scores)
        )
        lines.append(f"A classical baseline does better here: {best} {theirs}, the model {ours}")
    return lines
