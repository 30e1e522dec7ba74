"""The training loop: model, batches, settings -> history. ``fit`` is one straight line."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmlib.core import Batch, check_batch, modalities
from mmlib.machine import explaining_out_of_memory, keeping_freed_memory
from mmlib.train import checkpoint, distributed
from mmlib.train.checks import check_arguments, check_start, check_target
from mmlib.train.config import TrainConfig
from mmlib.train.evaluate import Metric, autocast, evaluate, to_device
from mmlib.train.history import History
from mmlib.train.layout import by_pixel
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
    start: str | Path | None = None,
) -> History:
    """Train ``model`` in place, and return the history: a row per epoch.

    ``train`` and ``val`` are loaders of mmlib.data, lists of batches or DataLoaders. ``metrics``
    are computed on ``val`` after each epoch. The model ends in eval mode, with the weights of its
    best epoch (``config.monitor``), or without ``val`` with its last ones.

    ``out`` is the folder of checkpoint.pt, which also holds ``extra`` (plain data, for example a
    vocabulary), and of history.jsonl; both are replaced atomically. ``resume`` goes on where the
    run in ``out`` was stopped, or begins one, so a supervisor may always give it; without it, the
    run in ``out`` is removed. On the same machine the result is that of a run never stopped, bit
    for bit: the generators of torch and of a DataLoader are seeded from (``config.seed``, epoch,
    process). Changed data is refused, where it can be known: for mmlib's loaders (by their
    ``identity()``) and lists of batches. What else decides about your batches belongs in ``extra``.

    ``start`` is the folder of another run of this model: training begins with its best weights, and
    with nothing else of it, at step 0 (``load_weights``). It does not go with ``resume``.

    ``optimizer`` is a function (model, config) -> torch.optim.Optimizer, with parameter groups of
    your choice; None is ``adamw``. The schedule (``lr_factor``, 0 to 1) multiplies the learning
    rate of each group. ``after_epoch`` is a function (row of the history, model), called when the
    row is complete and before the checkpoint is written. If it returns True, training stops, for a
    resumed run too. Under torchrun every process calls it, and a single True is enough.

    Under torchrun the processes share each batch, and the loss is the mean over all their targets,
    as in one process. A model of kind "contrast" compares the samples of all processes; it refuses
    ``accumulate``. Lists of batches, DataLoaders (not over an IterableDataset) and loaders with
    ``shard`` (``Shardable``) can be shared.

    Raises ValueError, saying what to do, for a loss or a gradient that is not finite (naming step,
    batch and key), an empty loader, a first batch that breaks the contract of ``check_batch``, a
    batch without target, a target that is not a class, a model without anything to train, a
    checkpoint of another run (in ``start``: of another model), and another run at work in ``out``;
    OSError if ``out`` cannot be written; torch.OutOfMemoryError with the batch's shapes. However it
    ends, the model can be used: in eval mode, with the best weights so far, or else the last ones
    known to be finite. A KeyboardInterrupt carries the ``history``.

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
    if start is not None:
        check_start(start, out, resume)
        checkpoint.load_weights(model, start)
    steps = c.epochs * math.ceil(len(train) / c.accumulate)
    with (
        checkpoint.locked(out if distributed.rank() == 0 else None),
        keeping_freed_memory(c.keep_freed_memory and device.type == "cpu"),
        Progress.begin(out, resume, c, extra, train, val) as run,
        Log(run, steps, c, lambda step, what: _diagnose(step, what, run, train, c)) as log,
    ):
        # only convolutions gain from channels_last
        by_pixel = c.channels_last and any(p.ndim == 4 for p in model.parameters())
        run.restore_weights(_placed(model, device, by_pixel))
        train, network = share(train), distributed.wrap(model, c.distributed, device)
        forward = torch.compile(network) if c.compile else network
        stepper = make_optimizer(optimizer or adamw, model, c)
        run.restore_optimizer(stepper, device)
        trainable = [p for p in model.parameters() if p.requires_grad]
        checked = False  # the first batch is checked more thoroughly
        casting = autocast(device, c.precision)
        while run.goes_on(c.epochs, c.patience):
            network.train()
            for window in _windows(train, run, c):
                for group, rate in zip(stepper.param_groups, run.rates, strict=True):
                    group["lr"] = rate * lr_factor(run.step, steps, c)
                losses: list[torch.Tensor] = []
                counts: list[torch.Tensor] = []
                for number, (batch, weight) in enumerate(window, 1):
                    if not checked:
                        check_batch(batch, modalities(batch))
                    checked = check_target(model, batch, device, checked)
                    batch = batch if weight else stand_in(batch)
                    with (
                        distributed.synced(network, last=number == len(window)),
                        explaining_out_of_memory(batch),
                    ):
                        batch = to_device(batch, device, by_pixel)
                        with casting:
                            output = forward(batch)
                        loss, count = output.loss.float(), output.count * weight
                        # the gradient of the sum over targets: once all of them are counted, it
                        # is divided, and is that of the mean
                        loss.backward(count)
                    losses.append(loss.detach() * count)
                    counts.append(count)
                step_loss, step_count = distributed.total(
                    (reduce(add, losses), reduce(add, counts))
                )
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
                if due and run.batch < len(train):  # after the last batch the epoch itself saves
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
    """The model on ``device``; with ``channels_last`` its 4-D weights are laid out pixel by pixel.

    ``model.to(memory_format=torch.channels_last)`` would change 5-D weights too, and fail.
    """
    model.to(device)
    for parameter in model.parameters():
        if channels_last and parameter.ndim == 4:
            parameter.data = by_pixel(parameter.data)
    return model


def _seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of torch's generators for one epoch of one process, far from all the others."""
    return ((seed * 1_000_003 + epoch) * 10_007 + rank) % 2**63


def _windows(
    train: Sized, run: Progress, config: TrainConfig
) -> Iterator[list[tuple[Batch, float]]]:
    """What is left of the epoch: a list of ``config.accumulate`` pairs (batch, weight) per step.

    The last list may be shorter. A batch has weight 1. If this process has no share of a batch, the
    batch before it comes again with weight 0, which keeps the processes in step. Until the first
    batch is there all processes have the same seed, because a loader draws its order from it; then
    each has its own.
    """
    own, at_start = _seed(config.seed, run.epoch, distributed.rank()), run.batch == 0
    distributed.seed(train, _seed(config.seed, run.epoch, 0))
    if hasattr(train, "set_epoch"):
        train.set_epoch(run.epoch, skip=run.batch)
        batches = iter(train)
    else:
        batches = iter(train)
        next(itertools.islice(batches, run.batch, run.batch), None)
    # not earlier: up to here a plain DataLoader draws from torch's generator, as it did before the
    # run was stopped
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
    """This process's first batch of the epoch that is not empty; ValueError if there is none."""
    if hasattr(train, "set_epoch"):
        train.set_epoch(epoch)
    with torch.random.fork_rng(devices=()):  # looking ahead leaves the generators as they are
        first = next((batch for batch in train if batch is not None), None)
    if first is None:
        raise ValueError(
            f"process {distributed.rank()} has no sample at all: train on more rows, or with "
            "fewer processes"
        )
    return first


def _diagnose(step: int, what: str, run: Progress, train: Sized, config: TrainConfig) -> str:
    """The message about ``what``, a loss or a gradient, that was not finite.

    The batches of its step are read again and checked.
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
            "there (a root or a norm of 0, a division under torch.where): "
            "torch.autograd.set_detect_anomaly(True) names it; or lower lr"
        )
    for batch, _ in next(_windows(train, Progress(epoch=run.epoch, batch=first), config)):
        try:
            check_batch(batch, modalities(batch))
        except ValueError as error:
            found = str(error)
        bad = [
            key
            for key, value in batch.items()
            if f"{key}_mask" not in batch
            and not value.isfinite().all()
            and (key != "target" or value.ndim == 1)  # a label that is not known is NaN
        ]
        found = f"batch[{bad[0]!r}] is not finite: correct those rows" if bad else found
    return (
        f"the {what} is not finite at step {step} (epoch {run.epoch + 1}, batch {first}, "
        f"learning rate {lr:.3g}): {found}"
    )
