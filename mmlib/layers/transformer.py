"""The pre-norm transformer block, a stack of them, and positions.

Masks broadcast to (B, H, Q, K), True = this token may attend to that one.
"""

import torch
from torch import Tensor, nn

from mmlib.layers.attention import Attention


class Block(nn.Module):
    """Pre-norm transformer block; with ``cross`` it also attends to a memory (B, K, D).

    x (B, T, D) -> (B, T, D). ``mask`` broadcasts to (B, H, T, T), ``memory_mask`` to (B, H, T, K).

    >>> import mmlib, torch
    >>> block = mmlib.Block(dim=16, heads=4, cross=True)
    >>> block(torch.randn(2, 5, 16), mask=None, memory=torch.randn(2, 9, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, dim: int, heads: int, cross: bool = False, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm_cross = nn.LayerNorm(dim) if cross else None
        self.cross = Attention(dim, heads) if cross else None
        self.norm2, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), memory_mask, memory))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """``depth`` blocks and a final LayerNorm: x (B, T, D) -> (B, T, D).

    ``mask`` broadcasts to (B, H, T, T). With ``cross`` the blocks also attend to a memory
    (B, K, D), whose ``memory_mask`` broadcasts to (B, H, T, K). True = attend.

    >>> import mmlib, torch
    >>> mask = torch.arange(5) < torch.tensor([[5], [3]])  # (B, T)
    >>> transformer = mmlib.Transformer(dim=16, depth=2, heads=4)
    >>> transformer(torch.randn(2, 5, 16), mask[:, None, None]).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, dim: int, depth: int, heads: int, cross: bool = False, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList([Block(dim, heads, cross, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        for block in self.blocks:
            x = block(x, mask, memory, memory_mask)
        return self.norm(x)


def sine_positions(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed sine and cosine positions (length, dim), for any length and an even ``dim``.

    Vaswani et al., 2017, section 3.5.

    >>> sine_positions(3, 2)  # sine and cosine of the position
    tensor([[ 0.0000,  1.0000],
            [ 0.8415,  0.5403],
            [ 0.9093, -0.4161]])
    """
    step = -torch.tensor(10_000.0).log().item() / dim
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * step)  # (dim / 2)
    angle = torch.arange(length, device=device)[:, None] * rate  # (length, dim / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (length, dim)
