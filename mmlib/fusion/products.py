"""dict of Features -> Features: one vector per modality goes in, and they are multiplied.

The first argument of all is ``dim`` (D), the second the names of the modalities.
"""

from collections.abc import Iterable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_pooled
from mmlib.fusion.common import apply_each, sort_names, stack_pooled
from mmlib.layers.attention import keep_weights

# AdamW keeps 16 bytes for each (itself, gradient, two moments): 1.6 GB, which a laptop has
MOST_PARAMETERS = 10**8


class BilinearFusion(nn.Module):
    """Multi-modal factorised bilinear pooling (MFB), for any number of modalities.

    Yu et al., 2017, arXiv:1708.01471; without its dropout. Each modality is mapped to ``dim``
    groups of ``factors`` numbers; the maps of the modalities present are multiplied, and each group
    is summed. So each output is one bilinear form of rank ``factors`` in two modalities, trilinear
    in three. Then the signed square root is taken, and the vector is brought to length 1. An absent
    modality is a factor of 1. The maps have a bias: without it only the highest product would be
    left, and a modality could never count by itself. dict of Features (B, T, D) -> Features
    (B, 1, D).

    >>> import mmlib, torch
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> pooled = mmlib.BilinearFusion(64, features)(features).pooled
    >>> pooled.shape, torch.allclose(pooled.norm(dim=1), torch.ones(2))
    (torch.Size([2, 64]), True)
    """

    def __init__(self, dim: int, names: Iterable[str], factors: int = 5):
        super().__init__()
        self.names, self.factors = sort_names(names), factors
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim * factors) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        parts = apply_each(self.project, pooled).masked_fill(~present[..., None], 1)
        product = reduce(torch.mul, parts.unbind(dim=1))  # (B, D * factors)
        total = product.unflatten(-1, (-1, self.factors)).sum(dim=-1)  # (B, D)
        return from_pooled(F.normalize(signed_sqrt(total), dim=-1), present.any(dim=1))


def signed_sqrt(x: Tensor) -> Tensor:
    """sign(x) * sqrt(|x|), but straight within about 1e-4 of 0.

    There the slope of the root itself is infinite.
    """
    return x * (x.abs() + 1e-4).rsqrt()


class ProductFusion(nn.Module):
    """Product of experts: several uncertain opinions on the same ``dim`` numbers make one.

    Each modality gives a Gaussian, a mean and a log-precision per number, and so does the prior:
    mean 0, precision 1. Their product is a Gaussian again; its mean comes out, the sum of precision
    * mean divided by the sum of precision (Hinton, 2002; Wu and Goodman, 2018, arXiv:1802.05335).
    An absent modality has precision 0; with none at all the prior's 0 remains. dict of Features
    (B, T, D) -> Features (B, 1, D). ``.weights`` (B, M), in the order of ``.names``: the share of
    each modality in the precision of the last forward pass, averaged over the numbers; the prior
    has the rest.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> fusion = mmlib.ProductFusion(64, features)
    >>> fused = fusion(features)
    >>> (fusion.weights.sum(dim=1) < 1).tolist()  # the rest is the prior's
    [True, True]
    """

    weights: Tensor | None

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names, self.weights = sort_names(names), None
        self.expert = nn.ModuleDict({name: nn.Linear(dim, 2 * dim) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        experts = apply_each(self.expert, pooled)  # (B, M, 2 D)
        mean, log_precision = experts.chunk(2, dim=-1)  # (B, M, D) each
        log_precision = log_precision.masked_fill(~present[..., None], float("-inf"))
        prior = torch.zeros_like(log_precision[:, :1])  # (B, 1, D)
        shares = torch.cat([log_precision, prior], dim=1).softmax(dim=1)  # (B, M + 1, D)
        share = shares[:, :-1]  # (B, M, D) precision / sum of precision
        keep_weights(self, share.mean(dim=-1))
        return from_pooled((share * mean).sum(dim=1), present.any(dim=1))


class TensorFusion(nn.Module):
    """Every product of the modalities' numbers, then a linear map.

    Zadeh et al., 2017, arXiv:1707.07250. Each modality is first projected to ``width`` numbers, and
    a 1 is appended; so the outer product of all M holds single numbers, pairs and triples. It has
    (width + 1) ** M numbers, which is why ``width`` is small. An absent modality is [0, .., 0, 1].
    dict of Features (B, T, D) -> Features (B, 1, D). Raises ValueError where the linear map would
    have more than 10 ** 8 parameters, as with seven modalities of the usual widths.

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)  # of three modalities
    >>> fusion = mmlib.TensorFusion(64, features)
    >>> fusion.out.in_features == 9**3, fusion(features).pooled.shape
    (True, torch.Size([2, 64]))
    """

    def __init__(self, dim: int, names: Iterable[str], width: int = 8):
        super().__init__()
        self.names = sort_names(names)
        products = (width + 1) ** len(self.names)
        if products * dim > MOST_PARAMETERS:
            raise ValueError(
                f"TensorFusion of {len(self.names)} modalities with width {width} has "
                f"{width + 1} ** {len(self.names)} = {products:,} products, and its linear map to "
                f"dim {dim} {products * dim:,} parameters, expected at most {MOST_PARAMETERS:,}: "
                "use LowRankFusion, which multiplies the same numbers and never builds the tensor, "
                "or a smaller width"
            )
        self.project = nn.ModuleDict({name: nn.Linear(dim, width) for name in self.names})
        self.out = nn.Linear(products, dim)

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        parts = append_one(self.project, pooled, present)  # M of (B, width + 1)
        outer = parts[0]
        for part in parts[1:]:
            outer = (outer[:, :, None] * part[:, None, :]).flatten(1)  # (B, (width + 1) ** m)
        return from_pooled(self.out(outer), present.any(dim=1))


class LowRankFusion(nn.Module):
    """TensorFusion whose big linear map is a sum of ``rank`` products of small ones.

    Liu et al., 2018, arXiv:1806.00064. The outer product is never built: the output is the sum over
    r of the product over modalities of [z_m, 1] @ factor_m[r], plus a bias. dict of Features
    (B, T, D) -> Features (B, 1, D).

    >>> import mmlib
    >>> from mmlib.fusion.cost import make_features
    >>> features = make_features(dim=64, batch=2)
    >>> fusion = mmlib.LowRankFusion(64, features)
    >>> fusion.factors["text"].shape, fusion(features).pooled.shape
    (torch.Size([4, 9, 64]), torch.Size([2, 64]))
    """

    def __init__(self, dim: int, names: Iterable[str], width: int = 8, rank: int = 4):
        super().__init__()
        self.names = sort_names(names)
        self.project = nn.ModuleDict({name: nn.Linear(dim, width) for name in self.names})
        # A modality's [z, 1] @ factor starts with variance about 1 for z and 1 for the constant,
        # the sum over ranks likewise.
        of_numbers = torch.cat([torch.full((width, 1), width**-0.5), torch.ones(1, 1)])
        scale = of_numbers * rank ** (-0.5 / len(self.names))
        self.factors = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(rank, width + 1, dim) * scale) for name in self.names}
        )
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack_pooled(features, self.names)
        parts = append_one(self.project, pooled, present)  # M of (B, width + 1)
        mapped = [
            torch.einsum("bw,rwd->brd", part, self.factors[name])  # (B, rank, D)
            for name, part in zip(self.names, parts, strict=True)
        ]
        product = reduce(torch.mul, mapped)  # (B, rank, D)
        return from_pooled(product.sum(dim=1) + self.bias, present.any(dim=1))


def append_one(project: nn.ModuleDict, pooled: Tensor, present: Tensor) -> list[Tensor]:
    """Each modality of ``pooled`` (B, M, D) projected, with a 1 appended: M of (B, width + 1).

    An absent modality is [0, .., 0, 1].
    """
    parts = apply_each(project, pooled).masked_fill(~present[..., None], 0)  # (B, M, width)
    return list(torch.cat([parts, torch.ones_like(parts[..., :1])], dim=-1).unbind(dim=1))
