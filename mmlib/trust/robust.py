"""How accuracy falls when a sense is noisy, covered or gone; and what every subset of the senses is good for."""
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
LEVELS = {  # by fault and kind of sense; see ``corrupt`` for the units
    "noise": {"image": (0, 0.5, 1, 2, 4), "audio": (0, 0.1, 0.3, 1, 3), "text": (0, 0.25, 0.5, 0.75, 1)},
    "occlusion": dict.fromkeys(("image", "audio", "text"), (0, 0.1, 0.25, 0.5, 0.75)),
    "missing": dict.fromkeys(("image", "audio", "text"), (0, 0.25, 0.5, 0.75, 1)),
}


def curves(models: Mapping[str, Model], batches: Iterable[Batch], faults: Sequence[str] = FAULTS, seed: int = 0,
           levels: Mapping[str, Mapping[str, Sequence[float]]] = LEVELS, device: str = "auto") -> list[dict[str, Any]]:
    """Accuracy of each model, by name, under each fault of each of its senses at each level, one sense at a time.

    -> rows {"model", "sense", "fault", "level", "accuracy"}. ``batches`` is a loader or a list of batches with targets that are
    classes. All models see the same corrupted rows, whatever the batch size; the same seed gives the same rows; and what is covered
    at one level is covered at the next, too. Level 0 changes nothing. Raises ValueError for an unknown fault or a level out of range.
    """
    batches, rows = _again(batches), []
    unknown = [fault for fault in faults if fault not in levels]
    if unknown:
        raise ValueError(f"fault is {unknown[0]!r}, expected one of {sorted(levels)}")
    for name, model in models.items():
        for sense in sorted(model.backbone.encoders):
            kind = kind_of(batches, sense)
            for fault in faults:
                for level in levels[fault][kind]:
                    score = _accuracy(model, (corrupt(batch, sense, fault, level, seed) for batch in batches), device)
                    rows.append({"model": name, "sense": sense, "fault": fault, "level": level, "accuracy": score})
    return rows


def subsets(model: Model, batches: Iterable[Batch], device: str = "auto") -> dict[tuple[str, ...], float]:
    """The accuracy of one model with each of the 2^M - 1 subsets of its M senses, the others hidden; smaller subsets first.

    All rows count: one that has none of the subset's senses is answered by the training prior.
    """
    batches, senses = _again(batches), sorted(model.backbone.encoders)
    found = [subset for size in range(1, len(senses) + 1) for subset in combinations(senses, size)]
    return {subset: _accuracy(model, (_only(batch, senses, subset) for batch in batches), device) for subset in found}


def corrupt(batch: Batch, sense: str, fault: str, level: float, seed: int = 0) -> Batch:
    """The batch with one sense changed; what is missing or padding stays so, and the input is left as it is.

    - "noise": a picture gets Gaussian noise of ``level`` deviations of the training pixels; a sound, white noise of ``level`` times
      the clip's own root mean square (1 is 0 dB, 0.1 is 20 dB); of a text, a share ``level`` of the words is read as unknown.
    - "occlusion": a rectangle of the picture's proportions and ``level`` of its area takes the mean colour; ``level`` of the clip
      is silent; ``level`` of the words, one after the other, are cut out (all of them: the text is missing).
    - "missing": the sense is hidden with probability ``level``. Only this sense, and also where it is the row's last one: such a row
      is then answered by the training prior, as any row without senses.

    A row's changes depend on the seed, the sense's kind and the row's number (``batch["row"]``; without it, its place in the batch).
    """
    if fault not in FAULTS:
        raise ValueError(f"fault is {fault!r}, expected one of {FAULTS}")
    kind = kind_of([batch], sense)
    x, mask = batch[sense], batch[f"{sense}_mask"]
    highest = 1 if fault != "noise" or kind == "text" else np.inf
    if not 0 <= level <= highest or level == np.inf:
        raise ValueError(f"{fault} of {sense!r} at level {level}, expected " + ("0 to 1" if highest == 1 else "0 or more"))
    place = torch.arange(len(x)) if "row" not in batch else batch["row"].cpu()
    stream = 1000 + 10 * FAULTS.index(fault) + ("image", "text", "audio").index(kind)   # far from those of training

    def chance(count: int) -> Tensor:
        return draws(seed, 0, place.numpy(), stream, count).to(x.device)                # (B, count) uniform in 0..1

    if fault == "missing":
        x, mask = _hidden(x, mask, chance(1)[:, 0] < level)
    elif fault == "noise":
        x = _noisy(x, mask, kind, level, chance(x[0].numel()))
    elif kind == "image":
        x = _covered(x, level, chance(2))
    else:
        first, last = _stretch(mask.sum(dim=1), level, chance(1)[:, 0])
        time = torch.arange(x.shape[1], device=x.device)
        inside = (time >= first[:, None]) & (time < last[:, None])                      # (B, T)
        x, mask = (x.masked_fill(inside, 0), mask) if kind == "audio" else _cut(x, mask, inside)
    return batch | {sense: x, f"{sense}_mask": mask}


def kind_of(batches: Iterable[Batch], sense: str) -> str:
    """"image", "text" or "audio", from the shape of the first batch. Raises ValueError where it is none of them, or not there."""
    batch = next(iter(batches), {})
    if sense not in batch:
        raise ValueError(f"the batches have no sense {sense!r}; they have {sorted(batch)}")
    x = batch[sense]
    kind = {(4, True): "image", (2, False): "text", (2, True): "audio"}.get((x.ndim, x.is_floating_point()))
    if kind is None:
        raise ValueError(f"batch[{sense!r}] is {x.dtype} {tuple(x.shape)}: neither pictures (B, C, H, W), nor ids (B, T), nor sound (B, L)")
    return kind


def _noisy(x: Tensor, mask: Tensor, kind: str, level: float, u: Tensor) -> Tensor:
    """u (B, numbers per sample) uniform."""
    if kind == "text":
        return x.masked_fill((u < level) & mask, UNKNOWN)
    noise = torch.special.ndtri(u + 2.0 ** -25).reshape(x.shape)                        # u is a multiple of 2 ** -24: never 0 or 1 now
    real = mask.reshape(len(x), *[1] * (x.ndim - 2), -1)
    if kind == "audio":
        noise = noise * (x.square().sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sqrt()[:, None]
    return torch.where(real, x + level * noise, x)


def _covered(x: Tensor, level: float, u: Tensor) -> Tensor:
    """A rectangle of each picture (B, C, H, W) set to 0, the mean of the training pictures; u (B, 2) says where."""
    inside = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
    for axis, length in ((0, x.shape[2]), (1, x.shape[3])):
        side = round(level ** 0.5 * length)
        first = (u[:, axis] * (length - side + 1)).floor()[:, None]                     # (B, 1)
        line = torch.arange(length, device=x.device)
        within = (line >= first) & (line < first + side)                                # (B, H) or (B, W)
        inside = inside & (within[:, None, :, None] if axis == 0 else within[:, None, None, :])
    return x.masked_fill(inside, 0)


def _stretch(lengths: Tensor, level: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """First and last (exclusive) of the samples or words taken from each row: (B,) each. A greater level takes more on both sides."""
    size = (level * lengths).round()
    first = (u * (lengths - size)).round()
    return first, first + size


def _cut(x: Tensor, mask: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T) without the words ``inside``; the rest moves up, so that padding stays on the right."""
    keep = mask & ~inside
    order = (~keep).long().argsort(dim=1, stable=True)
    keep = keep.gather(1, order)
    return x.gather(1, order).masked_fill(~keep, 0), keep


def _hidden(x: Tensor, mask: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    return x.masked_fill(gone.reshape(-1, *[1] * (x.ndim - 1)), 0), mask & ~gone[:, None]


def _only(batch: Batch, senses: Sequence[str], subset: Sequence[str]) -> Batch:
    """The batch with all senses but those of ``subset`` hidden."""
    out = dict(batch)
    for sense in set(senses) - set(subset):
        every = torch.ones(len(batch[sense]), dtype=torch.bool, device=batch[sense].device)
        out[sense], out[f"{sense}_mask"] = _hidden(batch[sense], batch[f"{sense}_mask"], every)
    return out


def _again(batches: Iterable[Batch]) -> Iterable[Batch]:
    """What can be gone through more than once."""
    return list(batches) if iter(batches) is batches else batches


def _accuracy(model: Model, batches: Iterable[Batch], device: str) -> float:
    logits, target, _ = collect(model, batches, device)
    if target is None:
        raise ValueError("the batches have no 'target', so there is no accuracy; give those of a split with targets")
    return metrics.accuracy(logits, target)
