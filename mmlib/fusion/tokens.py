"""dict of Features -> Features: all tokens go in; attention within and across modalities.

The first argument of all is ``dim`` (D), the second the names of the modalities.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens, masked_mean
from mmlib.fusion.common import Tags, check_features, join_tokens, sort_names, stack_pooled
from mmlib.layers.attention import Attention
from mmlib.layers.transformer import Block, Transformer


class JoinFusion(nn.Module):
    """Early fusion: tag each token with its modality, join all tokens, and read with a transformer.

    dict of Features (B, T, D) -> Features (B, sum of T, D); pooled is the mean over all real
    tokens. ``depth=0`` only tags and joins: that is for a decoder that brings its own layers.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)  # audio: 25 tokens, image: 16, text: 12
    >>> mmlib.JoinFusion(64, features)(features).tokens.shape
    torch.Size([2, 53, 64])
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
    """Query tokens read the modalities: self-attention among the queries, cross-attention to them.

    The queries are ``queries`` learned vectors that read all modalities; or, when ``query`` names a
    modality, its own tokens, which read the other modalities (where that modality is absent, one
    learned vector takes its place). dict of Features (B, T, D) -> Features, one token per query.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> mmlib.CrossFusion(64, features)(features).tokens.shape
    torch.Size([2, 4, 64])
    >>> mmlib.CrossFusion(64, features, query="text")(features).tokens.shape
    torch.Size([2, 12, 64])
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
                f"query {query!r} is the only modality, so there is nothing to read; name more "
                "modalities or leave query out"
            )
        self.tags = Tags(dim, others)
        self.learned = nn.Parameter(torch.randn(queries if query is None else 1, dim))
        self.transformer = Transformer(dim, depth, heads, cross=True)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        memory, memory_mask = self.tags(features)  # (B, K, D), (B, K)
        tokens, mask = self._queries(features)  # (B, Q, D), (B, Q)
        tokens = self.transformer(tokens, mask[:, None, None], memory, memory_mask[:, None, None])
        present = torch.stack([part.present for part in features.values()]).any(dim=0)  # (B,)
        return from_tokens(tokens, mask & present[:, None])

    def _queries(self, features: dict[str, Features]) -> tuple[Tensor, Tensor]:
        if self.query is None:
            batch = features[self.names[0]].mask.shape[0]  # len() would be a constant in an export
            tokens = self.learned.expand(batch, -1, -1)  # (B, queries, D)
            return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        own = features[self.query]
        first = torch.arange(own.mask.shape[1], device=own.mask.device) == 0  # (T,)
        stand_in = ~own.present[:, None] & first  # (B, T)
        tokens = torch.where(own.mask[..., None], own.tokens, 0)
        return torch.where(stand_in[..., None], self.learned, tokens), own.mask | stand_in


class BottleneckFusion(nn.Module):
    """Each modality has its own transformer; they exchange only through a few bottleneck tokens.

    In each layer every modality reads its own tokens and the bottleneck; the bottleneck's new value
    is the mean of what the *present* modalities made of it (Nagrani et al., 2021,
    arXiv:2107.00135). dict of Features (B, T, D) -> Features (B, sum of T + bottleneck, D), the
    bottleneck last. pooled is the mean over present modalities of each one's mean token, so that a
    modality with many tokens counts no more than one with few.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)  # 25 + 16 + 12 tokens
    >>> mmlib.BottleneckFusion(64, features, bottleneck=4)(features).tokens.shape
    torch.Size([2, 57, 64])
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
        tokens = {
            name: from_tokens(features[name].tokens, features[name].mask) for name in self.names
        }
        present = torch.stack([part.present for part in tokens.values()], dim=1)  # (B, M)
        shared = self.bottleneck.expand(present.shape[0], -1, -1)  # (B, N, D)
        for layer in zip(*(self.blocks[name].children() for name in self.names), strict=True):
            blocks = dict(zip(self.names, layer, strict=True))
            tokens, shared = self._exchange(blocks, tokens, shared, present)
        own = join_tokens(
            [from_tokens(self.norm(part.tokens), part.mask) for part in tokens.values()]
        )
        some = own.present[:, None].expand(shared.shape[:2])  # (B, N)
        last = from_tokens(self.norm(shared), some)
        return Features(
            torch.cat([own.tokens, last.tokens], dim=1),
            torch.cat([own.mask, last.mask], dim=1),
            own.pooled,
        )

    def _exchange(
        self,
        blocks: dict[str, nn.Module],
        tokens: dict[str, Features],
        shared: Tensor,
        present: Tensor,
    ) -> tuple[dict[str, Features], Tensor]:
        """One layer of every modality: its new tokens, and the new bottleneck (B, N, D)."""
        new, updates = {}, []
        seen = torch.ones(shared.shape[:2], dtype=torch.bool, device=shared.device)  # (B, N)
        for name, part in tokens.items():
            x = torch.cat([part.tokens, shared], dim=1)  # (B, T + N, D)
            x = blocks[name](x, torch.cat([part.mask, seen], dim=1)[:, None, None])
            own, update = x.split([x.shape[1] - shared.shape[1], shared.shape[1]], dim=1)
            new[name] = part._replace(tokens=own)
            updates.append(update.flatten(1))
        return new, masked_mean(torch.stack(updates, dim=1), present).unflatten(1, shared.shape[1:])


class CrossAttention(nn.Module):
    """What tokens x (B, Q, D) learn from a memory (B, K, D): the change of x (B, Q, D), without x.

    Pre-norm cross-attention where ``mask`` (B, K) is True, then an MLP.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.norm_memory = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.norm_mlp = Attention(dim, heads), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        found = self.attention(self.norm(x), mask[:, None, None], self.norm_memory(memory))
        return found + self.mlp(self.norm_mlp(x + found))


class PerceiverFusion(nn.Module):
    """Learned latents read all tokens of all modalities once, then attend only to each other.

    Jaegle et al., 2021, arXiv:2103.03206. dict of Features (B, T, D) -> Features (B, latents, D):
    however many tokens come in, ``latents`` come out, and what follows the first reading always
    costs the same. In CrossFusion, by contrast, every layer reads the modalities again.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> mmlib.PerceiverFusion(64, features, latents=8)(features).tokens.shape
    torch.Size([2, 8, 64])
    """

    def __init__(
        self, dim: int, names: Iterable[str], latents: int = 8, depth: int = 1, heads: int = 4
    ):
        super().__init__()
        self.names = sort_names(names)
        self.tags = Tags(dim, self.names)
        self.latents = nn.Parameter(0.02 * torch.randn(latents, dim))
        self.ask, self.transformer = CrossAttention(dim, heads), Transformer(dim, depth, heads)

    def forward(self, features: dict[str, Features]) -> Features:
        check_features(features, self.names)
        memory, mask = self.tags(features)  # (B, K, D), (B, K)
        latents = self.latents.expand(memory.shape[0], -1, -1)  # (B, N, D)
        latents = self.transformer(latents + self.ask(latents, memory, mask), None)
        return from_tokens(latents, mask.any(dim=1, keepdim=True).expand(latents.shape[:2]))


class CrossmodalFusion(nn.Module):
    """The tokens of every modality read those of every other (MulT).

    Tsai et al., 2019, arXiv:1906.00295. There is a cross-attention layer for each ordered pair of
    modalities. What a modality learns from the others that are present is averaged (MulT puts it
    side by side); then the modality's own transformer reads it. dict of Features (B, T, D) ->
    Features (B, sum of T, D); pooled is the mean over present modalities of each one's mean token.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> fusion = mmlib.CrossmodalFusion(64, features)
    >>> list(fusion.ask["text"]), fusion(features).tokens.shape
    (['audio', 'image'], torch.Size([2, 53, 64]))
    """

    def __init__(self, dim: int, names: Iterable[str], depth: int = 1, heads: int = 4):
        super().__init__()
        self.names = sort_names(names)
        others = {name: [other for other in self.names if other != name] for name in self.names}
        self.ask = nn.ModuleDict(
            {
                name: nn.ModuleDict({other: CrossAttention(dim, heads) for other in others[name]})
                for name in self.names
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
        return join_tokens([self._read_others(name, modalities) for name in self.names])

    def _read_others(self, name: str, modalities: dict[str, Features]) -> Features:
        """The modality ``name`` after it has read the others; as it was where none is present."""
        tokens, mask, _ = modalities[name]  # (B, T, D), (B, T)
        layers = dict(self.ask[name].named_children())
        if layers:
            others = [modalities[other] for other in layers]
            changes = [
                layer(tokens, other.tokens, other.mask).flatten(1)  # (B, T * D)
                for layer, other in zip(layers.values(), others, strict=True)
            ]
            present = torch.stack([other.present for other in others], dim=1)  # (B, M - 1)
            change = masked_mean(torch.stack(changes, dim=1), present)  # (B, T * D)
            tokens = tokens + change.unflatten(1, tokens.shape[1:])
        return from_tokens(self.transformers[name](tokens, mask[:, None, None]), mask)


class FiLMFusion(nn.Module):
    """Feature-wise linear modulation (FiLM), in all directions.

    Perez et al., 2018, arXiv:1709.07871. The tokens of each modality are scaled and shifted,
    x * (1 + scale) + shift, by two vectors that a linear map computes from the pooled vectors of
    all the *other* modalities (zero where absent). A single modality has no others and comes out as
    it is. dict of Features (B, T, D) -> Features (B, sum of T, D); pooled is the mean over present
    modalities of each one's mean token.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> mmlib.FiLMFusion(64, features)(features).tokens.shape
    torch.Size([2, 53, 64])
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        others = len(self.names) - 1
        self.condition = nn.ModuleDict(
            {name: nn.Linear(others * dim, 2 * dim) for name in self.names if others}
        )

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, _ = stack_pooled(features, self.names)
        return join_tokens(
            [self._modulate(i, features[name], pooled) for i, name in enumerate(self.names)]
        )

    def _modulate(self, i: int, own: Features, pooled: Tensor) -> Features:
        """Modality ``i``, its tokens scaled and shifted by what the others' pooled vectors say."""
        tokens = own.tokens.masked_fill(~own.mask[..., None], 0)
        if not self.condition:
            return from_tokens(tokens, own.mask)
        others = torch.cat([pooled[:, :i], pooled[:, i + 1 :]], dim=1)  # (B, M - 1, D)
        both = self.condition[self.names[i]](others.flatten(1))  # (B, 2 D)
        scale, shift = both[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        return from_tokens(tokens * (1 + scale) + shift, own.mask)
