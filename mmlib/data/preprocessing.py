"""What was fitted on the training rows (sizes, normalisation, vocabularies, classes), and raw
samples -> batches with it.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmlib.core import Batch
from mmlib.data.audio import RATE, WINDOW, read_audio
from mmlib.data.augment import (
    AUDIO_DRAWS,
    IMAGE_DRAWS,
    Augment,
    change_audio,
    change_images,
    drop_modalities,
    drop_words,
)
from mmlib.data.draws import draws
from mmlib.data.image import read_image
from mmlib.data.manifest import Modality
from mmlib.data.store import Clips, Images, Store, Texts, to_int16
from mmlib.data.targets import Target
from mmlib.data.text import Vocabulary

ORDER, BATCHES, HIDE, MODALITIES = range(
    4
)  # streams of random numbers; modality i has MODALITIES + i


class Chance(NamedTuple):
    """Which random changes: those of this seed and epoch, this strong."""

    seed: int
    epoch: int
    augment: Augment


@dataclass(frozen=True)
class Preprocessing:
    """Everything that turns files into batches as in training.

    ``state`` is plain (JSON), for the checkpoint.
    """

    modalities: dict[str, Modality]  # by name, sorted
    target_name: str | None
    target: Target
    sizes: dict[str, int] = field(default_factory=dict)  # of image modalities: pixels
    mean: dict[str, list[float]] = field(
        default_factory=dict
    )  # of image modalities: per channel, of 0..1
    std: dict[str, list[float]] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)  # of text modalities
    rate: int = RATE  # of sound, in Hz
    group: str | None = None  # the column whose groups stay whole
    split_columns: list[Modality] = field(
        default_factory=list
    )  # splits are drawn from: Manifest.keys

    def state(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers: ``Preprocessing.from_state(p.state())`` is
        the same.
        """
        return {
            "modalities": {name: list(modality) for name, modality in self.modalities.items()},
            "target_name": self.target_name,
            "target": asdict(self.target),
            "sizes": self.sizes,
            "mean": self.mean,
            "std": self.std,
            "rate": self.rate,
            "group": self.group,
            "split_columns": [list(modality) for modality in self.split_columns],
            "vocabularies": {
                name: vocabulary.to_list() for name, vocabulary in self.vocabularies.items()
            },
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Preprocessing":
        """The inverse of ``state``. Raises ValueError for another sample rate than this code's."""
        if state["rate"] != RATE:
            raise ValueError(
                f"this model hears at {state['rate']} Hz, this version of mmlib reads sound at "
                f"{RATE} Hz"
            )
        state = dict(state)
        if "senses" in state:  # the name of runs made by version 0.1
            state["modalities"] = state.pop("senses")
        return cls(
            **state
            | {
                "modalities": {
                    name: Modality(*modality) for name, modality in state["modalities"].items()
                },
                "target": Target(**state["target"]),
                "split_columns": [Modality(*s) for s in state.get("split_columns", [])],
                "vocabularies": {
                    name: Vocabulary(words) for name, words in state["vocabularies"].items()
                },
            }
        )

    def batch(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Raw samples -> one batch: [{"image": "cat.png", "text": "it purrs"}, {"audio":
        samples_at_16_kHz}].

        Images: path, PIL image or array. Sound: path, samples at 16 kHz, or (samples, rate). A
        modality left out, None or a blank text is missing. ``row`` numbers the samples from 0 (for
        several batches, number on: ``collect`` puts windows of one row together); a clip of over
        four seconds gives several rows of its number. A modality goes by its name, or by the column
        that it had in the training manifest. Raises ValueError that names sample and modality.
        """
        if not samples:
            raise ValueError("no samples: expected at least one dict such as {'image': path}")
        samples = [self._by_modality(i, sample) for i, sample in enumerate(samples)]
        stores = {
            name: self._store(name, [sample.get(name) for sample in samples])
            for name in self.modalities
        }
        rows, windows = spread_windows(stores, np.arange(len(samples)))
        return self.assemble(stores, rows, windows)

    def _by_modality(self, i: int, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The values by the names of the modalities.

        The name of a modality's column is accepted, too.
        """
        columns = {modality.column: name for name, modality in self.modalities.items()}
        found: dict[str, Any] = {}
        for key, value in sample.items():
            name = key if key in self.modalities else columns.get(key)
            if name is None:
                close = difflib.get_close_matches(key, [*self.modalities, *columns], n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"sample {i} has {key!r}; this model has the modalities "
                    f"{sorted(self.modalities)}{hint}"
                )
            if name in found:
                raise ValueError(
                    f"sample {i} has {name!r} twice, once by its column "
                    f"{self.modalities[name].column!r}; give it once"
                )
            found[name] = value
        return found

    def _store(self, name: str, values: list[Any]) -> Store:
        """The given values of one modality, decoded."""
        kind, items = self.modalities[name].kind, []
        where = np.full(len(values), -1)
        for i, value in enumerate(values):
            if value is None:
                continue
            try:
                items.append(self._decode(name, kind, value))
            except (ValueError, OSError) as error:
                raise ValueError(f"sample {i}, {name}: {error}") from error
            where[i] = len(items) - 1
        if kind == "text":
            return Texts.encode(
                [items[i] if i >= 0 else "" for i in where], self.vocabularies[name]
            )
        if kind == "image":
            return Images(where, [], self.sizes[name], torch.stack(items) if items else None)
        return Clips(where, [], np.array([len(item) for item in items], dtype=np.int64), items)

    def _decode(self, name: str, kind: str, value: Any) -> Any:
        if kind == "image":
            return read_image(value, self.sizes[name])
        if kind == "audio":
            return to_int16(read_audio(*value) if isinstance(value, tuple) else read_audio(value))
        if not isinstance(value, str):
            raise ValueError(f"{type(value).__name__}, expected a string")
        return value

    def assemble(
        self,
        stores: Mapping[str, Store],
        rows: np.ndarray,
        windows: np.ndarray,
        chance: Chance | None = None,
    ) -> Batch:
        """The batch of these rows (B,) of the stores, with random changes when ``chance`` says
        which; without a target.

        ``windows`` (B,): which four seconds of a longer clip; in training they are drawn.
        """
        batch: Batch = {}
        for stream, name in enumerate(sorted(self.modalities), MODALITIES):
            make = {"image": self._pictures, "text": self._texts, "audio": self._sounds}[
                self.modalities[name].kind
            ]
            batch[name], batch[f"{name}_mask"] = make(
                name, stores[name], rows, windows, chance, stream
            )
        if chance is not None and chance.augment.modality_dropout and len(self.modalities) > 1:
            self._hide(
                batch,
                draws(chance.seed, chance.epoch, rows, HIDE, len(self.modalities)),
                chance.augment,
            )
        batch["row"] = torch.from_numpy(rows)
        return batch

    def _pictures(
        self,
        name: str,
        store: Images,
        rows: np.ndarray,
        windows: np.ndarray,
        chance: Chance | None,
        stream: int,
    ) -> tuple[Tensor, Tensor]:
        present = torch.from_numpy(store.where[rows] >= 0)  # (B,)
        mean, std = (
            255 * torch.tensor(values)[:, None, None]
            for values in (self.mean[name], self.std[name])
        )
        x = store.fetch(rows).float().sub_(mean).div_(std)  # (B, 3, S, S)
        if chance is not None:
            x = change_images(
                x, draws(chance.seed, chance.epoch, rows, stream, IMAGE_DRAWS), chance.augment
            )
        x[~present] = 0
        return x, present[:, None].repeat(1, store.size)

    def _texts(
        self,
        name: str,
        store: Texts,
        rows: np.ndarray,
        windows: np.ndarray,
        chance: Chance | None,
        stream: int,
    ) -> tuple[Tensor, Tensor]:
        ids, mask = store.fetch(rows)  # (B, T)
        if chance is not None:
            ids = drop_words(
                ids,
                mask,
                draws(chance.seed, chance.epoch, rows, stream, ids.shape[1]),
                chance.augment,
            )
        return ids, mask

    def _sounds(
        self,
        name: str,
        store: Clips,
        rows: np.ndarray,
        windows: np.ndarray,
        chance: Chance | None,
        stream: int,
    ) -> tuple[Tensor, Tensor]:
        u = None if chance is None else draws(chance.seed, chance.epoch, rows, stream, AUDIO_DRAWS)
        if u is None:  # the last window ends where the clip ends
            places = windows / np.maximum(1, _count_windows(store.row_lengths(rows)) - 1)
        else:
            places = u[:, -1].numpy().astype(np.float64)
        clips = []
        for clip, place in zip(store.fetch(rows), places):
            start = int(min(1.0, place) * max(0, len(clip) - WINDOW) + 0.5)
            clips.append(clip[start : start + WINDOW])
        lengths = torch.tensor([len(clip) for clip in clips])
        x = torch.zeros(len(rows), max(1, int(lengths.max())))  # (B, L)
        for line, clip in zip(x, clips):
            line[: len(clip)] = clip
        x /= 32767
        if chance is not None:
            x, lengths = change_audio(x, lengths, u, chance.augment)
        return x, torch.arange(x.shape[1]) < lengths[:, None]

    def _hide(self, batch: Batch, u: Tensor, augment: Augment) -> None:
        names = sorted(self.modalities)
        hidden = drop_modalities(
            torch.stack([batch[f"{name}_mask"][:, 0] for name in names], dim=1), u, augment
        )  # (B, M)
        for name, gone in zip(names, hidden.unbind(dim=1)):
            batch[f"{name}_mask"] &= ~gone[:, None]
            batch[name][gone] = 0
            if self.modalities[name].kind != "image":  # no longer than the longest that is left
                longest = max(1, int(batch[f"{name}_mask"].sum(dim=1).max()))
                batch[name], batch[f"{name}_mask"] = (
                    batch[name][:, :longest],
                    batch[f"{name}_mask"][:, :longest],
                )


def _count_windows(lengths: np.ndarray) -> np.ndarray:
    return np.maximum(1, -(-lengths // WINDOW))


def spread_windows(stores: Mapping[str, Store], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> rows and windows, both (samples,): a row comes once for every four seconds of its
    longest clip, begun or full.
    """
    counts = np.ones(len(rows), dtype=np.int64)
    for store in stores.values():
        if isinstance(store, Clips):
            counts = np.maximum(counts, _count_windows(store.row_lengths(rows)))
    first = np.cumsum(counts) - counts
    return np.repeat(rows, counts), np.arange(counts.sum()) - np.repeat(first, counts)
