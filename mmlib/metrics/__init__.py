"""Scores over a whole set: f(logits, target) -> float, by scikit-learn where it has them.

Classification: logits (N, K), target (N,) int64. Regression: logits (N,), target (N,), in the units
of the target. Several labels: logits (N, K), target (N, K), NaN = not known.
"""

from mmlib.metrics.calibration import calibration_error
from mmlib.metrics.labels import labels_auroc, labels_macro_f1, subset_accuracy
from mmlib.metrics.scores import (
    accuracy,
    auroc,
    balanced_accuracy,
    confusion,
    log_loss,
    macro_f1,
    mean_absolute_error,
    r2,
)

__all__ = [
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "calibration_error",
    "confusion",
    "labels_auroc",
    "labels_macro_f1",
    "log_loss",
    "macro_f1",
    "mean_absolute_error",
    "r2",
    "subset_accuracy",
]
