"""Can the probabilities be believed? Logits and targets -> calibration error."""

import torch
from torch import Tensor

from mmlib.metrics.scores import check_classes


def calibration_error(logits: Tensor, target: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017, arXiv:1706.04599): how far confidence is from
    accuracy.

    Samples are put into equal bins by the probability of the predicted class; the mean over samples of
    |accuracy of the bin - mean confidence of the bin|.
    """
    check_classes(logits, target)
    confidence, guess = logits.double().softmax(dim=-1).max(dim=-1)  # (N,), (N,)
    place = (confidence * bins).ceil().long().clamp(
        1, bins
    ) - 1  # bins are open on the left, closed on the right
    gap = torch.zeros(bins, dtype=torch.float64).index_add(
        0, place, (guess == target).double() - confidence
    )
    return float(gap.abs().sum() / len(target))
