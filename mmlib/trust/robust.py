"""How accuracy falls when a modality is noisy, covered or missing; the score of each subset."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib import metrics
from mmlib.core import Batch, is_table
from mmlib.data.draws import draws
from mmlib.data.text import UNKNOWN
from mmlib.models import Model
from mmlib.train.evaluate import collect

FAULTS = ("noise", "occlusion", "missing")
Levels = Mapping[str, Mapping[str, Sequence[float]]]
# by fault and kind of modality; see ``corrupt`` for the units
LEVELS: Levels = {
    "noise": {
        "image": (0, 0.5, 1, 2, 4),
        "table": (0, 0.5, 1, 2, 4),
        "audio": (0, 0.1, 0.3, 1, 3),
        "text": (0, 0.25, 0.5, 0.75, 1),
    },
    "occlusion": dict.fromkeys(("image", "audio", "text", "table"), (0, 0.1, 0.25, 0.5, 0.75)),
    "missing": dict.fromkeys(("image", "audio", "text", "table"), (0, 0.25, 0.5, 0.75, 1)),
}


def curves(
    models: Mapping[str, Model],
    batches: Iterable[Batch],
    faults: Sequence[str] = FAULTS,
    seed: int = 0,
    levels: Levels = LEVELS,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """The accuracy of each model under each fault of each of its modalities, at each level.

    Only one modality is changed at a time. Returns rows {"model", "modality", "fault", "level",
    "accuracy"}; ``models`` is by name. ``batches`` is a loader or a list of batches whose targets
    are classes. All models see the same corrupted rows, whatever the batch size, and the same seed
    gives the same rows. What is covered at one level is also covered at the next. Level 0 changes
    nothing. Raises ValueError for an unknown fault or a level out of range.

    >>> import mmlib
    >>> encoders = {"text": mmlib.RecurrentEncoder(dim=8, vocab_size=20)}
    >>> backbone = mmlib.Backbone(encoders, mmlib.SumFusion(8, encoders))
    >>> model = mmlib.Model(backbone, mmlib.ClassifyHead(8, classes=2)).eval()
    >>> ids = torch.tensor([[3, 4], [5, 6]])
    >>> batch = {"text": ids, "text_mask": ids > 0, "target": torch.tensor([0, 1])}
    >>> rows = curves({"mine": model}, [batch], faults=["missing"], device="cpu")
    >>> [row["level"] for row in rows], rows[-1]["accuracy"]  # all missing: one answer for both
    ([0, 0.25, 0.5, 0.75, 1], 0.5)
    """
    batches, rows = _again(batches), []
    unknown = [fault for fault in faults if fault not in levels]
    if unknown:
        raise ValueError(f"fault is {unknown[0]!r}, expected one of {sorted(levels)}")
    for name, model in models.items():
        for modality in sorted(model.backbone.encoders):
            kind = kind_of(batches, modality)
            for fault in faults:
                for level in levels[fault][kind]:
                    changed = (corrupt(batch, modality, fault, level, seed) for batch in batches)
                    row = {"model": name, "modality": modality, "fault": fault, "level": level}
                    rows.append(row | {"accuracy": _accuracy(model, changed, device)})
    return rows


def subsets(
    model: Model, batches: Iterable[Batch], device: str = "auto"
) -> dict[tuple[str, ...], float]:
    """The accuracy of one model with each subset of its modalities, the others missing.

    M modalities have 2^M - 1 subsets; the smaller ones come first. All rows count: a row that has
    none of the subset's modalities is answered by the training prior.

    >>> import mmlib
    >>> encoders = {name: mmlib.RecurrentEncoder(dim=8, vocab_size=20) for name in ("said", "seen")}
    >>> backbone = mmlib.Backbone(encoders, mmlib.SumFusion(8, encoders))
    >>> model = mmlib.Model(backbone, mmlib.ClassifyHead(8, classes=2)).eval()
    >>> ids = torch.tensor([[3, 4], [5, 6]])
    >>> batch = {"said": ids, "said_mask": ids > 0, "seen": ids, "seen_mask": ids > 0}
    >>> list(subsets(model, [batch | {"target": torch.tensor([0, 1])}], device="cpu"))
    [('said',), ('seen',), ('said', 'seen')]
    """
    batches, modalities = _again(batches), sorted(model.backbone.encoders)
    found = [
        subset
        for size in range(1, len(modalities) + 1)
        for subset in combinations(modalities, size)
    ]
    return {
        subset: _accuracy(model, (_only(batch, modalities, subset) for batch in batches), device)
        for subset in found
    }


def corrupt(batch: Batch, modality: str, fault: str, level: float, seed: int = 0) -> Batch:
    """A copy of the batch with one modality changed.

    - "noise": an image gets Gaussian noise of ``level`` standard deviations of the training
      pixels; audio gets white noise of ``level`` times the clip's own root mean square (1 is 0 dB,
      0.1 is 20 dB); in a text, a share ``level`` of the words is read as unknown; the numbers of a
      table get noise of ``level`` standard deviations of the training rows.
    - "occlusion": a rectangle with the image's proportions and a share ``level`` of its area gets
      the mean colour; a share ``level`` of a clip is silent; a share ``level`` of the words, in one
      piece, is cut out (all of them: the text is missing); a share ``level`` of the cells of a
      table is empty, by chance.
    - "missing": the modality is missing with probability ``level``, even if it is the row's last
      one. Such a row is then answered by the training prior, like any row without modalities.

    What is missing or padding stays so. A row's changes depend on the seed, the kind of the
    modality and the row's number (``batch["row"]``, or else its place in the batch). Raises
    ValueError for an unknown fault, a level out of range or a modality that is not in the batch.

    >>> batch = {"text": torch.tensor([[3, 4, 5]]), "text_mask": torch.ones(1, 3, dtype=torch.bool)}
    >>> corrupt(batch, "text", "occlusion", 1.0)["text_mask"]
    tensor([[False, False, False]])
    """
    if fault not in FAULTS:
        raise ValueError(f"fault is {fault!r}, expected one of {FAULTS}")
    kind = kind_of([batch], modality)
    x, mask = batch[modality], batch[f"{modality}_mask"]
    highest = 1 if fault != "noise" or kind == "text" else np.inf
    if not 0 <= level <= highest or level == np.inf:
        raise ValueError(
            f"{fault} of {modality!r} at level {level}, expected "
            + ("0 to 1" if highest == 1 else "0 or more")
        )
    place = torch.arange(len(x)) if "row" not in batch else batch["row"].cpu()
    # far from the streams that training draws from
    stream = 1000 + 10 * FAULTS.index(fault) + ("image", "text", "audio", "table").index(kind)

    def chance(count: int) -> Tensor:
        """(B, count) uniform in 0..1."""
        return draws(seed, 0, place.numpy(), stream, count).to(x.device)

    if fault == "missing":
        x, mask = _dropped(x, mask, chance(1)[:, 0] < level)
    elif fault == "noise":
        x = _noisy(x, mask, kind, level, chance(x[0].numel()))
    elif kind == "table":
        mask = mask & (chance(mask.shape[1]) >= level)
    elif kind == "image":
        x = _covered(x, level, chance(2))
    else:
        first, last = _stretch(mask.sum(dim=1), level, chance(1)[:, 0])
        time = torch.arange(x.shape[1], device=x.device)
        inside = (time >= first[:, None]) & (time < last[:, None])  # (B, T)
        x, mask = (x.masked_fill(inside, 0), mask) if kind == "audio" else _cut(x, mask, inside)
    return batch | {modality: x, f"{modality}_mask": mask}


def kind_of(batches: Iterable[Batch], modality: str) -> str:
    """The kind of a modality, "image", "text", "audio" or "table", from the first batch.

    Raises ValueError if it is none of them, or not there.

    >>> kind_of([{"said": torch.zeros(2, 5, dtype=torch.int64)}], "said")
    'text'
    """
    batch = next(iter(batches), {})
    if modality not in batch:
        raise ValueError(f"the batches have no modality {modality!r}; they have {sorted(batch)}")
    x = batch[modality]
    if is_table(batch, modality):
        return "table"
    kind = {(4, True): "image", (2, False): "text", (2, True): "audio"}.get(
        (x.ndim, x.is_floating_point())
    )
    if kind is None:
        raise ValueError(
            f"batch[{modality!r}] is {x.dtype} {tuple(x.shape)}: neither images (B, C, H, W), nor "
            "ids (B, T), nor audio (B, L)"
        )
    return kind


def _noisy(x: Tensor, mask: Tensor, kind: str, level: float, u: Tensor) -> Tensor:
    """The input with noise; u (B, numbers per sample) is uniform in 0..1."""
    if kind == "text":
        return x.masked_fill((u < level) & mask, UNKNOWN)
    # u is a multiple of 2 ** -24, so half a step more is never 0 or 1, where ndtri is infinite
    noise = torch.special.ndtri(u + 2.0**-25).reshape(x.shape)
    real = mask[:, : x.shape[-1]].reshape(len(x), *[1] * (x.ndim - 2), -1)
    if kind == "audio":
        noise = noise * (x.square().sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sqrt()[:, None]
    return torch.where(real, x + level * noise, x)


def _covered(x: Tensor, level: float, u: Tensor) -> Tensor:
    """Images (B, C, H, W), a rectangle of each set to 0, the mean of the training images.

    u (B, 2), uniform in 0..1, says where the rectangle lies.
    """
    inside = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
    for axis, length in ((0, x.shape[2]), (1, x.shape[3])):
        side = round(level**0.5 * length)
        first = (u[:, axis] * (length - side + 1)).floor()[:, None]  # (B, 1)
        line = torch.arange(length, device=x.device)
        within = (line >= first) & (line < first + side)  # (B, H) or (B, W)
        inside = inside & (within[:, None, :, None] if axis == 0 else within[:, None, None, :])
    return x.masked_fill(inside, 0)


def _stretch(lengths: Tensor, level: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """First and last (exclusive) of the samples or words taken from each row: (B,) each.

    A higher level takes more on both sides. u (B,), uniform in 0..1, says where.
    """
    size = (level * lengths).round()
    first = (u * (lengths - size)).round()
    return first, first + size


def _cut(x: Tensor, mask: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T) without the words ``inside``; the rest moves to the left."""
    keep = mask & ~inside
    order = (~keep).long().argsort(dim=1, stable=True)
    keep = keep.gather(1, order)
    return x.gather(1, order).masked_fill(~keep, 0), keep


def _dropped(x: Tensor, mask: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """A modality and its mask, missing in the rows where ``gone`` (B,) is True."""
    return x.masked_fill(gone.reshape(-1, *[1] * (x.ndim - 1)), 0), mask & ~gone[:, None]


def _only(batch: Batch, modalities: Sequence[str], subset: Sequence[str]) -> Batch:
    """The batch in which all modalities but those of ``subset`` are missing."""
    out = dict(batch)
    for modality in set(modalities) - set(subset):
        x, mask = batch[modality], batch[f"{modality}_mask"]
        every = torch.ones(len(x), dtype=torch.bool, device=x.device)
        out[modality], out[f"{modality}_mask"] = _dropped(x, mask, every)
    return out


def _again(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches as something that can be read more than once."""
    return list(batches) if iter(batches) is batches else batches


def _accuracy(model: Model, batches: Iterable[Batch], device: str) -> float:
    """The share of right answers; ValueError if the batches have no target."""
    logits, target, _ = collect(model, batches, device)
    if target is None:
        raise ValueError(
            "the batches have no 'target', so there is no accuracy; give those of a split with "
            "targets"
        )
    return metrics.accuracy(logits, target)
