"""dict of Features -> Features: fusions of one vector per modality, in which modalities add up
or are weighed.
"""

from collections.abc import Iterable

import torch
from torch import nn

from mmlib.core import Features, from_pooled, masked_mean, masked_softmax
from mmlib.fusion.common import apply_each, sort_names, stack
from mmlib.layers.attention import keep_weights


def _mlp(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))


class ConcatFusion(nn.Module):
    """The pooled vectors side by side, with a flag each (1 = present), through an MLP back to
    ``dim``.

    The flag lets an absent modality differ from one whose vector happens to be zero.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.mlp = _mlp(len(self.names) * (dim + 1), dim)

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        flagged = torch.cat([pooled, present[..., None].to(pooled.dtype)], dim=-1)  # (B, M, D + 1)
        return from_pooled(self.mlp(flagged.flatten(1)), present.any(dim=1))


class SumFusion(nn.Module):
    """A linear map per modality, then their sum over the modalities present.

    A sum and not a mean: where modalities are independent, their evidence (log-likelihoods) adds
    up.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        parts = apply_each(self.project, pooled)  # (B, M, D)
        return from_pooled(parts.masked_fill(~present[..., None], 0).sum(dim=1), present.any(dim=1))


class LateFusion(nn.Module):
    """An MLP per modality, then the mean over the modalities present.

    Under a linear head that is averaging their logits.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.mlp = nn.ModuleDict({name: _mlp(dim, dim) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        parts = apply_each(self.mlp, pooled)  # (B, M, D)
        return from_pooled(masked_mean(parts, present), present.any(dim=1))


class DeepSetFusion(nn.Module):
    """rho(sum over the modalities present of phi(x_m + tag_m)): the modalities as a set (Deep Sets;
    Zaheer et al., 2017, arXiv:1703.06114).

    Two MLPs, phi and rho, that all modalities share, and a learned vector per modality, its tag,
    that tells them apart; without the tags nothing would. A further modality costs ``dim``
    parameters. Unlike in SumFusion the modalities interact, in rho.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        self.tag = nn.ParameterDict({name: nn.Parameter(torch.randn(dim)) for name in self.names})
        self.phi, self.rho = _mlp(dim, dim), _mlp(dim, dim)

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        parts = self.phi(pooled + torch.stack([self.tag[name] for name in self.names]))  # (B, M, D)
        return from_pooled(
            self.rho(parts.masked_fill(~present[..., None], 0).sum(dim=1)), present.any(dim=1)
        )


class GatedFusion(nn.Module):
    """A gate per modality, computed from all of them, weighs ``tanh`` of each modality's linear
    map.

    The gated multimodal unit (Arevalo et al., 2017, arXiv:1702.01992), with one gate per modality
    and sample, and a softmax over the modalities present in place of independent sigmoids: weights
    sum to 1 and can be read. ``.weights`` (B, M), in the order of ``.names``, holds those of the
    last forward pass; exactly 0 where a modality is absent.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names, self.weights = sort_names(names), None
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim) for name in self.names})
        self.gate = nn.Linear(len(self.names) * dim, len(self.names))

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        weights = masked_softmax(self.gate(pooled.flatten(1)), present)  # (B, M)
        keep_weights(self, weights)
        parts = apply_each(self.project, pooled)  # (B, M, D)
        return from_pooled((weights[..., None] * parts.tanh()).sum(dim=1), present.any(dim=1))


class AttentionFusion(nn.Module):
    """Bilinear attention over the modalities of one sample: score h_i' W q / sqrt(D), softmax,
    weighted sum of the h_i.

    q is a learned vector; or, when ``query`` names a modality, that modality's pooled vector (the
    learned one where it is absent). The softmax runs over the modalities *within* a sample, never
    over samples (Luong et al., 2015, arXiv:1508.04025, "general" score; scaled as in Vaswani et
    al., 2017). ``.weights`` (B, M) as in GatedFusion.
    """

    def __init__(self, dim: int, names: Iterable[str], query: str | None = None):
        super().__init__()
        self.names, self.query, self.weights = sort_names(names, query), query, None
        self.bilinear = nn.Linear(dim, dim, bias=False)
        self.learned = nn.Parameter(torch.randn(dim))

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        q = self.learned.expand_as(pooled[:, 0])  # (B, D)
        if self.query is not None:
            i = self.names.index(self.query)
            q = torch.where(present[:, i, None], pooled[:, i], q)
        scores = torch.einsum("bmd,bd->bm", pooled, self.bilinear(q)) * pooled.shape[-1] ** -0.5
        weights = masked_softmax(scores, present)  # (B, M)
        keep_weights(self, weights)
        return from_pooled((weights[..., None] * pooled).sum(dim=1), present.any(dim=1))
