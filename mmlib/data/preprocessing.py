"""Raw samples -> batches, with what was fitted on the training rows.

That is sizes and normalisation of images, vocabularies and classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.core import Batch
from mmlib.data.assemble import DROPOUT, MODALITIES, Chance, clips, images, spread_windows, texts
from mmlib.data.audio import RATE, read_audio
from mmlib.data.augment import drop_modalities
from mmlib.data.columns import Fitted
from mmlib.data.image import read_image
from mmlib.data.modalities import Modality
from mmlib.data.problems import did_you_mean
from mmlib.data.store import Clips, Columns, Images, Store, Texts, to_int16
from mmlib.data.targets import Target
from mmlib.data.text import Vocabulary
from mmlib.renamed import renamed


@renamed(senses="modalities")
@dataclass(frozen=True)
class Preprocessing:
    """Everything that turns files into batches as in training.

    ``load_data`` fits it; ``state`` is plain (JSON), for the checkpoint.

    >>> fitted = Preprocessing(
    ...     modalities={"text": Modality("text", "caption")},
    ...     target_name="label",
    ...     target=Target(["cat", "dog"]),
    ...     vocabularies={"text": Vocabulary(["it", "purrs"])},
    ... )
    >>> batch = fitted.batch([{"text": "it purrs"}, {"caption": "it barks loudly"}])
    >>> batch["text"]  # 0 is padding, 1 an unknown word
    tensor([[4, 5, 0],
            [4, 1, 1]])
    >>> Preprocessing.from_state(fitted.state()).state() == fitted.state()
    True
    """

    modalities: dict[str, Modality]  # by name, sorted
    target_name: str | None
    target: Target
    sizes: dict[str, int] = field(default_factory=dict)  # of images: pixels
    mean: dict[str, list[float]] = field(default_factory=dict)  # of images: per channel, of 0..1
    std: dict[str, list[float]] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)  # of texts
    rate: int = RATE  # of audio, in Hz
    group: str | None = None  # the column whose groups stay whole
    split_columns: list[Modality] = field(default_factory=list)  # drawn from: ``Manifest.keys``
    tables: dict[str, Fitted] = field(default_factory=dict)  # of tables
    # of images of more than 8 bits: by kind of number, which is black and which white
    scale: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, from which ``from_state`` makes the same."""
        target = asdict(self.target)
        if self.target.labels is None:  # as before there were labels: an old run can go on
            for key in ("labels", "separator", "shares"):
                del target[key]
        state = {
            "modalities": {name: list(modality) for name, modality in self.modalities.items()},
            "target_name": self.target_name,
            "target": target,
            "sizes": self.sizes,
            "mean": self.mean,
            "std": self.std,
            "rate": self.rate,
            "group": self.group,
            "split_columns": [list(modality) for modality in self.split_columns],
            "vocabularies": {
                name: vocabulary.to_list() for name, vocabulary in self.vocabularies.items()
            },
            # not without need: runs from before it are resumed where the state is the same
            **({"scale": self.scale} if self.scale else {}),
        }
        tables = {name: asdict(table) for name, table in self.tables.items()}
        return state | ({"tables": tables} if tables else {})

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of ``state``, also of a state that an older version of mmlib wrote.

        Raises ValueError for a sample rate other than 16 kHz.
        """
        if state["rate"] != RATE:
            raise ValueError(
                f"this model takes audio at {state['rate']} Hz, this version of mmlib reads it at "
                f"{RATE} Hz"
            )
        given = dict(state)
        if "senses" in given:  # their name in version 0.1
            given["modalities"] = given.pop("senses")
        return cls(
            **given
            | {
                "modalities": {name: Modality(*pair) for name, pair in given["modalities"].items()},
                "target": Target(**given["target"]),
                "split_columns": [Modality(*pair) for pair in given.get("split_columns", [])],
                "tables": {
                    name: Fitted(**table) for name, table in given.get("tables", {}).items()
                },
                "vocabularies": {
                    name: Vocabulary(words) for name, words in given["vocabularies"].items()
                },
            }
        )

    def batch(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Raw samples -> one batch, without a target.

        A sample is a dict such as {"image": "cat.png", "text": "it purrs"} or {"audio": samples}.
        Images: path, bytes of a file, PIL image or array. Audio: path, samples at 16 kHz, or
        (samples, rate). A table: a dict by column, {"age": 3, "colour": "red"}; None and NaN are
        missing. A modality left out, None or a blank text is missing. A modality is named as in the
        model, or by the column that it had in the training manifest.

        ``row`` (B,) numbers the samples from 0. A clip of over four seconds gives several rows of
        its number. For several batches, let the numbers go on from batch to batch: ``collect`` puts
        the windows of one row together. Raises ValueError that names sample and modality.
        """
        if not samples:
            raise ValueError("no samples: expected at least one dict such as {'image': path}")
        named = [self._by_modality(i, sample) for i, sample in enumerate(samples)]
        stores = {
            name: self._store(name, [sample.get(name) for sample in named])
            for name in self.modalities
        }
        rows, windows = spread_windows(stores, np.arange(len(samples)))
        return self.assemble(stores, rows, windows)

    def _by_modality(self, i: int, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a sample by the names of the modalities, whichever name was given."""
        columns = {modality.column: name for name, modality in self.modalities.items()}
        found: dict[str, Any] = {}
        for key, value in sample.items():
            name = key if key in self.modalities else columns.get(key)
            if name is None:
                hint = did_you_mean(key, [*self.modalities, *columns])
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

    def _store(self, name: str, values: Sequence[Any]) -> Store:
        """The given values of one modality, decoded."""
        items: list[Any] = []
        where = np.full(len(values), -1)
        for i, value in enumerate(values):
            if value is None:
                continue
            try:
                items.append(self._decode(name, value))
            except (ValueError, OSError) as error:
                raise ValueError(f"sample {i}, {name}: {error}") from error
            where[i] = len(items) - 1
        kind = self.modalities[name].kind
        if kind == "text":
            cells = [items[i] if i >= 0 else "" for i in where]
            return Texts.encode(cells, self.vocabularies[name])
        if kind == "table":
            return self.tables[name].encode([items[i] if i >= 0 else "" for i in where])
        if kind == "image":
            return Images(where, [], self.sizes[name], torch.stack(items) if items else None)
        return Clips(where, [], np.array([len(item) for item in items], dtype=np.int64), items)

    def _decode(self, name: str, value: Any) -> Tensor | str:
        kind = self.modalities[name].kind
        if kind == "image":
            return read_image(value, self.sizes[name], self.scale.get(name))
        if kind == "audio":
            return to_int16(read_audio(*value) if isinstance(value, tuple) else read_audio(value))
        if kind == "table":
            if not isinstance(value, Mapping):
                raise ValueError(f"{type(value).__name__}, expected a dict by column")
            return self.tables[name].cell(value)
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
        """The batch of these rows (B,) of the stores, without a target.

        ``windows`` (B,) says which four seconds of a longer clip. ``chance`` is for training: it
        says which random changes to make, and windows are drawn.
        """
        batch: Batch = {}
        for stream, name in enumerate(sorted(self.modalities), MODALITIES):
            store = stores[name]
            if isinstance(store, Images):
                x, mask = images(store, rows, self.mean[name], self.std[name], chance, stream)
            elif isinstance(store, Columns):
                x, batch[f"{name}_category"], mask = store.fetch(rows)
            elif isinstance(store, Texts):
                x, mask = texts(store, rows, chance, stream)
            else:
                x, mask = clips(store, rows, windows, chance, stream)
            batch[name], batch[f"{name}_mask"] = x, mask
        if chance is not None and chance.augment.modality_dropout and len(self.modalities) > 1:
            self._drop_modalities(batch, rows, chance)
        batch["row"] = torch.from_numpy(rows)
        return batch

    def _drop_modalities(self, batch: Batch, rows: np.ndarray, chance: Chance) -> None:
        """Modality dropout, in place."""
        names = sorted(self.modalities)
        present = torch.stack([batch[f"{name}_mask"].any(dim=1) for name in names], dim=1)  # (B, M)
        u = chance.draw(rows, DROPOUT, len(names))
        dropped = drop_modalities(present, u, chance.augment)
        for name, gone in zip(names, dropped.unbind(dim=1), strict=True):
            x, mask = batch[name], batch[f"{name}_mask"] & ~gone[:, None]
            x[gone] = 0
            if self.modalities[name].kind == "table":
                batch[f"{name}_category"][gone] = 0
            elif self.modalities[name].kind != "image":  # no longer than the longest that is left
                longest = max(1, int(mask.sum(dim=1).max()))
                x, mask = x[:, :longest], mask[:, :longest]
            batch[name], batch[f"{name}_mask"] = x, mask
