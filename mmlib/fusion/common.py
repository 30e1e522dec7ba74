"""What fusions share: names sorted and checked, pooled vectors stacked, tokens joined."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmlib.core import Features, masked_mean


def sort_names(names: Iterable[str], query: str | None = None) -> list[str]:
    """The names of the modalities, sorted.

    Raises ValueError when there is none, when one comes twice, or when ``query`` is not one of
    them.
    """
    names = sorted(names)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names is {names}, expected at least one modality and each of them once")
    if query is not None and query not in names:
        raise ValueError(
            f"query is {query!r}, expected one of {names}, or None for a learned vector"
        )
    return names


def check_features(features: dict[str, Features], names: list[str]) -> None:
    """Raise ValueError unless ``features`` holds exactly the modalities of ``names``."""
    missing, unknown = sorted(set(names) - set(features)), sorted(set(features) - set(names))
    if missing or unknown:
        raise ValueError(
            f"this fusion was built for {names}: missing {missing}, unknown {unknown}; an absent "
            "modality is a mask of False, not a missing key"
        )


def stack_pooled(features: dict[str, Features], names: list[str]) -> tuple[Tensor, Tensor]:
    """Pooled vectors (B, M, D), zero where absent, and which are present (B, M).

    M is in the order of ``names``.
    """
    check_features(features, names)
    present = torch.stack([features[name].present for name in names], dim=1)  # (B, M)
    pooled = torch.stack([features[name].pooled for name in names], dim=1)  # (B, M, D)
    return pooled.masked_fill(~present[..., None], 0), present


def apply_each(layers: nn.ModuleDict, pooled: Tensor) -> Tensor:
    """A layer for each modality: pooled (B, M, D) -> (B, M, D'), in the order of ``layers``."""
    parts = [layer(part) for layer, part in zip(layers.values(), pooled.unbind(dim=1), strict=True)]
    return torch.stack(parts, dim=1)


def join_tokens(parts: list[Features]) -> Features:
    """The tokens of several Features one after the other: (B, sum of T, D).

    ``pooled`` is the mean of the parts' pooled vectors over the present parts, so that one with
    many tokens counts no more than one with few.
    """
    tokens = torch.cat([part.tokens for part in parts], dim=1)  # (B, sum of T, D)
    mask = torch.cat([part.mask for part in parts], dim=1)  # (B, sum of T)
    pooled = torch.stack([part.pooled for part in parts], dim=1)  # (B, M, D)
    present = torch.stack([part.present for part in parts], dim=1)  # (B, M)
    return Features(tokens, mask, masked_mean(pooled, present))


class Tags(nn.Module):
    """A learned vector per modality, added to its tokens before all tokens are joined.

    By its tag, what reads the joined tokens can tell the modalities apart.
    """

    def __init__(self, dim: int, names: list[str]):
        super().__init__()
        self.names = names
        self.tag = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in names})

    def forward(self, features: dict[str, Features]) -> tuple[Tensor, Tensor]:
        """All tokens (B, sum of T, D), zero where not real, and their mask (B, sum of T)."""
        mask = torch.cat([features[name].mask for name in self.names], dim=1)
        tokens = torch.cat([features[name].tokens + self.tag[name] for name in self.names], dim=1)
        return tokens.masked_fill(~mask[..., None], 0), mask
