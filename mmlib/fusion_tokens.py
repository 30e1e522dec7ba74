"""dict of Features -> Features on the level of tokens: the senses are lined up, asked, or exchange through a bottleneck.

A sense's tokens are padded on the right, so after lining up several senses the mask has holes in the middle. That is
allowed in Features that come out of a fusion: whoever reads them looks at the mask, never at a length.
"""
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens, masked_mean
from mmlib.fusion_senses import Tags, check_features, sort_names
from mmlib.layers import Block, Transformer


class JoinFusion(nn.Module):
    """Early fusion: tag each token with its sense, line them all up, and let a transformer read the line.

    ``depth=0`` only tags and lines up (what a decoder that brings its own layers wants).
    """

    def __init__(self, dim: int, names: Iterable[str], depth: int = 1, heads: int = 4):
        super().__init__()
        self.names = sort_names(names)
        self.tags = Tags(dim, self.names)
        self.transformer = Transformer(dim, depth, heads) if depth else None

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        tokens, mask = self.tags(features)                                                # (B, T, D), (B, T)
        if self.transformer is not None:
            tokens = self.transformer(tokens, mask[:, None, None])
        return from_tokens(tokens, mask)


class CrossFusion(nn.Module):
    """Some tokens ask, the senses answer: a transformer that looks at itself and, by cross-attention, at the senses.

    The askers are ``queries`` learned vectors and all senses answer; or, when ``query`` names a sense, its own tokens ask
    the other senses (where that sense is absent, one learned vector asks in its place).
    Out comes one token per asker.
    """

    def __init__(self, dim: int, names: Iterable[str], query: str | None = None, queries: int = 4, depth: int = 1, heads: int = 4):
        super().__init__()
        self.names, self.query = sort_names(names, query), query
        others = [name for name in self.names if name != query]
        if not others:
            raise ValueError(f"query {query!r} is the only sense, so it has nobody to ask; name more senses or leave query out")
        self.tags = Tags(dim, others)
        self.learned = nn.Parameter(torch.randn(queries if query is None else 1, dim))
        self.transformer = Transformer(dim, depth, heads, cross=True)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        memory, memory_mask = self.tags(features)                                         # (B, K, D), (B, K)
        tokens, mask = self._askers(features)                                             # (B, Q, D), (B, Q)
        tokens = self.transformer(tokens, mask[:, None, None], memory, memory_mask[:, None, None])
        present = torch.stack([part.present for part in features.values()]).any(dim=0)    # (B,)
        return from_tokens(tokens, mask & present[:, None])

    def _askers(self, features: dict[str, Features]) -> tuple[Tensor, Tensor]:
        if self.query is None:
            batch = features[self.names[0]].mask.shape[0]                                 # not len(): it would be a constant in an export
            tokens = self.learned.expand(batch, -1, -1)                                   # (B, queries, D)
            return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        ask = features[self.query]
        stand_in = ~ask.present[:, None] & (torch.arange(ask.mask.shape[1], device=ask.mask.device) == 0)      # (B, T), first slot
        tokens = torch.where(ask.mask[..., None], ask.tokens, 0)
        return torch.where(stand_in[..., None], self.learned, tokens), ask.mask | stand_in


class BottleneckFusion(nn.Module):
    """Each sense has its own transformer layers; they exchange only through a few bottleneck tokens.

    In each layer every sense reads its own tokens and the bottleneck; the bottleneck's new value is the mean of what the
    *present* senses made of it (Nagrani et al., 2021, arXiv:2107.00135). Out come all tokens, bottleneck last; pooled is
    the mean over present senses of each one's mean token, so that a sense with many tokens counts no more than one with few.
    """

    def __init__(self, dim: int, names: Iterable[str], depth: int = 2, heads: int = 4, bottleneck: int = 4):
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth is {depth}, expected 2 or more: what one layer writes into the bottleneck, the next one reads")
        self.names = sort_names(names)
        self.bottleneck = nn.Parameter(0.02 * torch.randn(bottleneck, dim))
        self.blocks = nn.ModuleDict({name: nn.ModuleList([Block(dim, heads) for _ in range(depth)]) for name in self.names})
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        masks = {name: features[name].mask for name in self.names}
        tokens = {name: features[name].tokens.masked_fill(~masks[name][..., None], 0) for name in self.names}
        present = torch.stack([features[name].present for name in self.names], dim=1)     # (B, M)
        shared = self.bottleneck.expand(present.shape[0], -1, -1)                         # (B, N, D)
        for layer in range(len(self.blocks[self.names[0]])):
            tokens, shared = self._exchange(layer, tokens, masks, shared, present)
        line = [from_tokens(self.norm(tokens[name]), masks[name]) for name in self.names]
        pooled = masked_mean(torch.stack([part.pooled for part in line], dim=1), present) # (B, D)
        some = present.any(dim=1, keepdim=True).expand(shared.shape[:2])                  # (B, N)
        line.append(from_tokens(self.norm(shared), some))
        return Features(torch.cat([part.tokens for part in line], dim=1), torch.cat([part.mask for part in line], dim=1), pooled)

    def _exchange(self, layer: int, tokens: dict[str, Tensor], masks: dict[str, Tensor], shared: Tensor,
                  present: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One layer of every sense: its new tokens, and the bottleneck (B, N, D) averaged over the present senses."""
        new, updates = {}, []
        seen = torch.ones(shared.shape[:2], dtype=torch.bool, device=shared.device)       # (B, N)
        for name in self.names:
            x = torch.cat([tokens[name], shared], dim=1)                                  # (B, T + N, D)
            x = self.blocks[name][layer](x, torch.cat([masks[name], seen], dim=1)[:, None, None])
            new[name], update = x.split([x.shape[1] - shared.shape[1], shared.shape[1]], dim=1)
            updates.append(update.flatten(1))
        return new, masked_mean(torch.stack(updates, dim=1), present).unflatten(1, shared.shape[1:])
