"""Which settings?

A search over fusion, size, learning rate, dropout and modality dropout, judged on the val rows,
never on test. Successive halving (Jamieson & Talwalkar, 2016), in the form that needs no rounds
(ASHA: Li et al., 2020, arXiv:1810.05934), by optuna: after a quarter and after half of its epochs a
trial goes on only where it is in the better half of all that came as far, so that a search takes
about half the time of all its trials. A trial has the schedule of a whole training from the start:
one that is not stopped is exactly what ``train`` makes of its settings. The price is that
unfinished models are compared, and settings that start slowly may be stopped unjustly; a short
schedule of its own for every round would be fairer there, and take longer. What is tried next is
chosen by TPE.
"""

import importlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmlib import recipes
from mmlib.data import Augment, Data, Loader, Manifest
from mmlib.data.splits import choose_splits
from mmlib.recipes.plan import build, minutes, work_of
from mmlib.recipes.predictor import SCORES
from mmlib.recipes.recipe import Recipe
from mmlib.recipes.train import settings
from mmlib.train import checkpoint, distributed
from mmlib.train.loop import fit
from mmlib.tune.board import (
    DONE,
    FAILED,
    STOPPED,
    TRIALS,
    Search,
    Trial,
    rank,
    read,
    with_settings,
    write,
)

# that add up, that mix, that choose, that multiply, that read tokens
TRIED = ("sum", "concat", "gated", "lowrank", "join")
DIMS, LR, DROPOUT, MODALITY_DROPOUT = (32, 64, 128), (5e-4, 1e-2), (0.0, 0.5), (0.0, 0.25, 0.5)
HALF = 2  # one in so many goes on
BEST = "best"  # the folder in ``out`` that the line to train with names


def search(recipe: Recipe, trials: int = 20, *, out: str | Path, resume: bool = False) -> Search:
    """Train with up to ``trials`` settings, the recipe's own first, and rank them by their val
    loss, by which ``train`` chooses its epoch.

    Each trial is trained as ``recipe`` says (``budget`` 0.3 is enough to compare with), apart from
    fusion, dim, lr, dropout and ``augment.modality_dropout``; its ``out`` and ``resume`` are not
    used. Test rows are dropped before anything is read: neither their cells nor their files can
    matter. Where there are no val rows, a part of train is taken, the same as in ``train``.

    ``out`` then holds trials.jsonl and leaderboard.csv, replaced atomically after every trial.
    ``resume`` goes on with the search there: the trial that was interrupted begins again, and as
    every choice is drawn from ``recipe.seed`` and the trials before it, the result is that of a
    search never stopped, on the same machine, apart from the seconds. More ``trials`` than before
    go on from there. Needs optuna. Raises ImportError without it, and ValueError for wrong
    arguments, another search in ``out``, and whatever is wrong with the data or with the recipe
    itself; other settings that fail (a loss that is not finite) are listed as failed.
    """
    if trials < 1:
        raise ValueError(f"trials is {trials}, expected 1 or more")
    if recipe.fusion not in recipes.FUSIONS:
        raise ValueError(f"fusion is {recipe.fusion!r}, expected one of {sorted(recipes.FUSIONS)}")
    if distributed.world() > 1:
        raise ValueError("a search runs in one process: start it without torchrun")
    if (Path(out) / TRIALS).exists() and not resume:
        raise ValueError(
            f"{out} already holds a search: go on with it (resume=True, --resume), or choose "
            "another folder"
        )
    with _quiet_optuna() as optuna, checkpoint.locked(out):
        if not (Path(out) / TRIALS).exists():
            checkpoint.check_free(out)
        manifest = without_test(recipe.read())
        data = recipe.load(manifest, ["train", "val"])
        epochs = recipe.epochs or recipe.plan(data)["epochs"]
        space = _space(optuna, recipe, len(manifest.modalities))
        identity = _identity(recipe, manifest, space, epochs)
        # what a finished trial was trained as
        asked = replace(recipe, epochs=epochs, out=Path(out) / BEST, resume=False)
        done = read(Path(out), identity)
        for line in data.summary + [_plan(recipe, trials, epochs, len(done), data)]:
            recipe.log(line)
        while len(done) < trials:
            study = _study(optuna, space, recipe, epochs, done)
            trial = _run(optuna, study, space, recipe, data, epochs)
            done.append(trial)
            found = rank(asked, done)
            write(Path(out), identity, done, found)
            recipe.log(_line(trial, trials, found))
    found = rank(asked, done)
    recipe.log(f"{found}\n\nto train with the best settings:\n  {found.command}")
    return found


def without_test(manifest: Manifest) -> Manifest:
    """The rows of train and val alone, in splits chosen as ``load_data`` would choose them."""
    names = choose_splits(manifest)
    kept = [row for row, name in enumerate(names) if name in ("train", "val")]
    missing = [name for name in ("train", "val") if name not in names]
    if missing:
        raise ValueError(
            f"{manifest.name} has no rows in split {missing[0]!r}: settings are compared on val "
            "rows, after training on train"
        )
    return replace(manifest, split=names).select(kept)


def _own(recipe: Recipe) -> dict[str, Any]:
    """The settings that the recipe itself has."""
    return {
        "fusion": recipe.fusion,
        "dim": recipe.dim,
        "lr": recipe.lr,
        "dropout": recipe.dropout,
        "modality_dropout": recipe.augment.modality_dropout,
    }


def _space(optuna: Any, recipe: Recipe, modalities: int) -> dict[str, Any]:
    """What is searched, wide enough to hold the recipe's own settings.

    With one modality there is nothing to fuse, and nothing to drop.
    """
    own, some = _own(recipe), optuna.distributions
    return {
        "fusion": some.CategoricalDistribution(
            sorted({*TRIED, own["fusion"]} if modalities > 1 else {own["fusion"]})
        ),
        "dim": some.CategoricalDistribution(sorted({*DIMS, own["dim"]})),
        "lr": some.FloatDistribution(min(LR[0], own["lr"]), max(LR[1], own["lr"]), log=True),
        "dropout": some.FloatDistribution(
            min(DROPOUT[0], own["dropout"]), max(DROPOUT[1], own["dropout"])
        ),
        "modality_dropout": some.CategoricalDistribution(
            sorted(
                {*MODALITY_DROPOUT, own["modality_dropout"]}
                if modalities > 1
                else {own["modality_dropout"]}
            )
        ),
    }


def _study(
    optuna: Any, space: dict[str, Any], recipe: Recipe, epochs: int, done: list[Trial]
) -> Any:
    """A study that knows what is done, and nothing else: so it cannot matter whether the search
    was interrupted.
    """
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=recipe.seed * 10_007 + len(done)),
        pruner=optuna.pruners.SuccessiveHalvingPruner(_rung(epochs), HALF),
    )
    if not done:
        study.enqueue_trial(_own(recipe))
    states = _states(optuna)
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(
                state=states[trial.state],
                value=trial.loss if trial.state == DONE else None,
                params=trial.settings,
                distributions=space,
                system_attrs=trial.marks,
                intermediate_values=dict(enumerate(trial.losses, 1)),
            )
        )
    return study


def _rung(epochs: int) -> int:
    """After so many epochs a trial is first compared with the others."""
    return math.ceil(epochs / HALF**2)


def _states(optuna: Any) -> dict[str, Any]:
    states = optuna.trial.TrialState
    return {DONE: states.COMPLETE, STOPPED: states.PRUNED, FAILED: states.FAIL}


def _run(
    optuna: Any, study: Any, space: dict[str, Any], recipe: Recipe, data: Data, epochs: int
) -> Trial:
    """Ask for settings, train with them, and report how it went."""
    asked, began, state, reason = study.ask(space), time.perf_counter(), DONE, ""
    chosen = _own(recipe)
    if asked.number:
        chosen = {name: _rounded(asked.params[name], part) for name, part in space.items()}
    tried = with_settings(recipe, chosen)
    spec, rows = tried.plan(data), []
    config = replace(settings(tried, epochs), progress=False, tensorboard=False)
    train, val = _changed(data.loaders["train"], tried.augment), data.loaders["val"]
    metrics = SCORES[spec["task"]]

    def give_up(row: dict[str, Any], model: nn.Module) -> bool:
        """After each epoch: does successive halving end this trial?"""
        nonlocal state
        rows.append(row)
        asked.report(row["val_loss"], row["epoch"])
        if row["epoch"] < epochs and asked.should_prune():
            state = STOPPED
        return state == STOPPED

    try:
        torch.manual_seed(recipe.seed)
        fit(build(spec), train, val, config, metrics, after_epoch=give_up)
    except (ValueError, torch.OutOfMemoryError) as error:
        if not asked.number:  # the recipe's own settings: it, or the data, is at fault
            raise
        state, reason = FAILED, str(error)
    best = min(rows, key=lambda row: row["val_loss"], default=None)
    loss = None if best is None else best["val_loss"]
    own = {} if best is None else best
    scores = {name: own[f"val_{name}"] for name in metrics if f"val_{name}" in own}
    study.tell(asked, loss if state == DONE else None, _states(optuna)[state])
    return Trial(
        asked.number,
        state,
        chosen,
        loss,
        scores,
        len(rows),
        round(time.perf_counter() - began, 1),
        [row["val_loss"] for row in rows],
        reason,
        study.trials[-1].system_attrs,
    )


def _rounded(value: Any, part: Any) -> Any:
    """A number between two others to three digits, so that it can be typed; anything else as it
    is.
    """
    return min(max(float(f"{value:.3g}"), part.low), part.high) if hasattr(part, "low") else value


def _changed(loader: Loader, augment: Augment) -> Loader:
    """The same rows, changed in another way."""
    parts = loader.batches
    return Loader(
        parts.preprocessing,
        parts.stores,
        parts.rows,
        parts.target,
        parts.batch_size,
        parts.seed,
        augment,
        loader.workers,
    )


def _identity(
    recipe: Recipe, manifest: Manifest, space: dict[str, Any], epochs: int
) -> dict[str, Any]:
    """What must be the same where a search goes on."""
    rows = {
        name: [row for row, split in enumerate(manifest.split or ()) if split == name]
        for name in ("train", "val")
    }
    return {
        "seed": recipe.seed,
        "epochs": epochs,
        "task": recipe.task,
        "precision": recipe.precision,
        "batch_size": recipe.batch_size,
        "own settings": _own(recipe),
        "augment": asdict(recipe.augment),
        "space": {name: str(part) for name, part in space.items()},
    } | {f"{name} rows": manifest.checksums(places) for name, places in rows.items()}


def _plan(recipe: Recipe, trials: int, epochs: int, done: int, data: Data) -> str:
    before = f" ({done} of them done before)" if done else ""
    rows = data.loaders["train"].samples
    each = minutes(epochs * work_of(data, recipe.dim))
    return (
        f"plan: {trials} trials{before} of up to {epochs} epochs over {rows:,} rows (about "
        f"{each:.2g} minutes of one core with the recipe's own settings, beside the reading of "
        f"files; {each * trials:.2g} for all of them, if none were stopped); the better half "
        f"goes on after {_rung(epochs)} and after {HALF * _rung(epochs)} epochs; the recipe's "
        "own settings come first"
    )


def _line(trial: Trial, trials: int, found: Search) -> str:
    words = ", ".join(f"{name} {value}" for name, value in trial.settings.items())
    result = trial.reason.partition("\n")[0] if trial.loss is None else f"val loss {trial.loss:.4g}"
    return (
        f"trial {trial.number + 1}/{trials}: {words}: {result}; {trial.state} after "
        f"{trial.epochs} epochs, {trial.seconds} s "
        f"(best: {found.trials[0].loss:.4g}, trial {found.trials[0].number + 1})"
    )


@contextmanager
def _quiet_optuna() -> Iterator[Any]:
    """optuna, saying nothing but warnings inside this block."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            "a search needs optuna, which is not installed: pip install 'mmlib[tune]' (or pip "
            "install optuna)"
        ) from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)
