"""What fit shows: a line an epoch in a log, the true last scores on a bar."""

import io
import math
import sys
from dataclasses import replace

import pytest
import torch

from mmlib.metrics import accuracy
from mmlib.train.config import TrainConfig
from mmlib.train.log import scores_line, summary_writer
from mmlib.train.loop import fit
from tests.train.test_loop import CPU, Tiny, sample_batch

SHOWN = replace(CPU, progress=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trained(config, stream, monkeypatch, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    torch.manual_seed(0)
    history = fit(Tiny(), [sample_batch(4)], [sample_batch(4)], config, **options)
    return history, stream.getvalue()


def test_a_log_gets_a_line_an_epoch(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    batch = sample_batch(4)
    other = {**batch, "target": (batch["target"] + 1) % 3}  # what is learned is wrong there
    config = replace(SHOWN, epochs=6, lr=0.05)
    history = fit(Tiny(), [batch], [batch, other, other], config, {"accuracy": accuracy})
    text = stream.getvalue()
    lines = text.splitlines()
    assert "\r" not in text and len(lines) == len(history) == 6
    for line, row in zip(lines, history):
        assert line.startswith(scores_line(row, 6, "min val_loss"))
        assert f"  {row['seconds']:.1f} s" in line
    losses = [row["val_loss"] for row in history]
    best = [loss < min(losses[:i], default=math.inf) for i, loss in enumerate(losses)]
    assert [line.endswith("  best") for line in lines] == best and not all(best)


def test_a_bar_ends_on_the_last_scores(monkeypatch):
    history, text = trained(SHOWN, Terminal(), monkeypatch)
    last = text.strip().split("\r")[-1]
    assert scores_line(history[-1], 3, "min val_loss") in last and "100%" in last
    assert "  best" not in text


def test_without_progress_nothing_is_shown(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        assert trained(replace(CPU, progress=False), stream, monkeypatch)[1] == ""


def test_a_resumed_log_goes_on_where_it_was(monkeypatch, tmp_path):
    seen = []

    def stop(row, model):
        seen.append(row["epoch"])
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(SHOWN, io.StringIO(), monkeypatch, out=tmp_path, after_epoch=stop)
    _, text = trained(SHOWN, io.StringIO(), monkeypatch, out=tmp_path, resume=True)
    assert [line.split("  ")[0] for line in text.splitlines()] == ["epoch 2/3", "epoch 3/3"]


def test_a_line_has_the_losses_the_first_metric_and_the_monitored_score():
    row = {"epoch": 7, "loss": 0.5, "val_loss": 12345.0, "val_a": 0.00001, "val_b": 1, "val_c": 2}
    assert scores_line(row, 100, "max val_c") == (
        "epoch   7/100  loss 0.500  val_loss 1.23e+04  val_a 1e-05  val_c 2.000"
    )
    assert (
        scores_line({"epoch": 1, "loss": 0.5}, 1, TrainConfig().monitor) == "epoch 1/1  loss 0.500"
    )


def test_a_writer_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'mmlib\[tensorboard\]'"):
        summary_writer()
