"""Scores of several labels a row: f(logits, target) -> float.

Logits and target are (N, K). A label is given where its logit is 0 or more (probability 1/2), and
true where its target is 1/2 or more; where the target is NaN, it is not known and not scored. Each
score raises ValueError for other shapes, and where there are no samples.
"""

import math

from torch import Tensor


def subset_accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of rows of which every known label is right; rows without a known label are left out.

    >>> import torch
    >>> logits = torch.tensor([[2.0, -1.0], [1.0, 1.0], [-1.0, 3.0]])
    >>> subset_accuracy(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0], [math.nan, 1.0]]))
    0.6666666666666666
    """
    right = right_rows(logits, target)
    return float(right.double().mean()) if len(right) else math.nan


def right_rows(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) bool: every known label is right; without the rows of which no label is known.

    >>> import torch
    >>> right_rows(torch.tensor([[2.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([ True, False])
    """
    check_labels(logits, target)
    known = ~target.isnan()
    right = ((logits >= 0) == (target >= 0.5)) | ~known
    return right.all(dim=1)[known.any(dim=1)]


def labels_macro_f1(logits: Tensor, target: Tensor) -> float:
    """Mean over labels of F1; labels that are neither true nor given anywhere are left out.

    It is NaN where all are left out.

    >>> import torch
    >>> logits = torch.tensor([[2.0, -1.0], [1.0, 1.0]])
    >>> labels_macro_f1(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    0.8333333333333333
    """
    check_labels(logits, target)
    known = ~target.isnan()
    given, true = (logits >= 0) & known, (target >= 0.5) & known
    both = (given.sum(dim=0) + true.sum(dim=0)).double()  # (K,)
    scores = 2 * (given & true).sum(dim=0) / both
    there = scores[both > 0]
    return float(there.mean()) if len(there) else math.nan


def labels_auroc(logits: Tensor, target: Tensor) -> float:
    """Area under the ROC curve, the mean over labels that some rows have and others have not.

    It is NaN where there is no such label.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 1.0]])
    >>> labels_auroc(logits, torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    1.0
    """
    from sklearn.metrics import roc_auc_score

    check_labels(logits, target)
    scores = []
    for own, true in zip(logits.double().unbind(dim=1), target.unbind(dim=1), strict=True):
        known = ~true.isnan()
        has = true[known] >= 0.5
        if has.any() and not has.all():
            scores.append(float(roc_auc_score(has.numpy(), own[known].numpy())))
    return sum(scores) / len(scores) if scores else math.nan


def check_labels(logits: Tensor, target: Tensor) -> None:
    """Raise ValueError unless these are logits and labels of at least one sample."""
    if logits.ndim != 2 or target.shape != logits.shape or not target.is_floating_point():
        raise ValueError(
            f"expected logits and a float32 target of one shape (N, K), got {tuple(logits.shape)} "
            f"and {target.dtype} {tuple(target.shape)}"
        )
    if len(target) == 0:
        raise ValueError("there are no samples to score")
