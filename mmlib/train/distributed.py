"""Several processes as one: join, sum, gather. In a single process nothing happens."""

import atexit
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join(device: str = "auto") -> torch.device:
    """The device of this process ("auto": cuda, else mps, else cpu).

    Under torchrun it also joins the other processes, once. They communicate through NCCL on GPUs,
    where each process takes the GPU of its LOCAL_RANK, and through gloo on CPUs. Raises ValueError
    if there are more processes than GPUs.
    """
    many = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    chosen = torch.device(_best_device(many) if device == "auto" else device)
    if not many:
        return chosen
    if chosen.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU of its own: there are "
                f"{torch.cuda.device_count()}; give torchrun as many processes as there are GPUs, "
                "or device='cpu'"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(_leave)
    return chosen


def _best_device(many: bool) -> str:
    """The kind of device that "auto" means; ``many`` processes cannot share an Apple GPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not many else "cpu"


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def seed(loader: Any, number: int) -> None:
    """Seed torch's generators, and any generator that a DataLoader draws its order from."""
    torch.manual_seed(number)
    batches = getattr(loader, "batch_sampler", None)
    samplers = getattr(loader, "sampler", None), getattr(batches, "sampler", None)
    for owner in (loader, batches, *samplers):
        own = getattr(owner, "generator", None)
        if isinstance(own, torch.Generator):
            own.manual_seed(number)


def wrap(model: nn.Module, kind: str, device: torch.device) -> nn.Module:
    """The model as the processes train it together: by "ddp" or by "fsdp".

    "ddp" is DistributedDataParallel: each process holds all weights. "fsdp" is ``fully_shard``:
    each process holds a part of the weights, and they are gathered one unit at a time, each entry
    of an ``nn.ModuleList`` (the blocks of a transformer), then the rest. The processes start from
    the weights of the first one. A single process gets the model as it is.
    """
    if world() == 1:
        return model
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(
            model, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # channels_last weights cannot be cut
    mesh = init_device_mesh(device.type, (world(),))
    for units in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
        for unit in units:
            fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(model: nn.Module) -> bool:
    """True after ``fully_shard``: then every forward pass needs all processes."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def synced(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """A context for one batch: processes exchange gradients only in a step's ``last`` batch."""
    if world() == 1:
        return nullcontext()
    if isinstance(network, nn.parallel.DistributedDataParallel):
        return nullcontext() if last else network.no_sync()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    return nullcontext()


def total(sums: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each of these scalars, summed over all processes."""
    if world() == 1:
        return sums
    together = torch.stack(tuple(sums))
    dist.all_reduce(together)
    return together.unbind()


def gather(value: Any) -> list[Any]:
    """What each process gave, in the order of the processes, to every process."""
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def full(value: Any) -> Any:
    """The whole of a tensor that ``fully_shard`` has cut; anything else as it is.

    All processes must call it together.
    """
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of ``other``, and cut as ``other`` is."""
    if not hasattr(other, "full_tensor"):
        return value.to(other.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    cut = cast(DTensor, other)
    return distribute_tensor(value.to(cut.device), cut.device_mesh, cut.placements)
