"""Exercises of 03_cnn."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise

# How many pixels a side one place sees after a convolution 5x5 with stride 2, a pool 2x2 with
# stride 2 and a convolution 3x3 with stride 1.
seen = Exercise(
    15,
    {
        "the strides are forgotten: a later filter takes steps of more than one pixel": 8,
        "one stride too many: a filter's own stride parts its places, not its own pixels; "
        "only the strides before it count": 21,
        "that is the product of the sizes; "
        "each layer adds (size - 1) times the strides before it": 30,
        "that is the sum of the sizes; each layer adds (size - 1) times the strides before it": 10,
        "the pool is forgotten: "
        "it sees two places, and its stride counts for the layer after it": 9,
        "nearly: one pixel is there before any layer": 14,
    },
)


def _pictures(generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """An image (C, H, W) and filters (O, C, h, w), neither of them square, and a stride."""
    return (
        torch.randn(3, 9, 7, generator=generator),
        torch.randn(4, 3, 3, 2, generator=generator),
        int(torch.randint(2, 4, (1,), generator=generator)),
    )


def _convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x[None], weight, stride=stride)[0]


def _first_places(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    rows = (x.shape[1] - weight.shape[2]) // stride + 1
    columns = (x.shape[2] - weight.shape[3]) // stride + 1
    return _convolve(x, weight, 1)[:, :rows, :columns]


convolve = Exercise(
    _convolve,
    {
        "the filter is flipped: that is the convolution of mathematics, not that of networks": (
            lambda x, w, stride: _convolve(x, w.flip(2, 3), stride)
        ),
        "the stride is missing: the filter takes every place": (
            lambda x, w, stride: _convolve(x, w, 1)
        ),
        "the channels are averaged; add them up": (
            lambda x, w, stride: _convolve(x, w, stride) / len(x)
        ),
        "only the first channel is seen; add up over all channels": (
            lambda x, w, stride: _convolve(x[:1], w[:, :1], stride)
        ),
        "the places are right, the windows are not: the stride belongs between windows, "
        "at row i * stride, not i": _first_places,
        "rows and columns are swapped in the result": (
            lambda x, w, stride: _convolve(x, w, stride).transpose(1, 2)
        ),
    },
    _pictures,
)


def _maps(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Feature maps (C, h, w), and the gradient (C, h, w) of a class score with respect to them."""
    return torch.randn(5, 4, 4, generator=generator), torch.randn(5, 4, 4, generator=generator)


def _grad_cam(maps: Tensor, gradient: Tensor) -> Tensor:
    return (gradient.mean(dim=(1, 2))[:, None, None] * maps).sum(dim=0).relu()


grad_cam = Exercise(
    _grad_cam,
    {
        "the mean is over the channels: one weight per place, not per channel; "
        "the weight of a channel is the mean over its places": (
            lambda maps, gradient: (gradient.mean(dim=0) * maps).sum(dim=0).relu()
        ),
        "the ReLU is missing: places that speak against the class count too": (
            lambda maps, gradient: (gradient.mean(dim=(1, 2))[:, None, None] * maps).sum(dim=0)
        ),
        "the gradients are not averaged over the places": (
            lambda maps, gradient: (gradient * maps).sum(dim=0).relu()
        ),
        "the ReLU comes before the sum over channels; it belongs after it": (
            lambda maps, gradient: (
                (gradient.mean(dim=(1, 2))[:, None, None] * maps).relu().sum(dim=0)
            )
        ),
        "all channels weigh the same: the gradient is not used": (
            lambda maps, gradient: maps.sum(dim=0).relu()
        ),
    },
    _maps,
)
