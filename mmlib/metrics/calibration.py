"""Can the probabilities be believed? Logits and targets -> calibration error."""

import torch
from torch import Tensor

from mmlib.metrics.scores import check_classes


def calibration_error(logits: Tensor, target: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017, arXiv:1706.04599): confidence against accuracy.

    Samples are put into equal bins by the probability of the predicted class. The error is the mean
    over samples of |accuracy of the bin - mean confidence of the bin|: 0 is perfect.

    >>> even = torch.zeros(4, 2)  # every answer is given with probability 1/2
    >>> calibration_error(even, torch.tensor([0, 0, 1, 1]))  # and half of them are right
    0.0
    >>> calibration_error(even, torch.tensor([1, 1, 1, 1]))
    0.5
    """
    check_classes(logits, target)
    confidence, guess = logits.double().softmax(dim=-1).max(dim=-1)  # (N,), (N,)
    # bins are open on the left and closed on the right
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (N,)
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, place, (guess == target).double() - confidence)
    return float(gap.abs().sum() / len(target))
