"""Building blocks: attention (fused, and written out), the transformer block, recurrent layers whose padding never matters."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import masked_softmax


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention written out (Vaswani et al., 2017, eq. 1) -> result (B, H, Q, d), weights (B, H, Q, K).

    q (B, H, Q, d), k and v (B, H, K, d); ``mask`` broadcasts to (B, H, Q, K), True = look.
    Where a query has nothing to look at, its result and its weights are exactly zero.
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5                    # (B, H, Q, K)
    weights = scores.softmax(dim=-1) if mask is None else masked_softmax(scores, mask)
    return weights @ v, weights


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same result as ``attend`` from PyTorch's fused kernel, which never builds the (Q, K) matrix."""
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    some = mask.any(dim=-1, keepdim=True)                                     # an empty row looks everywhere, then is zeroed
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~some).masked_fill(~some, 0)


class Attention(nn.Module):
    """Multi-head attention of x (B, Q, D) to ``context`` (B, K, D), or to itself when there is none -> (B, Q, D).

    ``mask`` broadcasts to (B, H, Q, K), True = look. Fused unless the weights are asked for: inside
    ``with recording(model):`` it is written out and ``.weights`` (B, H, Q, K) holds those of the last forward pass.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be divisible by heads ({heads})")
        self.heads, self.record, self.weights = heads, False, None
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q = self._split(self.q(x))                                            # (B, H, Q, d)
        k, v = (self._split(part) for part in self.kv(context).chunk(2, dim=-1))
        if self.record:
            y, weights = attend(q, k, v, mask)
            keep_weights(self, weights)
        else:
            y = attend_fused(q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))                         # (B, Q, D)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)              # (B, T, D) -> (B, H, T, d)


def keep_weights(module: nn.Module, weights: Tensor) -> None:
    """Keep attention weights in ``module.weights``, without their graph, so that the module can be copied and pickled.

    An exported program has no place for them.
    """
    if not torch.compiler.is_exporting():
        module.weights = weights.detach()


@contextmanager
def recording(module: nn.Module) -> Iterator[None]:
    """Inside this block every Attention of ``module`` keeps the weights of its last forward pass in ``.weights``.

    They can be read inside the block and after it, until the next recording replaces them.
    """
    parts = [m for m in module.modules() if isinstance(m, Attention)]
    for part in parts:
        part.record = True
    try:
        yield
    finally:
        for part in parts:
            part.record = False


class Block(nn.Module):
    """Pre-norm transformer block; with ``cross`` it also looks at a memory (B, K, D)."""

    def __init__(self, dim: int, heads: int, cross: bool = False, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm_cross, self.cross = (nn.LayerNorm(dim), Attention(dim, heads)) if cross else (None, None)
        self.norm2, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        if self.cross is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), memory_mask, memory))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """``depth`` blocks and a final LayerNorm. x (B, T, D); masks broadcast to (B, H, T, T) and (B, H, T, K), True = look."""

    def __init__(self, dim: int, depth: int, heads: int, cross: bool = False, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList([Block(dim, heads, cross, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask, memory, memory_mask)
        return self.norm(x)


def sine_positions(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed sine and cosine positions (length, dim), for any length (Vaswani et al., 2017, section 3.5). ``dim`` is even."""
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-torch.log(torch.tensor(10_000.0)).item() / dim))  # (dim / 2)
    angle = torch.arange(length, device=device)[:, None] * rate                                                   # (length, dim / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)                                             # (length, dim)


class VariationalDropout(nn.Module):
    """Dropout with one mask for all time steps of a sample (Gal & Ghahramani, 2016). x (B, T, D)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p, self.training)


def reverse_within(x: Tensor, mask: Tensor) -> Tensor:
    """Reverse each row of x (B, T, D) within its own real length, padding left where it is. Its own inverse."""
    time = torch.arange(x.shape[1], device=x.device)                          # (T,)
    length = mask.sum(dim=1, keepdim=True)                                    # (B, 1)
    index = torch.where(time < length, length - 1 - time, time)               # (B, T)
    return x.gather(1, index[..., None].expand_as(x))


class Recurrent(nn.Module):
    """A bidirectional recurrent stack, x (B, T, D), mask (B, T) -> (B, T, D), D / 2 from each direction. ``dim`` is even.

    Same numbers as torch's packed bidirectional layer, but each direction is a plain one: the backward one reads each
    row reversed within its own length, so padding is only ever read after the last real token, where it changes nothing.
    Packing would leave oneDNN's fast path (measured: 1.6 to 2.5 times slower).
    """

    CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

    def __init__(self, dim: int, cell: str = "lstm", depth: int = 1, dropout: float = 0.0):
        super().__init__()
        if cell not in self.CELLS:
            raise ValueError(f"cell is {cell!r}, expected one of {sorted(self.CELLS)}")
        if dim % 2:
            raise ValueError(f"dim is {dim}, expected an even number: half comes from each direction")
        make = lambda: nn.ModuleList([self.CELLS[cell](dim, dim // 2, batch_first=True) for _ in range(depth)])
        self.ahead, self.back, self.dropout = make(), make(), VariationalDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for ahead, back in zip(self.ahead, self.back):
            x = self.dropout(x)
            x = torch.cat([ahead(x)[0], reverse_within(back(reverse_within(x, mask))[0], mask)], dim=-1)
        return x.masked_fill(~mask[..., None], 0)
