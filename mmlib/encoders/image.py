"""Pictures -> Features: x (B, C, H, W), mask (B, W) of columns -> a grid of tokens in reading order, row by row."""
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.layers import Transformer, sine_positions


class MaskedGroupNorm(nn.Module):
    """Group normalisation (Wu & He, 2018) of x (B, C, H, W) with the mean and variance of the real positions only.

    ``mask`` (B, 1, H, W). Where all is real it equals ``nn.GroupNorm``. The result is zero where the mask is False.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(dim=(2, 3)).clamp(min=1)                             # (B, 1) real positions
        x = x.float().masked_fill(~mask, 0)                                   # statistics in float32, also under autocast
        x = (x - self._mean_of_groups(x.sum(dim=(2, 3)) / count)).masked_fill(~mask, 0)
        variance = self._mean_of_groups((x * x).sum(dim=(2, 3)) / count)      # of centred numbers: mean(x^2) - mean(x)^2 would cancel
        scale = (variance + self.eps).rsqrt() * self.weight[:, None, None]
        return torch.addcmul(self.bias[:, None, None], x, scale).masked_fill(~mask, 0)

    def _mean_of_groups(self, x: Tensor) -> Tensor:
        mean = x.unflatten(1, (self.groups, -1)).mean(dim=2, keepdim=True)    # (B, C) -> (B, groups, 1)
        return mean.expand(-1, -1, x.shape[1] // self.groups).flatten(1)[..., None, None]         # (B, C, 1, 1)


class ConvStack(nn.Module):
    """``stages`` times convolution 3x3, pool by 2, group norm, ReLU: x (B, C, H, W), mask (B, W) -> (B, C', H', W'), (B, W').

    H' and W' are H and W divided by 2 ** stages, rounded up; C' is ``out_channels``. A column of the result is real when it covers at
    least one real column. What is not real is zero before every convolution, so padding further right changes nothing.
    The pool comes first because norm and ReLU then work on a quarter of the numbers: a training step takes 0.6 of the time.
    """

    def __init__(self, channels: int, width: int, stages: int, dropout: float = 0.0):
        super().__init__()
        sizes = [channels, *(width * 2**i for i in range(stages))]
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(sizes, sizes[1:])])
        self.norms = nn.ModuleList([MaskedGroupNorm(8, b) for b in sizes[1:]])
        self.dropout = nn.Dropout2d(dropout)
        self.stride, self.out_channels = 2**stages, sizes[-1]

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = x.masked_fill(~mask[:, None, None], 0)
        real = mask[:, None, None].expand(-1, 1, x.shape[2], -1)              # (B, 1, H, W)
        bottom, right = -x.shape[2] % self.stride, -x.shape[3] % self.stride
        x, real = F.pad(x, (0, right, 0, bottom)), F.pad(real, (0, right, 0, bottom))
        for conv, norm in zip(self.convs, self.norms):
            real = real[..., ::2, ::2]
            x = self.dropout(F.relu(norm(F.max_pool2d(conv(x), 2), real)))    # the norm zeroes what is not real; ReLU keeps it zero
        return x, real[:, 0, 0]


class ConvEncoder(nn.Module):
    """A small convolutional network. Photos and, as the mask may end anywhere, lines of text padded in width.

    A token per cell of 2 ** stages pixels square; cells at the right and bottom edge may be partly empty.
    """

    def __init__(self, dim: int, channels: int = 3, width: int = 32, stages: int = 3, dropout: float = 0.0):
        super().__init__()
        self.stack = ConvStack(channels, width, stages, dropout)
        self.project, self.norm = nn.Linear(self.stack.out_channels, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x, mask = self.stack(x, mask)
        mask = mask[:, None].expand(-1, x.shape[2], -1).flatten(1)            # (B, H' * W')
        x = self.project(x.flatten(2).transpose(1, 2))                        # (B, H' * W', D)
        return from_tokens(self.norm(x), mask)


def grid_positions(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed 2-D positions (height * width, dim): half of the vector tells the row, half the column. ``dim`` is divisible by 4."""
    rows = sine_positions(height, dim // 2, device)[:, None].expand(-1, width, -1)
    columns = sine_positions(width, dim // 2, device).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)                   # (height * width, dim)


class ViTEncoder(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2021) with sine positions, so a picture may be of any size.

    A token per ``patch`` x ``patch`` pixels; a size that the patch does not divide is padded with zeros on the right and at the bottom.
    A patch is real when it covers at least one real column. ``dim`` is divisible by 4.
    """

    def __init__(self, dim: int, channels: int = 3, patch: int = 8, depth: int = 3, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        if dim % 4:
            raise ValueError(f"dim is {dim}, expected a multiple of 4: sine and cosine of the row and of the column")
        self.patch = patch
        self.project = nn.Conv2d(channels, dim, patch, stride=patch)
        self.transformer = Transformer(dim, depth, heads, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        right, bottom = -x.shape[3] % self.patch, -x.shape[2] % self.patch
        x = self.project(F.pad(x.masked_fill(~mask[:, None, None], 0), (0, right, 0, bottom)))     # (B, D, H', W')
        mask = mask[:, None, ::self.patch].expand(-1, x.shape[2], -1).flatten(1)                   # (B, H' * W')
        positions = grid_positions(*x.shape[2:], x.shape[1], x.device)
        x = self.transformer(x.flatten(2).transpose(1, 2) + positions, mask[:, None, None])       # (B, H' * W', D)
        return from_tokens(x, mask)


def import_optional(package: str, install: str) -> ModuleType:
    """The module of a package that only some encoders need; ImportError saying what to install."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"this encoder needs the package {package}, which is not installed: "
                          f"pip install {install}") from error


class ResNetEncoder(nn.Module):
    """A torchvision ResNet (He et al., 2016) trained from nothing, with GroupNorm: BatchNorm would mix the samples of a batch.

    A token per cell of the last stage. The first convolution has stride 1 and no pool follows it, as is usual for small
    pictures: a cell is 8 pixels square. For photos, whose mask rows are full or empty; a row that is partly real counts as
    a picture with black columns, and all of its cells as real (lines of text belong in ``ConvEncoder``).
    """

    def __init__(self, dim: int, channels: int = 3, name: str = "resnet18"):
        super().__init__()
        torchvision = import_optional("torchvision", "'mmlib[torchvision]'")
        trunk = torchvision.models.get_model(name, norm_layer=lambda width: nn.GroupNorm(8, width))
        stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.trunk = nn.Sequential(stem, trunk.bn1, trunk.relu, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        self.project, self.norm = nn.Linear(trunk.fc.in_features, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = self.trunk(x.masked_fill(~mask[:, None, None], 0)).flatten(2).transpose(1, 2)         # (B, H' * W', width)
        mask = mask.any(dim=1, keepdim=True).expand(-1, x.shape[1])
        return from_tokens(self.norm(self.project(x)), mask)
