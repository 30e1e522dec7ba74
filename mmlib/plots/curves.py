"""The curves of a training: losses and scores over the epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled

SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")  # from 0 to 1, more is better
# From 0 up, less is better.
DISTANCES = ("loss", "log_loss", "mean_absolute_error", "calibration_error")
WIDE = 3  # panels in a row


@styled
def curves(
    rows: Sequence[Mapping[str, Any]], best: int | None = None, majority: float | None = None
) -> Any:
    """A panel for the losses, and one for each metric, of the rows of a history.

    ``best`` is the epoch that is marked. ``majority`` is the accuracy of always answering the most
    frequent class. The axes do not exaggerate: losses begin at 0; shares end at 1 and begin at 0,
    the accuracy at ``majority`` where it is known, or lower where the model does worse.

    >>> from mmlib.plots import describe
    >>> first, second = {"loss": 0.9, "val_loss": 0.8}, {"loss": 0.5, "val_loss": 0.6}
    >>> describe(curves([{"epoch": 1} | first, {"epoch": 2} | second]))
    'loss; lines: training from 0.9 to 0.5, validation from 0.8 to 0.6; across: epoch'
    """
    metrics = [name for name in rows[-1] if name.startswith("val_") and name != "val_loss"]
    panels = [[name for name in ("loss", "val_loss") if name in rows[-1]], *([n] for n in metrics)]
    across = min(WIDE, len(panels))
    down = -(-len(panels) // across)
    figure = empty_figure(3.6 * across, 0.5 + 2.7 * down)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, names in zip(grid, panels):
        _panel(axes, rows, names, best, majority)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    epochs = f"{len(rows)} epoch" + "s" * (len(rows) > 1)
    figure.suptitle(epochs if best is None else f"{epochs}, the best is epoch {best}")
    return figure


def _panel(
    axes: Any,
    rows: Sequence[Mapping[str, Any]],
    names: list[str],
    best: int | None,
    majority: float | None,
) -> None:
    """The named columns of the rows over the epochs, on one pair of axes."""
    from matplotlib.ticker import MaxNLocator

    drawn: list[float] = []
    for name in names:
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        part, colour = (
            ("training", COLOURS["text"]) if name == "loss" else ("validation", COLOURS["image"])
        )
        axes.plot(*zip(*points), marker=".", color=colour, label=part)
        drawn += [value for _, value in points]
        at_best = [value for epoch, value in points if epoch == best and name != "loss"]
        if at_best:
            ring = {"markersize": 9, "fillstyle": "none", "color": INK, "clip_on": False}
            axes.plot(best, at_best[0], "o", **ring)
    if best is not None:
        axes.axvline(best, color=GREY, linestyle="--", linewidth=1)
    if names == ["val_accuracy"] and majority is not None:
        axes.axhline(majority, color=INK, linestyle=":", label="most frequent class")
    _limit(axes, names[-1].removeprefix("val_"), drawn, majority)
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    axes.set(xlabel="epoch", xlim=(first - 0.5, last + 0.5), title=_title(names))
    axes.title.set_fontsize(10)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(axes.get_legend_handles_labels()[1]) > 1:  # a single curve is named by the title
        axes.legend(frameon=False, fontsize=8)


def _title(names: list[str]) -> str:
    """What a panel shows, in words."""
    return names[-1].removeprefix("val_").replace("_", " ").replace("f1", "F1")


def _limit(axes: Any, score: str, drawn: list[float], majority: float | None) -> None:
    """Set where the vertical axis begins and ends, as ``curves`` says."""
    if score in SHARES:
        floor = majority if score == "accuracy" and majority is not None else 0.0
        least = min([floor, *drawn])
        axes.set_ylim(least - 0.02 if least else 0, 1.02)
    elif score in DISTANCES and min(drawn) >= 0:
        axes.set_ylim(0, 1.08 * max(drawn) or 1)
    elif score == "r2":
        axes.set_ylim(top=1.02)
