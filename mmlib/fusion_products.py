"""dict of Features -> Features where senses are multiplied: as numbers, as scales of each other's tokens, as probabilities."""
from collections.abc import Iterable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_pooled, from_tokens
from mmlib.fusion_senses import apply_each, line_up, sort_names, stack
from mmlib.layers import keep_weights


class BilinearFusion(nn.Module):
    """Multi-modal factorised bilinear pooling (MFB; Yu et al., 2017, arXiv:1708.01471), for any number of senses; without its dropout.

    Each sense is mapped to ``dim`` groups of ``factors`` numbers; the maps of the senses present are multiplied, each group is summed.
    So each output is one bilinear form of rank ``factors`` in two senses, trilinear in three. Then the signed square root, and the
    vector is brought to length 1. An absent sense is a factor of 1. The maps have a bias: without it, nothing but the highest product
    is left, and a sense could never count by itself.
    """

    def __init__(self, dim: int, names: Iterable[str], factors: int = 5):
        super().__init__()
        self.names, self.factors = sort_names(names), factors
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim * factors) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        parts = apply_each(self.project, pooled).masked_fill(~present[..., None], 1)      # (B, M, D * factors)
        product = reduce(torch.mul, parts.unbind(dim=1))                                  # (B, D * factors)
        total = product.unflatten(-1, (-1, self.factors)).sum(dim=-1)                     # (B, D)
        return from_pooled(F.normalize(signed_sqrt(total), dim=-1), present.any(dim=1))


def signed_sqrt(x: Tensor) -> Tensor:
    """sign(x) * sqrt(|x|), but straight within about 1e-4 of 0, where the root is infinitely steep."""
    return x * (x.abs() + 1e-4).rsqrt()


class ProductFusion(nn.Module):
    """Product of experts: what do several uncertain opinions on the same ``dim`` numbers say together?

    Each sense gives a Gaussian, a mean and a log-precision per number, and so does the prior: mean 0, precision 1. Their product is a
    Gaussian again; out comes its mean, sum of precision * mean / sum of precision (Hinton, 2002; Wu and Goodman, 2018,
    arXiv:1802.05335). An absent sense has precision 0; with none at all the prior's 0 remains. ``.weights`` (B, M), in the order of
    ``.names``: each sense's share of the precision in the last forward pass, averaged over the numbers; what lacks to 1 is the prior's.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names, self.weights = sort_names(names), None
        self.expert = nn.ModuleDict({name: nn.Linear(dim, 2 * dim) for name in self.names})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, present = stack(features, self.names)
        experts = apply_each(self.expert, pooled)                                         # (B, M, 2 D)
        mean, log_precision = experts.chunk(2, dim=-1)                                    # (B, M, D) each
        log_precision = log_precision.masked_fill(~present[..., None], float("-inf"))
        prior = torch.zeros_like(log_precision[:, :1])                                    # (B, 1, D)
        share = torch.cat([log_precision, prior], dim=1).softmax(dim=1)[:, :-1]           # (B, M, D) precision / sum of precision
        keep_weights(self, share.mean(dim=-1))
        return from_pooled((share * mean).sum(dim=1), present.any(dim=1))


class FiLMFusion(nn.Module):
    """Feature-wise linear modulation (FiLM; Perez et al., 2018, arXiv:1709.07871), in all directions.

    The tokens of each sense are scaled and shifted, x * (1 + scale) + shift, by two vectors that a linear map reads off the pooled
    vectors of all the *other* senses (zero where absent). Out come all tokens; pooled is the mean over present senses of each one's
    mean token. One sense has no others: it comes out as it is.
    """

    def __init__(self, dim: int, names: Iterable[str]):
        super().__init__()
        self.names = sort_names(names)
        others = len(self.names) - 1
        self.condition = nn.ModuleDict({name: nn.Linear(others * dim, 2 * dim) for name in self.names if others})

    def forward(self, features: dict[str, Features]) -> Features:
        pooled, _ = stack(features, self.names)
        return line_up([self._modulate(i, features[name], pooled) for i, name in enumerate(self.names)])

    def _modulate(self, i: int, own: Features, pooled: Tensor) -> Features:
        """Sense ``i``, its tokens scaled and shifted by what the others' pooled vectors say."""
        tokens = own.tokens.masked_fill(~own.mask[..., None], 0)
        if not self.condition:
            return from_tokens(tokens, own.mask)
        others = torch.cat([pooled[:, :i], pooled[:, i + 1:]], dim=1).flatten(1)          # (B, (M - 1) * D)
        scale, shift = self.condition[self.names[i]](others)[:, None].chunk(2, dim=-1)    # (B, 1, D) each
        return from_tokens(tokens * (1 + scale) + shift, own.mask)
