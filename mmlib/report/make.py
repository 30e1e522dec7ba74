"""Does fusion help? Each modality, pairs and all, trained alike, compared on the same rows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from mmlib import metrics
from mmlib.data import Data, Manifest, load_data, read_manifest
from mmlib.recipes.plan import LEAST_EPOCHS, affordable, minutes, multiplications
from mmlib.recipes.recipe import Recipe
from mmlib.recipes.train import Run, train
from mmlib.report.measure import average, encode, project, shuffle, still_improving
from mmlib.report.result import AVERAGE, Answers, Report, conclude
from mmlib.report.verdict import Scale, worth_it
from mmlib.train.evaluate import collect

# Measured on 420 training rows of the pets with captions and voices in exclusive-or: after 12
# epochs "lowrank" is right on 1.00 of the test
# rows, "concat" on 0.54 to 0.84. With modalities hidden in training it learns late (modality_dropout=0.2: 0.89,
# 0.96) or not at all (0.5: 0.56, 0.58):
# most samples then lack one side of the exclusive-or, and their labels are pure noise. So the model
# that may interact hides none.
ADDITIVE, INTERACTING = "sum", "lowrank"


def make_report(recipe: Recipe, seeds: Sequence[int] = (0, 1, 2)) -> Report:
    """Train each modality alone, all pairs and all together, with each seed, and compare them on
    the test rows (val where there is no test).

    ``recipe`` says how each of them is trained; ``out``, ``resume`` and ``seed`` are not used.
    ``budget`` 0.2 is enough to compare with. All together is trained twice: with the fusion "sum",
    which under a linear head can only add up, and with one that can interact (``recipe.fusion``, or
    "lowrank" where that is "sum"). That one counts, and makes the pairs, where it is better on
    validation rows by more than a standard error (``report_verdict.worth_it``), else the sum does.
    The answers of the modalities trained alone are also averaged, which is a fusion too.
    ``report_verdict.judge`` says how the verdict is reached. Raises ValueError for numbers as
    target, fewer than two modalities, no seed, and whatever ``train`` raises.
    """
    started = time.perf_counter()
    if not len(seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}, expected one or more, each once")
    manifest = read_manifest(
        recipe.manifest,
        recipe.target,
        recipe.columns,
        recipe.group,
        recipe.use,
        recipe.allow_outside,
    )
    names = tuple(sorted(manifest.modalities))
    if len(names) < 2:
        raise ValueError(
            f"{manifest.name}: the only modality is {names[0]!r}; a report compares two or more, "
            "so there is nothing to fuse"
        )
    data = load_data(manifest, augment=None, task=recipe.task, on_error=recipe.on_error)
    split = _check(data, manifest)
    pairs = [pair for pair in combinations(names, 2) if len(pair) < len(names)]
    fusions = (ADDITIVE, INTERACTING if recipe.fusion == ADDITIVE else recipe.fusion)
    total = (len(names) + 2 + len(pairs)) * len(seeds)
    length = Length(recipe, data, [*((name,) for name in names), *pairs, names, names])
    recipe.log("\n".join(data.summary))
    recipe.log(
        f"plan: {total} trainings ({len(names)} modalities alone, {len(pairs)} pairs, all "
        f"together with two fusions; seeds {', '.join(map(str, seeds))}), "
        f"{length.words(len(seeds))}"
    )
    count = iter(range(1, total + 1))

    def answers(modalities: tuple[str, ...], fusion: str, name: str) -> Answers:
        return _train(
            recipe,
            modalities,
            fusion,
            name,
            seeds,
            split,
            data,
            lambda line: recipe.log(f"{next(count)}/{total} {line}"),
        )

    alone = [answers((name,), ADDITIVE, name) for name in names]
    summed, other = (answers(names, fusion, f"all, {fusion}") for fusion in fusions)
    checked, scale = _scale(data, manifest, "val"), _scale(data, manifest, split)
    simple, rich = (checked.rows(model.validation) for model in (summed, other))
    richer = worth_it(simple, rich, checked.groups)
    paired = [answers(pair, fusions[richer], " + ".join(pair)) for pair in pairs]
    recipe.log(f"{total} trainings in {(time.perf_counter() - started) / 60:.1f} minutes")
    report = conclude(
        alone,
        paired,
        summed,
        other,
        other if richer else summed,
        _averaged(alone, data, split, scale.prior),
        scale,
        checked,
        data.preprocessing.target.classes,
        manifest,
        _rows(data, split),
        split,
    )
    notes = too_short(length, [*alone, *paired, summed, other], scale)
    if split == "val":
        notes.append(
            "There are no test rows: the validation rows also chose among the models, so "
            "all scores are a little too good."
        )
    return replace(report, notes=notes + report.notes)


class Length:
    """How long trainings are, each of some modalities, by the arithmetic of ``plan``."""

    def __init__(self, recipe: Recipe, data: Data, trainings: list[tuple[str, ...]]):
        self.trainings, self.budget = trainings, None if recipe.epochs else recipe.budget
        self.option = "--epochs" if recipe.epochs else "--budget"  # what makes them longer
        rows = max(1, data.loaders["train"].samples)
        cost = {
            name: rows * multiplications(data, name, recipe.dim)
            for name in data.preprocessing.modalities
        }
        self.work = {names: sum(cost[name] for name in names) for names in trainings}  # an epoch
        self.epochs = {
            names: recipe.epochs or affordable(work, recipe.budget)
            for names, work in self.work.items()
        }

    @property
    def floored(self) -> str:
        """In words: the trainings for which the budget pays less than the least epochs."""
        if self.budget is None:
            return ""
        return ", ".join(
            " + ".join(names)
            for names, work in self.work.items()
            if minutes(LEAST_EPOCHS * work) > 3 * self.budget
        )

    def words(self, seeds: int) -> str:
        """Epochs and minutes of all trainings with so many seeds."""
        least, most = min(self.epochs.values()), max(self.epochs.values())
        each = f"{least} epochs" if least == most else f"{least} to {most} epochs"
        total = sum(minutes(self.epochs[names] * self.work[names]) for names in self.trainings)
        floor = (
            f" (at least {LEAST_EPOCHS}, which overrules the budget for {self.floored})"
            if self.floored
            else ""
        )
        return (
            f"{each} each{floor}: about {seeds * total:.2g} minutes of one core in all, "
            "beside the reading of files"
        )


def too_short(length: Length, trained: list[Answers], scale: Scale) -> list[str]:
    """In words: a budget that is too small, trainings that learned nothing or ended too soon."""
    notes = []
    if length.floored:
        notes.append(
            f"The budget pays for fewer than {LEAST_EPOCHS} epochs of {length.floored}. "
            f"They were trained for {LEAST_EPOCHS}, which may be too few to say anything: "
            "raise --budget."
        )
    for answers in trained:
        seeds = len(answers.logits)
        if failed := sum(not scale.learned(one[None]) for one in answers.logits):
            unless = ", unless it holds no evidence by itself" if failed == seeds else ""
            notes.append(
                f"{answers.name} learned nothing in {failed} of {seeds} seeds: "
                f"raise {length.option}{unless}."
            )
    unfinished = [
        f"{answers.name} ({answers.unfinished} of {len(answers.logits)} seeds)"
        for answers in trained
        if answers.unfinished
    ]
    if unfinished:
        notes.append(
            f"Still improving when the training ended: {', '.join(unfinished)}. "
            f"Raise {length.option}."
        )
    return notes


def _check(data: Data, manifest: Manifest) -> str:
    """The split to compare on; ValueError where nothing can be compared."""
    if data.counts is None:
        raise ValueError(
            f"{manifest.name}: the target {manifest.target_name!r} holds numbers; a report "
            "compares classifiers: name a "
            "column of classes, or ask for classes by task='classes' (--task classes)"
        )
    if "val" not in data.loaders:
        raise ValueError(
            f"{manifest.name} has too few rows: none are left for validation, on which a report "
            "chooses"
        )
    split = "test" if "test" in data.loaders else "val"
    there = {manifest.target[row] for row in data.loaders[split].batches.rows}
    if len(there) < 2:
        raise ValueError(
            f"{manifest.name}: all {split} rows are of class {there.pop()!r}; put rows of every "
            "class there"
        )
    return split


def _train(
    recipe: Recipe,
    modalities: tuple[str, ...],
    fusion: str,
    name: str,
    seeds: Sequence[int],
    split: str,
    data: Data,
    log: Callable[[str], None],
) -> Answers:
    """One kind of model, with every seed, on the rows of ``split`` that ``data`` has; of all
    modalities, also its parts.
    """
    augment = (
        recipe.augment if fusion == ADDITIVE else replace(recipe.augment, modality_dropout=0.0)
    )
    logits, validation, additive, shuffled = [], [], [], {modality: [] for modality in modalities}
    checked = data.loaders["val"].batches.target[_rows(data, "val")]
    combinations = unfinished = 0
    for seed in seeds:
        run = train(
            replace(
                recipe,
                use=modalities,
                fusion=fusion,
                seed=seed,
                augment=augment,
                task="classes",
                out=None,
                resume=False,
                log=lambda line: None,
                progress=False,  # a line a training is enough
            )
        )
        model, loader = run.predictor.model, run.data.loaders[split]
        logits.append(_logits(run, split, data))
        validation.append(_logits(run, "val", data))
        unfinished += still_improving(run.history)
        if len(modalities) == len(data.preprocessing.modalities):
            encoded = encode(model, loader)
            part, combinations = project(model, encoded, seed)
            additive.append(part)
            for modality in modalities:
                shuffled[modality].append(shuffle(model, encoded, modality, seed))
        log(
            f"{name}, seed {seed}: validation "
            f"accuracy {metrics.accuracy(validation[-1], checked):.3f}, "
            f"log loss {metrics.log_loss(validation[-1], checked):.3f}, "
            f"{run.metrics['seconds']:.0f} s"
        )
    return Answers(
        name,
        modalities,
        torch.stack(logits),
        torch.stack(validation),
        torch.stack(additive) if additive else None,
        combinations,
        {modality: torch.cat(found) for modality, found in shuffled.items() if found},
        unfinished,
    )


def _rows(data: Data, split: str) -> np.ndarray:
    """The manifest rows of a split, each once."""
    return np.unique(data.loaders[split].batches.rows)


def _scale(data: Data, manifest: Manifest, split: str) -> Scale:
    """How answers to the rows of a split are scored; a row without a group is its own."""
    rows, counts, groups = _rows(data, split), torch.tensor(data.counts).double(), None
    if manifest.group is not None:
        groups = np.array([manifest.group[row] or f"\0{row}" for row in rows])
    prior = (counts / counts.sum()).log().float()
    return Scale(data.loaders[split].batches.target[rows], prior, groups)


def _averaged(alone: list[Answers], data: Data, split: str, prior: Tensor) -> Answers:
    """The answers of the models of one modality, averaged over the modalities that a row has."""
    names = [answers.name for answers in alone]

    def there(part: str) -> Tensor:  # (M, N)
        stores, rows = data.loaders[part].batches.stores, _rows(data, part)
        return torch.from_numpy(np.stack([stores[name].row_present(rows) for name in names]))

    return Answers(
        AVERAGE,
        tuple(names),
        average([answers.logits for answers in alone], there(split), prior),
        average([answers.validation for answers in alone], there("val"), prior),
    )


def _logits(run: Run, split: str, data: Data) -> Tensor:
    """Logits (N, K) of the rows that all models have: one with a broken file may be skipped
    where that modality is used, not elsewhere.
    """
    logits, _, rows = collect(run.predictor.model, run.data.loaders[split], run.predictor.device)
    return logits[torch.isin(rows, torch.from_numpy(_rows(data, split)))]
