"""What stands beside a score: its standard error, and the score of an answer without any input."""

import math

from torch import Tensor

from mmlib.metrics.labels import right_rows


def error_and_baseline(logits: Tensor, target: Tensor, blind: float | Tensor) -> dict[str, float]:
    """Error and baseline of the (subset) accuracy of N rows, or of the mean absolute error.

    ``blind`` is one answer for all rows: the most frequent class of the training rows, their mean,
    or a logit (K,) for each label. Logits and target are those of ``mmlib.metrics``. The error is
    that of N independent rows: with several rows of one group it is larger. Where all or no answers
    are right it is half of 3 / N, at most a half, as up to three in N may yet be otherwise (the
    rule of three).

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    >>> error_and_baseline(logits, torch.tensor([0, 1, 0, 1]), 0)
    {'accuracy_error': 0.375, 'accuracy_baseline': 0.5}
    >>> error_and_baseline(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), 1.5)
    {'mean_absolute_error_error': 0.5, 'mean_absolute_error_baseline': 0.5}
    """
    rows = len(target)
    if isinstance(blind, Tensor):
        right, base = right_rows(logits, target), right_rows(blind.expand(rows, -1), target)
        baseline = float(base.double().mean())
        return {"subset_accuracy_error": _error(right), "subset_accuracy_baseline": baseline}
    if target.is_floating_point():
        distance = (logits.double() - target.double()).abs()
        error = float(distance.std()) / math.sqrt(rows) if rows > 1 else math.nan
        baseline = float((target.double() - blind).abs().mean())
        return {"mean_absolute_error_error": error, "mean_absolute_error_baseline": baseline}
    baseline = float((target == blind).double().mean())
    error = _error(logits.argmax(dim=-1) == target)
    return {"accuracy_error": error, "accuracy_baseline": baseline}


def _error(right: Tensor) -> float:
    """The standard error of the share of right answers (N,); NaN of none."""
    if not len(right):
        return math.nan
    share = float(right.double().mean())
    return max(math.sqrt(share * (1 - share) / len(right)), min(1.5 / len(right), 0.5))
