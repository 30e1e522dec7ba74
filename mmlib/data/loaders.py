"""Batches in an order that is a function of (seed, epoch).

They come from memory at once, or from disk through worker processes.
"""

import json
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmlib.core import Batch
from mmlib.data.assemble import BATCHES, ORDER, Chance, spread_windows
from mmlib.data.augment import Augment
from mmlib.data.draws import keys
from mmlib.data.preprocessing import Preprocessing
from mmlib.data.store import Clips, Store, Texts, checksum

T = TypeVar("T")


@dataclass(frozen=True)
class Batches(Dataset[Batch | None]):
    """batches[epoch, number] -> that batch, whatever was read before.

    With ``rank`` and ``world``: the rows of one process, None where it has none of that batch.
    """

    preprocessing: Preprocessing
    stores: Mapping[str, Store]
    rows: np.ndarray  # (samples,) in manifest order; several windows of one clip repeat its row
    windows: np.ndarray  # (samples,)
    target: Tensor | None  # by manifest row
    batch_size: int  # of all processes together
    seed: int
    augment: Augment | None  # None: no shuffling and no random changes
    rank: int = 0
    world: int = 1
    # by epoch; only that of the last epoch asked for is kept
    orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """(samples,) places in ``rows``, in the order of this epoch."""
        if self.augment is None:
            return np.arange(len(self.rows))
        if epoch not in self.orders:
            self.orders.clear()
            shuffled = np.argsort(keys(self.seed, epoch, self.rows, ORDER), kind="stable")
            self.orders[epoch] = self._alike(shuffled, epoch)
        return self.orders[epoch]

    def _alike(self, order: np.ndarray, epoch: int) -> np.ndarray:
        """Shuffled places in which the samples of a batch have similar lengths.

        Then less of a batch is padding, and audio costs most. Within blocks of 16 batches samples
        are sorted by length and cut into batches, and the batches are shuffled again.
        """
        size = 16 * self.batch_size
        blocks = [order[start : start + size] for start in range(0, len(order), size)]
        lengths = sample_lengths(self.stores, self.rows)
        order = np.concatenate(
            [block[np.argsort(lengths[block], kind="stable")] for block in blocks]
        )
        full = len(order) // self.batch_size
        batches = order[: full * self.batch_size].reshape(full, self.batch_size)
        shuffled = np.argsort(keys(self.seed, epoch, np.arange(full), BATCHES), kind="stable")
        return np.concatenate([batches[shuffled].ravel(), order[full * self.batch_size :]])

    def __getitem__(self, place: tuple[int, int]) -> Batch | None:
        epoch, number = place
        whole = self.order(epoch)[number * self.batch_size : (number + 1) * self.batch_size]
        share = whole[self.rank :: self.world]
        if not len(share):
            return None
        rows = self.rows[share]
        chance = None if self.augment is None else Chance(self.seed, epoch, self.augment)
        batch = self.preprocessing.assemble(self.stores, rows, self.windows[share], chance)
        if self.target is not None:
            batch["target"] = self.target[rows]
        return batch


class Shard:
    """The part of a ``Loader`` that one process of many reads.

    It gives as many batches as the loader; None where a batch has no row for this process.
    """

    def __init__(self, batches: Batches, workers: int):
        self.batches, self.workers = batches, workers
        self._pool: DataLoader[Batch | None] | None = None
        self._ahead: list[tuple[int, int]] = []  # what the pool is to read next
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The next pass is that of ``epoch``, without its first ``skip`` batches."""
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[Batch | None]:
        places = [(self.epoch, number) for number in range(self.skip, len(self))]
        self.skip = 0  # of one pass only
        return self._read_ahead(places) if self.workers else map(self.batches.__getitem__, places)

    def _read_ahead(self, places: list[tuple[int, int]]) -> Iterator[Batch | None]:
        """Through worker processes, which are kept for the next pass if this one ends well."""
        pool = self._pool or DataLoader(
            self.batches,
            batch_size=None,
            sampler=self._ahead,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            persistent_workers=True,
            generator=torch.Generator(),  # its own: the global one stays as it is
        )
        self._pool, self._ahead[:] = None, places
        try:
            yield from pool
        except (ConnectionError, EOFError) as error:  # a worker died while it sent a batch
            time.sleep(1)  # in this time torch raises its own error, which names the process
            raise RuntimeError("a DataLoader worker has ended too soon.") from error
        except ValueError as error:  # a bad file: before its reason stands the worker's traceback
            raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from error
        self._pool = pool


class Loader:
    """What ``fit`` and ``evaluate`` iterate over; ``load_data`` makes one for each split.

    Batches are as in mmlib.core, with ``row`` (B,): the place of each sample in the manifest. For
    training (with ``augment``) a loader shuffles, changes samples at random, cuts long clips, and
    leaves out rows that have none of the modalities (``dropped`` counts them). For evaluation it
    keeps all rows in order, and long clips become several windows. ``workers`` 0 assembles batches
    in this process: right for data in memory. Raises ValueError for a ``batch_size`` below 1.

    >>> import pandas as pd
    >>> from mmlib import load_data, read_manifest
    >>> table = {"text": ["it purrs", "it barks", "purrs"], "label": ["cat", "dog", "cat"]}
    >>> table = pd.DataFrame(table | {"split": ["train", "train", "val"]})
    >>> loader = load_data(read_manifest(table), batch_size=2).loaders["val"]
    >>> for batch in loader:
    ...     print({key: value.tolist() for key, value in batch.items()})
    {'text': [[6]], 'text_mask': [[True]], 'row': [2], 'target': [0]}
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        stores: Mapping[str, Store],
        rows: np.ndarray,
        target: Tensor | None = None,
        batch_size: int = 32,
        seed: int = 0,
        augment: Augment | None = None,
        workers: int = 0,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
        rows, windows = np.asarray(rows, dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        self.dropped = 0
        if augment is None:
            rows, windows = spread_windows(stores, rows)
        else:
            present = has_modality(stores, rows)
            self.dropped, rows, windows = int((~present).sum()), rows[present], windows[present]
        self.batches = Batches(
            preprocessing, stores, rows, windows, target, batch_size, seed, augment
        )
        self.workers = workers
        self._whole = Shard(self.batches, workers)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def samples(self) -> int:
        """Samples of one pass, windows counted, over all processes."""
        return len(self.batches.rows)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The next pass is that of ``epoch``; its first ``skip`` batches are not even read."""
        self._whole.set_epoch(epoch, skip)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self._whole if batch is not None)  # the whole has no empty one

    def shard(self, rank: int, world: int) -> Shard:
        """The part of process ``rank`` of ``world``: rows rank::world of each batch."""
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}, expected 0 to {world - 1}")
        part = Shard(replace(self.batches, rank=rank, world=world), self.workers)
        part.set_epoch(self._whole.epoch, self._whole.skip)
        return part

    def identity(self) -> dict[str, Any]:
        """All that decides about the batches, as plain data.

        A run is resumed only with loaders that agree in it. Content is known by checksums of what
        was decoded: the bytes of a file may change where what is in it does not.
        """
        parts = self.batches
        state = parts.preprocessing.state()
        del state["target"]["why"]  # words for a reader: they decide about no batch
        fitted = json.dumps(state, sort_keys=True).encode()
        target = None if parts.target is None else parts.target[parts.rows].numpy()
        found = {
            "batch_size": parts.batch_size,
            "seed": parts.seed,
            "augment": None if parts.augment is None else asdict(parts.augment),
            "rows": len(parts.rows),
            "checksum of the rows' places in the manifest": zlib.crc32(parts.rows.data),
            "checksum of the targets": None if target is None else zlib.crc32(target.data),
            "checksum of the preprocessing": zlib.crc32(fitted),
        }
        for name, store in parts.stores.items():
            found[f"checksum of the content of {name!r}"] = checksum(store, parts.rows)
        return found


def _as_it_is(batch: T) -> T:
    return batch


def sample_lengths(stores: Mapping[str, Store], rows: np.ndarray) -> np.ndarray:
    """(samples,) length of each row's longest clip; without audio, of its longest text."""
    for kind in (Clips, Texts):
        found = [store.row_lengths(rows) for store in stores.values() if isinstance(store, kind)]
        if found:
            return np.max(found, axis=0)
    return np.zeros(len(rows), dtype=np.int64)


def has_modality(stores: Mapping[str, Store], rows: np.ndarray) -> np.ndarray:
    """(B,) bool: the row has at least one of the modalities."""
    return np.any([store.row_present(rows) for store in stores.values()], axis=0)
