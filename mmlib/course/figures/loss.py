"""Figures of the loss and of gradient descent: curves, and the path down a quadratic bowl.

The bowl is loss(x) = x' H x / 2 with two weights; its minimum is 0 at (0, 0). What a step does
there is known in closed form, so the figure can say beforehand whether a run crawls, converges,
oscillates or diverges.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled

# its eigenvalues are 1 and 16: a flat direction and a steep one
HESSIAN = ((4.0, 6.0), (6.0, 13.0))
START, STEPS = (4.0, 0.0), 40
NEAR = 0.05  # a run has converged when at most this part of the way is left
WORDS = {
    "crawl": COLOURS["image"],
    "converge": COLOURS["audio"],
    "oscillate": COLOURS["text"],
    "diverge": COLOURS["all"],
}


def descend(lr: float, momentum: float = 0.0, steps: int = STEPS) -> np.ndarray:
    """The weights (steps + 1, 2) of gradient descent on the bowl, from START on.

    Momentum works as in torch.optim.SGD.
    """
    x, v = np.array(START), np.zeros(2)
    path = [x]
    for _ in range(steps):
        v = momentum * v + np.array(HESSIAN) @ x
        x = x - lr * v
        path.append(x)
    return np.stack(path)  # (steps + 1, 2)


def bowl(x: np.ndarray) -> np.ndarray:
    """The loss x' H x / 2 of weights (..., 2) -> (...)."""
    return np.einsum("...i,ij,...j->...", x, np.array(HESSIAN), x) / 2


def slowest(lr: float, momentum: float = 0.0) -> complex:
    """The factor by which a step multiplies the slowest direction of the bowl, in the long run.

    Along an eigenvector of H with eigenvalue h, a step is x_next = (1 + momentum - lr * h) * x -
    momentum * x_before. The roots of this recurrence are the factors. A size above 1 leads away
    from the minimum; a negative or complex factor swings from side to side. Of two that are equally
    slow, the one that swings faster is returned.
    """
    roots = [np.roots([1, -(1 + momentum - lr * h), momentum]) for h in np.linalg.eigvalsh(HESSIAN)]
    return complex(
        max(np.concatenate(roots), key=lambda root: (round(abs(root), 9), abs(np.angle(root))))
    )


def verdict(lr: float, momentum: float = 0.0) -> str:
    """What a run does: "converge", "crawl", "oscillate" (from side to side) or "diverge".

    It converges if less than 5 % of the way is left after STEPS steps.
    """
    factor = slowest(lr, momentum)
    if abs(factor) > 1 + 1e-9:
        return "diverge"
    if abs(factor) ** STEPS < NEAR:
        return "converge"
    turned = abs(np.angle(factor)) * STEPS  # pi is one change of sides
    return "oscillate" if turned > math.pi else "crawl"


def describe(lr: float, momentum: float = 0.0) -> str:
    """A sentence for the reader: verdict, factor, losses, and the largest rate that is safe."""
    first, last = bowl(descend(lr, momentum)[[0, -1]])
    bound = 2 * (1 + momentum) / np.linalg.eigvalsh(HESSIAN)[-1]
    return (
        f"{verdict(lr, momentum)}: the slowest direction is multiplied by "
        f"{abs(slowest(lr, momentum)):.3f} in each step; loss {first:.1f} at the start, "
        f"{last:.2g} after {STEPS} steps. At this momentum, rates above {bound:.4g} diverge."
    )


@styled
def landscape(*runs: tuple[float, float]) -> Any:
    """The path of each run down the bowl, and its loss over the steps.

    A run is a pair (learning rate, momentum). Each has a column, with the path above the loss; for
    a single run they stand side by side. Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError("no run to draw, expected one or more pairs (learning rate, momentum)")
    shape = (1, 2) if len(runs) == 1 else (2, len(runs))
    figure = empty_figure(max(7.5, 2.8 * len(runs)), 3.2 * shape[0])
    axes = figure.subplots(*shape, squeeze=False, sharey="row" if len(runs) > 1 else False).reshape(
        2, len(runs)
    )
    for (lr, momentum), top, bottom in zip(runs, *axes):
        path, word = descend(lr, momentum), verdict(lr, momentum)
        _contours(top)
        top.plot(*path.T, color=WORDS[word], marker="o", markersize=3, linewidth=1)
        top.set_title(f"{word}\nrate {lr:g}, momentum {momentum:g}", fontsize=10)
        bottom.plot(bowl(path), color=WORDS[word], linewidth=2)
        bottom.set(yscale="log", ylim=(1e-6, 1e4), xlabel="step")
    for row, label in zip(axes, ("second weight", "loss")):
        row[0].set_ylabel(label)
    return figure


def _contours(axes: Any) -> None:
    """Lines of equal loss, a cross at the minimum and a ring at the start."""
    x, y = np.meshgrid(np.linspace(-5, 5, 121), np.linspace(-3.5, 3.5, 91))
    loss = bowl(np.stack([x, y], axis=-1))
    axes.contour(x, y, loss, levels=[0.5, 2, 8, 32, 128], colors=GREY, linewidths=0.8)
    axes.plot(0, 0, marker="+", color=INK, markersize=12, markeredgewidth=2, zorder=3)
    axes.plot(*START, marker="o", color=INK, markersize=9, fillstyle="none", zorder=3)
    axes.set(xlim=(-5, 5), ylim=(-3.5, 3.5), xlabel="first weight")


@styled
def losses(
    curves: Mapping[str, Sequence[float]],
    x: str = "step",
    floor: tuple[str, float] | None = None,
    log: bool = False,
) -> Any:
    """A line for each run: its losses by step, or by what ``x`` says.

    ``floor`` is the name and the height of a line to compare with. Raises ValueError if there is no
    run.
    """
    if not curves:
        raise ValueError("curves is empty, expected a name and a list of losses per run")
    figure = empty_figure(6.0, 3.4)
    axes = figure.add_subplot()
    colours, styles = [*COLOURS.values(), GREY], ["-", "--", ":", "-."]
    for number, (name, values) in enumerate(curves.items()):
        colour, style = colours[number % len(colours)], styles[number % len(styles)]
        loss = np.asarray(values, dtype=float)
        axes.plot(loss, color=colour, linestyle=style, linewidth=2, label=name)
    if floor:
        axes.axhline(floor[1], color=INK, linestyle=":", linewidth=1.5, label=floor[0])
    axes.set(xlabel=x, ylabel="loss", yscale="log" if log else "linear")
    axes.legend(frameon=False)
    return figure
