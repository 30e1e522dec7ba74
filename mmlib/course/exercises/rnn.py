"""Exercises of 04_rnn."""

import math
from functools import partial

import torch
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise

# The bias of a forget gate that leaves half of the cell after 100 steps:
# sigmoid(bias) ** 100 = 1 / 2.
_GATE = 0.5 ** (1 / 100)
forget_bias = Exercise(
    math.log(_GATE / (1 - _GATE)),
    {
        "that is the gate; the bias is the number whose sigmoid is the gate": _GATE,
        "sigmoid(0) = 0.5 leaves half after one step, not after 100": 0.0,
        "the sign is wrong: this gate is nearly shut": -math.log(_GATE / (1 - _GATE)),
        "that is a gate of 1 - 1/100; after 100 steps it leaves 0.37, not half": math.log(99),
        "that is a gate of 1 - 1/200; "
        "a half is lost in equal shares of what is there, not of what there was": math.log(199),
    },
    tolerance=2e-3,
)


def _ragged(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """States (B, T, H), not zero in the padding, and a mask (B, T); the last row has no word."""
    mask = torch.arange(6) < torch.tensor([4, 6, 1, 3, 0])[:, None]  # (B, T)
    return torch.randn(5, 6, 3, generator=generator), mask


def _last(states: Tensor, mask: Tensor) -> Tensor:
    place = (mask.sum(dim=1) - 1).clamp(min=0)  # (B,)
    return states[torch.arange(len(states)), place] * mask.any(dim=1, keepdim=True)  # (B, H)


def _one_late(states: Tensor, mask: Tensor) -> Tensor:
    place = mask.sum(dim=1).clamp(max=states.shape[1] - 1)  # (B,)
    return states[torch.arange(len(states)), place]


def _empty_kept(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states)), mask.sum(dim=1) - 1]


def _first_kept(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states)), (mask.sum(dim=1) - 1).clamp(min=0)]


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


last_state = Exercise(
    _last,
    {
        "that is the last column: for short rows it is a state that has read padding": (
            lambda states, mask: states[:, -1]
        ),
        "that is the first state; the last real one is at length - 1": (
            lambda states, mask: states[:, 0]
        ),
        "one too far: n real words stand at 0 .. n - 1": _one_late,
        "the row without a word must give zeros; index -1 took its last padding": _empty_kept,
        "the row without a word must give zeros, not its first state": _first_kept,
        "that is the mean of the real states; only the last one is asked for": _mean,
        "that is the sum of the real states; only the last one is asked for": (
            lambda states, mask: (states * mask[..., None]).sum(dim=1)
        ),
        "the mask is applied, but the last column is still the last column: zero in short rows": (
            lambda states, mask: states[:, -1] * mask[:, -1:]
        ),
    },
    _ragged,
)


def _through_time(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The states (T + 1, H) of an RNN from h_0 on, W_h (H, H), and gradients (T, H).

    The gradients are those that the loss sends directly to each state h_1 .. h_T.
    """
    weight = 0.7 * torch.randn(4, 4, generator=generator)
    states = [0.5 * torch.randn(4, generator=generator)]
    for _ in range(5):
        states.append((weight @ states[-1] + torch.randn(4, generator=generator)).tanh())
    return torch.stack(states), weight, torch.randn(5, 4, generator=generator)


def _bptt(
    states: Tensor,
    weight: Tensor,
    sent: Tensor,
    before: int = 1,
    transposed: bool = True,
    squash: bool = True,
    through: bool = True,
    back_to: int = 0,
) -> Tensor:
    """The gradient (H, H) of W_h; any other value of an option makes a typical mistake."""
    total, carried = torch.zeros_like(weight), torch.zeros_like(states[0])
    for t in reversed(range(back_to, len(sent))):
        a = sent[t] + carried  # (H,)
        a = a * (1 - states[t + 1] ** 2) if squash else a
        total = total + torch.outer(a, states[t + 1 - before])
        carried = (weight.T if transposed else weight) @ a if through else carried
    return total


recurrent_gradient = Exercise(
    _bptt,
    {
        "the state that W_h was multiplied with is the one before, h_(t-1), not h_t": (
            partial(_bptt, before=0)
        ),
        "backwards the weight is transposed: W_h' a, not W_h a": partial(_bptt, transposed=False),
        "the derivative of tanh, 1 - h_t^2, is missing": partial(_bptt, squash=False),
        "nothing is carried from t to t - 1: that is no backpropagation through time": (
            partial(_bptt, through=False)
        ),
        "that is only the last step; W_h was used in every step, and the gradients add up": (
            lambda states, weight, sent: _bptt(states, weight, sent, back_to=len(sent) - 1)
        ),
        "the outer product is the wrong way round: entry (i, j) belongs to W_h[i, j]": (
            lambda *given: _bptt(*given).T
        ),
    },
    _through_time,
)
