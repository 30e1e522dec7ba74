"""How accuracy falls when a modality is noisy, covered or missing; and what each subset of the
modalities is worth.

>>> import torch
>>> batch = {"text": torch.tensor([[3, 4, 5]]), "text_mask": torch.ones(1, 3, dtype=torch.bool)}
>>> corrupt(batch, "text", "occlusion", 1.0)["text_mask"]
tensor([[False, False, False]])
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib import metrics
from mmlib.core import Batch
from mmlib.data.draws import draws
from mmlib.data.text import UNKNOWN
from mmlib.models import Model
from mmlib.train.evaluate import collect

FAULTS = ("noise", "occlusion", "missing")
LEVELS: dict[
    str, dict[str, Sequence[float]]
] = {  # by fault and kind of modality; see ``corrupt`` for the units
    "noise": {
        "image": (0, 0.5, 1, 2, 4),
        "audio": (0, 0.1, 0.3, 1, 3),
        "text": (0, 0.25, 0.5, 0.75, 1),
    },
    "occlusion": dict.fromkeys(("image", "audio", "text"), (0, 0.1, 0.25, 0.5, 0.75)),
    "missing": dict.fromkeys(("image", "audio", "text"), (0, 0.25, 0.5, 0.75, 1)),
}


def curves(
    models: Mapping[str, Model],
    batches: Iterable[Batch],
    faults: Sequence[str] = FAULTS,
    seed: int = 0,
    levels: Mapping[str, Mapping[str, Sequence[float]]] = LEVELS,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Accuracy of each model, by name, under each fault of each of its modalities at each level,
    one modality at a time.

    -> rows {"model", "modality", "fault", "level", "accuracy"}. ``batches`` is a loader or a list
    of batches with targets that are classes. All models see the same corrupted rows, whatever the
    batch size; the same seed gives the same rows; and what is covered at one level is covered at
    the next, too. Level 0 changes nothing. Raises ValueError for an unknown fault or a level out of
    range.
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
                    score = _accuracy(
                        model,
                        (corrupt(batch, modality, fault, level, seed) for batch in batches),
                        device,
                    )
                    rows.append(
                        {
                            "model": name,
                            "modality": modality,
                            "fault": fault,
                            "level": level,
                            "accuracy": score,
                        }
                    )
    return rows


def subsets(
    model: Model, batches: Iterable[Batch], device: str = "auto"
) -> dict[tuple[str, ...], float]:
    """The accuracy of one model with each of the 2^M - 1 subsets of its M modalities, the others
    missing; smaller subsets first.

    All rows count: one that has none of the subset's modalities is answered by the training prior.
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
    """The batch with one modality changed; what is missing or padding stays so, and the input is
    left as it is.

    - "noise": an image gets Gaussian noise of ``level`` standard deviations of the training
      pixels; audio gets white noise of ``level`` times the clip's own root mean square (1 is 0 dB,
      0.1 is 20 dB); of a text, a share ``level`` of the words is read as unknown.
    - "occlusion": a rectangle of the image's proportions and ``level`` of its area takes the mean
      colour; ``level`` of the clip is silent; ``level`` of the words, one after the other, are cut
      out (all of them: the text is missing).
    - "missing": the modality is missing with probability ``level``. Only this modality, and also
      where it is the row's last one: such a row is then answered by the training prior, as any row
      without modalities.

    A row's changes depend on the seed, the modality's kind and the row's number (``batch["row"]``;
    without it, its place in the batch).
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
    stream = (
        1000 + 10 * FAULTS.index(fault) + ("image", "text", "audio").index(kind)
    )  # far from those of training

    def chance(count: int) -> Tensor:
        return draws(seed, 0, place.numpy(), stream, count).to(
            x.device
        )  # (B, count) uniform in 0..1

    if fault == "missing":
        x, mask = _hidden(x, mask, chance(1)[:, 0] < level)
    elif fault == "noise":
        x = _noisy(x, mask, kind, level, chance(x[0].numel()))
    elif kind == "image":
        x = _covered(x, level, chance(2))
    else:
        first, last = _stretch(mask.sum(dim=1), level, chance(1)[:, 0])
        time = torch.arange(x.shape[1], device=x.device)
        inside = (time >= first[:, None]) & (time < last[:, None])  # (B, T)
        x, mask = (x.masked_fill(inside, 0), mask) if kind == "audio" else _cut(x, mask, inside)
    return batch | {modality: x, f"{modality}_mask": mask}


def kind_of(batches: Iterable[Batch], modality: str) -> str:
    """ "image", "text" or "audio", from the shape of the first batch.

    Raises ValueError where it is none of them, or not there.
    """
    batch = next(iter(batches), {})
    if modality not in batch:
        raise ValueError(f"the batches have no modality {modality!r}; they have {sorted(batch)}")
    x = batch[modality]
    kind = {(4, True): "image", (2, False): "text", (2, True): "audio"}.get(
        (x.ndim, x.is_floating_point())
    )
    if kind is None:
        raise ValueError(
            f"batch[{modality!r}] is {x.dtype} {tuple(x.shape)}: neither images (B, C, H, W), nor "
            "ids (B, T), nor sound (B, L)"
        )
    return kind


def _noisy(x: Tensor, mask: Tensor, kind: str, level: float, u: Tensor) -> Tensor:
    """u (B, numbers per sample) uniform."""
    if kind == "text":
        return x.masked_fill((u < level) & mask, UNKNOWN)
    noise = torch.special.ndtri(u + 2.0**-25).reshape(
        x.shape
    )  # u is a multiple of 2 ** -24: never 0 or 1 now
    real = mask.reshape(len(x), *[1] * (x.ndim - 2), -1)
    if kind == "audio":
        noise = noise * (x.square().sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sqrt()[:, None]
    return torch.where(real, x + level * noise, x)


def _covered(x: Tensor, level: float, u: Tensor) -> Tensor:
    """A rectangle of each image (B, C, H, W) set to 0, the mean of the training images; u (B, 2)
    says where.
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

    A greater level takes more on both sides.
    """
    size = (level * lengths).round()
    first = (u * (lengths - size)).round()
    return first, first + size


def _cut(x: Tensor, mask: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T) without the words ``inside``; the rest moves up, so that padding stays
    on the right.
    """
    keep = mask & ~inside
    order = (~keep).long().argsort(dim=1, stable=True)
    keep = keep.gather(1, order)
    return x.gather(1, order).masked_fill(~keep, 0), keep


def _hidden(x: Tensor, mask: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    return x.masked_fill(gone.reshape(-1, *[1] * (x.ndim - 1)), 0), mask & ~gone[:, None]


def _only(batch: Batch, modalities: Sequence[str], subset: Sequence[str]) -> Batch:
    """The batch with all modalities but those of ``subset`` missing."""
    out = dict(batch)
    for modality in set(modalities) - set(subset):
        every = torch.ones(len(batch[modality]), dtype=torch.bool, device=batch[modality].device)
        out[modality], out[f"{modality}_mask"] = _hidden(
            batch[modality], batch[f"{modality}_mask"], every
        )
    return out


def _again(batches: Iterable[Batch]) -> Iterable[Batch]:
    """What can be gone through more than once."""
    return list(batches) if iter(batches) is batches else batches


def _accuracy(model: Model, batches: Iterable[Batch], device: str) -> float:
    logits, target, _ = collect(model, batches, device)
    if target is None:
        raise ValueError(
            "the batches have no 'target', so there is no accuracy; give those of a split with "
            "targets"
        )
    return metrics.accuracy(logits, target)
