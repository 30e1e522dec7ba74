"""Weights of convolutions, stored pixel by pixel (channels_last): faster on CPUs and GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def by_pixel(weight: Tensor) -> Tensor:
    """A weight (out, in, H, W) stored pixel by pixel; itself where it is already.

    Convolutions give their result in this layout, whatever that of the images is.
    """
    # not ``contiguous``: where ``in`` is 1 it cannot tell the layouts apart, and changes nothing
    return weight.to(memory_format=torch.channels_last)


def store_by_pixel(model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Store the weights of 2-D convolutions pixel by pixel -> those changed, as they were before.

    Other weights stay: a model of your own may call ``view`` on them. So do all weights of a model
    that ``fully_shard`` has cut.
    """
    changed: list[tuple[nn.Parameter, Tensor]] = []
    for module in model.modules():
        weight = module._parameters.get("weight")
        is_convolution = isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        if is_convolution and weight is not None and not hasattr(weight, "full_tensor"):
            before, weight.data = weight.data, by_pixel(weight.data)
            if weight.stride() != before.stride():
                changed.append((weight, before))
    return changed


@contextmanager
def stored_by_pixel(model: nn.Module) -> Iterator[None]:
    """``store_by_pixel`` in this block; after it the weights are stored as they were."""
    changed = store_by_pixel(model)
    try:
        yield
    finally:
        for weight, before in changed:
            weight.data = before
