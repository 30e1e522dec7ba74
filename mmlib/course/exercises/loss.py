"""Exercises of 02_loss_and_gradient_descent."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise

# The largest learning rate of plain gradient descent on a bowl with the Hessian ((7, 2), (2, 4)):
# its eigenvalues are 3 and 8.
largest_rate = Exercise(
    2 / 8,
    {
        "that is 2 / the smallest eigenvalue: the flat direction would stand it, "
        "the steep one would not": 2 / 3,
        "that is 1 / the largest eigenvalue: safe, but twice as fast is still no divergence": 1 / 8,
        "that is 2 / the largest number on the diagonal; "
        "the steepest direction lies between the axes": 2 / 7,
        "that is 2 / the sum of the eigenvalues (the trace): only the largest one counts": 2 / 11,
        "that is the eigenvalue, not the rate": 8.0,
    },
    tolerance=1e-3,
)


def _captions(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, S, K), some of them huge, ids (B, S) and masks (B, S) of captions.

    The captions are of different lengths.
    """
    logits = 3 * torch.randn(4, 6, 5, generator=generator)
    logits[0] += 300
    mask = torch.arange(6) < torch.tensor([6, 4, 2, 1])[:, None]  # (B, S)
    return logits, torch.randint(5, (4, 6), generator=generator), mask


def _losses(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), target, reduction="none")  # (B, S)


def _mean_of_means(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return ((_losses(logits, target) * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def _wrong_axis(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return -logits.log_softmax(dim=1).gather(2, target[..., None])[..., 0][mask].mean()


def _over_the_batch(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return -logits.log_softmax(dim=0).gather(2, target[..., None])[..., 0][mask].mean()


def _overflowing(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    p = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    return -p.gather(2, target[..., None])[..., 0].log()[mask].mean()


def _per_word(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return _losses(logits, target)[mask].mean()


masked_cross_entropy = Exercise(
    _per_word,
    {
        "the padding is in the mean: use the mask": (
            lambda logits, target, mask: _losses(logits, target).mean()
        ),
        "divide by the number of real words, not by all places": (
            lambda logits, target, mask: (_losses(logits, target) * mask).mean()
        ),
        "that is the sum; divide by the number of real words": (
            lambda logits, target, mask: (_losses(logits, target) * mask).sum()
        ),
        "that is the mean of the captions' means: "
        "a word of a short caption counts for more than one of a long caption": _mean_of_means,
        "the softmax runs over the words of the caption; "
        "it must run over the classes, the last axis": _wrong_axis,
        "the softmax runs over the batch: each caption then depends on the others; "
        "it must run over the classes": _over_the_batch,
        "exp(300) overflows; subtract the largest logit first, or use log_softmax": _overflowing,
        "the sign is wrong: the loss is minus the logarithm": (
            lambda logits, target, mask: -_per_word(logits, target, mask)
        ),
    },
    _captions,
)


def _batches(generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Logits (N, K), targets (N,), and a batch size that leaves a short last batch."""
    return (
        2 * torch.randn(10, 3, generator=generator),
        torch.randint(3, (10,), generator=generator),
        4,
    )


def _parts(logits: Tensor, target: Tensor, size: int) -> list[tuple[Tensor, int]]:
    """The mean loss of each batch, and how many rows it has."""
    return [(F.cross_entropy(a, b), len(b)) for a, b in zip(logits.split(size), target.split(size))]


def _mean_of_batches(logits: Tensor, target: Tensor, size: int) -> Tensor:
    return torch.stack([loss for loss, _ in _parts(logits, target, size)]).mean()


def _full_batches_only(logits: Tensor, target: Tensor, size: int) -> Tensor:
    return torch.stack(
        [loss for loss, count in _parts(logits, target, size) if count == size]
    ).mean()


loss_of_all = Exercise(
    lambda logits, target, size: F.cross_entropy(logits, target),
    {
        "each batch has the same weight, also the short last one; "
        "weigh each by its number of rows": _mean_of_batches,
        "the short last batch is left out, and its rows with it": _full_batches_only,
        "that is the sum over the rows; divide by the number of rows": (
            lambda logits, target, size: F.cross_entropy(logits, target, reduction="sum")
        ),
        "the means of the batches are added and divided by the number of rows; "
        "multiply each by its number of rows first": (
            lambda logits, target, size: (
                sum(loss for loss, _ in _parts(logits, target, size)) / len(target)
            )
        ),
        "that is the mean of the last batch alone": (
            lambda logits, target, size: _parts(logits, target, size)[-1][0]
        ),
    },
    _batches,
)
