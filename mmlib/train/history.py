"""History: a row per epoch; it prints as a table, draws itself and is written to a folder."""

from pathlib import Path
from typing import Any

from mmlib.files import as_json, write_atomically
from mmlib.train import checkpoint


class History(list[dict[str, Any]]):
    """A row (dict) per epoch: epoch, step, lr, loss (mean over the epoch), val_loss,
    val_<metric> ..., seconds.

    >>> first = {"epoch": 1, "loss": 0.9, "val_loss": 0.71}
    >>> history = History([first, {"epoch": 2, "loss": 0.6, "val_loss": 0.8}])
    >>> history
    epoch  loss  val_loss
        1   0.9      0.71
        2   0.6       0.8
    >>> history.best_epoch()
    1
    """

    def best_epoch(self, monitor: str = "min val_loss") -> int | None:
        """The number of the epoch with the best score, the first of equals: ``fit`` keeps its
        weights.

        ``monitor`` is that of ``TrainConfig``. None where no row has the score: then the weights
        are the last.
        """
        goal, name = monitor.split(" ")
        rows = [row for row in self if name in row]
        if not rows:
            return None
        sign = 1 if goal == "min" else -1
        return int(min(rows, key=lambda row: sign * row[name])["epoch"])

    def plot(self, majority: float | None = None, monitor: str = "min val_loss") -> Any:
        """A matplotlib Figure: the losses, and beside them each metric, over the epochs.

        The best epoch by ``monitor``, that of ``TrainConfig``, is marked. ``majority``: the
        accuracy of always answering the most frequent class; the panel of the accuracy begins
        there. Raises ValueError where there is no epoch yet.
        """
        from mmlib.plots.curves import curves

        if not self:
            raise ValueError("the history is empty: train for at least one epoch")
        return curves(self, self.best_epoch(monitor), majority)

    def __repr__(self) -> str:
        """A table: a line per epoch."""
        names = list(self[-1]) if self else ["(no epoch yet)"]
        cells = [names] + [[_short(row.get(name)) for name in names] for row in self]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells
        )

    def write(self, folder: str | Path) -> None:
        """Write history.jsonl into ``folder``, a row per line; it is replaced as a whole."""
        lines = "".join(as_json(row) + "\n" for row in self)
        write_atomically(Path(folder) / checkpoint.HISTORY, lambda file: file.write(lines.encode()))


def _short(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
