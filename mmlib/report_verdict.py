"""Right or wrong, row by row and seed by seed -> a difference with its error, and the verdict: does fusion help, and how?"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Gap(NamedTuple):
    """A difference of accuracies in points (hundredths), and its standard error in points."""

    points: float
    error: float

    @property
    def clear(self) -> bool:
        """Above zero by more than two standard errors."""
        return self.points > 2 * self.error

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {self.error:.1f}"


def gap(first: Tensor, second: Tensor, groups: np.ndarray | None = None) -> Gap:
    """How much more often the first is right, both (S, N): 1 where the model of seed s answers row n rightly, else 0.

    Paired: the two are compared row by row and seed by seed, so that rows hard for both cancel. The error has two parts, added as
    variances: of the rows (another test set; rows of one of ``groups`` (N,) count as one draw), from the differences averaged over the
    seeds; and of the training (another seed), from the differences averaged over the rows. With one seed that one is unknown, left out.
    """
    difference = (first.double() - second.double()).numpy()                                # (S, N)
    mean, by_row, by_seed = difference.mean(), difference.mean(axis=0), difference.mean(axis=1)
    labels = np.arange(len(by_row)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(labels, weights=by_row - mean)                                      # (groups,)
    rows = (sums ** 2).sum() / len(by_row) ** 2 * len(sums) / max(1, len(sums) - 1)
    seeds = by_seed.var(ddof=1) / len(by_seed) if len(by_seed) > 1 else 0.0
    return Gap(100 * float(mean), 100 * float(rows + seeds) ** 0.5)


def worth_it(simple: Tensor, other: Tensor, groups: np.ndarray | None = None) -> bool:
    """Is the richer model better than the simple one by more than one standard error? Both (S, N) of 0 and 1.

    The one-standard-error rule of Breiman, Friedman, Olshen and Stone (Classification and Regression Trees, 1984): the best score among
    several is partly luck, so the simplest model within one error of it is taken. One and not two: this chooses, it proves nothing.
    """
    found = gap(other, simple, groups)
    return found.points > found.error


@dataclass(frozen=True)
class Verdict:
    """What ``judge`` found. All gaps are of accuracy, in points, with their standard errors."""

    kind: str              # "helps", "does not help", "hurts", "nothing learned"
    text: str              # the same in words
    best: str              # the best single sense, chosen on validation rows
    gain: Gap              # all senses together over that sense
    interaction: Gap       # all senses together over the additive part of the same model
    interacts: bool        # fusion helps, and part of that clearly comes from the senses' interplay


def judge(alone: dict[str, Tensor], together: Tensor, additive: Tensor, summed: Tensor, blind: Tensor, validation: dict[str, float],
          groups: np.ndarray | None = None) -> Verdict:
    """The verdict, from which test rows each model answers rightly: (S, N) of 0 and 1 for S seeds and N rows.

    ``alone``: the models of one sense; ``together``: that of all senses; ``additive``: its additive part; ``summed``: a model of all
    senses that was trained to add up (it may be ``together`` itself); ``blind``: the majority class; ``validation``: the mean
    validation accuracy of each sense alone. The rule:

    1. The best single sense is the best on validation rows: picking it on the test rows would flatter it.
    2. Differences are paired, row by row and seed by seed, and their error counts both rows and seeds: ``gap``.
    3. "nothing learned" where neither that sense nor all together beat the majority class by more than two standard errors.
    4. "helps" where all together beat the best single sense by more than two standard errors, "hurts" the other way round, else
       "does not help": a difference that chance could make is none.
    5. Interaction is counted likewise: all together against the additive part of the same model. It is claimed only where they are also
       better than ``summed`` by more than one standard error: a model may lean on products where adding up would have done as well.
    """
    best = max(sorted(validation), key=validation.__getitem__)
    gain, interaction = gap(together, alone[best], groups), gap(together, additive, groups)
    loss, interacts = Gap(-gain.points, gain.error), gain.clear and interaction.clear and worth_it(summed, together, groups)
    if not gap(together, blind, groups).clear and not gap(alone[best], blind, groups).clear:
        kind, text = "nothing learned", (f"Nothing was learned: neither the best single sense ({best}) nor all senses together are clearly "
                                         "better than always answering the most frequent class. Train longer, or look at the data.")
    elif gain.clear:
        kind, text = "helps", f"Fusion helps: {gain} points over the best single sense ({best}); "
        text += (f"of that, {interaction.points:.1f} ± {interaction.error:.1f} by interaction between the senses." if interacts else
                 "none of it clearly by interaction: the senses' evidence adds up.")
    elif loss.clear:
        kind, text = "hurts", f"Fusion hurts here: {gain} points against the best single sense. Use {best} alone."
    else:
        kind, text = "does not help", (f"Fusion does not help here, use {best}: all senses together are {gain} points from it, "
                                       "which chance alone could make.")
    return Verdict(kind, text, best, gain, interaction, interacts and kind == "helps")
