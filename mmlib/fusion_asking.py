"""dict of Features -> Features by cross-attention: a few latents ask all senses, or every sense asks every other."""
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens, masked_mean
from mmlib.fusion_senses import Tags, check_features, line_up, sort_names
from mmlib.layers import Attention, Transformer


class Ask(nn.Module):
    """Tokens x (B, Q, D) ask ``memory`` (B, K, D) where ``mask`` (B, K) is True: pre-norm cross-attention, then an MLP."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.norm_memory, self.attention = nn.LayerNorm(dim), nn.LayerNorm(dim), Attention(dim, heads)
        self.norm_mlp, self.mlp = nn.LayerNorm(dim), nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return x + self.update(x, memory, mask)

    def update(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """What ``x`` learns from the memory: the change alone (B, Q, D), without x."""
        found = self.attention(self.norm(x), mask[:, None, None], self.norm_memory(memory))
        return found + self.mlp(self.norm_mlp(x + found))


class PerceiverFusion(nn.Module):
    """Learned latents ask all tokens of all senses once, then only talk to each other (Jaegle et al., 2021, arXiv:2103.03206).

    However many tokens come in, ``latents`` come out, and what happens after the asking costs the same. Unlike in CrossFusion, where
    the askers look again in every layer.
    """

    def __init__(self, dim: int, names: Iterable[str], latents: int = 8, depth: int = 1, heads: int = 4):
        super().__init__()
        self.names = sort_names(names)
        self.tags = Tags(dim, self.names)
        self.latents = nn.Parameter(0.02 * torch.randn(latents, dim))
        self.ask, self.transformer = Ask(dim, heads), Transformer(dim, depth, heads)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        memory, mask = self.tags(features)                                                # (B, K, D), (B, K)
        latents = self.latents.expand(memory.shape[0], -1, -1)                            # (B, N, D)
        latents = self.transformer(self.ask(latents, memory, mask), None)
        return from_tokens(latents, mask.any(dim=1, keepdim=True).expand(latents.shape[:2]))


class CrossmodalFusion(nn.Module):
    """The tokens of every sense ask those of every other (MulT; Tsai et al., 2019, arXiv:1906.00295).

    There is a cross-attention layer for each ordered pair of senses. What a sense has heard from the others that are present is
    averaged (MulT puts it side by side), then its own transformer reads it. Out come all tokens; pooled is the mean over present
    senses of each one's mean token.
    """

    def __init__(self, dim: int, names: Iterable[str], depth: int = 1, heads: int = 4):
        super().__init__()
        self.names = sort_names(names)
        pairs = {name: [other for other in self.names if other != name] for name in self.names}
        self.ask = nn.ModuleDict({name: nn.ModuleDict({other: Ask(dim, heads) for other in others}) for name, others in pairs.items()})
        self.transformers = nn.ModuleDict({name: Transformer(dim, depth, heads) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        senses = {name: from_tokens(features[name].tokens, features[name].mask) for name in self.names}
        return line_up([self._listen(name, senses) for name in self.names])

    def _listen(self, name: str, senses: dict[str, Features]) -> Features:
        """The sense ``name`` after it has asked the others; as it was where no other is present."""
        own = tokens = senses[name].tokens                                                # (B, T, D)
        mask = senses[name].mask
        if self.ask[name]:
            others = {other: senses[other] for other in self.ask[name]}
            heard = [self.ask[name][other].update(own, part.tokens, part.mask).flatten(1)
                     for other, part in others.items()]
            present = torch.stack([part.present for part in others.values()], dim=1)      # (B, M - 1)
            change = masked_mean(torch.stack(heard, dim=1), present)                      # (B, T * D)
            tokens = own + change.unflatten(1, own.shape[1:])
        return from_tokens(self.transformers[name](tokens, mask[:, None, None]), mask)
