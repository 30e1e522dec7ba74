"""Rows of a store -> one tensor and its mask, changed at random in training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmlib.data.audio import WINDOW
from mmlib.data.augment import (
    AUDIO_DRAWS,
    IMAGE_DRAWS,
    Augment,
    change_audio,
    change_images,
    drop_words,
)
from mmlib.data.draws import draws
from mmlib.data.store import Clips, Images, Store, Texts

# streams of random numbers; the modality number i has MODALITIES + i
ORDER, BATCHES, DROPOUT, MODALITIES = range(4)


class Chance(NamedTuple):
    """Which random changes: those of this seed and epoch, this strong."""

    seed: int
    epoch: int
    augment: Augment

    def draw(self, rows: np.ndarray, stream: int, count: int) -> Tensor:
        """(B, count) uniform numbers in 0..1; row i depends on rows[i] only."""
        return draws(self.seed, self.epoch, rows, stream, count)


def images(
    store: Images,
    rows: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    chance: Chance | None,
    stream: int,
) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) float32, normalised by mean and deviation per channel of 0..1; mask (B, S)."""
    present = torch.from_numpy(store.row_present(rows))  # (B,)
    shift, scale = (255 * torch.tensor(values)[:, None, None] for values in (mean, std))
    x = store.fetch(rows).float().sub_(shift).div_(scale)  # (B, 3, S, S)
    if chance is not None:
        x = change_images(x, chance.draw(rows, stream, IMAGE_DRAWS), chance.augment)
    x[~present] = 0
    return x, present[:, None].repeat(1, store.size)


def texts(
    store: Texts, rows: np.ndarray, chance: Chance | None, stream: int
) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) int64, and mask (B, T)."""
    ids, mask = store.fetch(rows)
    if chance is not None:
        ids = drop_words(ids, mask, chance.draw(rows, stream, ids.shape[1]), chance.augment)
    return ids, mask


def clips(
    store: Clips, rows: np.ndarray, windows: np.ndarray, chance: Chance | None, stream: int
) -> tuple[Tensor, Tensor]:
    """Waveforms (B, L) float32, at most four seconds of each; mask (B, L).

    In evaluation, ``windows`` (B,) says which four seconds; in training, they are drawn.
    """
    found = store.fetch(rows)
    if chance is None:  # the last window ends where the clip ends
        places = windows / np.maximum(1, _count_windows(store.row_lengths(rows)) - 1)
        x, lengths = _cut(found, places)
    else:
        u = chance.draw(rows, stream, AUDIO_DRAWS)
        x, lengths = _cut(found, u[:, -1].numpy().astype(np.float64))
        x, lengths = change_audio(x, lengths, u, chance.augment)
    return x, torch.arange(x.shape[1]) < lengths[:, None]


def _cut(clips: Sequence[Tensor], places: np.ndarray) -> tuple[Tensor, Tensor]:
    """One window of each clip, at its place: 0 at the beginning, 1 at the end.

    -> (B, L) float32 in -1..1, padded with 0, and lengths (B,).
    """
    starts = [
        int(min(1.0, place) * max(0, len(clip) - WINDOW) + 0.5)
        for clip, place in zip(clips, places, strict=True)
    ]
    cut = [clip[start : start + WINDOW] for clip, start in zip(clips, starts, strict=True)]
    lengths = torch.tensor([len(clip) for clip in cut])
    x = torch.zeros(len(cut), max(1, int(lengths.max())))  # (B, L)
    for line, clip in zip(x, cut, strict=True):
        line[: len(clip)] = clip
    return x.div_(32767), lengths


def _count_windows(lengths: np.ndarray) -> np.ndarray:
    return np.maximum(1, -(-lengths // WINDOW))


def spread_windows(stores: Mapping[str, Store], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat each row once for every four seconds of its longest clip, begun or full.

    -> rows (samples,), and which window of its row each sample is (samples,).
    """
    counts = np.ones(len(rows), dtype=np.int64)
    for store in stores.values():
        if isinstance(store, Clips):
            counts = np.maximum(counts, _count_windows(store.row_lengths(rows)))
    first = np.cumsum(counts) - counts
    return np.repeat(rows, counts), np.arange(counts.sum()) - np.repeat(first, counts)
