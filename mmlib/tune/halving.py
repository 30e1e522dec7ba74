"""Successive halving: a search over fusion, size, learning rate, dropout and modality dropout.

Settings are judged on the val rows, never on the test rows. Successive halving (Jamieson &
Talwalkar, 2016) runs here in the form without rounds (ASHA: Li et al., 2020, arXiv:1810.05934), by
optuna: after a quarter and after half of its epochs, a trial goes on only if it is in the better
half of all trials that came as far. So a search takes about half the time of all its trials. TPE
chooses what is tried next.

A trial has the schedule of a whole training from the start: one that is not stopped is exactly what
``train`` makes of its settings. The price: unfinished models are compared, and settings that start
slowly may be stopped unjustly. A short schedule of its own for each round would be fairer to them,
and would take longer.
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

# one fusion of each kind: they add up, mix, choose, multiply, and read tokens
TRIED = ("sum", "concat", "gated", "lowrank", "join")
DIMS, LR, DROPOUT, MODALITY_DROPOUT = (32, 64, 128), (5e-4, 1e-2), (0.0, 0.5), (0.0, 0.25, 0.5)
HALF = 2  # one trial in so many goes on
BEST = "best"  # the folder in ``out`` for a training with the best settings


def search(recipe: Recipe, trials: int = 20, *, out: str | Path, resume: bool = False) -> Search:
    """Train with up to ``trials`` settings, the recipe's own first, and rank them by val loss.

    Each trial is trained as ``recipe`` says (``budget`` 0.3 is enough to compare with), apart from
    fusion, dim, lr, dropout and ``augment.modality_dropout``. The recipe's ``out`` and ``resume``
    are not used. Test rows are dropped before anything is read, so neither their cells nor their
    files can matter. If there are no val rows, the same part of train is taken as in ``train``.
    The val loss of a trial is that of its best epoch, which ``train`` would choose.

    ``out`` then holds trials.jsonl and leaderboard.csv, replaced atomically after every trial.
    ``resume`` goes on with the search there: a trial that was interrupted begins again. Every
    choice is drawn from ``recipe.seed`` and the trials before it, so on the same machine the
    result is that of a search never stopped, apart from the seconds. ``trials`` may then be more
    than before.

    Needs optuna. Raises ImportError without it; ValueError for wrong arguments, for another search
    in ``out``, and for what is wrong with the data or with the recipe itself. Other settings that
    fail (a loss that is not finite) are listed as failed.

    >>> import pandas, tempfile
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> rows = pandas.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    >>> recipe = Recipe(rows, epochs=2, device="cpu", log=lambda line: None)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = search(recipe, trials=2, out=folder + "/search")
    >>> len(found.trials), found.rows[0]["rank"], found.best.epochs
    (2, 1, 2)
    >>> found.trials[0].settings.keys()
    dict_keys(['fusion', 'dim', 'lr', 'dropout', 'modality_dropout'])
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
        # how each finished trial was trained
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
    """The rows of train and val only, in the splits that ``load_data`` would choose.

    Raises ValueError if one of the two has no rows.
    """
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
    """What is searched: wide enough to include the recipe's own settings.

    With a single modality there is nothing to fuse and nothing to drop.
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
    """A study made of the trials that are done.

    It knows nothing else, so it does not matter whether the search was interrupted.
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
    """The number of epochs after which a trial is first compared with the others."""
    return math.ceil(epochs / HALF**2)


def _states(optuna: Any) -> dict[str, Any]:
    states = optuna.trial.TrialState
    return {DONE: states.COMPLETE, STOPPED: states.PRUNED, FAILED: states.FAIL}


def _run(
    optuna: Any, study: Any, space: dict[str, Any], recipe: Recipe, data: Data, epochs: int
) -> Trial:
    """One trial: ask the study for settings, train with them, and report the result to it."""
    asked, began = study.ask(space), time.perf_counter()
    chosen = _own(recipe)
    if asked.number:
        chosen = {name: _rounded(asked.params[name], part) for name, part in space.items()}
    state, reason, rows = _train(asked, with_settings(recipe, chosen), data, epochs)
    best = min(rows, key=lambda row: row["val_loss"], default={})
    scores = {name.removeprefix("val_"): x for name, x in best.items() if name.startswith("val_")}
    loss = scores.pop("loss", None)
    study.tell(asked, loss if state == DONE else None, _states(optuna)[state])
    return Trial(
        number=asked.number,
        state=state,
        settings=chosen,
        loss=loss,
        scores=scores,
        epochs=len(rows),
        seconds=round(time.perf_counter() - began, 1),
        losses=[row["val_loss"] for row in rows],
        reason=reason,
        marks=study.trials[-1].system_attrs,
    )


def _train(
    asked: Any, recipe: Recipe, data: Data, epochs: int
) -> tuple[str, str, list[dict[str, Any]]]:
    """Train as the recipe says, for as long as successive halving lets it.

    Returns the state of the trial, the reason where it failed, and the rows of its epochs.
    """
    spec, state, rows = recipe.plan(data), DONE, []
    config = replace(settings(recipe, epochs), progress=False, tensorboard=False)
    train, val = _augmented(data.loaders["train"], recipe.augment), data.loaders["val"]

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
        fit(build(spec), train, val, config, SCORES[spec["task"]], after_epoch=give_up)
    except (ValueError, torch.OutOfMemoryError) as error:
        if not asked.number:  # the recipe's own settings: the recipe or the data is at fault
            raise
        return FAILED, str(error), rows
    return state, "", rows


def _rounded(value: Any, part: Any) -> Any:
    """A number from a range is rounded to three digits, so that it can be typed."""
    return min(max(float(f"{value:.3g}"), part.low), part.high) if hasattr(part, "low") else value


def _augmented(loader: Loader, augment: Augment) -> Loader:
    """The same rows under another augmentation."""
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
    """What must be as it was for a search to go on."""
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
        f"{each:.2g} minutes of one core with the recipe's own settings, without the reading of "
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
    """optuna, which prints nothing but warnings inside this block."""
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
