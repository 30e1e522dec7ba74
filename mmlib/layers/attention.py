"""Attention, fused and written out; where there is nothing to look at, the result is zero."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import masked_softmax


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention written out (Vaswani et al., 2017, eq. 1) -> result (B, H, Q,
    d), weights (B, H, Q, K).

    q (B, H, Q, d), k and v (B, H, K, d); ``mask`` broadcasts to (B, H, Q, K), True = look.
    Where a query has nothing to look at, its result and its weights are exactly zero.
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, H, Q, K)
    weights = scores.softmax(dim=-1) if mask is None else masked_softmax(scores, mask)
    return weights @ v, weights


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same result as ``attend`` from PyTorch's fused kernel, which never builds the (Q, K)
    matrix.
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    some = mask.any(dim=-1, keepdim=True)  # an empty row looks everywhere, then is zeroed
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~some).masked_fill(~some, 0)


class Attention(nn.Module):
    """Multi-head attention of x (B, Q, D) to ``context`` (B, K, D), or to itself when there is none
    -> (B, Q, D).

    ``mask`` broadcasts to (B, H, Q, K), True = look. Fused unless the weights are asked for: inside
    ``with recording(model):`` it is written out and ``.weights`` (B, H, Q, K) holds those of the
    last forward pass.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be divisible by heads ({heads})")
        self.heads, self.record, self.weights = heads, False, None
        self.q, self.kv, self.out = (
            nn.Linear(dim, dim),
            nn.Linear(dim, 2 * dim),
            nn.Linear(dim, dim),
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        context = x if context is None else context
        q = self._split(self.q(x))  # (B, H, Q, d)
        k, v = (self._split(part) for part in self.kv(context).chunk(2, dim=-1))
        if self.record:
            y, weights = attend(q, k, v, mask)
            keep_weights(self, weights)
        else:
            y = attend_fused(q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, Q, D)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, d)


def keep_weights(module: nn.Module, weights: Tensor) -> None:
    """Keep attention weights in ``module.weights``, to be looked at.

    Without their graph, so that the module can be copied and pickled. An exported program has no
    place for them.
    """
    if not torch.compiler.is_exporting():
        module.weights = weights.detach()


@contextmanager
def recording(module: nn.Module) -> Iterator[None]:
    """Inside this block every Attention of ``module`` keeps the weights of its last forward pass.

    ``.weights`` can be read inside the block and after it, until the next recording replaces them.
    """
    parts = [m for m in module.modules() if isinstance(m, Attention)]
    for part in parts:
        part.record = True
    try:
        yield
    finally:
        for part in parts:
            part.record = False
