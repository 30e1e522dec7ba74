"""What a run shows while it trains: a progress bar, or a line per epoch; and TensorBoard.

Here, too, a loss or a gradient that is not finite is found and raised as an error.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlib.train import distributed
from mmlib.train.config import TrainConfig
from mmlib.train.run import Progress


class Log:
    """The losses of a run as they come, shown on a progress bar: ``with Log(...) as log``.

    If stderr is neither a terminal nor a notebook (nohup, Slurm, a pipe), each epoch is written
    there as a line instead, at once: see ``scores_line``.

    Losses and norms of gradients stay tensors, so that a GPU need not wait for them. They are read
    twice a second, at the end of an epoch and before a checkpoint. Then the losses are added up in
    ``run``, and the first loss or gradient that is not finite raises ValueError with the text of
    ``diagnose(step, "loss" or "gradient")``. So it is found within half a second, before anything
    is saved, and the message names its own step.
    """

    EVERY = 0.5  # seconds

    def __init__(
        self, run: Progress, steps: int, config: TrainConfig, diagnose: Callable[[int, str], str]
    ):
        from tqdm.auto import tqdm

        self.run, self.config, self.diagnose = run, config, diagnose
        self.waiting: list[Tensor] = []
        self.next = time.perf_counter() + self.EVERY
        first = distributed.rank() == 0
        shown = config.progress and first
        self.bar = tqdm(
            total=steps,
            initial=run.step,
            unit="step",
            disable=None if shown else True,  # None: shown, but not into a file or a pipe
        )
        self.lines = shown and bool(self.bar.disable)
        self.board = None
        if config.tensorboard and first and run.out is not None:
            self.board = _writer(Path(run.out) / "tensorboard", run.step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def add(self, loss: Tensor, count: Tensor, norm: Tensor) -> None:
        """Take in one step: loss * count, count, and the norm of the gradient."""
        self.waiting += (loss, count, norm)
        self.bar.update()
        if time.perf_counter() > self.next:
            self.look()

    def settle(self) -> None:
        """Before anything is saved: read what is waiting, then keep the weights.

        After that the weights are known to be finite.
        """
        self.look()
        self.run.keep()

    def look(self) -> None:
        """Add up what is waiting; raise ValueError if a loss or a gradient was not finite."""
        if not self.waiting:
            return
        # (steps, 3): one transfer for all of them
        sums = torch.stack(self.waiting).unflatten(0, (-1, 3)).tolist()
        first = self.run.step - len(sums) + 1
        self.waiting, self.next = [], time.perf_counter() + self.EVERY
        for step, (loss, count, norm) in enumerate(sums, first):
            if not math.isfinite(loss):
                raise ValueError(self.diagnose(step, "loss"))
            if not math.isfinite(norm):
                raise ValueError(self.diagnose(step, "gradient"))
            self.run.loss, self.run.count = self.run.loss + loss, self.run.count + count
        before = self.run.history[-1] if self.run.history else {}
        now = {"epoch": self.run.epoch + 1, "loss": self.run.loss / max(self.run.count, 1e-8)}
        self._show_on_bar({**before, **now})

    def show(self, row: dict[str, Any]) -> None:
        """Show the row of an epoch that has ended, and whether it is the best so far."""
        if self.lines:
            best = "  best" if self.run.best_epoch == row["epoch"] else ""
            print(f"{self._scores(row)}  {row['seconds']:.1f} s{best}", file=sys.stderr, flush=True)
        self._show_on_bar(row)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, row["step"])
            self.board.flush()

    def _show_on_bar(self, row: Mapping[str, Any]) -> None:
        self.bar.set_postfix_str(self._scores(row))

    def _scores(self, row: Mapping[str, Any]) -> str:
        return scores_line(row, self.config.epochs, self.config.monitor)


def scores_line(row: Mapping[str, Any], epochs: int, monitor: str) -> str:
    """One line for a row of the history: both losses, the first metric and the monitored score.

    >>> row = {"epoch": 3, "step": 9, "lr": 0.1, "loss": 0.6271, "val_loss": 0.6021, "val_f1": 0.73}
    >>> scores_line(row, 20, "min val_loss")
    'epoch  3/20  loss 0.627  val_loss 0.602  val_f1 0.730'
    """
    metrics = [name for name in row if name.startswith("val_") and name != "val_loss"]
    shown = dict.fromkeys(["loss", "val_loss", *metrics[:1], monitor.split(" ")[1]])
    scores = [f"{name} {_short(row[name])}" for name in shown if name in row]
    return "  ".join([f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}", *scores])


def _short(value: float) -> str:
    """Three digits, in the same width for scores of the same size."""
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def summary_writer() -> Any:
    """TensorBoard's class SummaryWriter; ImportError says what to install if it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard is not installed: pip install 'mmlib[tensorboard]', or leave "
            "tensorboard=False"
        ) from error
    return SummaryWriter


def _writer(folder: Path, step: int) -> Any:
    return summary_writer()(str(folder), purge_step=step)
