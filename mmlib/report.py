"""Does fusion help? Every sense alone, pairs and all together, trained alike and compared on the same rows; and a verdict in words."""
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
from mmlib.data import Data, Manifest, load_data, read_manifest
from mmlib.data.manifest import resolve
from mmlib.recipes import Recipe, Run, train
from mmlib.report_measure import encode, project, shuffle
from mmlib.report_verdict import Verdict, gap, judge, worth_it
from mmlib.train import collect

# Measured on 420 training rows of the pets with captions and voices in exclusive-or: after 12 epochs "lowrank" is right on 1.00 of the test
# rows, "concat" on 0.54 to 0.84. With senses hidden in training it learns late (hide=0.2: 0.89, 0.96) or not at all (0.5: 0.56, 0.58):
# most samples then lack one side of the exclusive-or, and their labels are pure noise. So the model that may interact hides none.
ADDITIVE, INTERACTING = "sum", "lowrank"
MISTAKES = 12


@dataclass(frozen=True)
class Answers:
    """What one kind of model answered, trained with S seeds."""

    name: str
    senses: tuple[str, ...]
    logits: Tensor                                             # (S, N, K) of the rows compared
    checked: Tensor | None = None                              # (S, rows) which validation rows are right
    additive: Tensor | None = None                             # (S, N, K) the additive part, of models of all senses,
    combinations: int = 0                                      # from so many combinations
    shuffled: dict[str, Tensor] = field(default_factory=dict)  # by sense: (S * SHUFFLES, N, K) when it comes from another sample

    @property
    def validation(self) -> float | None:
        """Mean validation accuracy."""
        return None if self.checked is None else float(self.checked.double().mean())


@dataclass(frozen=True)
class Report:
    """What ``make_report`` returns: the verdict, a row per model, and what stands behind them."""

    verdict: Verdict
    table: list[dict[str, Any]]        # model, senses, accuracy, macro_f1, auroc, calibration_error (means), spread, accuracies, validation
    shuffled: dict[str, float]         # accuracy of the model of all senses when this sense comes from another sample
    notes: list[str]
    classes: list[str]
    target: Tensor                     # (N,) of the rows compared
    answers: list[Answers]
    chosen: str                        # the name of the model of all senses that the verdict is about
    mistakes: list[dict[str, Any]]     # row, true, given, probability, senses: name -> (kind, path or words)

    def __str__(self) -> str:
        lines = [f"{'':38}accuracy  spread  macro-F1   AUROC  calibration error"]
        for row in self.table:
            lines.append(f"{row['model']:38}{row['accuracy']:8.3f}{row['spread']:8.3f}{row['macro_f1']:10.3f}{row['auroc']:8.3f}"
                         f"{row['calibration_error']:10.3f}")
        lines += [f"{f'all, {sense} of another sample':38}{value:8.3f}" for sense, value in self.shuffled.items()]
        return "\n".join([*lines, "", *self.notes, "", self.verdict.text])

    def write(self, folder: str | Path) -> Path:
        """Write report.html, which needs nothing else, and report.json into ``folder``, each at once or not at all -> the page's path."""
        from mmlib.report_page import write
        return write(self, Path(folder))


def make_report(recipe: Recipe, seeds: Sequence[int] = (0, 1, 2)) -> Report:
    """Train each sense alone, all pairs and all together, with each seed, and compare them on the test rows (val where there is no test).

    ``recipe`` says how each of them is trained; ``out``, ``resume`` and ``seed`` are not used. ``budget`` 0.2 is enough to compare with.
    All together is trained twice: with the fusion "sum", which under a linear head can only add up, and with one that can interact
    (``recipe.fusion``, or "lowrank" where that is "sum"). That one counts, and makes the pairs, where it is better on validation rows by
    more than a standard error (``report_verdict.worth_it``), else the sum does. ``report_verdict.judge`` says how the verdict is reached.
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
    length = f"{recipe.epochs} epochs" if recipe.epochs else f"at most about {3 * recipe.budget:.2g} minutes of one core"
    recipe.log("\n".join(data.summary))
    recipe.log(f"plan: {total} trainings ({len(names)} senses alone, {len(pairs)} pairs, all together with two fusions; seeds "
               f"{', '.join(map(str, seeds))}), {length} each")
    count = iter(range(1, total + 1))

    def answers(senses: tuple[str, ...], fusion: str, name: str) -> Answers:
        return _train(recipe, senses, fusion, name, seeds, split, data, lambda line: recipe.log(f"{next(count)}/{total} {line}"))

    alone = {name: answers((name,), ADDITIVE, name) for name in names}
    other = INTERACTING if recipe.fusion == ADDITIVE else recipe.fusion
    both = {fusion: answers(names, fusion, f"all, {fusion}") for fusion in (ADDITIVE, other)}
    fusion = other if worth_it(both[ADDITIVE].checked, both[other].checked, _groups(data, manifest, "val")) else ADDITIVE
    paired = [answers(pair, fusion, " + ".join(pair)) for pair in pairs]
    recipe.log(f"{total} trainings in {(time.perf_counter() - started) / 60:.1f} minutes")
    return _report(manifest, data, split, alone, paired, both, fusion)


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
    logits, checked, additive, shuffled, combinations = [], [], [], {sense: [] for sense in senses}, 0
    for seed in seeds:
        run = train(replace(recipe, use=senses, fusion=fusion, seed=seed, augment=augment, task="classes", out=None, resume=False,
                            log=lambda line: None))
        model, loader = run.predictor.model, run.data.loaders[split]
        logits.append(_logits(run, split, data))
        checked.append(_logits(run, "val", data).argmax(dim=-1) == data.loaders["val"].batches.target[_rows(data, "val")])
        if len(senses) == len(data.preprocessing.senses):
            encoded = encode(model, loader)
            part, combinations = project(model, encoded, seed)
            additive.append(part)
            for sense in senses:
                shuffled[sense].append(shuffle(model, encoded, sense, seed))
        log(f"{name}, seed {seed}: validation accuracy {checked[-1].double().mean():.3f}, {run.metrics['seconds']:.0f} s")
    return Answers(name, senses, torch.stack(logits), torch.stack(checked), torch.stack(additive) if additive else None,
                   combinations, {sense: torch.cat(found) for sense, found in shuffled.items() if found})


def _rows(data: Data, split: str) -> np.ndarray:
    """The manifest rows of a split, each once."""
    return np.unique(data.loaders[split].batches.rows)


def _groups(data: Data, manifest: Manifest, split: str) -> np.ndarray | None:
    """The group of each row of a split; a row without one is its own."""
    return None if manifest.group is None else np.array([manifest.group[row] or f"\0{row}" for row in _rows(data, split)])


def _logits(run: Run, split: str, data: Data) -> Tensor:
    """Logits (N, K) of the rows that all models have: one with a broken file may be skipped where that sense is used, not elsewhere."""
    logits, _, rows = collect(run.predictor.model, run.data.loaders[split], run.predictor.device)
    return logits[torch.isin(rows, torch.from_numpy(_rows(data, split)))]


def _report(manifest: Manifest, data: Data, split: str, alone: dict[str, Answers], pairs: list[Answers], both: dict[str, Answers],
            fusion: str) -> Report:
    """The answers of all models -> the table, the verdict and the mistakes."""
    loader, rows, chosen = data.loaders[split], _rows(data, split), both[fusion]
    target, groups = loader.batches.target[rows], _groups(data, manifest, split)
    prior = torch.tensor(data.counts).double().log().float().expand(1, len(rows), -1)
    there = torch.from_numpy(np.stack([loader.batches.stores[name].row_present(rows) for name in alone]))             # (M, N)
    average = Answers("average of the senses' answers", tuple(alone), _average([a.logits for a in alone.values()], there, prior))
    every = [Answers("most frequent class", (), prior), *alone.values(), *pairs, *both.values(), average,
             Answers(f"additive part of all, {fusion}", tuple(alone), chosen.additive)]
    right = {answers.name: answers.logits.argmax(dim=-1) == target for answers in every}                              # (S, N) each
    verdict = judge({name: right[name] for name in alone}, right[chosen.name], right[every[-1].name], right[both[ADDITIVE].name],
                    right[every[0].name], {name: answers.validation for name, answers in alone.items()}, groups)
    shuffled = {sense: float((logits.argmax(dim=-1) == target).double().mean()) for sense, logits in chosen.shuffled.items()}
    other = next(answers for key, answers in both.items() if key != fusion)
    notes = [f"Compared on {len(rows):,} {split} rows, {len(chosen.logits)} seeds. All senses together means {chosen.name!r}, chosen on "
             f"validation rows ({chosen.validation:.3f}; {other.name!r} {other.validation:.3f}); on the rows compared the other is "
             f"{gap(right[other.name], right[chosen.name], groups)} points from it.",
             f"The additive part (EMAP): each sense of each sample with {chosen.combinations:,} combinations of the other senses."]
    if (better := gap(right[average.name], right[chosen.name], groups)).clear:
        notes.append(f"The senses trained alone, their answers averaged, do better than all trained together: {better} points.")
    if split == "val":
        notes.append("There are no test rows: the validation rows also chose among the models, so all scores are a little too good.")
    if len(chosen.logits) == 1:
        notes.append("One seed: how much the scores vary from training to training is not known, so every ± is too small.")
    return Report(verdict, [_row(answers, target) for answers in every], shuffled, notes, data.preprocessing.target.classes, target, every,
                  chosen.name, _mistakes(manifest, rows, chosen, target, data.preprocessing.target.classes))


def _average(logits: list[Tensor], there: Tensor, prior: Tensor) -> Tensor:
    """The senses' probabilities averaged, over those that are there: M of (S, N, K) and (M, N) -> log probabilities (S, N, K)."""
    weight = (there / there.sum(dim=0).clamp(min=1))[:, None, :, None]                                               # (M, 1, N, 1)
    mean = (torch.stack(logits).double().softmax(dim=-1) * weight).sum(dim=0)
    return torch.where(there.any(dim=0)[:, None], mean.clamp(min=1e-300).log(), prior.double().log_softmax(dim=-1)).float()


def _row(answers: Answers, target: Tensor) -> dict[str, Any]:
    """The scores of one kind of model: means over seeds, and the deviation of its accuracy between them."""
    scores = {key: [getattr(metrics, key)(one, target) for one in answers.logits]
              for key in ("accuracy", "macro_f1", "auroc", "calibration_error")}
    spread = float(np.std(scores["accuracy"], ddof=1)) if len(answers.logits) > 1 else 0.0
    return {"model": answers.name, "senses": list(answers.senses)} | {key: float(np.mean(values)) for key, values in scores.items()} | {
        "spread": spread, "accuracies": scores["accuracy"], "validation": answers.validation}


def _mistakes(manifest: Manifest, rows: np.ndarray, chosen: Answers, target: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    """The rows that the seeds together, their probabilities averaged, get most surely wrong."""
    sure, given = chosen.logits.double().softmax(dim=-1).mean(dim=0).max(dim=-1)                                     # (N,), (N,)
    order = [i for i in sure.argsort(descending=True).tolist() if given[i] != target[i]]
    return [{"row": manifest.rows[rows[i]], "true": classes[target[i]], "given": classes[given[i]], "probability": float(sure[i]),
             "senses": {name: (sense.kind, str(resolve(manifest, cell)) if sense.kind != "text" else cell)
                        for name, sense in manifest.senses.items() if (cell := manifest.cells[name][rows[i]])}} for i in order[:MISTAKES]]
