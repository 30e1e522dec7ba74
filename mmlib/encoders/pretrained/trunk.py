"""What the encoders of ready networks share.

Images are normalised as the network expects, and its tokens are projected to the model width.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens

Net = Any  # a network of another library: what it has besides nn.Module's is not declared
Reader = Callable[..., tuple[Tensor, Tensor | None]]  # (net, *inputs) -> grid, summary
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std per channel, of pixels in 0..1


class Trunk(nn.Module):
    """A ready network and how it is read: ``read(net, *inputs)`` -> grid, summary.

    The grid is (B, T, width), the summary (B, summary_width) or None. A frozen network stays in
    evaluation mode and learns nothing. Otherwise its parameters learn, apart from those that
    ``read`` does not reach (a classifier that is not used). BatchNorm stays in evaluation mode
    either way: its statistics would mix the samples of a batch. Inputs are converted to the
    network's floating-point type; ``example`` is also put on the network's device.
    """

    def __init__(self, net: nn.Module, read: Reader, example: tuple[Tensor, ...], frozen: bool):
        super().__init__()
        self.net, self.read, self.frozen = net.eval(), read, frozen
        net.requires_grad_(not frozen)
        with torch.set_grad_enabled(not frozen):
            grid, summary = self(*(x.to(self.device) for x in example))
        self.width = grid.shape[-1]
        self.summary_width = None if summary is None else summary.shape[-1]
        if not frozen:
            total = grid.sum() if summary is None else grid.sum() + summary.sum()
            parameters = list(net.parameters())
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            for p, gradient in zip(parameters, gradients, strict=True):
                p.requires_grad_(gradient is not None)
        self.train()  # the mode that every new module is in

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.net.parameters()).device

    def train(self, mode: bool = True) -> "Trunk":
        super().train(mode and not self.frozen)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        dtype = next(self.net.parameters()).dtype
        return self.read(self.net, *(x.to(dtype) if x.is_floating_point() else x for x in inputs))


class Projection(nn.Linear):
    """A linear map that converts its input to its own type: the network may have another one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def projections(trunk: Trunk, dim: int) -> tuple[Projection, Projection | None]:
    """The maps of grid and summary to ``dim``; None for the second where one map serves both."""
    grid = Projection(trunk.width, dim, device=trunk.device)
    if trunk.summary_width is None or trunk.summary_width == trunk.width:
        return grid, None
    return grid, Projection(trunk.summary_width, dim, device=trunk.device)


class Renormalise(nn.Module):
    """Images (B, C, H, W) normalised with ``mean`` and ``std`` -> with those a network ``expects``.

    Each of the four is one number per channel, of pixels in 0..1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        expects: Statistics,
        device: torch.device | None = None,
    ):
        super().__init__()
        given = {
            "mean": mean,
            "std": std,
            "mean in expects": expects[0],
            "std in expects": expects[1],
        }
        for name, values in given.items():
            if len(values) != len(mean):
                raise ValueError(
                    f"{name} is {list(values)}, expected {len(mean)} numbers as in mean, one per "
                    "channel"
                )
            if name.startswith("std") and min(values) <= 0:
                raise ValueError(f"{name} is {list(values)}, expected numbers above 0")
        old_mean, old_std, new_mean, new_std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None] for values in given.values()
        )
        scale, shift = old_std / new_std, (old_mean - new_mean) / new_std  # (C, 1, 1)
        self.register_buffer("scale", scale.to(device, torch.float32), persistent=False)
        self.register_buffer("shift", shift.to(device, torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def renormalise(
    name: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    expects: Statistics | None,
    trained: bool,
    device: torch.device,
) -> nn.Module:
    """The module that brings images to what the network expects; Identity where that is not known.

    In that case, if the network may be ``trained``, a warning says what is missing.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std of the batches belong together: give both or neither")
    if mean is not None and std is not None and expects is not None:
        return Renormalise(mean, std, expects, device)
    missing = []
    if mean is None:
        missing.append("mean and std of the batches (give mean and std, as in Preprocessing)")
    if expects is None:
        missing.append("mean and std of the network's training (give expects=(mean, std))")
    if trained:
        warnings.warn(
            f"{name} gets the images as they are in the batch, perhaps normalised in another way "
            f"than in its training. Not known: {'; '.join(missing)}",
            stacklevel=3,
        )
    return nn.Identity()


class ImageEncoder(Protocol):
    """The parts that ``encode_images`` needs of an encoder."""

    renormalise: nn.Module
    trunk: Trunk
    project: Projection
    project_summary: Projection | None


def encode_images(encoder: ImageEncoder, x: Tensor, mask: Tensor) -> Features:
    """Images x (B, C, H, W), mask (B, W), through the encoder's parts -> Features (B, T, D).

    Tokens are the grid; pooled is the network's own summary, or the mean of the grid without one.
    """
    present = mask.any(dim=1)  # photos: a mask row is full or empty
    x = encoder.renormalise(x).masked_fill(~mask[:, None, None], 0)  # what is absent stays zero
    grid, summary = encoder.trunk(x)  # (B, T, width), (B, summary_width)
    features = from_tokens(encoder.project(grid), present[:, None].expand(-1, grid.shape[1]))
    if summary is None:
        return features
    project = encoder.project if encoder.project_summary is None else encoder.project_summary
    return features._replace(pooled=project(summary).masked_fill(~present[:, None], 0))


def resize(x: Tensor, size: int | tuple[int, int] | None) -> Tensor:
    """Images brought to the one size (height, width) that a network takes; ``None`` = any size."""
    size = (size, size) if isinstance(size, int) else size
    if size is None or tuple(x.shape[2:]) == tuple(size):
        return x
    y = F.interpolate(x.float(), tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return y.to(x.dtype)  # CPUs do not resize bfloat16


def warn_if_random(name: str, weights: str | None, frozen: bool) -> None:
    """Warn that a frozen network without trained weights can learn nothing."""
    if weights is None and frozen:
        warnings.warn(
            f"{name} is frozen with random numbers and can learn nothing: pass weights='DEFAULT' "
            "(a download) or frozen=False",
            stacklevel=3,
        )
