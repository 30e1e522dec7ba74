"""Where a run stands: position, history, best weights; how it is saved, taken up again, and told from another one."""
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmlib import checkpoint, distributed
from mmlib.alt_text import speaking

FREE = ("progress", "tensorboard", "checkpoint_every", "device", "keep_freed_memory")   # settings that a resumed run may change
POSITION = ("epoch", "batch", "step", "loss", "count", "best_value", "best_epoch")

NEEDED = (*POSITION, "extra", "config", "batches", "processes", "model", "best", "optimizer", "random",
          "history", "seconds")     # in a checkpoint, to go on from it


class History(list):
    """A row (dict) per epoch: epoch, step, lr, loss (mean over the epoch), val_loss, val_<metric> ..., seconds."""

    def plot(self) -> Any:
        """A matplotlib Figure: the losses, and beside them each metric, over the epochs."""
        import matplotlib.pyplot as plt
        if not self:
            raise ValueError("the history is empty: train for at least one epoch")
        names = [name for name in self[-1] if name.startswith("val_") and name != "val_loss"]
        figure = plt.figure(figsize=(4 * (1 + len(names)), 3), layout="constrained")
        plt.close(figure)  # or a notebook would show it twice
        axes = figure.subplots(1, 1 + len(names), squeeze=False)[0]
        losses = [name for name in ("loss", "val_loss") if name in self[-1]]
        for axis, lines in zip(axes, [losses] + [[name] for name in names]):
            for name in lines:
                rows = [row for row in self if name in row]
                axis.plot([row["epoch"] for row in rows], [row[name] for row in rows], marker=".", label=name)
            axis.set_xlabel("epoch")
            axis.legend()
        return speaking(figure)

    def __repr__(self) -> str:
        """A table: a line per epoch."""
        names = list(self[-1]) if self else ["(no epoch yet)"]
        cells = [names] + [[_short(row.get(name)) for name in names] for row in self]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells)

    def write(self, folder: str | Path) -> None:
        """history.jsonl in ``folder``, a row per line, replaced as a whole."""
        lines = "".join(checkpoint.as_json(row) + "\n" for row in self)
        checkpoint.write_atomically(Path(folder) / checkpoint.HISTORY, lambda file: file.write(lines.encode()))


def _short(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


class Run:
    """A run of ``fit``. It lives in ``out`` (None: nowhere). With ``resume`` it starts from the checkpoint there, if there is one.

    ``epoch`` epochs are done, and of the next one ``batch`` batches (all processes together); ``step`` optimizer steps, from
    which the learning rate follows; ``loss`` and ``count`` are the sums over the epoch so far of loss * count and count.
    Under torchrun all processes read ``out``, the first one writes. ``with Run(...) as run`` leaves a usable model, whatever ends it.
    """

    def __init__(self, out: str | Path | None, resume: bool, config: Any, extra: dict[str, Any] | None, batches: int):
        if resume and out is None:
            raise ValueError("resume=True needs the folder of the run: fit(..., out=FOLDER)")
        self.out, self.history, self.best, self.seconds, self.began = out, History(), None, 0.0, time.perf_counter()
        self.epoch = self.batch = self.step = self.best_epoch = 0
        self.loss = self.count = 0.0
        self.best_value, self.random, self.saved, self.model = None, None, None, None
        settings = {name: value for name, value in asdict(config).items() if name not in FREE}
        self.identity = {"extra": _plain(extra), "config": settings, "batches": batches, "processes": distributed.world()}
        if resume and checkpoint.exists(out):
            self.saved = checkpoint.load(out, NEEDED)
            self._check_same(self.saved)
            self._take(self.saved)
        elif out is not None and distributed.rank() == 0:
            checkpoint.clear(out)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """The best weights so far, in eval mode. An interrupt (Ctrl-C) goes on its way with ``history``, and a line on where it was."""
        if self.model is not None and (kind is None or distributed.world() == 1):   # after an error other processes do not take part
            self.restore_best()
            self.model.eval()
        if kind is KeyboardInterrupt:
            error.history, text = self.history, self._stopped()
            error.args = (text,)
            error._render_traceback_ = lambda: [text]     # what IPython shows in place of forty lines
        elif isinstance(error, RuntimeError) and "DataLoader worker" in str(error):     # torch raises it wherever the program stands
            error.args = (f"{str(error).strip()} It read the files; often memory has run out: try fewer of them, load_data(workers=...)",)

    def _stopped(self) -> str:
        weights = f"the best, those of epoch {self.best_epoch}" if self.best_epoch else "the last"
        again = f"; fit(..., out={str(self.out)!r}, resume=True) goes on from the last checkpoint" if self.out is not None else ""
        return f"fit was interrupted in epoch {self.epoch + 1}, at step {self.step}: the model has weights to use, {weights}{again}"

    def _check_same(self, saved: dict[str, Any]) -> None:
        for part, now in self.identity.items():
            for name, was, given in _differences(part, saved[part], now):
                raise ValueError(f"cannot resume the run in {self.out}: {name} was {_brief(was)} and is now {_brief(given)}; "
                                 "give what it was, or another folder")

    def _take(self, saved: dict[str, Any]) -> None:
        for name in POSITION:
            setattr(self, name, saved[name])
        self.history, self.best, self.seconds = History(saved["history"]), saved["best"], saved["seconds"]
        if len(saved["random"]) != saved["processes"]:
            raise ValueError(f"cannot resume the run in {self.out}: it has {len(saved['random'])} "
                             "states of torch's generators, expected one for each process "
                             f"({saved['processes']})")
        self.random = saved["random"][distributed.rank()] if self.batch else None

    def restore_weights(self, model: nn.Module) -> None:
        """The weights of the checkpoint, before the processes share the model out."""
        if self.saved is not None:
            checkpoint.set_weights(model, self.saved["model"])
        self.model = model

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Its state in the checkpoint; from here on the run is where it was stopped, and so is its history on disk."""
        self.optimizer, self.device = optimizer, device
        optimizer.zero_grad()       # what a backward pass left that was interrupted
        if self.saved is not None:
            checkpoint.set_optimizer_state(optimizer, self.saved["optimizer"])
            if distributed.rank() == 0:
                self.history.write(self.out)
        self.saved = None

    def restore_random(self) -> None:
        """torch's generators, where the checkpoint was made within an epoch: once, before the first batch."""
        if self.random is not None:
            checkpoint.set_random_state(self.device, self.random)
            self.random = None

    def restore_best(self) -> None:
        """The weights of the best epoch, if there was a score to tell."""
        if self.best_epoch:
            checkpoint.set_weights(self.model, self.best)

    def is_stale(self, patience: int) -> bool:
        """No better score for ``patience`` epochs; never where there is no score, or patience is 0."""
        return bool(patience and self.best_epoch) and self.epoch - self.best_epoch >= patience

    def end_epoch(self, row: dict[str, float], monitor: str) -> None:
        """Add a row to the history, keep the weights if they are the best so far, and stand at the start of the next epoch."""
        goal, name = monitor.split(" ")
        self.epoch, self.batch, self.loss, self.count = self.epoch + 1, 0, 0.0, 0.0
        if name in row:
            value = row[name] if goal == "max" else -row[name]
            if math.isnan(value):
                raise ValueError(f"{name} is nan after epoch {self.epoch}, so no epoch can be the best: "
                                 "look at the val rows, or monitor another score")
            if self.best_value is None or value > self.best_value:
                self.best_value, self.best_epoch, self.best = value, self.epoch, checkpoint.weights(self.model)
        row["seconds"] = round(self.seconds + time.perf_counter() - self.began, 3)
        self.history.append(row)
        self.seconds, self.began = 0.0, time.perf_counter()

    def save(self) -> None:
        """Write the checkpoint, then the history. All processes call it together."""
        if self.out is None:
            return
        weights = self.best if self.batch == 0 and self.best_epoch == self.epoch else checkpoint.weights(self.model)
        state = self.identity | {name: getattr(self, name) for name in POSITION} | {
            "model": weights, "best": self.best if self.best_epoch else weights, "optimizer": checkpoint.optimizer_state(self.optimizer),
            "random": distributed.gather(checkpoint.random_state(self.device)), "history": list(self.history),
            "seconds": self.seconds + time.perf_counter() - self.began}
        if distributed.rank() == 0:
            checkpoint.save(self.out, state)
            self.history.write(self.out)


def _plain(extra: dict[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(extra or {}))
    except TypeError as error:
        raise ValueError(f"extra must be plain data (dict, list, text, numbers) to be kept in the checkpoint: {error}") from error


def _differences(name: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two settings differ, at the depth where they do: ('spec, lr', 0.1, 0.2)."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        if then != now:
            yield name, then, now
        return
    for key in sorted(then.keys() | now.keys()):
        inner = key if name in ("config", "extra") else f"{name}, {key}"
        yield from _differences(inner, then.get(key), now.get(key))


def _brief(value: Any) -> str:
    return text if len(text := repr(value)) <= 80 else text[:77] + "..."
