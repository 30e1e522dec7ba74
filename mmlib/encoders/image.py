"""Images -> Features: x (B, C, H, W), mask (B, W) of columns -> a grid of tokens.

The tokens stand in reading order, row by row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.optional import import_optional
from mmlib.layers.convolution import ConvStack
from mmlib.layers.transformer import Transformer, sine_positions


class ConvEncoder(nn.Module):
    """A small convolutional network, for photos and for lines of text padded in width.

    x (B, C, H, W), mask (B, W) -> Features (B, H' * W', D): a token per cell of 2 ** stages pixels
    square. Cells at the right and bottom edge may be partly empty; a cell is real when one of its
    columns is.

    >>> import mmlib, torch
    >>> images, mask = torch.randn(2, 3, 32, 48), torch.ones(2, 48, dtype=torch.bool)
    >>> mmlib.ConvEncoder(dim=64)(images, mask).tokens.shape  # 4 x 6 cells
    torch.Size([2, 24, 64])
    """

    def __init__(
        self, dim: int, channels: int = 3, width: int = 32, stages: int = 3, dropout: float = 0.0
    ):
        super().__init__()
        self.stack = ConvStack(channels, width, stages, dropout)
        self.project, self.norm = nn.Linear(self.stack.out_channels, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x, mask = self.stack(x, mask)
        mask = mask[:, None].expand(-1, x.shape[2], -1).flatten(1)  # (B, H' * W')
        x = self.project(x.flatten(2).transpose(1, 2))  # (B, H' * W', D)
        return from_tokens(self.norm(x), mask)


def grid_positions(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed 2-D positions (height * width, dim): half of the vector tells the row, half the column.

    ``dim`` is divisible by 4.
    """
    rows = sine_positions(height, dim // 2, device)[:, None].expand(-1, width, -1)
    columns = sine_positions(width, dim // 2, device).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (height * width, dim)


class ViTEncoder(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2021) for images of any size.

    x (B, C, H, W), mask (B, W) -> Features (B, H' * W', D): a token per ``patch`` x ``patch``
    pixels, with sine positions. An image whose size the patch does not divide is padded with zeros
    on the right and at the bottom. A patch is real when it covers at least one real column. ``dim``
    is divisible by 4.

    >>> import mmlib, torch
    >>> images, mask = torch.randn(2, 3, 32, 48), torch.ones(2, 48, dtype=torch.bool)
    >>> mmlib.ViTEncoder(dim=64, patch=16)(images, mask).tokens.shape  # 2 x 3 patches
    torch.Size([2, 6, 64])
    """

    def __init__(
        self,
        dim: int,
        channels: int = 3,
        patch: int = 8,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dim % 4:
            raise ValueError(
                f"dim is {dim}, expected a multiple of 4, for sine and cosine of row and column"
            )
        self.patch = patch
        self.project = nn.Conv2d(channels, dim, patch, stride=patch)
        self.transformer = Transformer(dim, depth, heads, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        right, bottom = -x.shape[3] % self.patch, -x.shape[2] % self.patch
        x = F.pad(x.masked_fill(~mask[:, None, None], 0), (0, right, 0, bottom))
        x = self.project(x)  # (B, D, H', W')
        _, dim, height, width = x.shape
        mask = mask[:, None, :: self.patch].expand(-1, height, -1).flatten(1)  # (B, H' * W')
        x = x.flatten(2).transpose(1, 2) + grid_positions(height, width, dim, x.device)
        return from_tokens(self.transformer(x, mask[:, None, None]), mask)  # (B, H' * W', D)


class ResNetEncoder(nn.Module):
    """A torchvision ResNet (He et al., 2016) trained from random weights, with GroupNorm.

    BatchNorm would mix the samples of a batch. x (B, C, H, W), mask (B, W) -> Features
    (B, H' * W', D): a token per cell of the last stage. The first convolution has stride 1 and no
    pool follows it, as is usual for small images: a cell is 8 pixels square. It is for photos,
    whose mask rows are full or empty. A row that is partly real counts as an image with black
    columns, and all of its cells as real; lines of text belong in ``ConvEncoder``.

    >>> import mmlib, torch
    >>> images, mask = torch.randn(2, 3, 16, 24), torch.ones(2, 24, dtype=torch.bool)
    >>> mmlib.ResNetEncoder(dim=64)(images, mask).tokens.shape  # 2 x 3 cells
    torch.Size([2, 6, 64])
    """

    def __init__(self, dim: int, channels: int = 3, name: str = "resnet18"):
        super().__init__()
        torchvision = import_optional("torchvision", "'mmlib[torchvision]'")
        trunk = torchvision.models.get_model(name, norm_layer=lambda width: nn.GroupNorm(8, width))
        stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.trunk = nn.Sequential(
            stem, trunk.bn1, trunk.relu, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        )
        self.project, self.norm = nn.Linear(trunk.fc.in_features, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = self.trunk(x.masked_fill(~mask[:, None, None], 0))  # (B, width, H', W')
        x = self.project(x.flatten(2).transpose(1, 2))  # (B, H' * W', D)
        return from_tokens(self.norm(x), mask.any(dim=1, keepdim=True).expand(-1, x.shape[1]))
