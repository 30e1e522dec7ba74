"""The contract that every other file speaks: a batch goes in, Features and an Output come out.

A batch is a flat dict of tensors. Every modality ``name`` has a mask ``name_mask`` beside it: bool
(B, length), True = real, padding on the right. Its length is the last axis of ``batch[name]``:
columns of an image, words of a text, samples of audio. (A table has numbers ``name`` (B, N) and
categories ``name_category`` (B, C), 0 = missing, and one mask (B, N + C), which may have holes.)
A missing modality is a row of False, never a missing key. Here the second text is shorter than
the first, and the third is missing:

>>> import torch
>>> batch = {
...     "text": torch.tensor([[4, 9, 2], [7, 3, 0], [0, 0, 0]]),
...     "text_mask": torch.arange(3) < torch.tensor([[3], [2], [0]]),
... }
>>> {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
{'text': ((3, 3), torch.int64), 'text_mask': ((3, 3), torch.bool)}

The letters in all comments and docstrings: B batch, T tokens, D model width, H heads, S target
length, M modalities, K classes; C H W of an image, L samples of audio, F mel bands.

A head says by its attribute ``kind`` what it takes; one that tells classes apart also says by
``classes`` how many there are (K):

| kind | logits | target | windows of a row are averaged as |
|---|---|---|---|
| "classes" | (B, K) | (B,) int64, 0 to K - 1; -100 = left out | probabilities of a softmax |
| "labels" | (B, K) | (B, K), 0 to 1; NaN = unknown | probabilities of a sigmoid |
| "ordinal" | (B, K - 1) | (B,) int64, 0 to K - 1; -100 = left out | probabilities of a sigmoid |
| "number" | (B,) | (B,) float32, finite | numbers |
| "sequence" | (B, S, K) | (B, S) int64 with ``target_mask`` | (never averaged) |
| "contrast" | (B, B) | none: query i belongs to key i | vectors |

A model of kind "contrast" compares samples; it has the methods ``embed`` and ``compare`` of
``models.TwoTower``. A model of your own may leave ``kind`` out: then no target is checked, and
windows of a row are averaged as logits.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Batch = dict[str, Tensor]
KINDS = ("classes", "labels", "ordinal", "number", "sequence", "contrast")


class Features(NamedTuple):
    """What every encoder and every fusion returns: one vector per token, and one per sample.

    >>> import mmlib, torch
    >>> tokens, mask = torch.ones(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    >>> mask[0, :3] = True  # three real tokens in the first sample, none in the second
    >>> features = mmlib.from_tokens(tokens, mask)
    >>> features.tokens.shape, features.pooled.shape, features.present
    (torch.Size([2, 5, 8]), torch.Size([2, 8]), tensor([ True, False]))
    """

    tokens: Tensor  # (B, T, D)  one vector per patch, word or frame; zero where mask is False
    mask: Tensor  # (B, T)     True where the token is real
    pooled: Tensor  # (B, D)     one vector per sample; zero where the sample has no real token

    @property
    def present(self) -> Tensor:
        """(B,) bool: the sample has at least one real token."""
        return self.mask.any(dim=1)


class Output(NamedTuple):
    """What every head returns. Without a target in the batch, ``loss`` and ``count`` are None.

    ``count`` makes losses of parts add up: the loss of the whole is the sum of ``loss * count``
    over its parts, divided by the sum of ``count``.

    >>> import mmlib, torch
    >>> features = mmlib.from_pooled(torch.randn(4, 8), torch.ones(4, dtype=torch.bool))
    >>> head = mmlib.ClassifyHead(8, classes=3)
    >>> head(features, {"target": torch.tensor([0, 2, -100, 1])}).count  # -100 is left out
    tensor(3.)
    >>> head(features, {}).loss is None
    True
    """

    logits: Tensor  # (B, K), (B, S, K) or (B,), as the head's kind says
    loss: Tensor | None  # scalar, the mean over the targets
    # scalar float: over how many targets, or over which total weight, the mean is taken
    count: Tensor | None  # type: ignore[assignment]  # hides tuple.count, which has no use here


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens: (B, T, D), (B, T) -> (B, D). Without a real token it is zero.

    >>> import mmlib, torch
    >>> tokens = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> mmlib.masked_mean(tokens, torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    # a fill, not a product: what lies under a mask may be NaN, and NaN * 0 is NaN
    tokens = tokens.masked_fill(~mask[..., None], 0)
    return tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where ``mask`` (broadcast to scores) is True, exactly 0 elsewhere.

    Where nothing along the axis is True, all weights are 0.

    >>> masked_softmax(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([True, True, False]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    lowest = torch.finfo(scores.dtype).min  # finite: -inf gives NaN in an empty row
    return scores.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0)


def from_tokens(tokens: Tensor, mask: Tensor) -> Features:
    """Features of a sequence: tokens (B, T, D), mask (B, T) -> zero where masked, and their mean.

    >>> import mmlib, torch
    >>> tokens = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> features = mmlib.from_tokens(tokens, torch.tensor([[True, True, False]]))
    >>> features.tokens[0, :, 0], features.pooled[0]
    (tensor([1., 3., 0.]), tensor([2.]))
    """
    tokens = tokens.masked_fill(~mask[..., None], 0)
    return Features(tokens, mask, masked_mean(tokens, mask))


def from_pooled(pooled: Tensor, present: Tensor) -> Features:
    """Features of one vector per sample: (B, D), (B,) -> one token each, zero where absent.

    >>> import mmlib, torch
    >>> features = mmlib.from_pooled(torch.ones(2, 4), torch.tensor([True, False]))
    >>> features.tokens.shape, features.pooled[1]
    (torch.Size([2, 1, 4]), tensor([0., 0., 0., 0.]))
    """
    pooled = pooled.masked_fill(~present[:, None], 0)
    return Features(pooled[:, None], present[:, None], pooled)


def modalities(batch: Batch) -> list[str]:
    """The names of the modalities of a batch: its keys with a mask beside them, but the target."""
    return [name for name in batch if f"{name}_mask" in batch and name != "target"]


def inputs_of(batch: Batch, name: str) -> tuple[Tensor, ...]:
    """What the encoder of a modality is called with: values and mask; of a table also categories.

    >>> batch = {"text": torch.tensor([[4, 9]]), "text_mask": torch.tensor([[True, True]])}
    >>> inputs_of(batch, "text")
    (tensor([[4, 9]]), tensor([[True, True]]))
    """
    values = batch[name], batch[f"{name}_mask"]
    return (*values, batch[f"{name}_category"]) if is_table(batch, name) else values


def is_table(batch: Batch, name: str) -> bool:
    """Whether a modality has categories beside it, which are no modality of their own.

    >>> is_table({"bill": torch.ones(2, 1), "bill_category": torch.ones(2, 3).long()}, "bill")
    True
    """
    return f"{name}_category" in batch and f"{name}_category_mask" not in batch


def check_batch(batch: Batch, names: Iterable[str]) -> None:
    """Raise ValueError, naming key and sample, if the batch breaks the contract.

    All values must be tensors of one batch size. Each modality in ``names`` (there may be none)
    needs its key and its mask, a mask of the right shape and dtype with padding on the right, and
    finite values where the mask is True. Call this at the border, on the first batch of a loader:
    it reads the values, so on a GPU it waits for them.

    >>> import mmlib, torch
    >>> batch = {
    ...     "audio": torch.tensor([[0.1, 0.2], [0.3, float("nan")]]),
    ...     "audio_mask": torch.tensor([[True, True], [True, True]]),
    ... }
    >>> mmlib.check_batch(batch, ["audio"])
    Traceback (most recent call last):
    ValueError: batch['audio'], sample 1: NaN or infinity where the mask is True; ...
    """
    names = list(names)
    for key in (key for name in names for key in (name, f"{name}_mask")):
        if key not in batch:
            raise ValueError(
                f"the batch has no key {key!r}; the model needs {names} with their masks, the "
                f"batch has {sorted(batch)}"
            )
    for key, value in batch.items():
        _check_value(key, value)
    first = names[0] if names else next(iter(batch), "")
    for key, value in batch.items():
        if len(value) != len(batch[first]):
            raise ValueError(
                f"batch[{key!r}] has {len(value)} samples, expected {len(batch[first])} as in "
                f"batch[{first!r}]"
            )
    for name in names:
        _check_modality(name, *inputs_of(batch, name))


def _check_value(key: str, value: object) -> None:
    if isinstance(value, Tensor) and value.ndim:
        return
    found = "a tensor without axes" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise ValueError(
        f"batch[{key!r}] is {found}, expected a tensor whose first axis is the batch (B, ...); "
        "leave the key out, or give numbers in its place (batch['row'], the place of each sample "
        "in your table)"
    )


def _check_modality(name: str, x: Tensor, mask: Tensor, category: Tensor | None = None) -> None:
    if x.dtype not in (torch.float32, torch.int64):
        raise ValueError(
            f"batch[{name!r}] is {x.dtype}, expected float32 (images, audio) or int64 (ids)"
        )
    numbers = x.shape[-1]
    expected = (len(x), numbers + (0 if category is None else category.shape[-1]))
    if category is not None and (category.dtype != torch.int64 or category.ndim != 2):
        raise ValueError(
            f"batch['{name}_category'] is {category.dtype} {tuple(category.shape)}, expected "
            "torch.int64 (B, C)"
        )
    if mask.dtype != torch.bool or tuple(mask.shape) != expected:
        raise ValueError(
            f"batch['{name}_mask'] is {mask.dtype} {tuple(mask.shape)}, expected torch.bool "
            f"{expected}"
        )
    holes = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if holes.any() and category is None:
        raise ValueError(
            f"batch['{name}_mask'], sample {_first_true(holes)}: True after False; padding must "
            "be on the right"
        )
    if x.is_floating_point():
        real = mask[:, :numbers].reshape(len(x), *[1] * (x.ndim - 2), -1)
        bad = (~x.isfinite() & real).flatten(1).any(dim=1)
        if bad.any():
            raise ValueError(
                f"batch[{name!r}], sample {_first_true(bad)}: NaN or infinity where the mask is "
                "True; check the file it came from"
            )


def _first_true(flags: Tensor) -> int:
    return int(flags.nonzero()[0, 0])
