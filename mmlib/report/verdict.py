"""Answers, row by row and seed by seed -> a difference with its error, and the verdict in words."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Accuracy is the score where the largest class has at most this many times the smallest's rows.
EVEN = 1.5
MATTERS = 2.0  # points: a smaller gain is not worth a second modality
# Standard errors: a difference this large shows in 80% of two-sided tests at 5%, 1.96 + 0.84
# (Cohen, 1988).
POWER = 2.8


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
    """How much better the first is; both (S, N): what row n is worth to the model of seed s.

    That is 1 or 0 where right answers are counted. The two are compared row by row and seed by seed
    (paired), so that rows hard for both cancel. The error has two parts, added as variances. That
    of the rows (another test set), from the differences averaged over the seeds; rows of one of
    ``groups`` (N,) count as one draw. And that of the training (another seed), from the differences
    averaged over the rows; with one seed it is unknown and left out.
    """
    difference = (first.double() - second.double()).numpy()  # (S, N)
    mean, by_row, by_seed = difference.mean(), difference.mean(axis=0), difference.mean(axis=1)
    labels = np.arange(len(by_row)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(labels, weights=by_row - mean)  # (groups,)
    rows = (sums**2).sum() / len(by_row) ** 2 * len(sums) / max(1, len(sums) - 1)
    seeds = by_seed.var(ddof=1) / len(by_seed) if len(by_seed) > 1 else 0.0
    return Gap(100 * float(mean), 100 * float(rows + seeds) ** 0.5)


def worth_it(simple: Tensor, other: Tensor, groups: np.ndarray | None = None) -> bool:
    """Whether the other model is better than the simple one by more than one standard error.

    Both (S, N) as in ``gap``.

    The one-standard-error rule of Breiman, Friedman, Olshen and Stone (Classification and
    Regression Trees, 1984): the best score among several is partly luck, so the simplest model
    within one error of it is taken. One error and not two, because this is a choice, not a proof.
    """
    found = gap(other, simple, groups)
    return found.points > found.error


@dataclass(frozen=True)
class Scale:
    """How answers are scored on some rows: the score is the mean over what each row is worth.

    ``target`` (N,): their classes; ``prior`` (K,): log of each class's share of the training rows;
    ``groups`` (N,): see ``gap``.
    """

    target: Tensor
    prior: Tensor
    groups: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Accuracy, or balanced accuracy where a class has over ``EVEN`` times another's rows."""
        ratio = float((self.prior.max() - self.prior.min()).exp())
        return "accuracy" if ratio <= EVEN * (1 + 1e-6) else "balanced accuracy"

    @property
    def weight(self) -> Tensor:
        """(N,) what a right answer to each row is worth.

        It is 1, or in balanced accuracy N / (the number of classes there * the rows of its class).
        """
        if self.name == "accuracy":
            return torch.ones(len(self.target), dtype=torch.float64)
        _, place, rows = self.target.unique(return_inverse=True, return_counts=True)
        return len(self.target) / (len(rows) * rows[place]).double()

    @property
    def finest(self) -> float:
        """In points, the least standard error that a difference on these rows can have.

        Where none of N rows differ, up to three in N may (the rule of three), which is two errors.
        """
        draws = len(self.target) if self.groups is None else len(np.unique(self.groups))
        return 100 * 1.5 * float(self.weight.max()) / draws

    def answers(self, logits: Tensor) -> Tensor:
        """Logits (..., K) from which the class is chosen by argmax.

        For balanced accuracy the best choice is the class whose probability lies highest above its
        share: the prior is taken out.
        """
        return logits if self.name == "accuracy" else logits - self.prior.to(logits)

    def rows(self, logits: Tensor) -> Tensor:
        """Logits (S, N, K) -> what the answer to each row is worth (S, N)."""
        return (self.answers(logits).argmax(dim=-1) == self.target).double() * self.weight

    def losses(self, logits: Tensor) -> Tensor:
        """Logits (S, N, K) -> the log loss of each row (S, N), in nats."""
        place = self.target.expand(logits.shape[:-1])[..., None]
        return -logits.double().log_softmax(dim=-1).gather(-1, place).squeeze(-1)

    def score(self, logits: Tensor) -> float:
        """The score (0 to 1), mean over rows and seeds."""
        return float(self.rows(logits).mean())

    def gain(self, first: Tensor, second: Tensor) -> Gap:
        """How much better the first answers, from logits (S, N, K) both."""
        return gap(self.rows(first), self.rows(second), self.groups)

    def learned(self, logits: Tensor) -> bool:
        """Whether log loss or the score is clearly better than by the shares of the classes alone.

        Clearly means by more than two standard errors. Log loss is the proper score: it shows what
        was learned about a rare class long before the most probable class changes. The score
        counts too, because a model that is often right but far too sure has a bad log loss.
        """
        blind = self.prior.to(logits).expand(1, *logits.shape[1:])
        better = gap(self.losses(blind), self.losses(logits), self.groups)
        return better.clear or self.gain(logits, blind).clear


@dataclass(frozen=True)
class Verdict:
    """What ``judge`` found. All gaps are of ``score``, in points, with their standard errors."""

    kind: str  # "helps", "does not help", "hurts", "cannot tell", "nothing learned"
    text: str  # the same in words
    score: str  # "accuracy" or "balanced accuracy"
    best: str  # the best single modality, chosen on validation rows
    fusion: str  # the fusion that is judged, chosen on validation rows
    use: str  # which of those two to use
    gain: Gap  # the fusion over that modality
    smallest: float  # points: the smallest gain that would have shown, with a probability of 80%
    loss: Gap  # log loss of the fusion minus that of that modality, in hundredths of a nat
    interaction: Gap  # the model of all modalities over its own additive part
    interacts: bool  # fusion helps, and part of that clearly comes from interaction


def judge(
    alone: dict[str, Tensor],
    together: Tensor,
    average: Tensor,
    additive: Tensor,
    summed: Tensor,
    scale: Scale,
    validation: dict[str, float],
    names: tuple[str, str] = ("all together", "average"),
) -> Verdict:
    """The verdict, from logits (S, N, K) of S seeds on N test rows, scored by ``scale``.

    ``alone``: the models of one modality; ``together``: that of all modalities; ``average``: the
    answers of ``alone``, averaged; ``additive``: the additive part of ``together``; ``summed``: a
    model of all modalities that was trained to add up (it may be ``together`` itself); ``names``:
    of ``together`` and ``average``; ``validation``: by name, the score on validation rows of each
    modality and of those two. The rule:

    1. The score is accuracy. Where one class has more than 1.5 times the training rows of another,
       it is balanced accuracy: each class counts alike, and the class chosen is the one whose
       probability lies highest above its share. The verdict says which.
    2. Two fusions are tried: ``together`` and ``average``. The better of them, and the best single
       modality, are chosen on validation rows: choosing on the test rows would flatter both.
    3. Differences are paired, row by row and seed by seed, and their error counts both: ``gap``.
    4. "nothing learned" where none of that modality, ``together`` and ``average`` beats the shares
       of the classes by more than two standard errors, on log loss or on the score:
       ``Scale.learned``.
    5. "helps" where the fusion is better than that modality by more than two standard errors,
       "hurts" where it is worse by as much.
    6. "does not help" only where a gain that matters is excluded: the difference plus two standard
       errors is less than 2 points (``MATTERS``). Where no rows differ, up to three may (the rule
       of three), so a difference of zero on fewer than 150 rows never excludes it.
    7. Else "cannot tell", with the smallest gain that would have shown with a probability of 80%:
       2.8 standard errors (``POWER``).
    8. Log loss stands beside the score: where it clearly says something else than the score, so
       does the text. It never makes "helps" alone: averaging the answers of any two models lowers
       it.
    9. Interaction is judged in the same way: ``together`` against its own additive part. It is
       claimed only where ``together`` is the fusion judged and is also better than ``summed`` by
       more than one standard error: a model may use products where adding up does as well.
    """
    best = max(sorted(alone), key=validation.__getitem__)
    fusion = max(names, key=validation.__getitem__)
    judged = {names[0]: together, names[1]: average}
    gain, interaction = scale.gain(judged[fusion], alone[best]), scale.gain(together, additive)
    interacts = (
        fusion == names[0]
        and gain.clear
        and interaction.clear
        and worth_it(scale.rows(summed), scale.rows(together), scale.groups)
    )
    error = max(gain.error, scale.finest)
    learned = any(scale.learned(logits) for logits in (alone[best], together, average))
    kind = _kind(gain, error) if learned else "nothing learned"
    use = fusion if kind == "helps" else best
    loss = gap(scale.losses(judged[fusion]), scale.losses(alone[best]), scale.groups)
    verdict = Verdict(
        kind,
        "",
        scale.name,
        best,
        fusion,
        use,
        gain,
        POWER * error,
        loss,
        interaction,
        interacts and kind == "helps",
    )
    text = _text(verdict, fusion == names[1], sorted(alone), len(scale.target))
    return replace(verdict, text=text + _probabilities(verdict))


def _kind(gain: Gap, error: float) -> str:
    """The kind of verdict on a gain, where something was learned; ``error`` as the rows allow."""
    if gain.clear:
        return "helps"
    if Gap(-gain.points, gain.error).clear:
        return "hurts"
    return "does not help" if gain.points + 2 * error < MATTERS else "cannot tell"


def _text(found: Verdict, averaged: bool, modalities: list[str], rows: int) -> str:
    """The verdict in words."""
    best = f"the best single modality ({found.best})"
    points = f"{found.gain} points of {found.score}"
    first, last = ", ".join(modalities[:-1]), modalities[-1]
    what = f"averaging the answers of {first} and {last}" if averaged else "fusion"
    start = what[0].upper() + what[1:]
    if found.kind == "nothing learned":
        return (
            f"Nothing was learned that shows on these {rows:,} rows: neither {best} nor any "
            "fusion is clearly better than the shares of the classes alone, on log loss or on "
            f"{found.score}. Train longer, or look at the data."
        )
    if found.kind == "helps":
        how = (
            "none of it clearly by interaction: the evidence of the modalities adds up."
            if not found.interacts
            else f"of that, {found.interaction.points:.1f} ± "
            f"{found.interaction.error:.1f} by interaction between the modalities."
        )
        return f"{start} helps: {points} over {best}; {how}"
    if found.kind == "hurts":
        return f"{start} hurts here: {points} against {best}. Use {found.best} alone."
    if found.kind == "does not help":
        return (
            f"{start} does not help here, use {found.best}: the difference is {points}, and a "
            f"gain of {MATTERS:g} points or more is excluded."
        )
    return (
        f"Cannot tell whether {what} helps: {points} against {best}. With these {rows:,} rows "
        f"only a gain above {found.smallest:.1f} points would probably have shown. More test "
        f"rows or more seeds would tell; until then use {found.best}, which is simpler."
    )


def _probabilities(found: Verdict) -> str:
    """A further sentence where log loss says something that the score does not."""
    number = f"log loss {found.loss.points / 100:+.3f} ± {found.loss.error / 100:.3f}"
    if found.loss.clear and found.kind in ("helps", "does not help", "cannot tell"):
        return f" The probabilities of the fusion are clearly worse, however: {number}."
    lower = Gap(-found.loss.points, found.loss.error)
    if lower.clear and found.kind in ("hurts", "does not help", "cannot tell"):
        return f" The probabilities of the fusion are clearly better, however: {number}."
    return ""
