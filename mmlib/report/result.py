"""What a report holds: answers, scores and a verdict; how it prints and is written."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch import Tensor

from mmlib import metrics
from mmlib.data import Manifest
from mmlib.data.manifest import resolve
from mmlib.data.table import split_cell
from mmlib.files import write_atomically
from mmlib.report.measure import reliability
from mmlib.report.page import page
from mmlib.report.verdict import MATTERS, Gap, Scale, Verdict, judge

BLIND, AVERAGE = "most frequent class", "average of the answers"
SCORES = ("accuracy", "log_loss", "macro_f1", "auroc", "calibration_error")
MISTAKES = 12  # that are shown
FEW = 10  # rows of a class: with fewer, balanced accuracy depends much on each of them


@dataclass(frozen=True)
class Answers:
    """What one kind of model answered, trained with S seeds."""

    name: str
    modalities: tuple[str, ...]
    logits: Tensor  # (S, N, K) of the rows compared
    validation: Tensor | None = None  # (S, rows, K) of the validation rows; None: not trained
    # Of models of all modalities only: the additive part (S, N, K), from so many combinations, and
    # by modality the answers (S * SHUFFLES, N, K) where it comes from another sample.
    additive: Tensor | None = None
    combinations: int = 0
    shuffled: dict[str, Tensor] = field(default_factory=dict)
    unfinished: int = 0  # of the S trainings: those that were still improving at the end

    @property
    def validation_logits(self) -> Tensor:
        """``validation``, which every trained model has."""
        assert self.validation is not None
        return self.validation


@dataclass(frozen=True)
class Report:
    """What ``make_report`` returns: the verdict, a row per model, and what stands behind them.

    A row of ``table`` has ``model`` and ``modalities``; the mean over seeds of each of ``SCORES``
    and of ``balanced_accuracy``; ``scores``, the score of each seed by which the verdict is
    reached, and ``spread``, their standard deviation; ``validation``, that score on the validation
    rows; ``gain``, points and error of its gain over the best single modality, None for that
    modality itself and for the most frequent class. ``str()`` is the table with notes and verdict.
    ``make_report`` has an example.

    >>> list(Report.__dataclass_fields__)[:5]
    ['verdict', 'table', 'shuffled', 'notes', 'classes']
    """

    verdict: Verdict
    table: list[dict[str, Any]]
    shuffled: dict[str, float]  # by modality: the score of ``chosen`` with another sample's
    notes: list[str]
    classes: list[str]
    rows: list[str]  # (N,) where each of the rows compared stands in the manifest
    target: Tensor  # (N,) their classes
    answers: list[Answers]
    chosen: str  # the name of the model of all modalities
    # Of each: row, true, given, probability, and modalities: name -> (kind, path or words).
    mistakes: list[dict[str, Any]]

    def __str__(self) -> str:
        head = ("accuracy", "spread", "balanced", "log loss", "macro-F1", "AUROC", "calibration")
        names = (
            "accuracy",
            "spread",
            "balanced_accuracy",
            "log_loss",
            "macro_f1",
            "auroc",
            "calibration_error",
        )
        lines = [f"{'':38}{''.join(f'{name:>12}' for name in head)}  gain over {self.verdict.best}"]
        for row in self.table:
            gain = "" if row["gain"] is None else str(Gap(**row["gain"]))
            scores = "".join(f"{row[name]:12.3f}" for name in names)
            lines.append(f"{row['model']:38}{scores}  {gain}".rstrip())
        lines += [
            f"{f'all, {modality} of another sample':38}{value:12.3f}"
            for modality, value in self.shuffled.items()
        ]
        return "\n".join([*lines, "", *self.notes, "", self.verdict.text])

    def plain(self) -> dict[str, Any]:
        """The report in plain numbers and words, as report.json holds it and the page shows it.

        ``answers`` has for each model, in S lists of N, the class given to each row and the
        probability of the row's true class.
        """
        found, logits = self.verdict, {answers.name: answers.logits for answers in self.answers}
        names = ("kind", "text", "score", "best", "fusion", "use", "smallest", "interacts")
        verdict = {name: getattr(found, name) for name in names} | {"matters": MATTERS}
        verdict |= {
            name: getattr(found, name)._asdict() for name in ("gain", "loss", "interaction")
        }
        shown = dict.fromkeys((self.chosen, found.best, AVERAGE))
        return {
            "verdict": verdict,
            "model": self.chosen,
            "blind": BLIND,
            "table": self.table,
            "shuffled": self.shuffled,
            "notes": self.notes,
            "classes": self.classes,
            "reliability": {name: reliability(logits[name], self.target) for name in shown},
            "mistakes": self.mistakes,
            "rows": self.rows,
            "target": self.target.tolist(),
            "answers": {name: _given(found, self.target) for name, found in logits.items()},
        }

    def write(self, folder: str | Path) -> Path:
        """Write report.html, a page that needs no other file, and report.json -> the page's path.

        Each of them is written whole or not at all.
        """
        found, folder = self.plain(), Path(folder)
        lines = ",\n".join(
            f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in found.items()
        )
        texts = {"report.json": f"{{\n{lines}\n}}\n", "report.html": page(found)}
        for name, text in texts.items():
            write_atomically(folder / name, partial(_write_text, text))
        return folder / "report.html"


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def _given(logits: Tensor, target: Tensor) -> dict[str, Any]:
    """The class given to each row, and the probability of its true class, S lists of N each."""
    shares = logits.double().softmax(dim=-1)  # (S, N, K)
    true = shares.gather(-1, target.expand(logits.shape[:-1])[..., None]).squeeze(-1)  # (S, N)
    return {
        "given": logits.argmax(dim=-1).tolist(),
        "probability": [[round(p, 5) for p in seed] for seed in true.tolist()],
    }


class Models(NamedTuple):
    """The answers of all models that were trained."""

    alone: list[Answers]  # of each modality
    pairs: list[Answers]
    summed: Answers  # all modalities, by a fusion that adds up
    other: Answers  # all modalities, by one that can interact
    chosen: Answers  # the one of these two that counts
    averaged: Answers  # the answers of ``alone``, averaged
    classical: list[Answers]  # of each modality and their average, without a network

    @property
    def trained(self) -> list[Answers]:
        """Those that stand for trainings."""
        return [*self.alone, *self.pairs, self.summed, self.other]

    @property
    def unused(self) -> Answers:
        """The model of all modalities that does not count."""
        return self.other if self.chosen is self.summed else self.summed


def conclude(
    models: Models,
    scale: Scale,
    checked: Scale,
    classes: list[str],
    manifest: Manifest,
    rows: np.ndarray,
    split: str,
) -> Report:
    """The answers of all models -> the table, the verdict, the notes and the mistakes.

    ``scale`` scores the rows compared, which are the manifest's ``rows`` (N,) of ``split``, and
    ``checked`` the validation rows.
    """
    chosen, averaged = models.chosen, models.averaged
    assert chosen.additive is not None  # it is measured for every model of all modalities
    blind = Answers(BLIND, (), scale.prior.expand(1, len(rows), -1))
    additive = Answers(f"additive part of {chosen.name}", averaged.modalities, chosen.additive)
    every = [blind, *models.trained, averaged, additive, *models.classical]
    validation = {
        answers.name: checked.score(answers.validation)
        for answers in every
        if answers.validation is not None
    }
    verdict = judge(
        {answers.name: answers.logits for answers in models.alone},
        chosen.logits,
        averaged.logits,
        chosen.additive,
        models.summed.logits,
        scale,
        validation,
        (chosen.name, AVERAGE),
    )
    best = next(answers for answers in models.alone if answers.name == verdict.best)
    return Report(
        verdict,
        [_row(answers, scale, best, validation) for answers in every],
        {modality: scale.score(logits) for modality, logits in chosen.shuffled.items()},
        [
            *_choices(verdict, scale, best, models, validation, split),
            *_classical(verdict, scale, every, models, validation),
            *_caveats(verdict, scale, classes, len(chosen.logits)),
        ],
        classes,
        [manifest.rows[row] for row in rows],
        scale.target,
        every,
        chosen.name,
        _mistakes(manifest, rows, chosen, scale.target, classes),
    )


def _classical(
    verdict: Verdict,
    scale: Scale,
    every: list[Answers],
    models: Models,
    validation: dict[str, float],
) -> list[str]:
    """In words: what the classical baseline that is best on validation rows is worth."""
    if not models.classical:
        return []
    (used,) = (answers for answers in every if answers.name == verdict.use)
    best = max(models.classical, key=lambda answers: validation[answers.name])
    gain = scale.gain(best.logits, used.logits)
    note = f"Without a network, in seconds: {best.name!r} is {gain} points from {used.name!r}."
    if gain.clear:
        note += " A classical baseline does better here."
    return [note]


def _choices(
    verdict: Verdict,
    scale: Scale,
    best: Answers,
    models: Models,
    validation: dict[str, float],
    split: str,
) -> list[str]:
    """In words: by which score the models were compared, and what was chosen on validation rows."""
    chosen, unused = models.chosen, models.unused
    judged, rival = chosen, models.averaged
    if verdict.fusion != chosen.name:
        judged, rival = rival, judged
    why = ""
    if verdict.score != "accuracy":
        why = (
            ", in which each class counts alike, as some classes have far more training rows than "
            "others"
        )
    notes = [
        f"Compared on {len(scale.target):,} {split} rows, {len(chosen.logits)} seeds, by "
        f"{verdict.score}{why}.",
        f"Chosen on validation rows: the fusion {judged.name!r}, "
        f"{validation[judged.name]:.3f} ({rival.name!r} {validation[rival.name]:.3f}), and as the "
        f"model of all modalities {chosen.name!r}, {validation[chosen.name]:.3f} "
        f"({unused.name!r} {validation[unused.name]:.3f}). On the rows compared {unused.name!r} is "
        f"{scale.gain(unused.logits, chosen.logits)} points from {chosen.name!r}.",
        f"Log loss, lower is better: {judged.name!r} is {verdict.loss.points / 100:+.3f} "
        f"± {verdict.loss.error / 100:.3f} from {best.name!r}.",
        f"The additive part (EMAP): each modality of each sample with {chosen.combinations:,} "
        "combinations of the other modalities.",
    ]
    missed = scale.gain(rival.logits, best.logits)
    if verdict.kind != "helps" and missed.clear:
        notes.append(
            "Not chosen on validation rows, yet better on the rows compared: "
            f"{rival.name!r}, {missed} points over {best.name!r}."
        )
    return notes


def _caveats(verdict: Verdict, scale: Scale, classes: list[str], seeds: int) -> list[str]:
    """In words: what the errors (±) do not count."""
    counts = scale.target.bincount(minlength=len(classes)).tolist()
    few = [f"{name} {count}" for name, count in zip(classes, counts) if 0 < count < FEW]
    notes = []
    if verdict.score != "accuracy" and few:
        notes.append(
            "Few rows to compare on, so balanced accuracy depends on each single one: "
            f"{', '.join(few)}."
        )
    if seeds == 1:
        notes.append(
            "One seed: how much the scores vary from training to training is not known, "
            "so every ± is too small."
        )
    return notes


def _row(
    answers: Answers, scale: Scale, best: Answers, validation: dict[str, float]
) -> dict[str, Any]:
    """The row of one kind of model in the table, see ``Report``."""
    scores = {
        key: [getattr(metrics, key)(one, scale.target) for one in answers.logits] for key in SCORES
    }
    scores["balanced_accuracy"] = [
        metrics.balanced_accuracy(scale.answers(one), scale.target) for one in answers.logits
    ]
    by_seed = [scale.score(one[None]) for one in answers.logits]
    compared = answers.name not in (best.name, BLIND)
    return {
        "model": answers.name,
        "modalities": list(answers.modalities),
        **{key: float(np.mean(values)) for key, values in scores.items()},
        "scores": by_seed,
        "spread": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0,
        "validation": validation.get(answers.name),
        "gain": scale.gain(answers.logits, best.logits)._asdict() if compared else None,
    }


def _mistakes(
    manifest: Manifest, rows: np.ndarray, chosen: Answers, target: Tensor, classes: list[str]
) -> list[dict[str, Any]]:
    """The rows that are most surely wrong, by the probabilities averaged over the seeds."""
    sure, given = chosen.logits.double().softmax(dim=-1).mean(dim=0).max(dim=-1)  # (N,), (N,)
    order = [i for i in sure.argsort(descending=True).tolist() if given[i] != target[i]]
    return [
        {
            "row": manifest.rows[rows[i]],
            "true": classes[target[i]],
            "given": classes[given[i]],
            "probability": float(sure[i]),
            "modalities": _sample(manifest, int(rows[i])),
        }
        for i in order[:MISTAKES]
    ]


def _sample(manifest: Manifest, row: int) -> dict[str, tuple[str, str]]:
    """The modalities that a row has: name -> its kind, and its words or the path of its file."""
    found = {}
    for name, modality in manifest.modalities.items():
        cell = manifest.cells[name][row]
        if cell:
            words = cell
            if modality.kind == "table":
                pairs = zip(modality.columns, split_cell(cell, len(modality.columns)), strict=True)
                words = ", ".join(f"{column} {value}" for column, value in pairs if value)
            elif modality.kind != "text":
                words = str(resolve(manifest, cell))
            found[name] = (modality.kind, words)
    return found
