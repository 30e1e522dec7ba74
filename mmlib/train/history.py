"""History: a row per epoch, printed as a table, drawn as curves, and written to a folder."""

from pathlib import Path
from typing import Any

from mmlib.files import as_json, write_atomically
from mmlib.text_table import aligned
from mmlib.train import checkpoint


class History(list[dict[str, Any]]):
    """A row (dict) per epoch, which prints as a table.

    The keys: epoch, step, lr, loss (the mean over the epoch's targets), val_loss, val_<metric> for
    each metric, seconds.

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
        """The number of the epoch with the best score, whose weights ``fit`` keeps.

        Of equal scores the first counts. ``monitor`` is that of ``TrainConfig``. None if no row
        has the score: then ``fit`` keeps the last weights.
        """
        goal, name = monitor.split(" ")
        rows = [row for row in self if name in row]
        if not rows:
            return None
        sign = 1 if goal == "min" else -1
        return int(min(rows, key=lambda row: sign * row[name])["epoch"])

    def plot(self, majority: float | None = None, monitor: str = "min val_loss") -> Any:
        """A matplotlib Figure: the losses, and beside them each metric, over the epochs.

        The best epoch by ``monitor`` (see ``TrainConfig``) is marked. ``majority`` is the accuracy
        of always answering the most frequent class; the panel of the accuracy begins there. Raises
        ValueError if there is no epoch yet.
        """
        from mmlib.plots.curves import curves

        if not self:
            raise ValueError("the history is empty: train for at least one epoch")
        return curves(self, self.best_epoch(monitor), majority)

    def __repr__(self) -> str:
        """A table: a line per epoch."""
        names = list(self[-1]) if self else ["(no epoch yet)"]
        cells = [names] + [[_short(row.get(name)) for name in names] for row in self]
        return "\n".join(map("  ".join, aligned(cells)))

    def write(self, folder: str | Path) -> None:
        """Write history.jsonl into ``folder``, a row per line, in place of an older one."""
        lines = "".join(as_json(row) + "\n" for row in self)
        write_atomically(Path(folder) / checkpoint.HISTORY, lambda file: file.write(lines.encode()))


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
