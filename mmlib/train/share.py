"""A training loader -> the part of it that this process trains on: every row exactly once."""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from mmlib.core import Batch
from mmlib.train import distributed


class Sized(Protocol):
    """Batches that can be counted: a list, a DataLoader, a loader of mmlib.data."""

    def __len__(self) -> int:
        """Batches of one pass."""

    def __iter__(self) -> Iterator[Batch | None]:
        """One pass; None in place of a batch that this process has no share of."""


class Shardable(Sized, Protocol):
    """A loader of your own that several processes can share.

    All parts draw the same batches in the same order. The part of process ``rank`` gives rows
    ``rank::world`` of each batch, or None if the batch has too few rows. So all parts give the same
    number of batches, and together they give each row once. The order may depend on torch's
    generator (``fit`` gives it the same seed in all processes until the first batch is there) or on
    the epoch: ``set_epoch(epoch, skip)``, if there is such a method, is called before each pass. A
    generator of another kind (random, numpy) needs the same seed in all processes; otherwise some
    rows come twice and some never.
    """

    def shard(self, rank: int, world: int) -> Sized:
        """The part of process ``rank`` of ``world``."""


def is_shared(loader: Iterable[Batch | None]) -> TypeGuard[Shardable]:
    """Are there several processes, and can the loader give each its part?"""
    return distributed.world() > 1 and hasattr(loader, "shard")


def share(loader: Sized) -> Sized:
    """This process's part of a training loader: rows rank::world of each batch, or None.

    None stands for a part without rows. A loader of mmlib.data, or one of your own, gives its part
    by ``shard(rank, world)``, see ``Shardable``. A list of batches is cut here. Of a DataLoader
    each process reads only its own part of every batch. Raises ValueError for a loader that cannot
    be shared.
    """
    rank, world = distributed.rank(), distributed.world()
    if world == 1:
        return loader
    if is_shared(loader):
        return loader.shard(rank, world)
    if isinstance(loader, list):
        return [
            {key: value[rank::world] for key, value in batch.items()}
            if rank < len(next(iter(batch.values())))
            else None
            for batch in loader
        ]
    if (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    ):
        return _share_dataloader(loader, loader.batch_sampler)
    raise ValueError(
        f"{type(loader).__name__} cannot be shared among {world} processes: give a list of "
        "batches, a torch DataLoader with a batch_size over a dataset with __getitem__ (not an "
        "IterableDataset), or a loader with a method shard(rank, world): "
        "help(mmlib.train.share.Shardable) says what that returns"
    )


def _share_dataloader(given: DataLoader[Any], batches: Iterable[list[Any]]) -> DataLoader[Any]:
    """The same DataLoader over this process's part of each batch.

    Raises ValueError if the processes draw different batches.
    """
    with torch.random.fork_rng(devices=()):
        distributed.seed(given, 0)
        orders = distributed.gather(zlib.crc32(repr(list(batches)).encode()))
    if len(set(orders)) > 1:
        raise ValueError(
            "the processes draw different batches from the DataLoader, so that some rows would "
            "come twice and some never: give it shuffle=True, or a sampler that draws from "
            "torch's generators only; no DistributedSampler, as fit itself shares each batch"
        )
    return DataLoader(
        given.dataset,
        batch_sampler=Share(batches, distributed.rank(), distributed.world()),
        num_workers=given.num_workers,
        collate_fn=partial(_collate, given.collate_fn),
        pin_memory=given.pin_memory,
        timeout=given.timeout,
        worker_init_fn=partial(_start_worker, distributed.rank(), given.worker_init_fn),
        generator=given.generator,
        multiprocessing_context=given.multiprocessing_context,
        prefetch_factor=given.prefetch_factor,
        persistent_workers=given.persistent_workers,
    )


class Share:
    """A batch sampler: of each batch of places in a dataset, the places of one process.

    All batches are drawn before the first is given away.
    """

    def __init__(self, batches: Any, rank: int, world: int):
        self.batches, self.rank, self.world = batches, rank, world
        self.sampler = getattr(batches, "sampler", None)
        self.generator = getattr(batches, "generator", None)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        # a generator, so that they are drawn at the first next(), as without this class
        yield from [batch[self.rank :: self.world] for batch in self.batches]


def _collate(given: Callable[[list[Any]], Batch], samples: list[Any]) -> Batch | None:
    return given(samples) if samples else None


def _start_worker(rank: int, given: Callable[[int], None] | None, worker: int) -> None:
    """Give a worker random numbers of its own, other than the workers of other processes have."""
    own = (torch.initial_seed() + 10_007 * rank) % 2**63
    torch.manual_seed(own)
    random.seed(own)
    np.random.seed(own % 2**32)
    if given is not None:
        given(worker)


def stand_in(batch: Batch) -> Batch:
    """The batch with every modality missing: it keeps a process in step and counts for nothing."""
    masks = [key for key in batch if key.endswith("_mask") and key != "target_mask"]
    return batch | {key: torch.zeros_like(batch[key]) for key in masks}
