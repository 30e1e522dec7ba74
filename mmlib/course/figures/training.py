"""Figures of training: schedules, learning curves, range test, seeds, differences and costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled
from mmlib.train.config import TrainConfig
from mmlib.train.optimizer import lr_at

# colour and line of the first five runs
LOOKS = list(zip([*COLOURS.values(), GREY], ("-", "--", ":", "-.", "-")))
LAST = 10  # steps over which the end of a run is averaged


def smooth(values: Sequence[float], width: int = 7) -> np.ndarray:
    """The mean over ``width`` neighbours: (N,) -> (N - width + 1,).

    Result i is the mean around ``values[i + width // 2]``. Raises ValueError for an even width, and
    for a width above the number of values.
    """
    if width % 2 == 0 or len(values) < width:
        raise ValueError(
            f"width is {width}, expected an odd number of at most {len(values)}, the number of "
            "values"
        )
    return np.convolve(np.asarray(values, dtype=float), np.full(width, 1 / width), "valid")


def describe(config: TrainConfig, losses: Sequence[float]) -> str:
    """A sentence for the reader: the schedule of a run, and where its loss began and ended.

    ``losses`` has one for each step.
    """
    rise, end = round(config.warmup * len(losses)), lr_at(len(losses) - 1, len(losses), config)
    return (
        f"{len(losses)} steps: the rate rises for {rise} to {config.lr:.3g}, then falls to "
        f"{end:.1g}; loss {losses[0]:.2f} in the first step, {np.mean(losses[-LAST:]):.2f} over "
        f"the last {LAST}."
    )


@styled
def schedule(*runs: tuple[TrainConfig, Sequence[float]]) -> Any:
    """The learning rate of each run over the steps, and beside it the loss.

    A run is a pair: its settings, and its loss in each step. Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError("no run to draw, expected one or more pairs (TrainConfig, losses)")
    figure = empty_figure(8.4, 3.2)
    left, right = figure.subplots(1, 2)
    for (config, losses), (colour, style) in zip(runs, LOOKS * len(runs)):
        label = f"warm-up {config.warmup:.0%}, highest {config.lr:.3g}"
        rates = [lr_at(step, len(losses), config) for step in range(len(losses))]
        left.plot(rates, color=colour, linestyle=style, linewidth=2, label=label)
        right.plot(np.minimum(losses, 10), color=colour, linestyle=style, linewidth=1.5)
    left.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    right.set(xlabel="step", ylabel="loss", ylim=(0, None))
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=min(len(runs), 3),
        frameon=False,
        fontsize=9,
    )
    return figure


@styled
def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Any:
    """A panel for each run of ``fit`` with ``val``: training and validation loss over the epochs.

    A dotted line marks the lowest validation loss. Raises ValueError if there is no run.
    """
    if not histories:
        raise ValueError("histories is empty, expected a name and a history per run")
    figure = empty_figure(max(4.5, 3 * len(histories)), 3.2)
    panels = figure.subplots(1, len(histories), squeeze=False, sharey=True)[0]
    for axes, (name, rows) in zip(panels, histories.items()):
        epochs = [row["epoch"] for row in rows]
        best = min(rows, key=lambda row: row["val_loss"])["epoch"]
        axes.plot(
            epochs,
            [row["loss"] for row in rows],
            color=COLOURS["text"],
            linestyle="--",
            linewidth=2,
            label="training",
        )
        axes.plot(
            epochs,
            [row["val_loss"] for row in rows],
            color=COLOURS["image"],
            linewidth=2,
            label="validation",
        )
        axes.axvline(best, color=INK, linestyle=":", linewidth=1.2)
        axes.set_title(f"{name}, best epoch {best}", fontsize=10)
        axes.set(xlabel="epoch", ylim=(0, None))
    panels[0].set_ylabel("loss")
    figure.legend(
        axes.lines,
        ["training", "validation", "best epoch"],
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


@styled
def range_test(
    rates: Sequence[float], losses: Sequence[float], runs: Mapping[float, Sequence[float]]
) -> Any:
    """The learning rate range test, beside whole runs at several rates.

    Left: the loss of one run over its rising learning rate, raw and smoothed. Right: the losses at
    the end of whole runs, by their highest rate, one for each seed. Both have the same axes. Raises
    ValueError if there are not as many rates as losses.
    """
    if len(rates) != len(losses):
        raise ValueError(f"{len(rates)} rates and {len(losses)} losses, expected as many of each")
    figure = empty_figure(8.4, 3.2)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    mean, edge = smooth(losses), (len(losses) - len(smooth(losses))) // 2
    left.plot(rates, losses, color=GREY, linewidth=0.8, label="each step")
    left.plot(
        rates[edge : len(rates) - edge], mean, color=COLOURS["image"], linewidth=2, label="smoothed"
    )
    for rate, values in runs.items():
        right.plot(
            [rate] * len(values),
            values,
            color=COLOURS["text"],
            marker="o",
            alpha=0.8,
            linestyle="none",
        )
    right.plot(
        list(runs),
        [np.mean(values) for values in runs.values()],
        color=COLOURS["text"],
        linewidth=2,
        label="mean",
    )
    left.set(xscale="log", xlabel="learning rate, rising", ylabel="loss", ylim=(0, 1.6 * losses[0]))
    right.set(xlabel="highest learning rate of a whole run")
    right.set_ylabel("validation loss at its end")
    return figure


@styled
def spread(scores: Mapping[str, Sequence[float]], label: str = "accuracy") -> Any:
    """A column for each name, with a dot for each seed and a bar at their mean.

    Seed i has the same place in every column. Raises ValueError if there is no score.
    """
    if not scores:
        raise ValueError("scores is empty, expected a name and a list of scores per column")
    figure = empty_figure(max(4.5, 1.3 * len(scores) + 1.8), 3.2)
    axes = figure.add_subplot()
    for place, (name, values) in enumerate(scores.items()):
        aside = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
        axes.plot(
            place + np.asarray(aside),
            values,
            color=COLOURS["image"],
            marker="o",
            linestyle="none",
            label=name,
        )
        axes.hlines(np.mean(values), place - 0.32, place + 0.32, color=INK, linewidth=2)
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set(xlim=(-0.6, len(scores) - 0.4), ylabel=label)
    axes.margins(y=0.12)
    return figure


@styled
def drift(differences: Mapping[str, Sequence[float]]) -> Any:
    """The largest difference so far between the losses of two runs, over the steps.

    The scale is logarithmic, so a difference of 0 is not drawn. Raises ValueError if there is no
    pair of runs.
    """
    if not differences:
        raise ValueError(
            "differences is empty, expected a name and a list of differences per pair of runs"
        )
    figure = empty_figure(6.0, 3.0)
    axes = figure.add_subplot()
    for (name, values), (colour, style) in zip(differences.items(), LOOKS * len(differences)):
        axes.plot(
            np.maximum.accumulate(np.abs(np.asarray(values, dtype=float))),
            color=colour,
            linestyle=style,
            linewidth=2,
            label=name,
        )
    axes.set(yscale="log", xlabel="step", ylabel="difference of the losses")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def costs(values: Mapping[str, float], label: str) -> Any:
    """A bar for each name, the first on top, with its number beside it.

    Raises ValueError if there is none.
    """
    if not values:
        raise ValueError("values is empty, expected a name and a number per bar")
    figure = empty_figure(7.5, 0.36 * len(values) + 0.9)
    axes = figure.add_subplot()
    for place, value in enumerate(values.values()):
        axes.barh(place, value, 0.62, color=COLOURS["image"])
        axes.text(
            value,
            place,
            f" {value:.0f}" if value >= 100 else f" {value:.2g}",
            ha="left",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=label, xlim=(0, 1.15 * max(values.values())), ylim=(len(values) - 0.4, -0.6))
    return figure
