"""The training loop: model, batches, settings -> history.

``fit`` is all of it, in one straight line.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmlib.core import Batch, check_batch, modalities
from mmlib.machine import enough_for, keeping_freed_memory
from mmlib.train import checkpoint, distributed
from mmlib.train.checks import check_arguments, check_target
from mmlib.train.config import TrainConfig
from mmlib.train.evaluate import Metric, autocast, evaluate, to_device
from mmlib.train.history import History
from mmlib.train.log import Log
from mmlib.train.optimizer import (
    MakeOptimizer,
    adamw,
    divide_and_clip,
    lr_factor,
    make_optimizer,
)
from mmlib.train.run import Progress
from mmlib.train.share import Sized, share, stand_in

AfterEpoch = Callable[[dict[str, Any], nn.Module], bool | None]
USUAL = TrainConfig()


def fit(
    model: nn.Module,
    train: Sized,
    val: Iterable[Batch | None] | None = None,
    config: TrainConfig = USUAL,
    metrics: Mapping[str, Metric] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    extra: dict[str, Any] | None = None,
    optimizer: MakeOptimizer | None = None,
    after_epoch: AfterEpoch | None = None,
) -> History:
    """Train ``model`` in place; it ends in eval mode, with ``val`` with the weights of its best
    epoch (``config.monitor``).

    ``train`` and ``val`` are loaders of mmlib.data, lists of batches or DataLoaders. ``metrics``
    are computed on ``val`` after each epoch. ``out``: folder of checkpoint.pt (with ``extra``,
    plain data such as a vocabulary, inside) and history.jsonl, both replaced atomically. ``resume``
    goes on where the run in ``out`` was stopped, or starts where there is none yet, so that a
    supervisor may always give it; without it, what ``out`` held is removed. On the same machine the
    result is that of a run never stopped, bit for bit. torch's generators, and that of a
    DataLoader, are seeded from (``config.seed``, epoch, process). Data that has changed in the
    meantime is refused: that of mmlib's loaders (their ``identity()``) and lists of batches; what
    else decides about your batches belongs into ``extra``.

    ``optimizer``: a function (model, config) -> torch.optim.Optimizer, with parameter groups of
    your choice; the schedule (``lr_factor``, 0 to 1) multiplies the learning rate of each group.
    None is ``adamw``. ``after_epoch``: a function (row of the history, model), called when the
    epoch's row is complete and before the checkpoint is written; where it returns True, training
    stops, and a resumed run knows it. Under torchrun every process calls it, and one True is
    enough.

    Under torchrun the processes share each batch, and the loss is the mean over all their targets:
    the same as one process. A model that compares samples (kind "contrast") then compares those of
    all processes; with ``accumulate`` it cannot. Lists of batches, DataLoaders (not over an
    IterableDataset) and loaders with ``shard`` (``Shardable``) can be shared. Raises ValueError,
    saying what to do, for a loss or a gradient that is not finite (step, batch and key), an empty
    loader, a first batch that breaks the contract of ``check_batch``, a batch without target, a
    target that is no class, nothing to train, a checkpoint of another run, and another run at work
    in ``out``; OSError where ``out`` cannot be written; torch.OutOfMemoryError with the batch's
    shapes. Whatever ends it, the model can be used: eval mode, the best weights so far, or where
    none are known the last ones that were finite. A KeyboardInterrupt carries the ``history``.

    >>> from mmlib import Backbone, ClassifyHead, Model, RecurrentEncoder, SumFusion
    >>> _ = torch.manual_seed(0)
    >>> backbone = Backbone({"text": RecurrentEncoder(8, 20)}, SumFusion(8, ["text"]))
    >>> model = Model(backbone, ClassifyHead(8, 2))
    >>> words = torch.tensor([[3, 4], [5, 6]])
    >>> batch = {"text": words, "text_mask": words > 0, "target": torch.tensor([0, 1])}
    >>> config = TrainConfig(epochs=20, lr=0.03, device="cpu", progress=False)
    >>> history = fit(model, [batch], config=config)
    >>> history[-1]["loss"] < 0.1 < history[0]["loss"]
    True
    """
    c, device = config, distributed.join(config.device)
    check_arguments(model, train, val, c, metrics, out)
    steps = c.epochs * math.ceil(len(train) / c.accumulate)
    with (
        checkpoint.locked(out if distributed.rank() == 0 else None),
        keeping_freed_memory(c.keep_freed_memory and device.type == "cpu"),
        Progress.begin(out, resume, c, extra, train, val) as run,
        Log(run, steps, c, lambda step, what: _diagnose(step, what, run, train, c)) as log,
    ):
        # only convolutions gain from it
        by_pixel = c.channels_last and any(p.ndim == 4 for p in model.parameters())
        run.restore_weights(_placed(model, device, by_pixel))
        train, network = share(train), distributed.wrap(model, c.distributed, device)
        forward = torch.compile(network) if c.compile else network
        stepper = make_optimizer(optimizer or adamw, model, c)
        run.restore_optimizer(stepper, device)
        trainable = [p for p in model.parameters() if p.requires_grad]
        checked = False  # the first batch is checked more closely
        casting, zero = autocast(device, c.precision), torch.zeros((), device=device)
        while run.goes_on(c.epochs, c.patience):
            network.train()
            for window in _windows(train, run, c):
                for group, rate in zip(stepper.param_groups, run.rates, strict=True):
                    group["lr"] = rate * lr_factor(run.step, steps, c)
                step_loss = step_count = zero
                for number, (batch, weight) in enumerate(window, 1):
                    if not checked:
                        check_batch(batch, modalities(batch))
                    checked = check_target(model, batch, device, checked)
                    batch = batch if weight else stand_in(batch)
                    with distributed.synced(network, last=number == len(window)), enough_for(batch):
                        batch = to_device(batch, device, by_pixel)
                        with casting:
                            output = forward(batch)
                        loss, count = output.loss.float(), output.count * weight
                        # the gradient of the sum over targets: once all of them are counted, it
                        # is divided, and is that of the mean
                        loss.backward(count)
                    step_loss = step_loss + loss.detach() * count
                    step_count = step_count + count
                step_loss, step_count = distributed.total((step_loss, step_count))
                divisor = step_count.clamp(min=1e-8) / distributed.world()
                norm = divide_and_clip(trainable, divisor, c.clip)
                stepper.step()
                # same as optimizer.zero_grad(), without its profiler record (measured: 4% of a
                # tiny step)
                for p in trainable:
                    p.grad = None
                run.step, run.batch = run.step + 1, run.batch + len(window)
                log.add(step_loss, step_count, norm)
                due = c.checkpoint_every and run.step % c.checkpoint_every == 0
                if due and run.batch < len(train):  # after the last batch the epoch saves it
                    log.settle()
                    run.save()
            log.settle()
            row = {
                "epoch": run.epoch + 1,
                "step": run.step,
                "lr": stepper.param_groups[0]["lr"],
                "loss": run.loss / max(run.count, 1e-8),
            }
            if val is not None:
                scores = evaluate(model, val, metrics, c.device, c.precision)
                row |= {f"val_{name}": value for name, value in scores.items()}
            run.end_epoch(row, c.monitor)
            log.show(row)
            run.ask(after_epoch, row)
            run.save()
    return run.history


def _placed(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    model.to(device)
    for parameter in model.parameters():
        # as a module's .to does it, which also wants to change 5-D weights, and fails
        if channels_last and parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _seed(seed: int, epoch: int, rank: int) -> int:
    """Of torch's generators in one epoch of one process: far from every other."""
    return ((seed * 1_000_003 + epoch) * 10_007 + rank) % 2**63


def _windows(
    train: Sized, run: Progress, config: TrainConfig
) -> Iterator[list[tuple[Batch, float]]]:
    """What is left of the epoch, in lists of ``config.accumulate`` batches (the last may be
    shorter), one a step; a batch has weight 1.

    Where this process has no share of a batch, the one before comes again with weight 0, to keep
    the processes in step. All processes have one seed until the first batch is there, as a loader
    draws its order from it; then each has its own.
    """
    own, at_start = _seed(config.seed, run.epoch, distributed.rank()), run.batch == 0
    distributed.seed(train, _seed(config.seed, run.epoch, 0))
    if hasattr(train, "set_epoch"):
        train.set_epoch(run.epoch, skip=run.batch)
        batches = iter(train)
    else:
        batches = iter(train)
        next(itertools.islice(batches, run.batch, run.batch), None)
    # only now: a plain DataLoader has drawn from torch's generator on its way here, as it had
    # before the stop
    run.restore_random()
    last = None
    while window := list(itertools.islice(batches, config.accumulate)):
        pairs = []
        for batch in window:
            if batch is not None:
                last = batch
            elif last is None:
                last = _first_batch(train, run.epoch)
            pairs.append((last, float(batch is not None)))
        if at_start and distributed.rank():
            torch.manual_seed(own)
        at_start = False
        yield pairs


def _first_batch(train: Sized, epoch: int) -> Batch:
    if hasattr(train, "set_epoch"):
        train.set_epoch(epoch)
    with torch.random.fork_rng(devices=()):  # to look draws nothing
        first = next((batch for batch in train if batch is not None), None)
    if first is None:
        raise ValueError(
            f"process {distributed.rank()} has no sample at all: train on more rows, or with "
            "fewer processes"
        )
    return first


def _diagnose(step: int, what: str, run: Progress, train: Sized, config: TrainConfig) -> str:
    """What to say about ``what``, a loss or a gradient, that was not finite.

    Its batch is read again and checked.
    """
    per_epoch = math.ceil(len(train) / config.accumulate)
    first = (step - 1) % per_epoch * config.accumulate
    lr = run.rates[0] * lr_factor(step - 1, config.epochs * per_epoch, config)
    found = (
        f"the batch itself is finite: lower lr (now {run.rates[0]:g}), lengthen warmup, or "
        "try precision='fp32'"
    )
    if what == "gradient":
        found = (
            "the batch and the loss are finite, so an operation of the model has no derivative "
            "there (a root or a norm of 0, a "
            "division under torch.where): torch.autograd.set_detect_anomaly(True) names it; or "
            "lower lr"
        )
    for batch, _ in next(_windows(train, Progress(epoch=run.epoch, batch=first), config)):
        try:
            check_batch(batch, modalities(batch))
        except ValueError as error:
            found = str(error)
        bad = [
            key
            for key, value in batch.items()
            if f"{key}_mask" not in batch and not value.isfinite().all()
        ]
        found = f"batch[{bad[0]!r}] is not finite: correct those rows" if bad else found
    return (
        f"the {what} is not finite at step {step} (epoch {run.epoch + 1}, batch {first}, "
        f"learning rate {lr:.3g}): {found}"
    )
