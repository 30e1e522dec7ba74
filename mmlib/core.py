"""The contract that every other file speaks: a batch goes in, Features and an Output come out.

A batch is a flat dict of tensors. Every modality ``name`` has a mask ``name_mask``: bool (B,
length), True = real, padding on the right; length is the last axis of ``batch[name]`` (columns of a
image, words, samples of sound). A missing modality is a row of False. Legend used everywhere: B
batch, T tokens, D width, H heads, S target length, K classes.

A head says what it takes by its attribute ``kind``, and where it tells classes apart, how many by
``classes`` = K:

| kind | logits | target | windows of a row are averaged as |
|---|---|---|---|
| "classes" | (B, K) | (B,) int64, 0 to K - 1; -100 = left out | probabilities of a softmax |
| "labels" | (B, K) | (B, K), 0 to 1; NaN = unknown | probabilities of a sigmoid |
| "ordinal" | (B, K - 1) | (B,) int64, 0 to K - 1; -100 = left out | probabilities of a sigmoid |
| "number" | (B,) | (B,) float32, finite | numbers |
| "sequence" | (B, S, K) | (B, S) int64 with ``target_mask`` | (they are not) |
| "contrast" | (B, B) | none: query i belongs to key i | vectors |

A model of kind "contrast" compares samples and has the methods ``embed`` and ``compare`` of
``models.TwoTower``.

A model of one's own without ``kind`` is taken as it is: no target is checked, and windows of a row
are averaged as logits.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Batch = dict[str, Tensor]
KINDS = ("classes", "labels", "ordinal", "number", "sequence", "contrast")


class Features(NamedTuple):
    """What every encoder and every fusion returns: one vector per token, and one per sample."""

    tokens: Tensor  # (B, T, D)  one vector per patch, word or frame; zero where mask is False
    mask: Tensor  # (B, T)     True where the token is real
    pooled: Tensor  # (B, D)     one vector per sample; zero where the sample has no real token

    @property
    def present(self) -> Tensor:
        """(B,) bool: the sample has at least one real token."""
        return self.mask.any(dim=1)


class Output(NamedTuple):
    """What every head returns."""

    logits: Tensor  # (B, K), (B, S, K) or (B,), as the head says
    loss: Tensor | None  # scalar mean over the targets; None when the batch carries no target
    count: (
        Tensor | None
    )  # scalar float: how many targets (or their total weight) the mean is over; None with loss


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens: (B, T, D), (B, T) -> (B, D). A row with no real token gives
    zeros.
    """
    tokens = tokens.masked_fill(
        ~mask[..., None], 0
    )  # a fill, not a product: what lies under a mask may be NaN
    return tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where ``mask`` (broadcast to scores) is True, exactly 0 elsewhere.

    Where nothing along the axis is True, all weights are 0.
    """
    lowest = torch.finfo(scores.dtype).min  # finite: -inf gives NaN in an empty row
    return scores.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0)


def from_tokens(tokens: Tensor, mask: Tensor) -> Features:
    """Features of a sequence: tokens (B, T, D) zeroed where ``mask`` (B, T) is False, pooled by
    their mean.
    """
    tokens = tokens.masked_fill(~mask[..., None], 0)
    return Features(tokens, mask, masked_mean(tokens, mask))


def from_pooled(pooled: Tensor, present: Tensor) -> Features:
    """Features of one vector per sample: (B, D), (B,) -> one token each, zero where the sample
    is absent.
    """
    pooled = pooled.masked_fill(~present[:, None], 0)
    return Features(pooled[:, None], present[:, None], pooled)


def modalities(batch: Batch) -> list[str]:
    """The names of the modalities of a batch: its keys that have a mask beside them, apart from
    the target.
    """
    return [name for name in batch if f"{name}_mask" in batch and name != "target"]


def check_batch(batch: Batch, names: Iterable[str]) -> None:
    """Raise ValueError, naming key and sample, unless the batch and every modality of ``names``
    keep the contract.

    Checks that all values are tensors of one batch size, and for ``names`` (there may be none)
    keys, mask shape, dtype and right padding, and finite values where the mask is True. Call it at
    the border (the first batch of a loader): it reads the values, so on a GPU it waits for them.
    """
    names = list(names)
    for key in (k for name in names for k in (name, f"{name}_mask")):
        if key not in batch:
            raise ValueError(
                f"the batch has no key {key!r}; the model needs {names} with their masks, the "
                f"batch has {sorted(batch)}"
            )
    for key, value in batch.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            kind = (
                "a tensor without axes"
                if isinstance(value, Tensor)
                else f"a {type(value).__name__}"
            )
            raise ValueError(
                f"batch[{key!r}] is {kind}, expected a tensor whose first axis is the batch (B, "
                "...); leave the key out, "
                "or give numbers in its place (batch['row'], the place of each sample in your "
                "table)"
            )
    first = names[0] if names else next(iter(batch), None)
    for key, value in batch.items():
        if len(value) != len(batch[first]):
            raise ValueError(
                f"batch[{key!r}] has {len(value)} samples, expected {len(batch[first])} as in "
                f"batch[{first!r}]"
            )
    for name in names:
        _check_modality(name, batch[name], batch[f"{name}_mask"])


def _check_modality(name: str, x: Tensor, mask: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.int64):
        raise ValueError(
            f"batch[{name!r}] is {x.dtype}, expected float32 (images, sound) or int64 (ids)"
        )
    expected = (len(x), x.shape[-1])
    if mask.dtype != torch.bool or tuple(mask.shape) != expected:
        raise ValueError(
            f"batch['{name}_mask'] is {mask.dtype} {tuple(mask.shape)}, expected torch.bool "
            f"{expected}"
        )
    holes = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if holes.any():
        raise ValueError(
            f"batch['{name}_mask'], sample {_first(holes)}: True after False; padding must be on "
            "the right"
        )
    if x.is_floating_point():
        real = mask.reshape(len(x), *[1] * (x.ndim - 2), -1)
        bad = (~x.isfinite() & real).flatten(1).any(dim=1)
        if bad.any():
            raise ValueError(
                f"batch[{name!r}], sample {_first(bad)}: NaN or infinity where the mask is True; "
                "check the file it came from"
            )


def _first(flags: Tensor) -> int:
    return int(flags.nonzero()[0, 0])
