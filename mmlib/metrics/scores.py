"""Scores over a whole set: f(logits, target) -> float.

Classification: logits (N, K), target (N,) int64. Regression: logits (N,), target (N,), in the units
of the target. scikit-learn does the counting; it loads when it is first used. Each score raises
ValueError for other shapes, and where there are no samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of samples whose largest logit is that of their class.

    >>> accuracy(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1]))
    0.6666666666666666
    """
    check_classes(logits, target)
    return float((logits.argmax(dim=-1) == target).double().mean())


def balanced_accuracy(logits: Tensor, target: Tensor) -> float:
    """Mean over the classes in ``target`` of the share of their samples that are answered rightly.

    One answer for all samples gives 1 / classes, however rare the others are.

    >>> always_zero = torch.tensor([[1.0, 0.0]] * 4)
    >>> balanced_accuracy(always_zero, torch.tensor([0, 0, 0, 1]))
    0.5
    """
    from sklearn.metrics import recall_score

    check_classes(logits, target)
    guess, there = logits.argmax(dim=-1).numpy(), target.unique().numpy()
    return float(
        recall_score(target.numpy(), guess, labels=there, average="macro", zero_division=0)
    )


def log_loss(logits: Tensor, target: Tensor) -> float:
    """Mean of -log(probability given to the true class).

    0 is perfect; if every sample gets the shares of the classes as its answer, it is their entropy.
    It judges the probabilities themselves, so it also shows what a model has learned where a rare
    class is never the likeliest.

    >>> round(log_loss(torch.zeros(3, 2), torch.tensor([0, 1, 1])), 4)  # -log(1/2)
    0.6931
    """
    check_classes(logits, target)
    return float(F.cross_entropy(logits.double(), target))


def macro_f1(logits: Tensor, target: Tensor) -> float:
    """Mean over classes of F1: a rare class weighs as much as a frequent one.

    A class that is neither true nor predicted for any sample is left out.

    >>> macro_f1(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    1.0
    """
    from sklearn.metrics import f1_score

    check_classes(logits, target)
    guess = logits.argmax(dim=-1).numpy()
    return float(f1_score(target.numpy(), guess, average="macro", zero_division=0))


def auroc(logits: Tensor, target: Tensor) -> float:
    """Area under the ROC curve: mean over classes, each against the rest.

    That is the chance that a random sample of a class scores higher for it than a random one of
    another class. Only classes that are in ``target`` count. Raises ValueError when there is only
    one.

    >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> auroc(logits, torch.tensor([0, 0, 1, 1]))
    0.5
    """
    from sklearn.metrics import roc_auc_score

    check_classes(logits, target)
    there = target.unique().tolist()
    if len(there) < 2:
        raise ValueError(
            f"auroc needs samples of two classes or more, all {len(target)} targets are "
            f"{there[0]}; use accuracy, or other rows"
        )
    shares = logits.double().softmax(dim=-1).numpy()
    scores = [roc_auc_score((target == label).numpy(), shares[:, label]) for label in there]
    return sum(map(float, scores)) / len(there)


def confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Counts (K, K), int64: row = true class, column = predicted class.

    It is not one number, so it is not for ``evaluate``.

    >>> confusion(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor([[1, 0],
            [1, 1]])
    """
    from sklearn.metrics import confusion_matrix

    check_classes(logits, target)
    guess, classes = logits.argmax(dim=-1).numpy(), range(logits.shape[-1])
    return torch.from_numpy(confusion_matrix(target.numpy(), guess, labels=classes))


def mean_absolute_error(logits: Tensor, target: Tensor) -> float:
    """Mean distance, in the units of the target.

    >>> mean_absolute_error(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    1.5
    """
    check_numbers(logits, target)
    return float((logits.double() - target.double()).abs().mean())


def r2(logits: Tensor, target: Tensor) -> float:
    """Share of the target's variance that is explained: 1 is perfect, 0 is as good as its mean.

    One sample has no variance: then it is undefined, NaN.

    >>> r2(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 3.0]))
    0.0
    >>> r2(torch.tensor([2.0]), torch.tensor([1.0]))
    nan
    """
    from sklearn.metrics import r2_score

    check_numbers(logits, target)
    if len(target) < 2:
        return math.nan
    return float(r2_score(target.numpy(), logits.numpy()))


def check_classes(logits: Tensor, target: Tensor) -> None:
    """Raise ValueError unless these are logits and classes of at least one sample."""
    if logits.ndim != 2 or target.shape != logits.shape[:1] or target.is_floating_point():
        raise ValueError(
            f"expected logits (N, K) and an int64 target (N,), got {tuple(logits.shape)} and "
            f"{target.dtype} {tuple(target.shape)}"
        )
    if len(target) == 0:
        raise ValueError("there are no samples to score")


def check_numbers(logits: Tensor, target: Tensor) -> None:
    """Raise ValueError unless these are predicted and true numbers of at least one sample."""
    # (N, 1) against (N,) would be compared all with all
    if logits.ndim != 1 or target.shape != logits.shape:
        raise ValueError(
            f"expected logits and target of one shape (N,), got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    if len(target) == 0:
        raise ValueError("there are no samples to score")
