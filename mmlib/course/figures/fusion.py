"""Figures of fusion: the best accuracy of each choice of modalities in the pets world."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, INK, empty_figure, styled
from mmlib.worlds.pets.dials import MODALITIES, Dials, best_accuracy

Subset = tuple[str, ...]


def set_dials(structure: str, image: float, text: float, audio: float) -> Dials:
    """The dials of the pets world, from four sliders.

    In a redundant world one coin is thrown for all modalities: that of ``image``.
    """
    if structure == "redundant":
        return Dials(image, image, image, structure=structure)
    return Dials(image, text, audio, structure=structure)


def optima(dials: Dials) -> dict[Subset, float]:
    """The best possible accuracy with each of the seven choices of modalities, small ones first."""
    return {
        subset: best_accuracy(dials, subset)
        for size in (1, 2, 3)
        for subset in combinations(MODALITIES, size)
    }


def describe(dials: Dials) -> str:
    """A sentence for the reader: the best modality alone, all together, and what joining adds."""
    best = optima(dials)
    alone = max(MODALITIES, key=lambda modality: best[modality,])
    gain = best[MODALITIES] - best[alone,]
    if best[alone,] == 0.5 < best[MODALITIES]:
        return (
            f"{dials.structure}: each modality alone is chance, 0.500; together "
            f"{best[MODALITIES]:.3f}."
        )
    words = f"joining adds {gain:.3f}" if gain > 5e-4 else "joining adds nothing"
    return (
        f"{dials.structure}: best alone is {alone}, {best[alone,]:.3f}; all together "
        f"{best[MODALITIES]:.3f}: {words}."
    )


@styled
def optimum(dials: Dials, measured: Mapping[Subset, Sequence[float]] | None = None) -> Any:
    """A bar for each choice of modalities: the best possible accuracy.

    ``measured`` holds accuracies of models with such a choice; each is drawn as a dot. The
    modalities of a choice stand in the order of ``MODALITIES``. Raises ValueError for a choice that
    has no bar.
    """
    best, measured = optima(dials), measured or {}
    if unknown := set(measured) - set(best):
        raise ValueError(f"measured has {sorted(unknown)}, expected some of {list(best)}")
    figure = empty_figure(7.5, 3.2)
    axes = figure.add_subplot()
    for place, (subset, score) in enumerate(best.items()):
        colour = COLOURS[subset[0]] if len(subset) == 1 else COLOURS["all"]
        axes.bar(place, score, 0.62, color=colour)
        axes.text(
            place,
            0.1,
            f"{score:.3f}",
            ha="center",
            va="center",
            weight="bold",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none"},
        )
        found = list(measured.get(subset, ()))
        axes.plot(
            place + np.linspace(-0.15, 0.15, len(found)) * (len(found) > 1),
            found,
            "o",
            color=INK,
            markersize=4,
            label="measured"
            if found and "measured" not in axes.get_legend_handles_labels()[1]
            else None,
        )
    axes.axhline(0.5, color=INK, linestyle=":", linewidth=1.5, label="chance")
    axes.set_xticks(range(len(best)), ["\n+ ".join(subset) for subset in best])
    axes.set(ylim=(0, 1.02), ylabel="best possible accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


@styled
def seeds(
    scores: Mapping[str, Sequence[float]],
    best: Mapping[str, float] | None = None,
    label: str = "accuracy",
) -> Any:
    """A row for each name: a bar for the mean of its scores, and a dot for each seed.

    ``best``, by the same names, is the best possible score. Raises ValueError if there is nothing
    to draw, and for a name in ``best`` that has no scores.
    """
    if not scores or not all(len(found) for found in scores.values()):
        raise ValueError(
            "nothing to draw, expected at least one name, and a score or more for each"
        )
    if unknown := set(best or {}) - set(scores):
        raise ValueError(f"best has {sorted(unknown)}, expected some of {list(scores)}")
    figure = empty_figure(7, 0.9 + 0.4 * len(scores))
    axes = figure.add_subplot()
    shown = {}  # name in the legend -> what it stands for
    for place, found in enumerate(scores.values()):
        shown["mean"] = axes.barh(place, np.mean(found), 0.62, color=COLOURS["all"], alpha=0.6)
        (shown["one seed"],) = axes.plot(
            found, [place] * len(found), "o", color=INK, markersize=4, alpha=0.7
        )
    if best:
        places = [list(scores).index(name) for name in best]
        (shown["best possible"],) = axes.plot(
            list(best.values()), places, "D", color=INK, markerfacecolor="none", markersize=9
        )
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set(xlabel=label, ylim=(len(scores) - 0.5, -0.5))
    figure.legend(shown.values(), shown, loc="outside upper center", ncols=3, frameon=False)
    return figure
