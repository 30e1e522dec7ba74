"""What ``fit`` checks before it trains: its arguments, and the target of each batch."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.core import KINDS, Batch, Output
from mmlib.tracing.trace import ERRORS, trace
from mmlib.train.evaluate import to_device


def check_arguments(
    model: nn.Module, train: Any, val: Any, config: Any, metrics: Any, out: Any
) -> None:
    """Raise ValueError, saying what to do, for arguments that ``fit`` cannot train with."""
    _check_loaders(train, val)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "no parameter of the model needs a gradient: there is nothing to train; unfreeze a "
            "part, or use evaluate"
        )
    known = [f"val_{name}" for name in ("loss", *(metrics or ()))]
    if val is not None and config.monitor.split(" ")[1] not in known:
        raise ValueError(
            f"TrainConfig: monitor is {config.monitor!r}, expected 'min' or 'max' and one of "
            f"{known}"
        )
    if val is None and metrics:
        raise ValueError(
            f"the metrics {sorted(metrics)} are computed on val, and there is none: give val, or "
            "no metrics"
        )
    if config.accumulate > 1 and getattr(model, "kind", None) == "contrast":
        raise ValueError(
            f"TrainConfig: accumulate is {config.accumulate}, but this model compares samples "
            "with one another, and the parts of a step would not see each other: the loss would "
            "be another one. Give larger batches, or more processes (torchrun), which do "
            "compare the whole step"
        )
    if config.tensorboard and out is None:
        raise ValueError(
            "TrainConfig: tensorboard=True needs a folder to write to: fit(..., out=FOLDER)"
        )


def check_start(start: Any, out: Any, resume: bool) -> None:
    """Raise ValueError where a run cannot begin from that in ``start``."""
    if resume:
        raise ValueError(
            f"start={str(start)!r} takes weights for a new run, resume=True goes on with the run "
            "in out, weights and all: give one of them"
        )
    if out is not None and Path(out).resolve() == Path(start).resolve():
        raise ValueError(f"start and out are both {out}: the new run would replace it")


def _check_loaders(train: Any, val: Any) -> None:
    """Raise ValueError for a loader without batches, and for a train loader without a length."""
    if not _has_length(train):
        raise ValueError(
            f"the train loader, a {type(train).__name__}, has no length, but the learning "
            "rate's schedule needs the number of batches (an IterableDataset? give it a "
            "method __len__: how many samples one epoch has)"
        )
    for name, loader in {"train": train, "val": val}.items():
        if _has_length(loader) and len(loader) == 0:
            raise ValueError(
                f"the {name} loader is empty: no rows, or all of them were left out; check the "
                "split column and the files"
            )


def _has_length(loader: Any) -> bool:
    try:
        len(loader)
    except TypeError:
        return False
    return True


def check_target(model: nn.Module, batch: Batch, device: torch.device, checked: bool) -> bool:
    """Raise ValueError, naming the sample, for a target that the model's ``kind`` does not take.

    The first time (``checked`` is False) the model is also run on one sample: does it give a loss?
    Later targets are checked only if they are on the CPU, where that costs no waiting. Returns
    True: the next value of ``checked``.
    """
    if not checked:
        _ask_for_one(model, batch, device)
    kind, target = getattr(model, "kind", None), batch.get("target")
    if kind in (None, "contrast") or target is None or (checked and target.device.type != "cpu"):
        return True
    if kind not in KINDS:
        raise ValueError(
            f"the model's kind is {kind!r}, expected one of {KINDS}, or no attribute 'kind' at all"
        )
    if kind == "number":
        _refuse(target, ~target.isfinite(), "a finite number: correct that row, or leave it out")
    elif kind == "labels":
        _refuse(
            target, (target < 0) | (target > 1), "0 to 1 for each label; NaN where it is not known"
        )
    else:
        check_classes(model, kind, target, batch.get("target_mask"))
    return True


def check_classes(model: nn.Module, kind: str, target: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError, naming the sample, for a target that is not one of the model's classes.

    ``mask`` is the batch's target_mask, or None: what it leaves out may be anything.
    """
    classes = getattr(model, "classes", None)
    if target.is_floating_point():
        raise ValueError(
            f"batch['target'] is {target.dtype}, expected int64: the model's kind is {kind!r}"
        )
    if classes is None:
        raise ValueError(
            f"the model is of kind {kind!r} and does not say how many classes it has: give it an "
            "attribute 'classes'"
        )
    target = target if mask is None else target.masked_fill(~mask, 0)
    how = (
        "; target_mask says what is left out"
        if kind == "sequence"
        else ", or -100 to leave the row out"
    )
    low, high = torch.stack(target.aminmax()).tolist()
    if low < 0 or high >= classes:  # so a batch without -100 costs one pass only
        bad = (target < 0) | (target >= classes)
        _refuse(
            target,
            bad if kind == "sequence" else bad & (target != -100),
            f"a class from 0 to {classes - 1}{how}; give the head more classes, or number the "
            "targets from 0, the same way in every split",
        )


def _refuse(target: Tensor, bad: Tensor, expected: str) -> None:
    if bad.any():
        sample = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"batch['target'], sample {sample}: {target[bad][0]:g}, expected {expected}"
        )


@torch.no_grad()
def _ask_for_one(model: nn.Module, batch: Batch, device: torch.device) -> None:
    """Raise ValueError if the model gives no loss for the first sample."""
    one = {key: value[:1] for key, value in batch.items()}
    if "target" in batch:
        # the real target has not been checked yet; class 0 exists in any model
        one["target"] = torch.zeros_like(one["target"])
    output = _answer(model.eval(), to_device(one, device))
    model.train()
    if output.loss is None:
        raise ValueError(
            f"the model gave no loss for the batch; it has {sorted(batch)}: is 'target' missing?"
        )


def _answer(model: nn.Module, one: Batch) -> Output:
    """The model's answer to one sample.

    If the model fails, most likely on a shape, ValueError shows the stages up to there.
    """
    try:
        return model(one)
    except ERRORS:
        trace(model, one)  # this fails in the same place, and says where
        raise
