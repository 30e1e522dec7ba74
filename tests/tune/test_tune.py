"""The search: a fair ranking by the val rows, which never reads the test rows.

The result is the same whether the search was interrupted or not.
"""

import csv
import json
import logging
import math
import shlex
import sys
from dataclasses import asdict, fields, replace

import pytest
import torch
from PIL import Image

from mmlib import Recipe, read_manifest, recipes
from mmlib.cli import train as cli_train
from mmlib.cli.main import parser
from mmlib.data.splits import choose_splits
from mmlib.recipes.plan import BUDGET, DIM
from mmlib.tune import board as tune_board
from mmlib.tune import halving
from mmlib.worlds import pets

optuna = pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """48 pets on disk, with the test rows last, few cats, and a column of numbers."""
    folder = tmp_path_factory.mktemp("pets")
    pets.write(pets.draw(48), folder)
    rows = read(folder / "manifest.csv")
    cats = [row for row in rows if row["label"] == "cat" and row["split"] == "train"]
    rows = [
        row | {"size": f"{10.5 + 2 * (row['label'] == 'cat') + i % 3}"}
        for i, row in enumerate(rows)
        if row not in cats[8:]
    ]
    write(folder / "manifest.csv", sorted(rows, key=lambda row: row["split"] == "test"))
    return folder


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def recipe_for(folder, **changes):
    return Recipe(
        folder / "manifest.csv",
        use=("image", "text"),
        epochs=3,
        device="cpu",
        log=lambda line: None,
        **changes,
    )


@pytest.fixture(scope="module")
def search(folder):
    """A search of five trials, never interrupted, and the lines it said."""
    lines = []
    return halving.search(
        replace(recipe_for(folder), log=lines.append), 5, out=folder / "search"
    ), lines


def without_seconds(trials):
    return [asdict(replace(trial, seconds=0.0)) for trial in trials]


def test_the_first_trial_is_the_recipe_itself_and_every_trial_lies_in_the_space(folder, search):
    found, _ = search
    trials, recipe = sorted(found.trials, key=lambda trial: trial.number), recipe_for(folder)
    assert [trial.number for trial in trials] == list(range(5))
    assert (
        trials[0].settings
        == {
            "fusion": recipe.fusion,
            "dim": recipe.dim,
            "lr": recipe.lr,
            "dropout": recipe.dropout,
            "modality_dropout": recipe.augment.modality_dropout,
        }
        and trials[0].state == "done"
    )
    for trial in trials:
        chosen = trial.settings
        assert (
            chosen["fusion"] in halving.TRIED
            and chosen["dim"] in halving.DIMS
            and chosen["modality_dropout"] in halving.MODALITY_DROPOUT
        )
        assert (
            halving.LR[0] <= chosen["lr"] <= halving.LR[1]
            and halving.DROPOUT[0] <= chosen["dropout"] <= halving.DROPOUT[1]
        )
    assert len({json.dumps(trial.settings) for trial in trials}) == 5


def test_the_leaderboard_ranks_finished_trials_by_val_loss_and_is_written_and_printed(
    folder, search
):
    found, lines = search
    rows = read(folder / "search" / "leaderboard.csv")
    assert [row["rank"] for row in rows] == [
        str(place) if t.state == "done" else "" for place, t in enumerate(found.trials, 1)
    ]
    assert [int(row["trial"]) for row in rows] == [t.number + 1 for t in found.trials]
    assert list(rows[0]) == [
        "rank",
        "state",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "val_macro_f1",
        "val_log_loss",
        "epochs",
        "fusion",
        "dim",
        "lr",
        "dropout",
        "modality_dropout",
        "seconds",
        "trial",
    ]
    for row, trial in zip(rows, found.trials, strict=True):
        assert float(row["val_loss"]) == trial.loss == min(trial.losses) and int(
            row["epochs"]
        ) == trial.epochs == len(trial.losses)
    done = [trial for trial in found.trials if trial.state == "done"]
    assert found.trials[: len(done)] == done and [t.loss for t in done] == sorted(
        t.loss for t in done
    )
    said = "\n".join(lines)
    assert (
        str(found) in said
        and found.command in said
        and said.index("plan: 5 trials") < said.index("trial 1/5")
    )


def test_a_trial_is_what_train_makes_of_its_settings_up_to_where_it_was_stopped(folder, search):
    found = search[0]
    other = next(
        trial
        for trial in found.trials
        if trial.settings["modality_dropout"] != found.trials[0].settings["modality_dropout"]
    )
    for trial in (found.trials[0], other):
        recipe = tune_board.with_settings(recipe_for(folder), trial.settings)
        assert trial is other or recipe == replace(found.best, log=recipe.log, out=None)
        losses = [row["val_loss"] for row in recipes.train(recipe).history]
        assert losses[: trial.epochs] == pytest.approx(trial.losses, abs=1e-5)


def test_numbers_are_searched_by_their_val_loss_too(folder, tmp_path):
    found = halving.search(recipe_for(folder, target="size"), 1, out=tmp_path)
    run = recipes.train(found.best)
    assert run.data.counts is None and set(found.trials[0].scores) == {"mean_absolute_error", "r2"}
    assert [row["val_loss"] for row in run.history] == pytest.approx(
        found.trials[0].losses, abs=1e-5
    )


@pytest.mark.parametrize("change", ["changed", "deleted"])
def test_test_rows_and_files_change_nothing_and_are_not_opened(
    folder, search, tmp_path, monkeypatch, change
):
    rows = read(folder / "manifest.csv")
    for row in rows:
        source, row["image"] = folder / row["image"], row["image"].replace("/", "-")
        if row["split"] == "test":
            (tmp_path / row["image"]).write_bytes(b"no image")
            row["text"], row["label"] = "something else", "horse"
            row["image"] = row["image"] if len(row["image"]) % 2 else "gone.png"
        else:
            (tmp_path / row["image"]).write_bytes(source.read_bytes())
    used = {row["image"] for row in rows if row["split"] != "test"}
    kept = (
        [row for row in rows if row["split"] != "test"]
        if change == "deleted"
        else [row for row in reversed(rows) if row["split"] == "test"]
        + [row for row in rows if row["split"] != "test"]
    )  # and they stand first now
    opened, really = set(), Image.open
    monkeypatch.setattr(
        Image,
        "open",
        lambda path, *rest, **options: (
            opened.add(str(path).split("/")[-1]) or really(path, *rest, **options)
        ),
    )
    write(tmp_path / "manifest.csv", kept)
    found = halving.search(recipe_for(tmp_path), 2, out=tmp_path / "search")
    first = sorted(search[0].trials, key=lambda trial: trial.number)[:2]
    assert without_seconds(sorted(found.trials, key=lambda trial: trial.number)) == without_seconds(
        first
    )
    assert opened == used


def test_without_split_or_val_the_val_rows_are_those_of_train(folder, tmp_path):
    rows = read(folder / "manifest.csv")
    for name, changed in {
        "none": [{k: v for k, v in row.items() if k != "split"} for row in rows],
        "no val": [row | {"split": row["split"].replace("val", "train")} for row in rows],
    }.items():
        manifest = read_manifest(write(tmp_path / f"{name}.csv", changed), root=folder)
        names = choose_splits(manifest)
        kept = halving.without_test(manifest)
        assert list(zip(kept.rows, kept.split, strict=True)) == [
            (row, split) for row, split in zip(manifest.rows, names, strict=True) if split != "test"
        ]
        assert {len(cells) for cells in kept.extra.values()} == {len(kept)}
        assert {"train", "val"} == set(kept.split) and choose_splits(kept) == kept.split
    only = read_manifest(
        write(tmp_path / "only.csv", [row | {"split": "val"} for row in rows]), root=folder
    )
    with pytest.raises(ValueError, match="no rows in split 'train'"):
        halving.without_test(only)


def test_killed_and_resumed_is_never_stopped(folder, search, tmp_path, monkeypatch):
    calls, real = [], halving.fit

    def killed(*arguments, after_epoch):
        def look(row, model):
            calls.append(1)
            if len(calls) == 5:  # within the second trial or the third
                raise KeyboardInterrupt
            return after_epoch(row, model)

        return real(*arguments, after_epoch=look)

    recipe = recipe_for(folder)
    with monkeypatch.context() as patch:
        patch.setattr(halving, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            halving.search(recipe, 5, out=tmp_path)
    begun = (tmp_path / "trials.jsonl").read_text().count("\n") - 1
    assert 1 <= begun < 5
    with pytest.raises(ValueError, match="already holds a search: go on with it .*--resume"):
        halving.search(recipe, 5, out=tmp_path)
    halving.search(recipe, 4, out=tmp_path, resume=True)
    found = halving.search(
        recipe, 5, out=tmp_path, resume=True
    )  # more trials than before go on from there
    assert without_seconds(found.trials) == without_seconds(search[0].trials)
    assert found.command.replace(str(tmp_path), "OUT") == search[0].command.replace(
        str(folder / "search"), "OUT"
    )
    before = (tmp_path / "trials.jsonl").read_bytes()
    monkeypatch.setattr(halving, "fit", None)  # nothing is left to train
    assert (
        halving.search(recipe, 5, out=tmp_path, resume=True).trials == found.trials
        and (tmp_path / "trials.jsonl").read_bytes() == before
    )


def test_a_search_goes_on_only_with_what_it_began_with(folder, search, tmp_path):
    out = folder / "search"
    for change, name in [
        ({"seed": 1}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"epochs": 4}, "epochs"),
        ({"lr": 0.003}, "own settings"),
        ({"use": ("text",)}, "space"),
        ({"columns": {"text": "text_zh"}}, "train rows"),
    ]:
        with pytest.raises(ValueError, match=f"cannot go on .*: {name} was "):
            halving.search(replace(recipe_for(folder), **change), 5, out=out, resume=True)
    (tmp_path / "trials.jsonl").write_text('{"seed": 0')
    with pytest.raises(ValueError, match="trials.jsonl is damaged"):
        halving.search(recipe_for(folder), 5, out=tmp_path, resume=True)


def in_words_of_version_0_1(path):
    """Rewrite a file of trials with the names of that version."""
    before, *trials = map(json.loads, path.read_text().splitlines())
    older = {"modality_dropout": "hide"}

    def old(value):
        if not isinstance(value, dict):
            return value
        return {older.get(name, name): old(inner) for name, inner in value.items()}

    lines = [old(before) | {"task": "classes"}, *map(old, trials)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_search_of_version_0_1_goes_on_as_if_never_stopped(folder, tmp_path, monkeypatch):
    """Its file says hide for modality_dropout, and classes for classification."""
    recipe = recipe_for(folder, task="classification")
    never = halving.search(recipe, 4, out=tmp_path / "never")
    halving.search(recipe, 2, out=tmp_path / "old")
    in_words_of_version_0_1(tmp_path / "old" / "trials.jsonl")
    assert "hide" in (tmp_path / "old" / "trials.jsonl").read_text()
    with pytest.raises(ValueError, match="task was classification and is now regression"):
        other = replace(recipe, task="regression", target="size")
        halving.search(other, 4, out=tmp_path / "old", resume=True)
    found = halving.search(recipe, 4, out=tmp_path / "old", resume=True)
    assert without_seconds(found.trials) == without_seconds(never.trials)
    assert "hide" not in (tmp_path / "old" / "trials.jsonl").read_text()


@pytest.mark.parametrize(
    "line, change",
    [
        (0, []),
        (0, 5),
        (1, []),
        (1, None),
        (1, {"state": "zzz"}),
        (1, {"number": "x"}),
        (1, {"number": 3}),
        (1, {"losses": ["a"]}),
        (1, {"losses": None}),
        (1, {"settings": {}}),
        (1, {"settings": 5}),
        (1, {"loss": "low"}),
        (1, {"loss": None}),
        (1, {"scores": []}),
        (1, {"epochs": -1}),
        (1, {"seconds": None}),
        (1, {"marks": 5}),
        (1, {"new": 1}),
    ],
)
def test_a_file_of_trials_that_holds_something_else_is_damaged_and_the_line_is_named(
    folder, search, tmp_path, line, change
):
    lines = (folder / "search" / "trials.jsonl").read_text().splitlines()
    lines[line] = json.dumps(
        json.loads(lines[line]) | change if isinstance(change, dict) else change
    )
    (tmp_path / "trials.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"trials.jsonl is damaged.*line {line + 1}"):
        halving.search(recipe_for(folder), 5, out=tmp_path, resume=True)


def test_a_search_overwrites_no_files_of_ones_own(folder, tmp_path):
    (tmp_path / "leaderboard.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"files that no run has made \(leaderboard.csv\)"):
        halving.search(recipe_for(folder), 1, out=tmp_path)
    assert (tmp_path / "leaderboard.csv").read_text() == "mine"


class Played:
    """Stands in for ``fit``: the val losses of trial i are those given, or an error is raised.

    After each epoch it asks whether to stop.
    """

    def __init__(self, monkeypatch, losses):
        self.losses, self.trial = losses, -1
        monkeypatch.setattr(halving, "fit", self.fit)

    def fit(self, model, train, val, config, metrics, after_epoch):
        self.trial += 1
        given = self.losses[self.trial]
        if isinstance(given, Exception):
            raise given
        for epoch, loss in enumerate(given, 1):
            if not math.isfinite(loss):
                raise ValueError(f"val_loss is {loss} after epoch {epoch}")
            if after_epoch(
                {"epoch": epoch, "val_loss": loss} | {f"val_{name}": 0.5 for name in metrics}, model
            ):
                break


def test_after_a_quarter_and_half_of_the_epochs_only_the_better_half_goes_on(
    folder, tmp_path, monkeypatch
):
    g, epochs, count = torch.Generator().manual_seed(0), 8, 24
    losses = torch.rand(count, epochs, generator=g).tolist()
    Played(monkeypatch, losses)
    found = halving.search(
        replace(recipe_for(folder), use=("text",), epochs=epochs), count, out=tmp_path
    )
    reached = {2: [], 4: []}
    for trial in sorted(found.trials, key=lambda trial: trial.number):
        mine, stopped = losses[trial.number], None
        for (
            rung,
            others,
        ) in reached.items():  # by hand: the n // 2 best of the n that came so far, or the best
            others.append(mine[rung - 1])
            if mine[rung - 1] > sorted(others)[max(1, len(others) // 2) - 1]:
                stopped = rung
                break
        assert (trial.state, trial.epochs) == (
            ("stopped", stopped) if stopped else ("done", epochs)
        )
        assert trial.losses == mine[: trial.epochs]
    states = [trial.state for trial in found.trials]
    assert {"done", "stopped"} == set(states) and states == sorted(states)
    stopped = [trial for trial in found.trials if trial.state == "stopped"]
    assert [(-t.epochs, t.loss) for t in stopped] == sorted((-t.epochs, t.loss) for t in stopped)


def test_settings_that_fail_are_listed_last_with_the_reason_and_the_recipe_itself_may_not(
    folder, tmp_path, monkeypatch
):
    recipe, lines = replace(recipe_for(folder), use=("text",)), []
    Played(
        monkeypatch,
        [
            [0.5] * 3,
            ValueError("the loss is not finite"),
            torch.OutOfMemoryError("too large"),
            [math.nan],
            [0.4] * 3,
        ],
    )
    found = halving.search(replace(recipe, log=lines.append), 5, out=tmp_path / "a")
    assert [(t.number, t.state) for t in found.trials] == [
        (4, "done"),
        (0, "done"),
        (1, "failed"),
        (2, "failed"),
        (3, "failed"),
    ]
    assert [t.reason for t in found.trials[2:]] == [
        "the loss is not finite",
        "too large",
        "val_loss is nan after epoch 1",
    ]
    assert any("the loss is not finite; failed after 0 epochs" in line for line in lines)
    assert [row["val_loss"] for row in read(tmp_path / "a" / "leaderboard.csv")][2:] == ["", "", ""]
    Played(monkeypatch, [ValueError("bad data")])
    with pytest.raises(ValueError, match="bad data"):
        halving.search(recipe, 5, out=tmp_path / "b")


def test_with_one_modality_there_is_nothing_to_fuse_or_to_drop(folder, tmp_path, monkeypatch):
    Played(monkeypatch, [[0.5] * 3] * 6)
    found = halving.search(replace(recipe_for(folder), use=("text",)), 6, out=tmp_path)
    assert {trial.settings["fusion"] for trial in found.trials} == {"sum"} and {
        trial.settings["modality_dropout"] for trial in found.trials
    } == {0.5}
    assert len({trial.settings["lr"] for trial in found.trials}) == 6


def test_settings_beyond_the_usual_are_tried_as_they_are(folder, tmp_path, monkeypatch):
    Played(monkeypatch, [[0.5] * 3] * 4)
    recipe = replace(
        recipe_for(folder, lr=0.0123456, dropout=0.61234, dim=48, fusion="late"),
        use=("image", "text"),
    )
    found = halving.search(
        replace(recipe, augment=replace(recipe.augment, modality_dropout=0.3)), 4, out=tmp_path
    )
    assert found.trials[0].settings == {
        "fusion": "late",
        "dim": 48,
        "lr": 0.0123456,
        "dropout": 0.61234,
        "modality_dropout": 0.3,
    }
    for trial in found.trials[1:]:  # short enough to be typed
        assert all(len(str(trial.settings[name])) <= 8 for name in ("lr", "dropout"))


def parsed(command):
    """The Recipe that the command line makes of a line, as ``python -m mmlib train`` does."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "mmlib", "train"]
    return cli_train.recipe(parser().parse_args(words[3:]))


def plain(recipe):
    """A recipe as compared: without ``log``, and ``budget``, idle where epochs are given."""
    return replace(
        recipe,
        manifest=str(recipe.manifest),
        out=str(recipe.out),
        use=recipe.use and tuple(recipe.use),
        log=None,
        budget=None,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 7, "columns": {"text": "text_zh"}, "fusion": "late", "group": "image"},
        {"allow_outside": True, "on_error": "skip"},
        {"precision": "fp32", "device": "cpu", "dim": 48, "lr": 0.0123456, "dropout": 0.25},
        {"task": "classification", "use": ["text", "image"]},
        {"batch_size": 16, "tensorboard": True, "distributed": "fsdp"},
        {"use": None},
    ],
    ids=lambda changes: ", ".join(changes) or "nothing",
)
def test_the_line_to_train_with_makes_the_recipe_of_the_best_trial(
    folder, tmp_path, monkeypatch, changes
):
    """Parsed by the command line itself. It lacked --out, --allow-outside, --device and others."""
    Played(monkeypatch, [[0.5] * 3, [0.4] * 3])
    found = halving.search(replace(recipe_for(folder), **changes), 2, out=tmp_path / "a b")
    assert found.trials[0].number == 1 and plain(parsed(found.command)) == plain(found.best)
    assert (
        found.best.epochs == 3
        and found.best.out == tmp_path / "a b" / "best"
        and not found.best.resume
    )


def test_the_line_to_train_with_names_the_epochs_of_the_trials_where_a_budget_chose_them(
    folder, tmp_path, monkeypatch
):
    """Without them the line trained for as many epochs as the budget of ``train`` pays for."""
    given = [[0.5] * 60, [0.4] * 60]
    Played(monkeypatch, given)
    found = halving.search(
        replace(recipe_for(folder), use=("text",), epochs=None, budget=0.01), 2, out=tmp_path
    )
    assert (
        parsed(found.command).epochs == found.best.epochs == int(read_identity(tmp_path)["epochs"])
    )


def read_identity(folder):
    return json.loads((folder / "trials.jsonl").read_text().splitlines()[0])


def test_every_field_of_a_recipe_is_in_the_line_to_train_with_or_left_out_for_a_reason():
    """A field that is added to Recipe must be thought of here."""
    settings = {"fusion", "dim", "lr", "dropout", "augment"}  # searched
    always = {"manifest", "target", "columns", "table", "use", "epochs", "out"}  # table: in columns
    needless = {"budget", "resume", "log", "progress"}
    assert {field.name for field in fields(Recipe)} == settings | always | needless | set(
        tune_board.OPTIONS
    )


def test_a_trial_has_the_same_number_on_the_screen_and_on_the_board(folder, tmp_path, monkeypatch):
    lines = []
    Played(monkeypatch, [[0.5] * 3, [0.4] * 3, [0.6] * 3])
    found = halving.search(
        replace(recipe_for(folder), use=("text",), log=lines.append), 3, out=tmp_path
    )
    said = [line for line in lines if line.startswith("trial ")]
    assert [line.split("/")[0] for line in said] == ["trial 1", "trial 2", "trial 3"]
    board = {row["trial"]: row["val_loss"] for row in found.rows}
    assert (
        board[2] == 0.4
        and set(board) == {1, 2, 3}
        and said[-1].endswith(f"(best: 0.4, trial {found.rows[0]['trial']})")
    )
    assert [int(row["trial"]) for row in read(tmp_path / "leaderboard.csv")] == list(board)


def test_the_plan_says_how_long_the_trials_take_also_where_the_least_epochs_overrule_the_budget(
    folder, tmp_path, monkeypatch
):
    said = {}
    for budget in (1e-9, 1e-8):  # five epochs both
        lines = []
        Played(monkeypatch, [[0.5] * 5])
        halving.search(
            replace(
                recipe_for(folder), use=("text",), epochs=None, budget=budget, log=lines.append
            ),
            1,
            out=tmp_path / str(budget),
        )
        plan = next(line for line in lines if line.startswith("plan: "))
        said[budget] = float(plan.split("about ")[1].split()[0])
    rows = sum(row["split"] == "train" for row in read(folder / "manifest.csv"))
    assert said[1e-9] == said[1e-8] == pytest.approx(3 * 5 * rows * 120 * DIM**2 / BUDGET, rel=0.05)


def test_optuna_stays_quiet_and_as_it_was(folder, tmp_path, monkeypatch, capsys):
    Played(monkeypatch, [[0.5] * 3] * 2)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.DEBUG)
    loud, ask = [], optuna.study.Study.ask

    def heard(*arguments):
        loud.append(optuna.logging.get_verbosity())
        return ask(*arguments)

    monkeypatch.setattr(optuna.study.Study, "ask", heard)
    halving.search(replace(recipe_for(folder), use=("text",)), 2, out=tmp_path)
    assert set(loud) == {logging.WARNING}
    assert capsys.readouterr() == ("", "") and optuna.logging.get_verbosity() == logging.DEBUG
    optuna.logging.set_verbosity(before)


def test_without_optuna_the_error_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'mmlib\[tune\]'"):
        halving.search(recipe_for(folder), out=tmp_path)


@pytest.mark.parametrize(
    "trials, change, message",
    [
        (0, {}, "trials is 0, expected 1 or more"),
        (1, {"fusion": "blend"}, "fusion is 'blend', expected one of"),
        (1, {"target": "lable"}, "no column 'lable'.*did you mean 'label'"),
    ],
)
def test_a_wrong_setting_says_what_is_there(folder, tmp_path, trials, change, message):
    with pytest.raises(ValueError, match=message):
        halving.search(replace(recipe_for(folder), **change), trials, out=tmp_path)
