"""dict of Features -> Features: fusions of all tokens, by attention within and across
modalities.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens, masked_mean
from mmlib.fusion.common import Tags, check_features, line_up, sort_names, stack
from mmlib.layers.attention import Attention
from mmlib.layers.transformer import Block, Transformer


class JoinFusion(nn.Module):
    """Early fusion: tag each token with its modality, line them all up, and let a transformer read
    the line.

    ``depth=0`` only tags and lines up (what a decoder that brings its own layers wants).
    """

    def __init__(self, dim: int, names: Iterable[str], depth: int = 1, heads: int = 4):
        super().__init__()
        self.names = sort_names(names)
        self.tags = Tags(dim, self.names)
        self.transformer = Transformer(dim, depth, heads) if depth else None

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        tokens, mask = self.tags(features)  # (B, T, D), (B, T)
        if self.transformer is not None:
            tokens = self.transformer(tokens, mask[:, None, None])
        return from_tokens(tokens, mask)


class CrossFusion(nn.Module):
    """Some tokens ask, the modalities answer: a transformer that looks at itself and, by
    cross-attention, at the modalities.

    The askers are ``queries`` learned vectors and all modalities answer; or, when ``query`` names a
    modality, its own tokens ask the other modalities (where that modality is absent, one learned
    vector asks in its place). Out comes one token per asker.
    """

    def __init__(
        self,
        dim: int,
        names: Iterable[str],
        query: str | None = None,
        queries: int = 4,
        depth: int = 1,
        heads: int = 4,
    ):
        super().__init__()
        self.names, self.query = sort_names(names, query), query
        others = [name for name in self.names if name != query]
        if not others:
            raise ValueError(
                f"query {query!r} is the only modality, so it has nobody to ask; name more "
                "modalities or leave query out"
            )
        self.tags = Tags(dim, others)
        self.learned = nn.Parameter(torch.randn(queries if query is None else 1, dim))
        self.transformer = Transformer(dim, depth, heads, cross=True)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        memory, memory_mask = self.tags(features)  # (B, K, D), (B, K)
        tokens, mask = self._askers(features)  # (B, Q, D), (B, Q)
        tokens = self.transformer(tokens, mask[:, None, None], memory, memory_mask[:, None, None])
        present = torch.stack([part.present for part in features.values()]).any(dim=0)  # (B,)
        return from_tokens(tokens, mask & present[:, None])

    def _askers(self, features: dict[str, Features]) -> tuple[Tensor, Tensor]:
        if self.query is None:
            batch = features[self.names[0]].mask.shape[
                0
            ]  # not len(): it would be a constant in an export
            tokens = self.learned.expand(batch, -1, -1)  # (B, queries, D)
            return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        ask = features[self.query]
        stand_in = ~ask.present[:, None] & (
            torch.arange(ask.mask.shape[1], device=ask.mask.device) == 0
        )  # (B, T), first slot
        tokens = torch.where(ask.mask[..., None], ask.tokens, 0)
        return torch.where(stand_in[..., None], self.learned, tokens), ask.mask | stand_in


class BottleneckFusion(nn.Module):
    """Each modality has its own transformer layers; they exchange only through a few bottleneck
    tokens.

    In each layer every modality reads its own tokens and the bottleneck; the bottleneck's new value
    is the mean of what the *present* modalities made of it (Nagrani et al., 2021,
    arXiv:2107.00135). Out come all tokens, bottleneck last; pooled is the mean over present
    modalities of each one's mean token, so that a modality with many tokens counts no more than one
    with few.
    """

    def __init__(
        self, dim: int, names: Iterable[str], depth: int = 2, heads: int = 4, bottleneck: int = 4
    ):
        super().__init__()
        if depth < 2:
            raise ValueError(
                f"depth is {depth}, expected 2 or more: what one layer writes into the "
                "bottleneck, the next one reads"
            )
        self.names = sort_names(names)
        self.bottleneck = nn.Parameter(0.02 * torch.randn(bottleneck, dim))
        self.blocks = nn.ModuleDict(
            {name: nn.ModuleList([Block(dim, heads) for _ in range(depth)]) for name in self.names}
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        masks = {name: features[name].mask for name in self.names}
        tokens = {
            name: features[name].tokens.masked_fill(~masks[name][..., None], 0)
            for name in self.names
        }
        present = torch.stack([features[name].present for name in self.names], dim=1)  # (B, M)
        shared = self.bottleneck.expand(present.shape[0], -1, -1)  # (B, N, D)
        for layer in range(len(self.blocks[self.names[0]])):
            tokens, shared = self._exchange(layer, tokens, masks, shared, present)
        line = [from_tokens(self.norm(tokens[name]), masks[name]) for name in self.names]
        pooled = masked_mean(torch.stack([part.pooled for part in line], dim=1), present)  # (B, D)
        some = present.any(dim=1, keepdim=True).expand(shared.shape[:2])  # (B, N)
        line.append(from_tokens(self.norm(shared), some))
        return Features(
            torch.cat([part.tokens for part in line], dim=1),
            torch.cat([part.mask for part in line], dim=1),
            pooled,
        )

    def _exchange(
        self,
        layer: int,
        tokens: dict[str, Tensor],
        masks: dict[str, Tensor],
        shared: Tensor,
        present: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One layer of every modality: its new tokens, and the bottleneck (B, N, D) averaged
        over the present modalities.
        """
        new, updates = {}, []
        seen = torch.ones(shared.shape[:2], dtype=torch.bool, device=shared.device)  # (B, N)
        for name in self.names:
            x = torch.cat([tokens[name], shared], dim=1)  # (B, T + N, D)
            x = self.blocks[name][layer](x, torch.cat([masks[name], seen], dim=1)[:, None, None])
            new[name], update = x.split([x.shape[1] - shared.shape[1], shared.shape[1]], dim=1)
            updates.append(update.flatten(1))
        return new, masked_mean(torch.stack(updates, dim=1), present).unflatten(1, shared.shape[1:])


class Ask(nn.Module):
    """Tokens x (B, Q, D) ask ``memory`` (B, K, D) where ``mask`` (B, K) is True: pre-norm
    cross-attention, then an MLP.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.norm_memory, self.attention = (
            nn.LayerNorm(dim),
            nn.LayerNorm(dim),
            Attention(dim, heads),
        )
        self.norm_mlp, self.mlp = (
            nn.LayerNorm(dim),
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)),
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return x + self.update(x, memory, mask)

    def update(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """What ``x`` learns from the memory: the change alone (B, Q, D), without x."""
        found = self.attention(self.norm(x), mask[:, None, None], self.norm_memory(memory))
        return found + self.mlp(self.norm_mlp(x + found))


class PerceiverFusion(nn.Module):
    """Learned latents ask all tokens of all modalities once, then only talk to each other (Jaegle
    et al., 2021, arXiv:2103.03206).

    However many tokens come in, ``latents`` come out, and what happens after the asking costs the
    same. Unlike in CrossFusion, where the askers look again in every layer.
    """

    def __init__(
        self, dim: int, names: Iterable[str], latents: int = 8, depth: int = 1, heads: int = 4
    ):
        super().__init__()
        self.names = sort_names(names)
        self.tags = Tags(dim, self.names)
        self.latents = nn.Parameter(0.02 * torch.randn(latents, dim))
        self.ask, self.transformer = Ask(dim, heads), Transformer(dim, depth, heads)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        memory, mask = self.tags(features)  # (B, K, D), (B, K)
        latents = self.latents.expand(memory.shape[0], -1, -1)  # (B, N, D)
        latents = self.transformer(self.ask(latents, memory, mask), None)
        return from_tokens(latents, mask.any(dim=1, keepdim=True).expand(latents.shape[:2]))


class CrossmodalFusion(nn.Module):
    """The tokens of every modality ask those of every other (MulT; Tsai et al., 2019,
    arXiv:1906.00295).

    There is a cross-attention layer for each ordered pair of modalities. What a modality has heard
    from the others that are present is averaged (MulT puts it side by side), then its own
    transformer reads it. Out come all tokens; pooled is the mean over present modalities of each
    one's mean token.
    """

    def __init__(self, dim: int, names: Iterable[str], depth: int = 1, heads: int = 4):
        super().__init__()
        self.names = sort_names(names)
        pairs = {name: [other for other in self.names if other != name] for name in self.names}
        self.ask = nn.ModuleDict(
            {
                name: nn.ModuleDict({other: Ask(dim, heads) for other in others})
                for name, others in pairs.items()
            }
        )
        self.transformers = nn.ModuleDict(
            {name: Transformer(dim, depth, heads) for name in self.names}
        )

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        modalities = {
            name: from_tokens(features[name].tokens, features[name].mask) for name in self.names
        }
        return line_up([self._listen(name, modalities) for name in self.names])

    def _listen(self, name: str, modalities: dict[str, Features]) -> Features:
        """The modality ``name`` after it has asked the others; as it was where no other is
        present.
        """
        own = tokens = modalities[name].tokens  # (B, T, D)
        mask = modalities[name].mask
        if self.ask[name]:
            others = {other: modalities[other] for other in self.ask[name]}
            heard = [
                self.ask[name][other].update(own, part.tokens, part.mask).flatten(1)
                for other, part in others.items()
            ]
            present = torch.stack([part.present for part in others.values()], dim=1)  # (B, M - 1)
            change = masked_mean(torch.stack(heard, dim=1), present)  # (B, T * D)
            tokens = own + change.unflatten(1, own.shape[1:])
        return from_tokens(self.transformers[name](tokens, mask[:, None, None]), mask)


class FiLMFusion(nn.Module):
    """Feature-wise linear modulation (FiLM; Perez et al., 2018, arXiv:1709.07871), in all
    directions.

    The tokens of each modality are scaled and shifted, x * (1 + scale) + shift, by two vectors that
    a linear map reads off the pooled vectors of all the *other* modalities (zero where absent). Out
    come all tokens; pooled is the mean over present modalities of each one's mean token. One
    modality has no others: it comes out as it is.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        others = len(self.names) - 1
        self.condition = nn.ModuleDict(
            {name: nn.Linear(others * dim, 2 * dim) for name in self.names if others}
        )

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, _ = stack(features, self.names)
        return line_up(
            [self._modulate(i, features[name], pooled) for i, name in enumerate(self.names)]
        )

    def _modulate(self, i: int, own: Features, pooled: Tensor) -> Features:
        """Modality ``i``, its tokens scaled and shifted by what the others' pooled vectors say."""
        tokens = own.tokens.masked_fill(~own.mask[..., None], 0)
        if not self.condition:
            return from_tokens(tokens, own.mask)
        others = torch.cat([pooled[:, :i], pooled[:, i + 1 :]], dim=1).flatten(
            1
        )  # (B, (M - 1) * D)
        scale, shift = self.condition[self.names[i]](others)[:, None].chunk(
            2, dim=-1
        )  # (B, 1, D) each
        return from_tokens(tokens * (1 + scale) + shift, own.mask)
