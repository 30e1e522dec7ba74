"""What ``fit`` looks at before it trains: its arguments, and the target of each batch."""
from typing import Any

import torch
from torch import nn

from mmlib.core import Batch, Output
from mmlib.trace import ERRORS, trace
from mmlib.train_evaluate import to_device


def check_arguments(model: nn.Module, train: Any, val: Any, config: Any, metrics: Any, out: Any) -> None:
    """Raise ValueError, saying what to do, for arguments of ``fit`` that cannot lead anywhere."""
    for name, loader in {"train": train, "val": val}.items():
        if loader is None or (name == "val" and not _has_length(loader)):
            continue
        if not _has_length(loader):
            raise ValueError(f"the train loader, a {type(loader).__name__}, has no length, but the learning rate's schedule needs the number "
                             "of batches (an IterableDataset? give it a method __len__: how many samples one epoch has)")
        if len(loader) == 0:
            raise ValueError(f"the {name} loader is empty: no rows, or all of them were left out; look at the split column and the files")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("no parameter of the model needs a gradient: there is nothing to train; unfreeze a part, or use evaluate")
    known = [f"val_{name}" for name in ("loss", *(metrics or ()))]
    if val is not None and config.monitor.split(" ")[1] not in known:
        raise ValueError(f"TrainConfig: monitor is {config.monitor!r}, expected 'min' or 'max' and one of {known}")
    if val is None and metrics:
        raise ValueError(f"the metrics {sorted(metrics)} are computed on val, and there is none: give val, or no metrics")
    if config.tensorboard and out is None:
        raise ValueError("TrainConfig: tensorboard=True needs a folder to write to: fit(..., out=FOLDER)")


def _has_length(loader: Any) -> bool:
    try:
        len(loader)
    except TypeError:
        return False
    return True


def check_target(model: nn.Module, batch: Batch, device: torch.device, classes: int | None) -> int:
    """How many classes the model tells apart (0: it does not). Raises ValueError for a target that is none of them.

    The first time it asks the model about one sample. Later targets are looked at where that is free: on the CPU.
    """
    first, target = classes is None, batch.get("target")
    classes = _count_classes(model, batch, device) if first else classes
    if not classes or not (first or target.device.type == "cpu"):
        return classes
    if "target_mask" in batch:
        target = target.masked_fill(~batch["target_mask"], 0)
    low, high = torch.stack(target.aminmax()).tolist()
    if low < 0 or high >= classes:
        bad = (target >= classes) | ((target < 0) & (target != -100))   # -100: what F.cross_entropy leaves out
        if bad.any():
            sample = int(bad.nonzero()[0, 0])
            raise ValueError(f"batch['target'], sample {sample}: class {target[bad][0]}, but the model has the classes 0 to {classes - 1}; "
                             "give its head more classes, or number the targets from 0, the same way in every split")
    return classes


@torch.no_grad()
def _count_classes(model: nn.Module, batch: Batch, device: torch.device) -> int:
    one = {key: value[:1] for key, value in batch.items()}
    if "target" in batch:
        one["target"] = torch.zeros_like(one["target"])   # class 0 is there, whatever the real one is
    output = _answer(model.eval(), to_device(one, device))
    model.train()
    if output.loss is None:
        raise ValueError(f"the model gave no loss for the batch; it has {sorted(batch)}: is 'target' missing?")
    if "target" not in batch or batch["target"].is_floating_point() or output.logits.ndim != batch["target"].ndim + 1:
        return 0
    return output.logits.shape[-1] if output.logits.shape[-1] > 1 else 0   # 1: a matcher, sample against sample


def _answer(model: nn.Module, one: Batch) -> Output:
    """The model's answer to one sample. Where that fails, on a shape most likely, ValueError shows the stages up to there."""
    try:
        return model(one)
    except ERRORS:
        trace(model, one)   # fails in the same place, and says where
        raise
