"""The leaderboard of a search: its trials, ranked, printed, written and read back."""

import csv
import io
import json
import math
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmlib.files import as_json, write_atomically
from mmlib.recipes.predictor import BATCH
from mmlib.recipes.recipe import Recipe
from mmlib.text_table import aligned
from mmlib.train.content import finite, misfit, optional, plain, whole
from mmlib.train.older import renewed_search

DONE, STOPPED, FAILED = "done", "stopped", "failed"
TRIALS, LEADERBOARD = "trials.jsonl", "leaderboard.csv"
# options of the command ``train`` that stand in the line to train with, unless they are the default
OPTIONS = (
    "group",
    "task",
    "seed",
    "on_error",
    "allow_outside",
    "device",
    "precision",
    "distributed",
    "tensorboard",
    "batch_size",
    "start",
)


@dataclass(frozen=True)
class Trial:
    """One attempt: its settings, and what came of them.

    ``epochs`` were trained; ``loss`` is the best val loss among them, and ``scores`` are those of
    that epoch. ``number`` counts from 0, as in optuna; the screen and the leaderboard count from 1.

    >>> trial = Trial(0, "done", {"lr": 0.001}, 0.3, {"accuracy": 0.9}, 2, 8.5, [0.4, 0.3])
    >>> trial.loss == min(trial.losses)
    True
    """

    number: int
    state: str  # "done", "stopped" by successive halving, "failed" with a reason
    settings: dict[str, Any]  # fusion, dim, lr, dropout, modality_dropout
    loss: float | None
    scores: dict[str, float]
    epochs: int
    seconds: float
    losses: list[float]  # val loss after each epoch
    reason: str = ""
    marks: dict[str, Any] | None = None  # what optuna itself notes about the trial


@dataclass(frozen=True)
class Search:
    """What ``search`` returns: ``trials``, the best first, and the recipe with the best settings.

    ``best`` trains as that trial was trained, for the same number of epochs, whatever the budget
    is. Its ``out`` is the folder "best" in the folder of the search.

    >>> trial = Trial(0, "done", {"lr": 0.001}, 0.3, {"accuracy": 0.9}, 2, 8.5, [0.4, 0.3])
    >>> found = Search([trial], Recipe("manifest.csv", epochs=2, lr=0.001))
    >>> found.rows[0]["rank"], found.rows[0]["lr"], found.best.lr
    (1, 0.001, 0.001)
    """

    trials: list[Trial]
    best: Recipe

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The leaderboard: rank, state, val_loss, scores, epochs, settings, seconds and number.

        Only finished trials have a rank. A stopped one has the val loss of a shorter training,
        which cannot be compared with theirs.
        """
        return [
            {
                "rank": place if trial.state == DONE else None,
                "state": trial.state,
                "val_loss": trial.loss,
            }
            | {f"val_{name}": value for name, value in trial.scores.items()}
            | {"epochs": trial.epochs}
            | trial.settings
            | {"seconds": trial.seconds, "trial": trial.number + 1}
            for place, trial in enumerate(self.trials, 1)
        ]

    @property
    def command(self) -> str:
        """The command line that trains with the best settings.

        It leaves out what only Python can say (a DataFrame, your own augmentation): in that case
        train ``best`` itself.
        """
        recipe, usual = self.best, Recipe("")
        source = str(recipe.manifest) if isinstance(recipe.manifest, str | Path) else "MANIFEST.csv"
        words = ["python", "-m", "mmlib", "train", source, "--target", str(recipe.target)]
        words += [word for kind, column in recipe.columns.items() for word in (f"--{kind}", column)]
        said = {
            "use": ",".join(recipe.use or ()),
            "epochs": recipe.epochs,
            "out": recipe.out,
        } | self.trials[0].settings
        for name in OPTIONS:
            if (value := getattr(recipe, name)) != getattr(usual, name):
                said[name] = value
        for name, value in said.items():
            if value not in (None, ""):
                words += [f"--{name.replace('_', '-')}"] + [str(value)] * (value is not True)
        return shlex.join(words)

    def __str__(self) -> str:
        """The leaderboard as aligned text."""
        rows = self.rows
        cells = [list(rows[0]), *[[_short(row.get(name)) for name in rows[0]] for row in rows]]
        return "\n".join(map("  ".join, aligned(cells)))


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rank(recipe: Recipe, done: list[Trial]) -> Search:
    """The finished trials first, by val loss; then the stopped ones that came furthest.

    Failed trials stand last. ``recipe`` is the one that the trials were trained with.
    """
    order = sorted(
        done,
        key=lambda trial: (
            (DONE, STOPPED, FAILED).index(trial.state),
            -trial.epochs if trial.state != DONE else 0,
            math.inf if trial.loss is None else trial.loss,
            trial.number,
        ),
    )
    return Search(order, with_settings(recipe, order[0].settings))


def with_settings(recipe: Recipe, chosen: dict[str, Any]) -> Recipe:
    """The recipe with these settings in place of its own."""
    rest = {name: value for name, value in chosen.items() if name != "modality_dropout"}
    return replace(
        recipe, augment=replace(recipe.augment, modality_dropout=chosen["modality_dropout"]), **rest
    )


def _state(value: Any) -> bool:
    """'done', 'stopped' or 'failed'"""
    return value in (DONE, STOPPED, FAILED)


def _marks(value: Any) -> bool:
    """plain data by name, or nothing"""
    return value is None or (isinstance(value, dict) and plain(value))


def _misfit(trial: Any, number: int) -> str | None:
    """Why a line of trials.jsonl is not the trial of this number, in words; None if it is."""
    found = misfit(
        trial,
        {
            "number": whole,
            "state": _state,
            "loss": optional,
            "scores": {str: optional},
            "epochs": whole,
            "seconds": finite,
            "losses": [finite],
            "reason": str,
            "marks": _marks,
            "settings": {
                "fusion": str,
                "dim": whole,
                "lr": finite,
                "dropout": finite,
                "modality_dropout": finite,
            },
        },
        f"line {number + 2}",
    )
    if found:
        return found
    if trial["number"] != number or (trial["state"] == DONE and trial["loss"] is None):
        return f"line {number + 2} is not trial {number}, with a loss where it is done"
    return None


def read(out: Path, identity: dict[str, Any]) -> list[Trial]:
    """The trials of the search in ``out``; an empty list if there is no search.

    A search of version 0.1 is read too. Raises ValueError if it is another search, or damaged.
    """
    path = out / TRIALS
    if not path.is_file():
        return []
    try:
        before, *trials = [
            renewed_search(json.loads(line))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, or no search of this version: {error}; choose another folder"
        ) from error
    found = misfit(before, {str: object}, "line 1") or next(
        (words for i, trial in enumerate(trials) if (words := _misfit(trial, i))), None
    )
    if found:
        raise ValueError(
            f"{path} is damaged, or no search of this version: {found}; choose another folder"
        )
    done = [Trial(**trial) for trial in trials]
    before = {"batch_size": BATCH} | before  # the only batch size of the first searches
    for name, now in identity.items():
        if before.get(name) != json.loads(json.dumps(now)):
            raise ValueError(
                f"cannot go on with the search in {out}: {name} was {before.get(name)} and is now "
                f"{now}; give what it was, or another folder"
            )
    return done


def write(out: Path, identity: dict[str, Any], done: list[Trial], found: Search) -> None:
    """Write trials.jsonl and leaderboard.csv in ``out``; each replaces the old file as a whole."""
    lines = "".join(as_json(part) + "\n" for part in [identity, *map(asdict, done)])
    write_atomically(out / TRIALS, lambda file: file.write(lines.encode()))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(found.rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.rows)
    write_atomically(out / LEADERBOARD, lambda file: file.write(table.getvalue().encode()))
