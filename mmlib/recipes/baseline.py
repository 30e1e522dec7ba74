"""What stands beside a score: its standard error, and the score of an answer without any input."""

import math

from torch import Tensor


def error_and_baseline(logits: Tensor, target: Tensor, blind: float) -> dict[str, float]:
    """Error and baseline of the accuracy of N rows; for float targets of the mean absolute error.

    ``blind`` is one answer for all rows: the most frequent class of the training rows, or their
    mean. Logits and target are those of ``mmlib.metrics``. The error is that of N independent rows:
    with several rows of one group it is larger. Where all or no answers are right it is half of
    3 / N, at most a half, as up to three in N may yet be otherwise (the rule of three).

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    >>> error_and_baseline(logits, torch.tensor([0, 1, 0, 1]), 0)
    {'accuracy_error': 0.375, 'accuracy_baseline': 0.5}
    >>> error_and_baseline(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), 1.5)
    {'mean_absolute_error_error': 0.5, 'mean_absolute_error_baseline': 0.5}
    """
    rows = len(target)
    if target.is_floating_point():
        distance = (logits.double() - target.double()).abs()
        error = float(distance.std()) / math.sqrt(rows) if rows > 1 else math.nan
        baseline = float((target.double() - blind).abs().mean())
        return {"mean_absolute_error_error": error, "mean_absolute_error_baseline": baseline}
    right = float((logits.argmax(dim=-1) == target).double().mean())
    error = max(math.sqrt(right * (1 - right) / rows), min(1.5 / rows, 0.5))
    baseline = float((target == blind).double().mean())
    return {"accuracy_error": error, "accuracy_baseline": baseline}
