"""Exercises of 06_attention."""

import torch
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise
from mmlib.layers.attention import attend

# By what q'k must be divided so that its standard deviation is 1. Both have 64 numbers, those of q
# with standard deviation 1, those of k with 3.
divisor = Exercise(
    24,
    {
        "that is sqrt(d): right where the numbers of k have standard deviation 1, "
        "and here it is 3": 8,
        "that is d; variances add up over the 64 products, standard deviations do not": 64,
        "that is 3 d; the variance grows with d, the standard deviation with its root": 192,
        "that is the variance of the score; its standard deviation is the root of that": 576,
        "that is the variance of k in place of its standard deviation": 72,
        "that is the standard deviation of one product; there are 64 of them": 3,
        "multiply by that, or divide by its inverse": 1 / 24,
    },
    tolerance=1e-3,
)


def _modalities(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v (4, 5, 6), as many queries as keys, and a mask (B, K) whose last row is empty."""
    q, k, v = (2 * torch.randn(4, 5, 6, generator=generator) for _ in range(3))
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 0])[:, None]  # (B, K)
    return q, k, v, mask


def _right(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return attend(q, k, v, mask[:, None])[0]


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(1, 2) * q.shape[-1] ** -0.5  # (B, Q, K)


def _over(axis: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The softmax along another axis; padding gets no weight, as it should."""
    look = mask[:, None].expand(-1, q.shape[1], -1)  # (B, Q, K)
    scores = _scores(q, k).masked_fill(~look, torch.finfo(q.dtype).min)
    return scores.softmax(dim=axis).masked_fill(~look, 0) @ v


def _infinite(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return _scores(q, k).masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1) @ v


def _finite_only(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return _scores(q, k).masked_fill(~mask[:, None], torch.finfo(q.dtype).min).softmax(dim=-1) @ v


def _after(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return _scores(q, k).softmax(dim=-1).masked_fill(~mask[:, None], 0) @ v


look = Exercise(
    _right,
    {
        "the mask is forgotten: padding gets weight": lambda q, k, v, mask: attend(q, k, v)[0],
        "the mask is turned round: True means real, look here": (
            lambda q, k, v, mask: _right(q, k, v, ~mask)
        ),
        "the scores lack 1/sqrt(d)": (
            lambda q, k, v, mask: _right(q * q.shape[-1] ** 0.5, k, v, mask)
        ),
        "the scores are divided by d; divide by sqrt(d)": (
            lambda q, k, v, mask: _right(q * q.shape[-1] ** -0.5, k, v, mask)
        ),
        "those are the weights; the result is the weighted sum of the values": (
            lambda q, k, v, mask: attend(q, k, v, mask[:, None])[1]
        ),
        "the keys are summed; it must be the values": lambda q, k, v, mask: _right(q, k, k, mask),
        "the softmax runs over the queries; it must run over the keys, the last axis": (
            lambda *given: _over(1, *given)
        ),
        "the softmax runs over the batch: each sample then depends on the others; "
        "it must run over the keys": lambda *given: _over(0, *given),
        "right, but for the row without any key: -inf everywhere makes NaN there; "
        "fill with a finite number": _infinite,
        "right, but for the row without any key: there all scores are equal, so padding gets "
        "weight; zero the weights under the mask": _finite_only,
        "the mask is applied after the softmax: what is left no longer adds up to 1; "
        "apply it to the scores": _after,
    },
    _modalities,
)


def _wide(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int]:
    """q (B, Q, D), k and v (B, K, D) and the number of heads.

    There are as many queries as keys, so that no shape gives a mistake away.
    """
    q, k, v = (torch.randn(2, 6, 8, generator=generator) for _ in range(3))
    return q, k, v, 2


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, d)


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, T, D)


def _many(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return _merge(attend(*(_split(x, heads) for x in (q, k, v)))[0])


def _cut_across(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    # this looks like (B, H, T, d), and is not
    parts = [x.reshape(len(x), heads, x.shape[1], -1) for x in (q, k, v)]
    return _merge(attend(*parts)[0])


def _cut_and_merged(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    parts = [x.reshape(len(x), heads, x.shape[1], -1) for x in (q, k, v)]
    return attend(*parts)[0].reshape(q.shape)


def _merged_wrongly(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return attend(*(_split(x, heads) for x in (q, k, v)))[0].reshape(q.shape)


many_heads = Exercise(
    _many,
    {
        "the heads are cut across the tokens: (B, T, D) becomes (B, T, H, d) first, "
        "and then the two middle axes change places": _cut_across,
        "the heads are cut across the tokens, and put together likewise: "
        "a head sees whole tokens of some places in place of a part of all": _cut_and_merged,
        "the heads are cut out rightly, "
        "but put together without changing the two middle axes back": _merged_wrongly,
        "that is one head: all numbers of a token in one score": (
            lambda q, k, v, heads: attend(q, k, v)[0]
        ),
        "the scores are divided by the root of D; each head has only d = D / H numbers": (
            lambda q, k, v, heads: _many(q * heads**-0.5, k, v, heads)
        ),
        "the scores lack 1/sqrt(d)": (
            lambda q, k, v, heads: _many(q * (q.shape[-1] / heads) ** 0.5, k, v, heads)
        ),
    },
    _wide,
)
