"""The history of a run: its best epoch is the one whose weights fit keeps."""

import json
from dataclasses import replace

import pytest
import torch

from mmlib.metrics import accuracy
from mmlib.train.history import History
from mmlib.train.loop import fit
from mmlib.train.run import Progress
from tests.train.test_loop import CPU, Tiny, sample_batch


def history(*losses, name="val_loss"):
    return History({"epoch": i, "loss": 1.0, name: loss} for i, loss in enumerate(losses, 1))


def test_the_best_epoch_is_the_first_of_equals_and_none_without_the_score():
    assert history(0.3, 0.2, 0.2).best_epoch() == 2
    assert history(0.3, 0.2, 0.3, name="val_accuracy").best_epoch("max val_accuracy") == 1
    assert history(0.3, name="other").best_epoch() is None and History().best_epoch() is None


@pytest.mark.parametrize("monitor", ["min val_loss", "max val_accuracy"])
def test_the_best_epoch_is_that_of_the_weights_that_fit_leaves(monitor, monkeypatch):
    kept = []
    leave = Progress.restore_best
    monkeypatch.setattr(
        Progress, "restore_best", lambda run: (kept.append(run.best_epoch), leave(run))
    )
    torch.manual_seed(0)
    config = replace(CPU, epochs=6, lr=0.3, monitor=monitor)
    found = fit(Tiny(), [sample_batch(8)], [sample_batch(9)], config, {"accuracy": accuracy})
    assert kept == [found.best_epoch(monitor)]


def test_it_is_written_a_row_a_line(tmp_path):
    history(0.3, float("nan")).write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["val_loss"] for row in rows] == [0.3, None]


def test_an_empty_one_cannot_be_drawn():
    with pytest.raises(ValueError, match="train for at least one epoch"):
        History().plot()
