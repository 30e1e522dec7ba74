"""Exercises of 08_training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise

# 700 rows in batches of 32 are 22 batches; the last has 28 rows. Windows of 4 batches are 6 an
# epoch; the last has 2 batches. So 10 epochs have 60 steps.
steps = Exercise(
    60,
    {
        "those are the batches; with accumulate=4 a step has up to four of them": 220,
        "those are the samples over batch size times accumulate; "
        "a short batch and a short window count as whole ones": 54,
        "700 / 128 is not rounded down: "
        "the short window at the end of an epoch makes a step too": 50,
        "a window does not reach into the next epoch: round up in each epoch, then multiply": 55,
        "that is one epoch; there are ten": 6,
    },
    tolerance=1e-6,
)


def _losses(generator: torch.Generator) -> tuple[list[float], int]:
    """Validation losses that fall, then rise, with some noise; and a patience."""
    count, patience = 24, int(torch.randint(2, 5, (), generator=generator))
    bends = (torch.arange(count) - 9.0).abs() / 9 + 0.35 * torch.rand(count, generator=generator)
    return [round(float(loss), 3) for loss in bends], patience


def _stop(losses: list[float], patience: int, late: int = 0) -> tuple[int, int]:
    """The epoch of the stop and the best epoch, both from 1; ``late`` shifts the stop."""
    best = 0
    for epoch, loss in enumerate(losses):
        best = epoch if loss < losses[best] else best
        if epoch - best >= patience + late:
            break
    return epoch + 1, best + 1


def _since_the_last(losses: list[float], patience: int) -> tuple[int, int]:
    """A mistake: it counts epochs in a row that are worse than the one before."""
    worse = 0
    for epoch in range(1, len(losses)):
        worse = worse + 1 if losses[epoch] >= losses[epoch - 1] else 0
        if worse >= patience:
            break
    return epoch + 1, losses.index(min(losses[: epoch + 1])) + 1


def _counting_on(losses: list[float], patience: int) -> tuple[int, int]:
    """A mistake: it never sets its counter back."""
    best = worse = 0
    for epoch in range(1, len(losses)):
        if losses[epoch] < losses[best]:
            best = epoch
        else:
            worse += 1
        if worse >= patience:
            break
    return epoch + 1, best + 1


early_stop = Exercise(
    _stop,
    {
        "count epochs from 1": (
            lambda losses, patience: tuple(epoch - 1 for epoch in _stop(losses, patience))
        ),
        "the weights to keep are those of the best epoch, not of the last one": (
            lambda losses, patience: (_stop(losses, patience)[0],) * 2
        ),
        "it stops one epoch too late: patience 2 allows two epochs without a better score": (
            lambda losses, patience: _stop(losses, patience, 1)
        ),
        "it stops one epoch too early": lambda losses, patience: _stop(losses, patience, -1),
        "compare with the best loss so far, not with the epoch before": _since_the_last,
        "a better epoch sets the count back to 0": _counting_on,
        "it knows the future: the best epoch is looked for after the stop, too": (
            lambda losses, patience: (_stop(losses, patience)[0], losses.index(min(losses)) + 1)
        ),
        "it never stops": lambda losses, patience: (len(losses), losses.index(min(losses)) + 1),
        "the order is (epoch of the stop, epoch of the weights)": (
            lambda losses, patience: _stop(losses, patience)[::-1]
        ),
    },
    _losses,
    trials=12,
)


def _batches(generator: torch.Generator) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Weights (5, 3), and batches of 6, 6 and 2 rows: x (B, 5), y (B,)."""
    sizes = (6, 6, 2)
    x, y = torch.randn(14, 5, generator=generator), torch.randint(3, (14,), generator=generator)
    return torch.randn(5, 3, generator=generator), list(zip(x.split(sizes), y.split(sizes)))


def _gradient(
    weight: Tensor, batches: list[tuple[Tensor, Tensor]], shares: list[float] | None = None
) -> Tensor:
    """The gradient (5, 3) of the sum of the batches' mean losses, each times its share.

    Without ``shares`` a batch has the share of its rows.
    """
    weight, rows = weight.clone().requires_grad_(), sum(len(y) for _, y in batches)
    shares = shares or [len(y) / rows for _, y in batches]
    losses = [share * F.cross_entropy(x @ weight, y) for share, (x, y) in zip(shares, batches)]
    return torch.autograd.grad(torch.stack(losses).sum(), weight)[0]


accumulated = Exercise(
    _gradient,
    {
        "that is the mean of the batches' means: "
        "a row of the short batch counts three times as much as the others": (
            lambda weight, batches: _gradient(weight, batches, [1 / len(batches)] * len(batches))
        ),
        "that is the sum of the batches' means; it grows with the number of batches": (
            lambda weight, batches: _gradient(weight, batches, [1.0] * len(batches))
        ),
        "that is the sum over the rows: divide by how many there are in all": (
            lambda weight, batches: _gradient(weight, batches, [float(len(y)) for _, y in batches])
        ),
        "that is the last batch alone: gradients must add up until the step": (
            lambda weight, batches: _gradient(weight, batches[-1:])
        ),
        "that is the first batch alone": lambda weight, batches: _gradient(weight, batches[:1]),
        "it takes every batch to be as long as the first": (
            lambda weight, batches: _gradient(
                weight, batches, [len(y) / (len(batches) * len(batches[0][1])) for _, y in batches]
            )
        ),
    },
    _batches,
)
