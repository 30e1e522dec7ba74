"""Attention, fused and written out; where a query may attend to no key, the result is zero.

Masks of attention broadcast to (B, H, Q, K): True = this query may attend to this key.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import masked_softmax


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention written out (Vaswani et al., 2017, eq. 1).

    q (B, H, Q, d), k and v (B, H, K, d) -> result (B, H, Q, d), weights (B, H, Q, K). ``mask``
    broadcasts to (B, H, Q, K), True = attend. Where a query may attend to no key, its result and
    its weights are exactly zero.

    >>> import mmlib, torch
    >>> q, k, v = (torch.ones(1, 1, length, 4) for length in (1, 3, 3))
    >>> result, weights = mmlib.attend(q, k, v, torch.tensor([True, True, False]))
    >>> weights[0, 0]
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, H, Q, K)
    weights = scores.softmax(dim=-1) if mask is None else masked_softmax(scores, mask)
    return weights @ v, weights


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same result as ``attend`` from PyTorch's fused kernel, which never builds (Q, K).

    q (B, H, Q, d), k and v (B, H, K, d) -> (B, H, Q, d); ``mask`` as in ``attend``.

    >>> import mmlib, torch
    >>> q, k, v = (torch.randn(2, 4, length, 8) for length in (5, 7, 7))
    >>> torch.allclose(mmlib.attend_fused(q, k, v), mmlib.attend(q, k, v)[0], atol=1e-5)
    True
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    some = mask.any(dim=-1, keepdim=True)  # an empty row attends to all, then is zeroed
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~some).masked_fill(~some, 0)


class Attention(nn.Module):
    """Multi-head attention of x (B, Q, D) to ``context`` (B, K, D), or to x itself -> (B, Q, D).

    ``mask`` broadcasts to (B, H, Q, K), True = attend. The fused kernel computes it, except inside
    ``with recording(model):``. There it is written out, and ``.weights`` (B, H, Q, K) keeps the
    attention weights of the last forward pass.

    >>> import mmlib, torch
    >>> x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    >>> attention = mmlib.Attention(dim=16, heads=4)
    >>> attention(x, context=context).shape
    torch.Size([2, 5, 16])
    """

    weights: Tensor | None

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be divisible by heads ({heads})")
        self.heads, self.record, self.weights = heads, False, None
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

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
    """Keep attention weights in ``module.weights``, so that a user can read them.

    They are kept without their graph, so that the module can be copied and pickled. An exported
    program has no place for them.
    """
    if not torch.compiler.is_exporting():
        module.weights = weights.detach()


@contextmanager
def recording(module: nn.Module) -> Iterator[None]:
    """Inside this block every Attention of ``module`` keeps the weights of its last forward pass.

    ``.weights`` can be read inside the block and after it, until the next recording replaces them.

    >>> import mmlib, torch
    >>> transformer = mmlib.Transformer(dim=16, depth=1, heads=4)
    >>> with mmlib.recording(transformer):
    ...     y = transformer(torch.randn(2, 5, 16), mask=None)
    >>> transformer.blocks[0].attention.weights.shape
    torch.Size([2, 4, 5, 5])
    """
    parts = [m for m in module.modules() if isinstance(m, Attention)]
    for part in parts:
        part.record = True
    try:
        yield
    finally:
        for part in parts:
            part.record = False
