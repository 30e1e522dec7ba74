"""The pre-norm transformer block, a stack of them, and positions."""

import torch
from torch import Tensor, nn

from mmlib.layers.attention import Attention


class Block(nn.Module):
    """Pre-norm transformer block; with ``cross`` it also looks at a memory (B, K, D)."""

    def __init__(self, dim: int, heads: int, cross: bool = False, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm_cross, self.cross = (
            (nn.LayerNorm(dim), Attention(dim, heads)) if cross else (None, None)
        )
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
        if self.cross is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), memory_mask, memory))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """``depth`` blocks and a final LayerNorm. x (B, T, D); masks broadcast to (B, H, T, T) and
    (B, H, T, K), True = look.
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
    """Fixed sine and cosine positions (length, dim), for any length (Vaswani et al., 2017,
    section 3.5). ``dim`` is even.
    """
    rate = torch.exp(
        torch.arange(0, dim, 2, device=device) * (-torch.log(torch.tensor(10_000.0)).item() / dim)
    )  # (dim / 2)
    angle = torch.arange(length, device=device)[:, None] * rate  # (length, dim / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (length, dim)
