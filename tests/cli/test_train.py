"""What train prints: a log to read at the other end of a cluster, scores for people, JSON."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
import tqdm

from mmlib.data import load_data, read_manifest
from tests.cli.test_main import manifest, run

EPOCH = re.compile(
    r"epoch (\d+)/3  loss \d\S*  val_loss \d\S*  val_accuracy [01]\.\d{3}  \d+\.\d s(  best)?"
)
LINE = re.compile(
    r"test  accuracy [01]\.\d{3} \+- 0\.\d{3} \(6 rows; most frequent class 0\.500\)"
    r"  macro F1 \S+  log loss \S+   weights of epoch (\d) of 3   (\S+)"
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """What `nohup python -m mmlib train ... > log 2>&1` leaves, its lines; and its folder."""
    folder = tmp_path_factory.mktemp("log")
    line = [*manifest(folder, ("cat", "dog")), "--epochs", "3", "--out", folder / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "mmlib", *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    return done.stdout.decode(), folder


def test_a_log_has_a_line_an_epoch_and_no_bar(log):
    text, folder = log
    assert "\r" not in text and "it/s" not in text and "%|" not in text
    found = [match for line in text.splitlines() if (match := EPOCH.fullmatch(line))]
    assert [match[1] for match in found] == ["1", "2", "3"]
    history = [json.loads(row) for row in (folder / "run/history.jsonl").read_text().splitlines()]
    for match, row in zip(found, history, strict=True):
        assert f"val_loss {row['val_loss']:.3f}" in match[0]
        before = [one["val_loss"] for one in history[: row["epoch"] - 1]]
        assert bool(match[2]) == (row["val_loss"] < min(before, default=float("inf")))


def test_a_log_begins_with_what_was_found_and_ends_with_the_scores(log):
    text, folder = log
    lines = [line for line in text.splitlines() if not line.startswith("warning: ")]
    assert "m.csv: 24 rows" in lines[0]
    first = next(i for i, line in enumerate(lines) if EPOCH.fullmatch(line))
    plan = lines[first - 1]
    decided = ("RecurrentEncoder", "fusion sum", " parameters on ", "3 epochs", "batches of 32")
    assert plan.startswith("plan: ") and [words for words in decided if words not in plan] == []
    assert re.search(r"about \S+ minutes", plan)
    assert lines[first + 3].startswith("val   accuracy ")
    scores = lines[first + 4]
    last = LINE.fullmatch(scores)
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert last and last[2] == str(folder / "run") and int(last[1]) == metrics["best_epoch"]
    assert f"accuracy {metrics['test']['accuracy']:.3f} " in scores
    classical = metrics["classical"]["test"]["text"]["accuracy"]
    said = f"test  classical baselines, accuracy: text {classical:.3f} (TF-IDF)"
    assert lines[first + 5] == said
    better = ["A classical baseline does better here: " in line for line in lines[first + 6 :]]
    assert better == [True] * (classical > metrics["test"]["accuracy"])


def test_lines_are_written_at_once(tmp_path):
    """Whoever reads the log of a killed job finds all that was done."""
    code = (
        "import os, sys; from mmlib.cli.main import main\n"
        "import mmlib.recipes as r\n"
        "r.train = lambda recipe: (recipe.log('plan: a'), os._exit(9))\n"
        f"main({[str(word) for word in manifest(tmp_path, ('cat', 'dog'))]})"
    )
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain)
    assert done.returncode == 9 and done.stdout.endswith("plan: a\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_into_tee_the_epochs_go_with_the_other_lines(tmp_path, capsys, monkeypatch):
    """stderr is then still the terminal: a bar there would cut through the lines of tee."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    code, out, _ = run(capsys, *manifest(tmp_path, ("cat", "dog")), "--out", tmp_path / "run")
    assert code == 0 and out.index("plan: ") < out.index("epoch 1/1  loss") < out.index("test  ")
    assert sys.stderr.getvalue() == ""


def test_a_log_has_no_bar_of_reading_and_a_terminal_has_one(trained, monkeypatch):
    class Eager(tqdm.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options | {"delay": 0})

    monkeypatch.setattr("tqdm.auto.tqdm", Eager)
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        load_data(read_manifest(trained / "manifest.csv"))
        assert ("reading images" in stream.getvalue()) == stream.isatty()


def test_json_is_alone_on_stdout(tmp_path, capsys):
    line = [*manifest(tmp_path, ("cat", "dog")), "--out", tmp_path / "run", "--json"]
    code, out, err = run(capsys, *line)
    assert code == 0 and "plan: " in err and "epoch 1/1  loss" in err
    assert json.loads(out) == json.loads((tmp_path / "run/metrics.json").read_text())


def test_budget_batch_size_and_seed_change_the_training(tmp_path, capsys):
    line = [word for word in manifest(tmp_path, ("cat", "dog")) if word not in ("--epochs", "1")]

    def steps(*options):
        out = tmp_path / "_".join(options)
        assert run(capsys, *line, *options, "--out", out)[0] == 0
        rows = [json.loads(row) for row in (out / "history.jsonl").read_text().splitlines()]
        return len(rows), rows[0]["step"], rows[0]["loss"]

    short = ["--budget", "0.00001"]
    usual = steps(*short)
    assert usual[:2] == (5, 1) and steps(*short, "--batch-size", "4")[:2] == (5, 3)
    assert steps(*short, "--seed", "1")[2] != usual[2]
