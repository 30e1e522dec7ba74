"""dict of Features -> Features: one vector per modality goes in, their sum or weighted sum out.

The first argument of all is ``dim`` (D), the second the names of the modalities.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_pooled, masked_mean, masked_softmax
from mmlib.fusion.common import apply_each, sort_names, stack_pooled
from mmlib.layers.attention import keep_weights


def _mlp(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))


class ConcatFusion(nn.Module):
    """The pooled vectors side by side, each with a flag (1 = present), through an MLP to ``dim``.

    dict of Features (B, T, D) -> Features (B, 1, D). By the flag an absent modality differs from
    one whose vector happens to be zero.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)  # of audio, image and text
    >>> fused = mmlib.ConcatFusion(64, features)(features)
    >>> fused.tokens.shape, fused.pooled.shape
    (torch.Size([2, 1, 64]), torch.Size([2, 64]))
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.mlp = _mlp(len(self.names) * (dim + 1), dim)

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        flagged = torch.cat([pooled, present[..., None].to(pooled.dtype)], dim=-1)  # (B, M, D + 1)
        return from_pooled(self.mlp(flagged.flatten(1)), present.any(dim=1))


class SumFusion(nn.Module):
    """A linear map per modality, then the sum over the modalities present.

    dict of Features (B, T, D) -> Features (B, 1, D). It is a sum and not a mean: where modalities
    are independent, their evidence (log-likelihoods) adds up.

    >>> import mmlib, torch
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> fusion = mmlib.SumFusion(64, features)
    >>> parts = [fusion.project[name](features[name].pooled) for name in features]
    >>> torch.allclose(fusion(features).pooled, sum(parts), atol=1e-5)
    True
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        parts = apply_each(self.project, pooled)  # (B, M, D)
        return from_pooled(parts.masked_fill(~present[..., None], 0).sum(dim=1), present.any(dim=1))


class LateFusion(nn.Module):
    """An MLP per modality, then the mean over the modalities present.

    dict of Features (B, T, D) -> Features (B, 1, D). Under a linear head that is the mean of the
    modalities' logits.

    >>> import mmlib, torch
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> fusion, head = mmlib.LateFusion(64, features), torch.nn.Linear(64, 3)
    >>> votes = [head(fusion.mlp[name](features[name].pooled)) for name in features]
    >>> torch.allclose(head(fusion(features).pooled), sum(votes) / 3, atol=1e-5)
    True
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.mlp = nn.ModuleDict({name: _mlp(dim, dim) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        parts = apply_each(self.mlp, pooled)  # (B, M, D)
        return from_pooled(masked_mean(parts, present), present.any(dim=1))


class DeepSetFusion(nn.Module):
    """rho(sum over the modalities present of phi(x_m + tag_m)): the modalities as a set.

    Deep Sets (Zaheer et al., 2017, arXiv:1703.06114). dict of Features (B, T, D) -> Features
    (B, 1, D). All modalities share two MLPs, phi and rho; a learned vector per modality, its tag,
    is all that tells them apart. One more modality costs ``dim`` parameters. Unlike in SumFusion
    the modalities interact, in rho.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> count = lambda names: sum(p.numel() for p in mmlib.DeepSetFusion(64, names).parameters())
    >>> count(["audio", "image", "text"]) - count(["audio", "image"])
    64
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.tag = nn.ParameterDict({name: nn.Parameter(torch.randn(dim)) for name in self.names})
        self.phi, self.rho = _mlp(dim, dim), _mlp(dim, dim)

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        tags = torch.stack([self.tag[name] for name in self.names])  # (M, D)
        parts = self.phi(pooled + tags).masked_fill(~present[..., None], 0)  # (B, M, D)
        return from_pooled(self.rho(parts.sum(dim=1)), present.any(dim=1))


class GatedFusion(nn.Module):
    """A gate per modality, computed from all of them, weighs ``tanh`` of its linear map.

    The gated multimodal unit (Arevalo et al., 2017, arXiv:1702.01992), with one gate per modality
    and sample, and with a softmax over the modalities present in place of independent sigmoids: so
    the weights add up to 1 and can be read. dict of Features (B, T, D) -> Features (B, 1, D).
    ``.weights`` (B, M), in the order of ``.names``, holds the gates of the last forward pass;
    exactly 0 where a modality is absent.

    >>> import mmlib, torch
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> fusion = mmlib.GatedFusion(64, features)
    >>> fused = fusion(features)
    >>> fusion.names, torch.allclose(fusion.weights.sum(dim=1), torch.ones(2))
    (['audio', 'image', 'text'], True)
    """

    weights: Tensor | None

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names, self.weights = sort_names(names), None
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim) for name in self.names})
        self.gate = nn.Linear(len(self.names) * dim, len(self.names))

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        weights = masked_softmax(self.gate(pooled.flatten(1)), present)  # (B, M)
        keep_weights(self, weights)
        parts = apply_each(self.project, pooled)  # (B, M, D)
        return from_pooled((weights[..., None] * parts.tanh()).sum(dim=1), present.any(dim=1))


class AttentionFusion(nn.Module):
    """Bilinear attention over the modalities of one sample: scores, softmax, weighted sum.

    The score of modality i is h_i' W q / sqrt(D), where h_i is its pooled vector (Luong et al.,
    2015, arXiv:1508.04025, "general" score; scaled as in Vaswani et al., 2017). q is a learned
    vector; or, when ``query`` names a modality, that modality's pooled vector (the learned one
    where it is absent). The softmax runs over the modalities *within* a sample, never over samples.
    dict of Features (B, T, D) -> Features (B, 1, D). ``.weights`` (B, M) as in GatedFusion.

    >>> import mmlib, torch
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> absent = torch.zeros_like(features["image"].mask)
    >>> features["image"] = mmlib.from_tokens(features["image"].tokens, absent)
    >>> fusion = mmlib.AttentionFusion(64, features)
    >>> fused = fusion(features)
    >>> fusion.weights[:, fusion.names.index("image")]
    tensor([0., 0.])
    """

    weights: Tensor | None

    def __init__(self, dim: int, names: Iterable[str], query: str | None = None):
        super().__init__()
        self.names, self.query, self.weights = sort_names(names, query), query, None
        self.bilinear = nn.Linear(dim, dim, bias=False)
        self.learned = nn.Parameter(torch.randn(dim))

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        q = self.learned.expand_as(pooled[:, 0])  # (B, D)
        if self.query is not None:
            i = self.names.index(self.query)
            q = torch.where(present[:, i, None], pooled[:, i], q)
        scores = torch.einsum("bmd,bd->bm", pooled, self.bilinear(q)) * pooled.shape[-1] ** -0.5
        weights = masked_softmax(scores, present)  # (B, M)
        keep_weights(self, weights)
        return from_pooled((weights[..., None] * pooled).sum(dim=1), present.any(dim=1))
