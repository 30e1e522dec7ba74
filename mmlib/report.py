"""Does fusion help? Every modality alone, pairs and all together, trained alike, compared on the same rows; and a verdict in words."""
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib import metrics
from mmlib.checkpoint import write_atomically
from mmlib.data import Data, Manifest, load_data, read_manifest
from mmlib.data.manifest import resolve
from mmlib.recipes import Recipe, Run, train
from mmlib.recipes_plan import LEAST_EPOCHS, affordable, minutes, multiplications
from mmlib.report_measure import average, encode, project, reliability, shuffle, still_improving
from mmlib.report_page import page
from mmlib.report_verdict import MATTERS, Gap, Scale, Verdict, gap, judge, worth_it
from mmlib.train import collect

# Measured on 420 training rows of the pets with captions and voices in exclusive-or: after 12 epochs "lowrank" is right on 1.00 of the test
# rows, "concat" on 0.54 to 0.84. With senses hidden in training it learns late (hide=0.2: 0.89, 0.96) or not at all (0.5: 0.56, 0.58):
# most samples then lack one side of the exclusive-or, and their labels are pure noise. So the model that may interact hides none.
ADDITIVE, INTERACTING = "sum", "lowrank"
BLIND, AVERAGE = "most frequent class", "average of the answers"
SCORES = ("accuracy", "log_loss", "macro_f1", "auroc", "calibration_error")
MISTAKES = 12
FEW = 10     # rows of a class: with fewer, balanced accuracy depends on each single one


@dataclass(frozen=True)
class Answers:
    """What one kind of model answered, trained with S seeds."""

    name: str
    senses: tuple[str, ...]
    logits: Tensor                                             # (S, N, K) of the rows compared
    validation: Tensor | None = None                           # (S, rows, K) of the validation rows
    additive: Tensor | None = None                             # (S, N, K) the additive part, of models of all senses,
    combinations: int = 0                                      # from so many combinations
    shuffled: dict[str, Tensor] = field(default_factory=dict)  # by sense: (S * SHUFFLES, N, K) when it comes from another sample
    unfinished: int = 0                                        # of the S trainings: those that were still improving at their end


@dataclass(frozen=True)
class Report:
    """What ``make_report`` returns: the verdict, a row per model, and what stands behind them."""

    verdict: Verdict
    table: list[dict[str, Any]]        # model, senses, the mean of each of SCORES and balanced_accuracy, spread and accuracies by seed,
    #                                    validation; gain: over the best single modality, points and error of the verdict's score
    shuffled: dict[str, float]         # accuracy of the model of all senses when this sense comes from another sample
    notes: list[str]
    classes: list[str]
    rows: list[str]                    # (N,) where each of the rows compared stands in the manifest
    target: Tensor                     # (N,) their classes
    answers: list[Answers]
    chosen: str                        # the name of the model of all senses
    mistakes: list[dict[str, Any]]     # row, true, given, probability, senses: name -> (kind, path or words)

    def __str__(self) -> str:
        lines = [f"{'':38}accuracy  spread  balanced  log loss  macro-F1   AUROC  calibration error  gain over {self.verdict.best}"]
        for row in self.table:
            lines.append(f"{row['model']:38}{row['accuracy']:8.3f}{row['spread']:8.3f}{row['balanced_accuracy']:10.3f}"
                         f"{row['log_loss']:10.3f}{row['macro_f1']:10.3f}{row['auroc']:8.3f}{row['calibration_error']:19.3f}  "
                         f"{'' if row['gain'] is None else Gap(**row['gain'])}".rstrip())
        lines += [f"{f'all, {sense} of another sample':38}{value:8.3f}" for sense, value in self.shuffled.items()]
        return "\n".join([*lines, "", *self.notes, "", self.verdict.text])

    def plain(self) -> dict[str, Any]:
        """The report in plain numbers and words, as report.json holds it and the page shows it.

        ``answers``: by model, for each seed, the class given to each row and the probability of its true class (S x N each).
        """
        found = self.verdict
        verdict = {name: getattr(found, name) for name in ("kind", "text", "score", "best", "fusion", "use", "smallest", "interacts")}
        curves = {a.name: reliability(a.logits, self.target) for name in dict.fromkeys((self.chosen, found.best, AVERAGE))
                  for a in self.answers if a.name == name}
        return {"verdict": verdict | {"matters": MATTERS, "gain": found.gain._asdict(), "interaction": found.interaction._asdict()},
                "model": self.chosen, "blind": BLIND, "table": self.table, "shuffled": self.shuffled, "notes": self.notes,
                "classes": self.classes, "reliability": curves, "mistakes": self.mistakes, "rows": self.rows,
                "target": self.target.tolist(), "answers": {answers.name: _given(answers.logits, self.target) for answers in self.answers}}

    def write(self, folder: str | Path) -> Path:
        """Write report.html, which needs nothing else, and report.json into ``folder``, each at once or not at all -> the page's path."""
        found, folder = self.plain(), Path(folder)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in found.items())
        for name, text in {"report.json": f"{{\n{lines}\n}}\n", "report.html": page(found)}.items():
            write_atomically(folder / name, lambda file, text=text: file.write(text.encode()))
        return folder / "report.html"


def _given(logits: Tensor, target: Tensor) -> dict[str, Any]:
    """The class given to each row, and the probability of its true class."""
    shares = logits.double().softmax(dim=-1)
    true = shares.gather(-1, target.expand(logits.shape[:-1])[..., None]).squeeze(-1)
    return {"given": logits.argmax(dim=-1).tolist(), "probability": [[round(p, 5) for p in seed] for seed in true.tolist()]}


def make_report(recipe: Recipe, seeds: Sequence[int] = (0, 1, 2)) -> Report:
    """Train each sense alone, all pairs and all together, with each seed, and compare them on the test rows (val where there is no test).

    ``recipe`` says how each of them is trained; ``out``, ``resume`` and ``seed`` are not used. ``budget`` 0.2 is enough to compare with.
    All together is trained twice: with the fusion "sum", which under a linear head can only add up, and with one that can interact
    (``recipe.fusion``, or "lowrank" where that is "sum"). That one counts, and makes the pairs, where it is better on validation rows by
    more than a standard error (``report_verdict.worth_it``), else the sum does. The answers of the modalities trained alone are also
    averaged, which is a fusion too. ``report_verdict.judge`` says how the verdict is reached.
    Raises ValueError for numbers as target, fewer than two senses, no seed, and whatever ``train`` raises.
    """
    started = time.perf_counter()
    if not len(seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}, expected one or more, each once")
    manifest = read_manifest(recipe.manifest, recipe.target, recipe.columns, recipe.group, recipe.use, recipe.allow_outside)
    names = tuple(sorted(manifest.senses))
    if len(names) < 2:
        raise ValueError(f"{manifest.name}: the only sense is {names[0]!r}; a report compares two or more, so there is nothing to fuse")
    data = load_data(manifest, augment=None, task=recipe.task, on_error=recipe.on_error)
    split = _check(data, manifest)
    pairs = [pair for pair in combinations(names, 2) if len(pair) < len(names)]
    total = (len(names) + 2 + len(pairs)) * len(seeds)
    length = Length(recipe, data, [*((name,) for name in names), *pairs, names, names])
    recipe.log("\n".join(data.summary))
    recipe.log(f"plan: {total} trainings ({len(names)} modalities alone, {len(pairs)} pairs, all together with "
               f"two fusions; seeds {', '.join(map(str, seeds))}), {length.words(len(seeds))}")
    count = iter(range(1, total + 1))

    def answers(senses: tuple[str, ...], fusion: str, name: str) -> Answers:
        return _train(recipe, senses, fusion, name, seeds, split, data, lambda line: recipe.log(f"{next(count)}/{total} {line}"))

    alone = {name: answers((name,), ADDITIVE, name) for name in names}
    other = INTERACTING if recipe.fusion == ADDITIVE else recipe.fusion
    both = {fusion: answers(names, fusion, f"all, {fusion}") for fusion in (ADDITIVE, other)}
    checked = _scale(data, manifest, "val")
    simple, richer = (checked.rows(both[fusion].validation) for fusion in (ADDITIVE, other))
    fusion = other if worth_it(simple, richer, checked.groups) else ADDITIVE
    paired = [answers(pair, fusion, " + ".join(pair)) for pair in pairs]
    recipe.log(f"{total} trainings in {(time.perf_counter() - started) / 60:.1f} minutes")
    report = _report(manifest, data, split, alone, paired, both, fusion)
    short = length.too_short() + _too_short([*alone.values(), *paired, *both.values()],
                                            _scale(data, manifest, split), length.option)
    return replace(report, notes=short + report.notes)


class Length:
    """How long trainings are, each of some modalities, by the arithmetic of ``plan``."""

    def __init__(self, recipe: Recipe, data: Data, trainings: list[tuple[str, ...]]):
        self.trainings, self.budget = trainings, None if recipe.epochs else recipe.budget
        self.option = "--epochs" if recipe.epochs else "--budget"         # what makes them longer
        rows = max(1, data.loaders["train"].samples)
        cost = {name: rows * multiplications(data, name, recipe.dim) for name in data.preprocessing.senses}
        self.work = {names: sum(cost[name] for name in names) for names in trainings}        # of an epoch
        self.epochs = {names: recipe.epochs or affordable(self.work[names], recipe.budget) for names in self.work}

    @property
    def floored(self) -> str:
        """The trainings for which the budget pays less than the least number of epochs, in words."""
        cost = {names: minutes(LEAST_EPOCHS * work) for names, work in self.work.items()}
        return ", ".join(" + ".join(names) for names in cost if self.budget is not None and cost[names] > 3 * self.budget)

    def words(self, seeds: int) -> str:
        """Epochs and minutes of all trainings with so many seeds."""
        least, most = min(self.epochs.values()), max(self.epochs.values())
        time = seeds * sum(minutes(self.epochs[names] * self.work[names]) for names in self.trainings)
        floor = f" (at least {LEAST_EPOCHS}, which overrules the budget for {self.floored})" if self.floored else ""
        return (f"{least if least == most else f'{least} to {most}'} epochs each{floor}: about {time:.2g} minutes of "
                "one core in all, beside the reading of files")

    def too_short(self) -> list[str]:
        """A note where the budget is too small."""
        if not self.floored:
            return []
        return [f"The budget pays for fewer than {LEAST_EPOCHS} epochs of {self.floored}. They were trained for {LEAST_EPOCHS}, "
                "which may be too few to say anything: raise --budget."]


def _too_short(trained: list[Answers], scale: Scale, option: str) -> list[str]:
    """In words, which trainings learned nothing and which ended too soon."""
    notes = []
    for answers in trained:
        seeds = len(answers.logits)
        if failed := sum(not scale.learned(one[None]) for one in answers.logits):
            notes.append(f"{answers.name} learned nothing in {failed} of {seeds} seeds: raise {option}"
                         f"{', unless it holds no evidence by itself' if failed == seeds else ''}.")
    unfinished = [f"{answers.name} ({answers.unfinished} of {len(answers.logits)} seeds)" for answers in trained if answers.unfinished]
    return notes + ([f"Still improving when the training ended: {', '.join(unfinished)}. Raise {option}."] if unfinished else [])


def _check(data: Data, manifest: Manifest) -> str:
    """The split to compare on; ValueError where nothing can be compared."""
    if data.counts is None:
        raise ValueError(f"{manifest.name}: the target {manifest.target_name!r} holds numbers; a report compares classifiers: name a "
                         "column of classes, or ask for classes by task='classes' (--task classes)")
    if "val" not in data.loaders:
        raise ValueError(f"{manifest.name} has too few rows: none are left for validation, on which a report chooses")
    split = "test" if "test" in data.loaders else "val"
    there = {manifest.target[row] for row in data.loaders[split].batches.rows}
    if len(there) < 2:
        raise ValueError(f"{manifest.name}: all {split} rows are of class {there.pop()!r}; put rows of every class there")
    return split


def _train(recipe: Recipe, senses: tuple[str, ...], fusion: str, name: str, seeds: Sequence[int], split: str, data: Data,
           log: Callable[[str], None]) -> Answers:
    """One kind of model, with every seed, on the rows of ``split`` that ``data`` has; of all senses, also its parts."""
    augment = recipe.augment if fusion == ADDITIVE else replace(recipe.augment, hide=0.0)
    logits, validation, additive, shuffled = [], [], [], {sense: [] for sense in senses}
    combinations, unfinished, val_target = 0, 0, data.loaders["val"].batches.target[_rows(data, "val")]
    for seed in seeds:
        run = train(replace(recipe, use=senses, fusion=fusion, seed=seed, augment=augment, task="classes", out=None, resume=False,
                            log=lambda line: None))
        model, loader = run.predictor.model, run.data.loaders[split]
        logits.append(_logits(run, split, data))
        validation.append(_logits(run, "val", data))
        unfinished += still_improving(run.history)
        if len(senses) == len(data.preprocessing.senses):
            encoded = encode(model, loader)
            part, combinations = project(model, encoded, seed)
            additive.append(part)
            for sense in senses:
                shuffled[sense].append(shuffle(model, encoded, sense, seed))
        log(f"{name}, seed {seed}: validation accuracy {metrics.accuracy(validation[-1], val_target):.3f}, "
            f"log loss {metrics.log_loss(validation[-1], val_target):.3f}, {run.metrics['seconds']:.0f} s")
    return Answers(name, senses, torch.stack(logits), torch.stack(validation), torch.stack(additive) if additive else None,
                   combinations, {sense: torch.cat(found) for sense, found in shuffled.items() if found}, unfinished)


def _rows(data: Data, split: str) -> np.ndarray:
    """The manifest rows of a split, each once."""
    return np.unique(data.loaders[split].batches.rows)


def _scale(data: Data, manifest: Manifest, split: str) -> Scale:
    """How answers to the rows of a split are scored; a row without a group is its own."""
    rows, counts = _rows(data, split), torch.tensor(data.counts).double()
    groups = None if manifest.group is None else np.array([manifest.group[row] or f"\0{row}" for row in rows])
    return Scale(data.loaders[split].batches.target[rows], (counts / counts.sum()).log().float(), groups)


def _there(data: Data, split: str, names: Sequence[str]) -> Tensor:
    """(M, N) Which of these modalities each row of a split has."""
    return torch.from_numpy(np.stack([data.loaders[split].batches.stores[name].row_present(_rows(data, split)) for name in names]))


def _logits(run: Run, split: str, data: Data) -> Tensor:
    """Logits (N, K) of the rows that all models have: one with a broken file may be skipped where that sense is used, not elsewhere."""
    logits, _, rows = collect(run.predictor.model, run.data.loaders[split], run.predictor.device)
    return logits[torch.isin(rows, torch.from_numpy(_rows(data, split)))]


def _report(manifest: Manifest, data: Data, split: str, alone: dict[str, Answers], pairs: list[Answers], both: dict[str, Answers],
            fusion: str) -> Report:
    """The answers of all models -> the table, the verdict and the mistakes."""
    rows, scale, checked, chosen = _rows(data, split), _scale(data, manifest, split), _scale(data, manifest, "val"), both[fusion]
    averaged = Answers(AVERAGE, tuple(alone), average([a.logits for a in alone.values()], _there(data, split, alone), scale.prior),
                       average([a.validation for a in alone.values()], _there(data, "val", alone), scale.prior))
    every = [Answers(BLIND, (), scale.prior.expand(1, len(rows), -1)), *alone.values(), *pairs, *both.values(), averaged,
             Answers(f"additive part of all, {fusion}", tuple(alone), chosen.additive)]
    validation = {answers.name: checked.score(answers.validation) for answers in every if answers.validation is not None}
    verdict = judge({name: answers.logits for name, answers in alone.items()}, chosen.logits, averaged.logits, chosen.additive,
                    both[ADDITIVE].logits, scale, validation, (chosen.name, AVERAGE))
    classes = data.preprocessing.target.classes
    return Report(verdict, [_row(answers, scale, alone[verdict.best], validation) for answers in every],
                  {sense: scale.score(logits) for sense, logits in chosen.shuffled.items()},
                  _notes(verdict, scale, {answers.name: answers for answers in every}, chosen, both, validation, classes, split), classes,
                  [manifest.rows[row] for row in rows], scale.target, every, chosen.name,
                  _mistakes(manifest, rows, chosen, scale.target, classes))


def _notes(verdict: Verdict, scale: Scale, every: dict[str, Answers], chosen: Answers, both: dict[str, Answers],
           validation: dict[str, float], classes: list[str], split: str) -> list[str]:
    """What stands beside the verdict, in words."""
    other = next(answers for answers in both.values() if answers is not chosen)
    fusion, best, rival = every[verdict.fusion], every[verdict.best], every[chosen.name if verdict.fusion == AVERAGE else AVERAGE]
    loss = gap(scale.losses(fusion.logits), scale.losses(best.logits), scale.groups)
    notes = [f"Compared on {len(scale.target):,} {split} rows, {len(chosen.logits)} seeds, by {verdict.score}"
             f"{'' if verdict.score == 'accuracy' else ', as some classes have far more training rows than others: each class counts alike'}"
             f". On validation rows the best fusion was {fusion.name!r}, {validation[fusion.name]:.3f} ({rival.name!r} "
             f"{validation[rival.name]:.3f}), and the best model of all modalities {chosen.name!r}, {validation[chosen.name]:.3f} "
             f"({other.name!r} {validation[other.name]:.3f}); on the rows compared that other is "
             f"{scale.gain(other.logits, chosen.logits)} points from it.",
             f"Log loss, lower is better: {fusion.name!r} is {loss.points / 100:+.3f} ± {loss.error / 100:.3f} from {best.name!r}.",
             f"The additive part (EMAP): each sense of each sample with {chosen.combinations:,} combinations of the other senses."]
    if verdict.kind != "helps" and (missed := scale.gain(rival.logits, best.logits)).clear:
        notes.append(f"Not chosen on validation rows, yet better on the rows compared: {rival.name!r}, {missed} points over {best.name!r}.")
    few = {classes[k]: count for k, count in enumerate(scale.target.bincount(minlength=len(classes)).tolist()) if 0 < count < FEW}
    if verdict.score != "accuracy" and few:
        notes.append("Few rows to compare on, so balanced accuracy depends on each single one: "
                     f"{', '.join(f'{name} {count}' for name, count in few.items())}.")
    if split == "val":
        notes.append("There are no test rows: the validation rows also chose among the models, so all scores are a little too good.")
    if len(chosen.logits) == 1:
        notes.append("One seed: how much the scores vary from training to training is not known, so every ± is too small.")
    return notes


def _row(answers: Answers, scale: Scale, best: Answers, validation: dict[str, float]) -> dict[str, Any]:
    """The scores of one kind of model: means over seeds, the deviation between them, and the gain over the best single modality."""
    scores = {key: float(np.mean([getattr(metrics, key)(one, scale.target) for one in answers.logits])) for key in SCORES}
    balanced = float(np.mean([metrics.balanced_accuracy(scale.answers(one), scale.target) for one in answers.logits]))
    by_seed = [scale.score(one[None]) for one in answers.logits]
    return {"model": answers.name, "senses": list(answers.senses), **scores, "balanced_accuracy": balanced,
            "spread": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0, "scores": by_seed,
            "validation": validation.get(answers.name),
            "gain": None if answers.name in (best.name, BLIND) else scale.gain(answers.logits, best.logits)._asdict()}


def _mistakes(manifest: Manifest, rows: np.ndarray, chosen: Answers, target: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    """The rows that the seeds together, their probabilities averaged, get most surely wrong."""
    sure, given = chosen.logits.double().softmax(dim=-1).mean(dim=0).max(dim=-1)                                     # (N,), (N,)
    order = [i for i in sure.argsort(descending=True).tolist() if given[i] != target[i]]
    return [{"row": manifest.rows[rows[i]], "true": classes[target[i]], "given": classes[given[i]], "probability": float(sure[i]),
             "senses": {name: (sense.kind, str(resolve(manifest, cell)) if sense.kind != "text" else cell)
                        for name, sense in manifest.senses.items() if (cell := manifest.cells[name][rows[i]])}} for i in order[:MISTAKES]]
