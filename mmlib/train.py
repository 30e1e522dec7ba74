"""The training loop: model, batches, settings -> history. ``fit`` is all of it, in one straight line."""
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlib import checkpoint, distributed
from mmlib.core import Batch, check_batch
from mmlib.memory import enough_for, keeping_freed_memory
from mmlib.train_checks import check_arguments, check_target
from mmlib.train_evaluate import Metric, autocast, collect, evaluate, to_device
from mmlib.train_log import Log
from mmlib.train_run import History, Run

__all__ = ["History", "TrainConfig", "collect", "evaluate", "fit", "lr_at"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are meant to work; ``replace(config, lr=...)`` makes a changed copy."""

    epochs: int = 10
    lr: float = 1e-3                  # the highest learning rate, at the end of the warm-up
    weight_decay: float = 0.01        # of weights with two axes or more; biases and norms have none
    warmup: float = 0.05              # share of all steps in which the rate rises; then it falls along a cosine to zero
    clip: float = 1.0                 # longest gradient; math.inf = as long as it likes
    accumulate: int = 1               # batches per step
    precision: str = "auto"           # "fp32", "bf16"; "auto": bf16 on GPUs that have it, fp32 elsewhere
    compile: bool = False             # torch.compile: worth its minute on GPUs only
    channels_last: bool = True        # pictures and convolutions pixel by pixel: same result, faster
    patience: int = 0                 # stop after so many epochs without a better score; 0 = never
    monitor: str = "min val_loss"     # which score is better: "min" or "max" and its name in the history
    seed: int = 0                     # of dropout; the order of the data has its own, in the loader
    device: str = "auto"              # "cuda", "mps", "cpu", "cuda:1"; "auto": the first there is
    distributed: str = "ddp"          # under torchrun: "ddp", or "fsdp" for weights that do not fit on one GPU
    checkpoint_every: int = 0         # steps; besides the one after each epoch
    tensorboard: bool = False         # also write events to out/tensorboard
    progress: bool = True             # a bar, in notebooks and terminals
    keep_freed_memory: bool = True    # while fit runs on a CPU under Linux: see mmlib.memory; faster, and takes more memory

    def __post_init__(self) -> None:
        direction, _, score = self.monitor.partition(" ")
        rules = [
            ("epochs", self.epochs >= 1, "1 or more"), ("lr", self.lr > 0, "a number above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("warmup", 0 <= self.warmup <= 1, "a share from 0 to 1"), ("clip", self.clip > 0, "a number above 0 (math.inf: no clipping)"),
            ("accumulate", self.accumulate >= 1, "1 or more"), ("patience", self.patience >= 0, "0 (never stop early) or more"),
            ("precision", self.precision in ("auto", "fp32", "bf16"), "'auto', 'fp32' or 'bf16'"),
            ("distributed", self.distributed in ("ddp", "fsdp"), "'ddp' or 'fsdp'"),
            ("checkpoint_every", self.checkpoint_every >= 0, "0 (only after each epoch) or more"),
            ("monitor", direction in ("min", "max") and score.startswith("val_"), "'min val_loss', 'max val_accuracy' or the like"),
        ]
        for name, fine, expected in rules:
            if not fine:
                raise ValueError(f"TrainConfig: {name} is {getattr(self, name)!r}, expected {expected}")


def fit(model: nn.Module, train: Iterable[Batch], val: Iterable[Batch] | None = None, config: TrainConfig = TrainConfig(),
        metrics: Mapping[str, Metric] | None = None, out: str | Path | None = None, resume: bool = False,
        extra: dict[str, Any] | None = None) -> History:
    """Train ``model`` in place; it ends in eval mode, with ``val`` with the weights of its best epoch (``config.monitor``).

    ``train`` and ``val`` are loaders of mmlib.data, lists of batches or DataLoaders. ``metrics`` are computed on ``val`` after each
    epoch. ``out``: folder of checkpoint.pt (with ``extra``, plain data such as a vocabulary, inside) and history.jsonl, both replaced
    atomically. ``resume`` goes on where the run in ``out`` was stopped, or starts where there is none yet, so that a supervisor
    may always give it; without it, what ``out`` held is removed. On the same machine the result is that of a run never stopped,
    bit for bit. torch's generators are seeded from (``config.seed``, epoch, process).

    Under torchrun the processes share each batch, and the loss is the mean over all their targets: the same as one process.
    A model that compares samples (kind "contrast") then compares those of all processes; with
    ``accumulate`` it cannot, and is refused.
    Raises ValueError, saying what to do, for a loss that is not finite (step, batch and key), an empty loader, a batch without
    target, a target that is no class, nothing to train, a checkpoint of another run, and another run at work in ``out``;
    OSError where ``out`` cannot be written; torch.OutOfMemoryError with the batch's shapes. Whatever ends it, the model can be
    used: eval mode, the best weights so far. A KeyboardInterrupt carries the ``history``.
    """
    c, device = config, distributed.join(config.device)
    check_arguments(model, train, val, c, metrics, out)
    steps = c.epochs * math.ceil(len(train) / c.accumulate)
    with (checkpoint.locked(out if distributed.rank() == 0 else None), keeping_freed_memory(c.keep_freed_memory and device.type == "cpu"),
          Run(out, resume, c, extra, len(train)) as run,
          Log(run, steps, c, lambda step: _diagnose(step, run, train, c)) as log):
        by_pixel = c.channels_last and any(p.ndim == 4 for p in model.parameters())     # only convolutions gain from it
        run.restore_weights(_placed(model, device, by_pixel))
        train, network = distributed.share(train), distributed.wrap(model, c.distributed, device)
        forward = torch.compile(network) if c.compile else network
        optimizer = adamw(model, c)
        run.restore_optimizer(optimizer, device)
        parameters, checked = [p for p in model.parameters() if p.requires_grad], False
        casting = autocast(device, c.precision)
        while run.epoch < c.epochs and not run.is_stale(c.patience):
            torch.manual_seed(_seed(c.seed, run.epoch))
            network.train()
            for window in _windows(train, run, c.accumulate):
                for group in optimizer.param_groups:
                    group["lr"] = lr_at(run.step, steps, c)
                sums = None
                for number, (batch, weight) in enumerate(window, 1):
                    checked = check_target(model, batch, device, checked)
                    batch = batch if weight else distributed.stand_in(batch)
                    with distributed.synced(network, last=number == len(window)), enough_for(batch):
                        batch = to_device(batch, device, by_pixel)
                        with casting:
                            output = forward(batch)
                        loss, count = output.loss.float(), output.count * weight
                        loss.backward(count)    # of the sum over targets; once they are all counted, it becomes that of the mean
                    part = (loss.detach() * count, count)
                    sums = [a + b for a, b in zip(sums, part)] if sums else part
                sums = distributed.total(sums)
                divide_and_clip(parameters, sums[1].clamp(min=1e-8) / distributed.world(), c.clip)
                optimizer.step()
                for p in parameters:
                    p.grad = None           # optimizer.zero_grad() does this too, and books it
                run.step, run.batch = run.step + 1, run.batch + len(window)
                log.add(sums)
                if c.checkpoint_every and run.step % c.checkpoint_every == 0 and run.batch < len(train):
                    log.look()
                    run.save()
            log.look()
            row = {"epoch": run.epoch + 1, "step": run.step, "lr": group["lr"], "loss": run.loss / max(run.count, 1e-8)}
            if val is not None:
                row |= {f"val_{name}": value for name, value in evaluate(model, val, metrics, c.device, c.precision).items()}
            run.end_epoch(row, c.monitor)
            log.show(row)
            run.save()
    return run.history


def _placed(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    model.to(device)
    for parameter in model.parameters():
        if channels_last and parameter.ndim == 4:   # as a module's .to does it, which also wants to change 5-D weights, and fails
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def lr_at(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of a step: a straight rise over the warm-up, then half a cosine towards zero."""
    rise = round(config.warmup * steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019), fused. Weights of two axes or more decay; biases, norms and single numbers do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)


def divide_and_clip(parameters: list[nn.Parameter], divisor: Tensor, clip: float) -> None:
    """Divide all gradients by ``divisor``, a scalar, or by more, so that they are no longer than ``clip`` together."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if math.isfinite(clip):
        norms = torch.stack([distributed.full(norm) for norm in torch._foreach_norm(gradients)])
        divisor = torch.maximum(divisor, torch.linalg.vector_norm(norms) / clip)
    torch._foreach_div_(gradients, divisor)


def _seed(seed: int, epoch: int) -> int:
    """Of torch's generators in one epoch of one process: far from every other."""
    return ((seed * 1_000_003 + epoch) * 10_007 + distributed.rank()) % 2**63


def _windows(train: Iterable[Batch | None], run: Run, size: int) -> Iterator[list[tuple[Batch, float]]]:
    """What is left of the epoch, in lists of ``size`` batches (the last may be shorter), one per step, each batch with weight 1.

    Where this process has no share of a batch, the one before comes again with weight 0, to keep the processes in step.
    """
    if hasattr(train, "set_epoch"):
        train.set_epoch(run.epoch, skip=run.batch)
        batches = iter(train)
    else:
        batches = iter(train)
        next(itertools.islice(batches, run.batch, run.batch), None)
    run.restore_random()    # only now: a plain DataLoader has drawn from torch's generator on its way here, as it had before the stop
    last = None
    while window := list(itertools.islice(batches, size)):
        pairs = []
        for batch in window:
            last = batch if batch is not None else last if last is not None else _first_batch(train, run.epoch)
            pairs.append((last, float(batch is not None)))
        yield pairs


def _first_batch(train: Iterable[Batch | None], epoch: int) -> Batch:
    if hasattr(train, "set_epoch"):
        train.set_epoch(epoch)
    first = next((batch for batch in train if batch is not None), None)
    if first is None:
        raise ValueError(f"process {distributed.rank()} has no sample at all: train on more rows, or with fewer processes")
    return first


def _diagnose(step: int, run: Run, train: Iterable[Batch | None], config: TrainConfig) -> str:
    """What to say about a loss that was not finite: its batch is read again and looked at."""
    per_epoch = math.ceil(len(train) / config.accumulate)
    first, lr = (step - 1) % per_epoch * config.accumulate, lr_at(step - 1, config.epochs * per_epoch, config)
    found = f"the batch itself is finite: lower lr (now {config.lr:g}), lengthen warmup, or try precision='fp32'"
    again = Run(None, False, config, None, len(train))
    again.epoch, again.batch = run.epoch, first
    for batch, _ in next(_windows(train, again, config.accumulate)):
        try:
            check_batch(batch, [name for name in batch if f"{name}_mask" in batch and name != "target"])
        except ValueError as error:
            found = str(error)
        bad = [key for key, value in batch.items() if f"{key}_mask" not in batch and not value.isfinite().all()]
        found = f"batch[{bad[0]!r}] is not finite: correct those rows" if bad else found
    return f"the loss is not finite at step {step} (epoch {run.epoch + 1}, batch {first}, learning rate {lr:.3g}): {found}"
