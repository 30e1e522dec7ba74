"""Exercises of 07_fusion."""

import torch
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise

# The best accuracy in a "unique" world where the image is uninformative in a share of 0.3, the text
# in 0.5 and the audio in 0.4 of the rows, and where half of the sounds are missing besides.
best_possible = Exercise(
    1 - 0.3 * 0.5 * 0.7 / 2,
    {
        "the missing sounds are forgotten: a sound tells only where it is there, and not silent": (
            1 - 0.3 * 0.5 * 0.4 / 2
        ),
        "the sound tells where it is there and not silent: "
        "it does not tell with chance 1 - 0.5 * 0.6": 1 - 0.3 * 0.5 * 0.5 / 2,
        "where nothing tells, one guess in two is right: halve that share": 1 - 0.3 * 0.5 * 0.7,
        "without the sounds; half of them are still there": 1 - 0.3 * 0.5 / 2,
        "silent and missing do not multiply: "
        "the sound does not tell when it is the one or the other": 1 - 0.3 * 0.5 * 0.4 * 0.5 / 2,
    },
    tolerance=1e-4,
)


def _modalities(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled vectors (B, M, D), scores (B, M), present (B, M).

    One row has no modality, and the vectors of absent modalities are not zero.
    """
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    return (
        torch.randn(4, 3, 5, generator=generator),
        2 * torch.randn(4, 3, generator=generator),
        present,
    )


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    return (weights[..., None] * x).sum(dim=1)  # (B, D)


def _masked(scores: Tensor, present: Tensor, dim: int = 1) -> Tensor:
    return scores.masked_fill(~present, -1e9).softmax(dim=dim).masked_fill(~present, 0)


def _weigh(x: Tensor, scores: Tensor, present: Tensor) -> Tensor:
    return _weighted(x, _masked(scores, present))


weigh_present = Exercise(
    _weigh,
    {
        "absent modalities take part: fill their scores before the softmax": (
            lambda x, scores, present: _weighted(x, scores.softmax(dim=1))
        ),
        "the softmax runs over the batch; it must run over the modalities of one sample": (
            lambda x, s, p: _weighted(x, _masked(s, p, dim=0))
        ),
        "the weights of the modalities present no longer add up to 1: "
        "mask before the softmax, not only after it": (
            lambda x, scores, present: _weighted(x, scores.softmax(dim=1) * present)
        ),
        "a row without any modality gives nan: fill with a finite number, "
        "and set the weights to zero afterwards": (
            lambda x, scores, present: _weighted(
                x, scores.masked_fill(~present, float("-inf")).softmax(dim=1)
            )
        ),
        "a row without any modality must give zeros: "
        "mask the weights once more after the softmax": (
            lambda x, scores, present: _weighted(
                x, scores.masked_fill(~present, -1e9).softmax(dim=1)
            )
        ),
        "that is the plain mean; the scores are not used": (
            lambda x, scores, present: _weighted(
                x, present / present.sum(dim=1, keepdim=True).clamp(min=1)
            )
        ),
    },
    _modalities,
)


def _two(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two modalities, (B, 3) each, and where the second is present, (B,)."""
    return (
        torch.randn(4, 3, generator=generator),
        torch.randn(4, 3, generator=generator),
        torch.tensor([True, False, True, False]),
    )


def _append(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # (B, 4)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, :, None] * b[:, None, :]).flatten(1)  # (B, 16)


def _outer(a: Tensor, b: Tensor, there: Tensor) -> Tensor:
    return _product(_append(a), _append(b * there[:, None]))


outer_product = Exercise(
    _outer,
    {
        "where b is absent its 1 is gone too, and with it all that a said: "
        "mask first, then append the 1": (
            lambda a, b, there: _product(_append(a), _append(b) * there[:, None])
        ),
        "what an absent b holds still counts: mask it": (
            lambda a, b, there: _product(_append(a), _append(b))
        ),
        "without the 1 there are only pairs; a modality could never count by itself": (
            lambda a, b, there: _product(a, b * there[:, None])
        ),
        "the mask fell on a, but b is the one that may be absent": (
            lambda a, b, there: _product(_append(a * there[:, None]), _append(b))
        ),
    },
    _two,
)
