"""Scores: f(logits, target) -> float, over a whole set. scikit-learn does the counting, and loads
when first used.

Classes: logits (N, K), target (N,) int64. Numbers: logits (N,), target (N,), in the units of the
target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of samples whose largest logit is that of their class."""
    check_classes(logits, target)
    return float((logits.argmax(dim=-1) == target).double().mean())


def balanced_accuracy(logits: Tensor, target: Tensor) -> float:
    """Mean over the classes in ``target`` of the share of their samples that are answered rightly.

    One answer for all samples gives 1 / classes, however rare the others are.
    """
    from sklearn.metrics import recall_score

    check_classes(logits, target)
    there = target.unique().numpy()
    return float(
        recall_score(
            target.numpy(),
            logits.argmax(dim=-1).numpy(),
            labels=there,
            average="macro",
            zero_division=0,
        )
    )


def log_loss(logits: Tensor, target: Tensor) -> float:
    """Mean of -log(probability given to the true class).

    0 is perfect; the shares of the classes, as the answer to all samples, give their entropy. It
    judges the probabilities themselves, so it tells a model that has learned something also where a
    rare class is never the likeliest.
    """
    check_classes(logits, target)
    return float(F.cross_entropy(logits.double(), target))


def macro_f1(logits: Tensor, target: Tensor) -> float:
    """Mean over classes of F1: a rare class weighs as much as a frequent one.

    A class neither there nor predicted is left out.
    """
    from sklearn.metrics import f1_score

    check_classes(logits, target)
    return float(
        f1_score(target.numpy(), logits.argmax(dim=-1).numpy(), average="macro", zero_division=0)
    )


def auroc(logits: Tensor, target: Tensor) -> float:
    """Chance that a random sample of a class scores higher for it than one of another class; mean
    over classes, one against the rest.

    Only classes that are in ``target`` count. Raises ValueError when there is only one.
    """
    from sklearn.metrics import roc_auc_score

    check_classes(logits, target)
    there = target.unique().tolist()
    if len(there) < 2:
        raise ValueError(
            f"auroc needs samples of two classes or more, all {len(target)} targets are "
            f"{there[0]}; "
            "use accuracy, or other rows"
        )
    shares = logits.double().softmax(dim=-1).numpy()
    return sum(
        float(roc_auc_score((target == label).numpy(), shares[:, label])) for label in there
    ) / len(there)


def confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Counts (K, K), int64: row = true class, column = predicted class.

    Not a number, so not for ``evaluate``.
    """
    from sklearn.metrics import confusion_matrix

    check_classes(logits, target)
    return torch.from_numpy(
        confusion_matrix(
            target.numpy(), logits.argmax(dim=-1).numpy(), labels=range(logits.shape[-1])
        )
    )


def mean_absolute_error(logits: Tensor, target: Tensor) -> float:
    """Mean distance, in the units of the target."""
    check_numbers(logits, target)
    return float((logits.double() - target.double()).abs().mean())


def r2(logits: Tensor, target: Tensor) -> float:
    """Share of the target's variance that is explained: 1 is perfect, 0 is as good as its mean."""
    from sklearn.metrics import r2_score

    check_numbers(logits, target)
    return float(r2_score(target.numpy(), logits.numpy()))


def check_classes(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 2 or target.shape != logits.shape[:1] or target.is_floating_point():
        raise ValueError(
            f"expected logits (N, K) and an int64 target (N,), got {tuple(logits.shape)} and "
            f"{target.dtype} {tuple(target.shape)}"
        )
    if len(target) == 0:
        raise ValueError("there are no samples to score")


def check_numbers(logits: Tensor, target: Tensor) -> None:
    if (
        logits.ndim != 1 or target.shape != logits.shape
    ):  # (N, 1) against (N,) would be compared all with all
        raise ValueError(
            f"expected logits and target of one shape (N,), got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    if len(target) == 0:
        raise ValueError("there are no samples to score")
