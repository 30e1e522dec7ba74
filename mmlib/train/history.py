"""History: a row per epoch; it prints as a table, draws itself and is written to a folder."""

from pathlib import Path
from typing import Any

from mmlib.files import as_json, write_atomically
from mmlib.plots.alt_text import speaking
from mmlib.text_table import aligned
from mmlib.train import checkpoint


class History(list):
    """A row (dict) per epoch: epoch, step, lr, loss (mean over the epoch), val_loss,
    val_<metric> ..., seconds.
    """

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
                axis.plot(
                    [row["epoch"] for row in rows],
                    [row[name] for row in rows],
                    marker=".",
                    label=name,
                )
            axis.set_xlabel("epoch")
            axis.legend()
        return speaking(figure)

    def __repr__(self) -> str:
        """A table: a line per epoch."""
        names = list(self[-1]) if self else ["(no epoch yet)"]
        cells = [names] + [[_short(row.get(name)) for name in names] for row in self]
        return "\n".join(map("  ".join, aligned(cells)))

    def write(self, folder: str | Path) -> None:
        """history.jsonl in ``folder``, a row per line, replaced as a whole."""
        lines = "".join(as_json(row) + "\n" for row in self)
        write_atomically(Path(folder) / checkpoint.HISTORY, lambda file: file.write(lines.encode()))


def _short(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
