"""Answers, row by row and seed by seed -> a difference with its error, and the verdict: does fusion help, and how?"""
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

EVEN = 1.5      # the largest class has at most so many times the rows of the smallest: then accuracy is the score
MATTERS = 2.0   # points: a smaller gain is not worth a second modality; "does not help" excludes larger ones
POWER = 2.8     # standard errors: 1.96 + 0.84, seen with a probability of 80% by a two-sided test at 5% (Cohen, 1988)


class Gap(NamedTuple):
    """A difference of scores in points (hundredths), and its standard error in points."""

    points: float
    error: float

    @property
    def clear(self) -> bool:
        """Above zero by more than two standard errors."""
        return self.points > 2 * self.error

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {self.error:.1f}"


def gap(first: Tensor, second: Tensor, groups: np.ndarray | None = None) -> Gap:
    """How much better the first is, both (S, N): what row n is worth to the model of seed s, 1 or 0 where right answers are counted.

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
    """Is the richer model better than the simple one by more than one standard error? Both (S, N) as in ``gap``.

    The one-standard-error rule of Breiman, Friedman, Olshen and Stone (Classification and Regression Trees, 1984): the best score among
    several is partly luck, so the simplest model within one error of it is taken. One and not two: this chooses, it proves nothing.
    """
    found = gap(other, simple, groups)
    return found.points > found.error


@dataclass(frozen=True)
class Scale:
    """How answers are scored on some rows. The mean over the rows of what each row is worth is the score.

    ``target`` (N,): their classes; ``prior`` (K,): log of each class's share of the training rows; ``groups`` (N,): see ``gap``.
    """

    target: Tensor
    prior: Tensor
    groups: np.ndarray | None = None

    @property
    def name(self) -> str:
        """"accuracy", or "balanced accuracy" where one class has more than ``EVEN`` times the training rows of another."""
        shares = self.prior.exp()
        return "accuracy" if shares.max() <= EVEN * shares.min() else "balanced accuracy"

    @property
    def weight(self) -> Tensor:
        """(N,) What a right answer to each row is worth: 1, or in balanced accuracy N / (classes there * rows of its class)."""
        if self.name == "accuracy":
            return torch.ones(len(self.target), dtype=torch.float64)
        _, place, rows = self.target.unique(return_inverse=True, return_counts=True)
        return len(self.target) / (len(rows) * rows[place]).double()

    @property
    def finest(self) -> float:
        """Points: the least error that so few rows allow. Where no answers differ, up to three rows in N may (the rule of three)."""
        return 150 * float(self.weight.max()) / (len(self.target) if self.groups is None else len(np.unique(self.groups)))

    def answers(self, logits: Tensor) -> Tensor:
        """Logits (..., K) from which the class is chosen by argmax.

        For balanced accuracy the best choice is the class whose probability lies highest above its share: the prior is taken out.
        """
        return logits if self.name == "accuracy" else logits - self.prior.to(logits)

    def rows(self, logits: Tensor) -> Tensor:
        """Logits (S, N, K) -> what each row is worth (S, N)."""
        return (self.answers(logits).argmax(dim=-1) == self.target).double() * self.weight

    def losses(self, logits: Tensor) -> Tensor:
        """Logits (S, N, K) -> the log loss of each row (S, N), in nats: -log of the probability of its class."""
        place = self.target.expand(logits.shape[:-1])[..., None]
        return -logits.double().log_softmax(dim=-1).gather(-1, place).squeeze(-1)

    def score(self, logits: Tensor) -> float:
        """The score (0 to 1), mean over rows and seeds."""
        return float(self.rows(logits).mean())

    def gain(self, first: Tensor, second: Tensor) -> Gap:
        """How much better the first answers, from logits (S, N, K) both."""
        return gap(self.rows(first), self.rows(second), self.groups)

    def learned(self, logits: Tensor) -> bool:
        """Better than the shares of the classes alone by more than two standard errors, on log loss or on the score.

        Log loss is the proper score: it sees what was learned about a rare class long before the most probable class changes. The
        score is asked too, because a model that is often right but far too sure has a bad log loss.
        """
        blind = self.prior.to(logits).expand(1, *logits.shape[1:])
        better = gap(self.losses(blind), self.losses(logits), self.groups)
        return better.clear or self.gain(logits, blind).clear


@dataclass(frozen=True)
class Verdict:
    """What ``judge`` found. All gaps are of ``score``, in points, with their standard errors."""

    kind: str              # "helps", "does not help", "hurts", "cannot tell", "nothing learned"
    text: str              # the same in words
    score: str             # "accuracy" or "balanced accuracy"
    best: str              # the best single modality, chosen on validation rows
    fusion: str            # the fusion that is judged, chosen on validation rows
    use: str               # which of those two to use
    gain: Gap              # the fusion over that modality
    smallest: float        # points: the smallest gain that would have shown on such rows, with a probability of 80%
    interaction: Gap       # the model of all modalities over its own additive part
    interacts: bool        # fusion helps, and part of that clearly comes from the interplay of the modalities


def judge(alone: dict[str, Tensor], together: Tensor, average: Tensor, additive: Tensor, summed: Tensor, scale: Scale,
          validation: dict[str, float], names: tuple[str, str] = ("all together", "average")) -> Verdict:
    """The verdict, from logits (S, N, K) of S seeds on N test rows, scored by ``scale``.

    ``alone``: the models of one modality; ``together``: that of all modalities; ``average``: the answers of ``alone``, averaged;
    ``additive``: the additive part of ``together``; ``summed``: a model of all modalities that was trained to add up (it may be
    ``together`` itself); ``names``: of ``together`` and of ``average``; ``validation``: by name, the score on validation rows of each
    modality and of those two. The rule:

    1. The score is accuracy. Where one class has more than 1.5 times the training rows of another, it is balanced accuracy: each class
       counts alike, and the class chosen is the one whose probability lies highest above its share. The verdict says which.
    2. Two fusions are tried: ``together`` and ``average``. The better of them, and the best single modality, are chosen on validation
       rows: choosing on the test rows would flatter both.
    3. Differences are paired, row by row and seed by seed, and their error counts both rows and seeds: ``gap``.
    4. "nothing learned" where none of that modality, ``together`` and ``average`` beats the shares of the classes by more than two
       standard errors, neither on log loss nor on the score: ``Scale.learned``.
    5. "helps" where the fusion beats that modality by more than two standard errors, "hurts" the other way round.
    6. "does not help" only where a gain that matters is excluded: two standard errors above the difference lie less than 2 points
       (``MATTERS``). Where no rows differ, up to three may (the rule of three), so fewer than 150 rows never exclude it.
    7. Else "cannot tell", with the smallest gain that would have shown with a probability of 80%: 2.8 standard errors (``POWER``).
    8. Interaction is counted likewise: ``together`` against its own additive part. It is claimed only where ``together`` is the fusion
       judged and is also better than ``summed`` by more than one standard error: a model may lean on products where adding up would
       have done as well.
    """
    best = max(sorted(alone), key=validation.__getitem__)
    fusion = max(names, key=validation.__getitem__)
    judged = {names[0]: together, names[1]: average}
    gain, interaction = scale.gain(judged[fusion], alone[best]), scale.gain(together, additive)
    interacts = (fusion == names[0] and gain.clear and interaction.clear
                 and worth_it(scale.rows(summed), scale.rows(together), scale.groups))
    error = max(gain.error, scale.finest)
    if not any(scale.learned(logits) for logits in (alone[best], together, average)):
        kind = "nothing learned"
    elif gain.clear:
        kind = "helps"
    elif Gap(-gain.points, gain.error).clear:
        kind = "hurts"
    else:
        kind = "does not help" if gain.points + 2 * error < MATTERS else "cannot tell"
    verdict = Verdict(kind, "", scale.name, best, fusion, fusion if kind == "helps" else best, gain, POWER * error, interaction,
                      interacts and kind == "helps")
    return replace(verdict, text=_text(verdict, fusion == names[1], sorted(alone), len(scale.target)))


def _text(verdict: Verdict, averaged: bool, modalities: list[str], rows: int) -> str:
    """The verdict in words."""
    found, best, points = verdict, verdict.best, f"{verdict.gain} points of {verdict.score}"
    what = f"averaging the answers of {', '.join(modalities[:-1])} and {modalities[-1]}" if averaged else "fusion"
    what = what[0].upper() + what[1:]
    if found.kind == "nothing learned":
        return (f"Nothing was learned that shows on these {rows:,} rows: neither the best single modality ({best}) nor any fusion is "
                f"clearly better than the shares of the classes alone, neither on log loss nor on {found.score}. Train longer, or look "
                "at the data.")
    if found.kind == "helps":
        how = (f"of that, {found.interaction.points:.1f} ± {found.interaction.error:.1f} by interaction between the modalities."
               if found.interacts else "none of it clearly by interaction: the evidence of the modalities adds up.")
        return f"{what} helps: {points} over the best single modality ({best}); {how}"
    if found.kind == "hurts":
        return f"{what} hurts here: {points} against the best single modality ({best}). Use {best} alone."
    if found.kind == "does not help":
        return (f"{what} does not help here, use {best}: the difference is {points}, and a gain of {MATTERS:g} points or more is "
                "excluded.")
    return (f"Cannot tell whether {what[0].lower() + what[1:]} helps: {points} against the best single modality ({best}). With these "
            f"{rows:,} rows only a gain above {found.smallest:.1f} points would have shown. More test rows or more seeds would tell; "
            f"until then use {best}, which is simpler.")
