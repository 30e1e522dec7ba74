"""Figures of recurrence: words over time, what a gain does to gradient and state, and how far back
a trained network remembers.

The network of ``run`` is h_t = f(gain * Q h_(t-1) + x_t), Q a fixed orthogonal matrix, which turns
a vector and keeps its length. So the gain alone says how much one step stretches, and the gradient
over ``steps`` steps is known beforehand: gain ** steps, unless f squashes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled

WIDTH, STEPS, INPUT, LIMIT = (
    16,
    60,
    0.1,
    100.0,
)  # units, steps, size of the inputs; past LIMIT we say explode, below 1 / LIMIT vanish
SHOWN = 1e-12, 1e12  # both axes: what there is to see of a gradient and of a state
Curve = Callable[[np.ndarray], np.ndarray]
ACTIVATIONS: dict[str, tuple[Curve, Curve]] = {
    "none": (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0.0), lambda a: (a > 0).astype(float)),
}  # each with its derivative
LOOKS = {"none": (GREY, ":"), "tanh": (COLOURS["image"], "-"), "relu": (COLOURS["text"], "--")}


def recurrent_weight(gain: float) -> np.ndarray:
    """The weight (WIDTH, WIDTH) from state to state: ``gain`` times a fixed orthogonal matrix;
    all its singular values are the gain.
    """
    q, r = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))
    return (
        gain * q * np.sign(np.diag(r))
    )  # the signs of qr are the library's choice: this makes the matrix the same everywhere


def run(
    gain: float, activation: str = "tanh", steps: int = STEPS, constant: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """States (steps + 1, WIDTH) from zero, and norms (steps + 1,) of the derivative of each state
    with respect to the first.

    The norm is the largest singular value: by how much the most sensitive direction of the first
    state is stretched until then. ``constant``: the same random input in each step, else a new one.
    Raises ValueError for an activation that is not in ACTIVATIONS.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {sorted(ACTIVATIONS)}")
    squash, slope = ACTIVATIONS[activation]
    weight, make = recurrent_weight(gain), np.random.default_rng(1)
    inputs = INPUT * np.broadcast_to(
        make.standard_normal((1 if constant else steps, WIDTH)), (steps, WIDTH)
    )
    states, derivative, norms = [np.zeros(WIDTH)], np.eye(WIDTH), [1.0]
    for x in inputs:
        before = weight @ states[-1] + x  # (WIDTH,)
        states.append(squash(before))
        derivative = slope(before)[:, None] * weight @ derivative  # (WIDTH, WIDTH)
        norms.append(float(np.linalg.norm(derivative, 2)))
    return np.stack(states), np.array(norms)  # (steps + 1, WIDTH), (steps + 1,)


def verdict(norm: float) -> str:
    """ "vanishes", "lasts" or "explodes": what became of a gradient that had length 1."""
    return "explodes" if norm > LIMIT else "vanishes" if norm < 1 / LIMIT else "lasts"


def describe(gain: float) -> str:
    """One sentence for a reader: what the gain says beforehand, and what the gradient and the
    state do with tanh and with ReLU.
    """
    found = []
    for name in ("tanh", "relu"):
        states, norms = run(gain, name)
        found.append(
            f"{name}: the gradient {verdict(norms[-1])} ({norms[-1]:.2g}), largest state "
            f"{np.abs(states[-1]).max():.2g}"
        )
    return (
        f"gain {gain:.2f}: without squashing, {gain**STEPS:.2g} of the gradient after {STEPS} "
        "steps; with " + "; ".join(found) + "."
    )


@styled
def memory(*gains: float) -> Any:
    """A column per gain: above, how long the gradient is after each number of steps; below, the
    largest number in the state.

    Of a single gain, side by side. Dotted: no squashing, gain ** steps. Raises ValueError where
    there is no gain.
    """
    if not gains:
        raise ValueError("no gain to draw, expected one or more")
    shape = (1, 2) if len(gains) == 1 else (2, len(gains))
    figure = empty_figure(max(7.5, 2.8 * len(gains)), 2.8 * shape[0])
    axes = figure.subplots(
        *shape, squeeze=False, sharey="row" if len(gains) > 1 else False
    ).reshape(2, len(gains))
    for gain, top, bottom in zip(gains, *axes):
        for name, (colour, style) in LOOKS.items():
            states, norms = run(gain, name)
            top.plot(
                norms,
                color=colour,
                linestyle=style,
                linewidth=2,
                label=name if name != "none" else "no squashing",
            )
            if name != "none":
                bottom.plot(
                    range(1, STEPS + 1),
                    np.abs(states[1:]).max(axis=1),
                    color=colour,
                    linestyle=style,
                    linewidth=2,
                    label=name,
                )
        top.set(yscale="log", ylim=SHOWN, xlabel="steps back")
        top.set_title(f"gain {gain:g}", fontsize=10)
        bottom.set(yscale="log", ylim=SHOWN, xlabel="step")
    for row, label in zip(axes, ("length of the gradient", "largest |h|")):
        row[0].set_ylabel(label)
    axes[0, 0].legend(
        frameon=False, fontsize=9, loc="lower left" if gains[0] > 1 else "upper left"
    )  # where no line goes
    return figure


@styled
def sentences(ids: Any, mask: Any, names: Sequence[str]) -> Any:
    """One row per sentence, one box per word: id i of ids (B, T) is ``names[i]``.

    Ids 1 to 4 have a colour, others are grey, padding white.
    Raises ValueError where the shapes differ.
    """
    ids, mask = np.asarray(ids), np.asarray(mask)
    if ids.ndim != 2 or ids.shape != mask.shape:
        raise ValueError(f"ids {ids.shape} and mask {mask.shape} must both be (B, T)")
    colours = dict(enumerate(COLOURS.values(), 1))
    figure = empty_figure(0.62 * ids.shape[1] + 0.9, 0.36 * ids.shape[0] + 0.7)
    axes = figure.add_subplot()
    for (row, column), number in np.ndenumerate(ids):
        real = mask[row, column]
        axes.text(
            column,
            row,
            names[number] if real else "pad",
            ha="center",
            va="center",
            fontsize=9,
            color=INK if real else GREY,
            bbox={
                "boxstyle": "square,pad=0.35",
                "facecolor": colours.get(int(number), "#CCCCCC") if real else "white",
                "alpha": 0.45,
                "edgecolor": GREY,
            },
        )
    axes.set(
        xlim=(-0.6, ids.shape[1] - 0.4),
        ylim=(ids.shape[0] - 0.4, -0.6),
        xlabel="time step t",
        ylabel="sentence",
    )
    axes.set_xticks(range(ids.shape[1]), range(1, ids.shape[1] + 1))
    axes.set_yticks(range(ids.shape[0]), range(1, ids.shape[0] + 1))
    axes.spines[:].set_visible(False)
    return figure


@styled
def scores_by_length(
    scores: Mapping[str, Mapping[int, Sequence[float]]], lines: Mapping[str, float] = {}
) -> Any:
    """Accuracy against sentence length: a line through each network's means, a point per seed;
    ``lines``: baselines and their height.

    Raises ValueError where there is no network.
    """
    if not scores:
        raise ValueError(
            "scores is empty, expected a name and a dict {length: accuracies} per network"
        )
    figure = empty_figure(6.5, 3.4)
    axes = figure.add_subplot()
    for number, ((name, by_length), colour, marker) in enumerate(
        zip(scores.items(), COLOURS.values(), "os^D")
    ):
        lengths = sorted(by_length)
        axes.plot(
            lengths,
            [np.mean(by_length[length]) for length in lengths],
            color=colour,
            linewidth=2,
            label=name,
        )
        for length in lengths:
            aside = [length * 1.03**number] * len(
                by_length[length]
            )  # or equal scores would hide each other
            axes.plot(
                aside,
                by_length[length],
                color=colour,
                marker=marker,
                markersize=6,
                alpha=0.7,
                linestyle="none",
            )
    for (name, height), style in zip(lines.items(), ("--", ":")):
        axes.axhline(height, color=INK, linestyle=style, linewidth=1.2, label=name)
    axes.set(xscale="log", xlabel="words in a sentence", ylabel="accuracy", ylim=(0, 1.05))
    axes.set_xticks(
        ticks := sorted({length for by_length in scores.values() for length in by_length}), ticks
    )
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
