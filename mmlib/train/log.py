"""What a run shows while it trains: the progress bar, TensorBoard, and an error as soon as a
loss or a gradient is not finite.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlib.train import distributed
from mmlib.train.run import Progress


class Log:
    """The losses of a run as they come, shown on a progress bar; ``with Log(...) as log``.

    Losses and lengths of gradients stay tensors until twice a second, the end of an epoch or a
    checkpoint: on a GPU nothing waits for them in between. Then the losses are added up in ``run``,
    and the first loss or gradient that is not finite raises ValueError with what ``diagnose(step,
    "loss" or "gradient")`` says. So it is found within half a second, before anything is saved, and
    named by its own step.
    """

    EVERY = 0.5  # seconds

    def __init__(self, run: Progress, steps: int, config: Any, diagnose: Callable[[int, str], str]):
        from tqdm.auto import tqdm

        writes = distributed.rank() == 0
        hidden = (
            None if config.progress and writes else True
        )  # None: shown, but not into a file or a pipe
        self.run, self.diagnose, self.waiting, self.next = (
            run,
            diagnose,
            [],
            time.perf_counter() + self.EVERY,
        )
        self.bar = tqdm(total=steps, initial=run.step, unit="step", disable=hidden)
        self.board = (
            _writer(Path(run.out) / "tensorboard", run.step)
            if config.tensorboard and writes
            else None
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def add(self, loss: Tensor, count: Tensor, norm: Tensor) -> None:
        """After each step: loss * count, count, and the length of the gradient."""
        self.waiting += (loss, count, norm)
        self.bar.update()
        if time.perf_counter() > self.next:
            self.look()

    def settle(self) -> None:
        """Before anything is saved: look at all that is waiting, and keep the weights, which are
        then known to be finite.
        """
        self.look()
        self.run.keep()

    def look(self) -> None:
        """Add up what is waiting; raise if a loss or a gradient was not finite."""
        if not self.waiting:
            return
        sums = (
            torch.stack(self.waiting).unflatten(0, (-1, 3)).tolist()
        )  # (steps, 3): one transfer for all of them
        first = self.run.step - len(sums) + 1
        self.waiting, self.next = [], time.perf_counter() + self.EVERY
        for step, (loss, count, norm) in enumerate(sums, first):
            if not math.isfinite(loss):
                raise ValueError(self.diagnose(step, "loss"))
            if not math.isfinite(norm):
                raise ValueError(self.diagnose(step, "gradient"))
            self.run.loss, self.run.count = self.run.loss + loss, self.run.count + count
        self.bar.set_postfix_str(
            f"epoch {self.run.epoch + 1}, loss "
            f"{self.run.loss / max(self.run.count, 1e-8):.4g}{self._val()}"
        )

    def _val(self) -> str:
        row = self.run.history[-1] if self.run.history else {}
        return "".join(
            f", {name} {value:.4g}" for name, value in row.items() if name.startswith("val_")
        )

    def show(self, row: dict[str, float]) -> None:
        """After each epoch."""
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, row["step"])
            self.board.flush()


def _writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard is not installed: pip install 'mmlib[tensorboard]', or leave "
            "tensorboard=False"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)
