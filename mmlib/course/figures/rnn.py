"""Figures of recurrence: words over time, gradients and states under a gain, and memory.

The network of ``run`` is h_t = f(gain * Q h_(t-1) + x_t). Q is a fixed orthogonal matrix, which
turns a vector and keeps its length. So the gain alone says how much a step stretches, and the
gradient over ``steps`` steps is known beforehand: gain ** steps, unless f squashes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled

WIDTH, STEPS = 16, 60  # units of the state, steps of time
INPUT = 0.1  # the size of the inputs
LIMIT = 100.0  # a gradient above it explodes, one below 1 / LIMIT vanishes
SHOWN = 1e-12, 1e12  # the range of both vertical axes, of gradients and of states
Curve = Callable[[np.ndarray], np.ndarray]
# each with its derivative
ACTIVATIONS: dict[str, tuple[Curve, Curve]] = {
    "none": (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0.0), lambda a: (a > 0).astype(float)),
}
LOOKS = {"none": (GREY, ":"), "tanh": (COLOURS["image"], "-"), "relu": (COLOURS["text"], "--")}


def recurrent_weight(gain: float) -> np.ndarray:
    """The weight (WIDTH, WIDTH) from state to state: ``gain`` times a fixed orthogonal matrix.

    All its singular values are the gain.
    """
    q, r = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))
    # libraries choose the signs of qr in different ways; this makes the matrix the same everywhere
    return gain * q * np.sign(np.diag(r))


def run(
    gain: float, activation: str = "tanh", steps: int = STEPS, constant: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The states of the network, and the norm of the derivative of each with respect to the first.

    Returns states (steps + 1, WIDTH), of which the first is zero, and norms (steps + 1,). The norm
    is the largest singular value: how much the most sensitive direction of the first state is
    stretched by then. With ``constant`` each step has the same random input, else a new one. Raises
    ValueError for an activation that is not in ACTIVATIONS.
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
    """What became of a gradient that had length 1: "vanishes", "lasts" or "explodes"."""
    if norm > LIMIT:
        return "explodes"
    return "vanishes" if norm < 1 / LIMIT else "lasts"


def describe(gain: float) -> str:
    """A sentence for the reader: what the gain predicts, and what happens with tanh and ReLU."""
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
    """A column for each gain: above, the length of the gradient; below, the state's largest number.

    Both are drawn over the steps. For a single gain they stand side by side. The dotted line is the
    gradient without squashing, gain ** steps. Raises ValueError if there is no gain.
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
            look = {"color": colour, "linestyle": style, "linewidth": 2}
            top.plot(norms, label=name if name != "none" else "no squashing", **look)
            if name != "none":
                largest = np.abs(states[1:]).max(axis=1)
                bottom.plot(range(1, STEPS + 1), largest, label=name, **look)
        top.set(yscale="log", ylim=SHOWN, xlabel="steps back")
        top.set_title(f"gain {gain:g}", fontsize=10)
        bottom.set(yscale="log", ylim=SHOWN, xlabel="step")
    for row, label in zip(axes, ("length of the gradient", "largest |h|")):
        row[0].set_ylabel(label)
    free = "lower left" if gains[0] > 1 else "upper left"  # the corner that no line crosses
    axes[0, 0].legend(frameon=False, fontsize=9, loc=free)
    return figure


@styled
def sentences(ids: Any, mask: Any, names: Sequence[str]) -> Any:
    """A row for each sentence and a box for each word: id i of ids (B, T) is ``names[i]``.

    Ids 1 to 4 have a colour, other words are grey, and padding is white. Raises ValueError if
    ``ids`` and ``mask`` are not both (B, T).
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
    """Accuracy against sentence length: a line through each network's means, a point for each seed.

    ``lines`` are baselines, by name, with their heights. Raises ValueError if there is no network.
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
        points = {"marker": marker, "markersize": 6, "alpha": 0.7, "linestyle": "none"}
        for length in lengths:
            # a little aside, or equal scores would hide each other
            aside = [length * 1.03**number] * len(by_length[length])
            axes.plot(aside, by_length[length], color=colour, **points)
    for (name, height), style in zip(lines.items(), ("--", ":")):
        axes.axhline(height, color=INK, linestyle=style, linewidth=1.2, label=name)
    axes.set(xscale="log", xlabel="words in a sentence", ylabel="accuracy", ylim=(0, 1.05))
    ticks = sorted({length for by_length in scores.values() for length in by_length})
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
