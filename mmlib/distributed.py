"""Several processes as one: under torchrun batches are shared out and sums added up; in a single process nothing happens."""
import atexit
import os
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mmlib.core import Batch


def join(device: str = "auto") -> torch.device:
    """The device of this process ("auto": cuda, else mps, else cpu). Under torchrun it also joins the other processes, once.

    They talk through NCCL on GPUs, where each process takes the GPU of its LOCAL_RANK, and through gloo on CPUs.
    """
    many = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() and not many else "cpu"
    chosen = torch.device(device)
    if not many:
        return chosen
    if chosen.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                             "give torchrun as many processes as there are GPUs, or device='cpu'")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(_leave)
    return chosen


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


class Shardable(Protocol):
    """A loader of your own that several processes can share.

    All parts draw the same batches in the same order; the part of process ``rank`` gives rows ``rank::world`` of each, and None
    where a batch has too few. So all parts give equally many batches, and together each row once. The order may hang on
    torch's generator (``fit`` gives it the same seed in all processes until the first batch is there) or on the epoch:
    ``set_epoch(epoch, skip)``, where it exists, is called before each pass. A generator of another kind (random, numpy) needs
    the same seed in all processes: else some rows come twice and some never.
    """

    def __len__(self) -> int:
        """Batches of one pass."""

    def __iter__(self) -> Iterator[Batch | None]:
        """One pass."""

    def shard(self, rank: int, world: int) -> "Shardable":
        """The part of process ``rank`` of ``world``."""


def share(loader: Iterable[Batch]) -> Iterable[Batch | None]:
    """This process's part of a training loader: rows rank::world of each batch, None where that is empty.

    A loader shares itself out through ``shard(rank, world)``, see ``Shardable``; a list of batches is cut here; of a DataLoader
    each process reads its own part of every batch only. Raises ValueError for a loader that cannot be shared.
    """
    if world() == 1:
        return loader
    if hasattr(loader, "shard"):
        return loader.shard(rank(), world())
    if isinstance(loader, list):
        return [{key: value[rank()::world()] for key, value in batch.items()} if rank() < _rows(batch) else None for batch in loader]
    if type(loader).__iter__ is DataLoader.__iter__ and loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset):
        return _share_dataloader(loader)
    raise ValueError(f"{type(loader).__name__} cannot be shared out among {world()} processes: give a list of batches, a torch DataLoader "
                     "with a batch_size over a dataset with __getitem__ (not an IterableDataset), or a loader with a method "
                     "shard(rank, world): help(mmlib.distributed.Shardable) says what that returns")


def _share_dataloader(given: DataLoader) -> DataLoader:
    """The same DataLoader over this process's part of each batch. Raises ValueError where the processes draw different batches."""
    with torch.random.fork_rng(devices=()):
        seed(given, 0)
        orders = gather(zlib.crc32(repr(list(given.batch_sampler)).encode()))
    if len(set(orders)) > 1:
        raise ValueError("the processes draw different batches from the DataLoader, so that some rows would come twice and some never: "
                         "give it shuffle=True, or a sampler that draws from torch's generators only; no DistributedSampler, as fit "
                         "itself shares each batch out")
    return DataLoader(given.dataset, batch_sampler=Share(given.batch_sampler, rank(), world()), num_workers=given.num_workers,
                      collate_fn=partial(_collate, given.collate_fn), pin_memory=given.pin_memory, timeout=given.timeout,
                      worker_init_fn=partial(_start_worker, rank(), given.worker_init_fn), generator=given.generator,
                      multiprocessing_context=given.multiprocessing_context, prefetch_factor=given.prefetch_factor,
                      persistent_workers=given.persistent_workers)


class Share:
    """Of each batch of places in a dataset those of one process. All of them are drawn before the first is given away."""

    def __init__(self, batches: Any, rank: int, world: int):
        self.batches, self.rank, self.world = batches, rank, world
        self.sampler, self.generator = getattr(batches, "sampler", None), getattr(batches, "generator", None)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        yield from [batch[self.rank::self.world] for batch in self.batches]     # drawn at the first next(), as without this class


def _collate(given: Callable[[list], Batch], samples: list) -> Batch | None:
    return given(samples) if samples else None


def _start_worker(rank: int, given: Callable[[int], None] | None, worker: int) -> None:
    """A worker process gets random numbers that those of the other processes do not have."""
    own = (torch.initial_seed() + 10_007 * rank) % 2**63
    torch.manual_seed(own)
    random.seed(own)
    np.random.seed(own % 2**32)
    if given is not None:
        given(worker)


def seed(loader: Any, number: int) -> None:
    """Seed torch's generators, and those of its own that a DataLoader draws its order from."""
    torch.manual_seed(number)
    batches = getattr(loader, "batch_sampler", None)
    for owner in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        if isinstance(getattr(owner, "generator", None), torch.Generator):
            owner.generator.manual_seed(number)


def stand_in(batch: Batch) -> Batch:
    """The batch with every modality missing: keeps a process in step, and counts for nothing."""
    masks = [key for key in batch if key.endswith("_mask") and key != "target_mask"]
    return batch | {key: torch.zeros_like(batch[key]) for key in masks}


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def wrap(model: nn.Module, kind: str, device: torch.device) -> nn.Module:
    """The model as the processes train it together: DistributedDataParallel, or its weights shared out by ``fully_shard``.

    ``fully_shard`` gathers one unit at a time: each entry of an ``nn.ModuleList`` (the blocks of a transformer), then the rest.
    The processes start from the weights of the first one.
    """
    if world() == 1:
        return model
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()   # channels_last weights cannot be cut
    mesh = init_device_mesh(device.type, (world(),))
    for units in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
        for unit in units:
            fully_shard(unit, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """True after ``fully_shard``: then every forward pass needs all processes."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def synced(network: nn.Module, last: bool) -> AbstractContextManager:
    """Around forward and backward: the processes exchange gradients only in the ``last`` batch of a step."""
    if world() == 1:
        return nullcontext()
    if hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(last)
    return network.no_sync() if not last and hasattr(network, "no_sync") else nullcontext()


def total(sums: Sequence[Tensor]) -> Sequence[Tensor]:
    """The sums of some scalars over all processes."""
    if world() == 1:
        return sums
    together = torch.stack(tuple(sums))
    dist.all_reduce(together)
    return together.unbind()


def gather(value: Any) -> list:
    """What each process gave, in the order of the processes, to every process."""
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def full(value: Any) -> Any:
    """The whole of a tensor that ``fully_shard`` cut into pieces; anything else as it is. All processes call it together."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor cut as ``other`` is, and on its device."""
    if not hasattr(other, "full_tensor"):
        return value.to(other.device)
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
