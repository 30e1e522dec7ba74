"""Processes that end too soon, or are two: nothing is lost beyond the last checkpoint, and a
usable model stays.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import RawValue
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
from torch import nn

from mmlib import load
from mmlib.core import Batch, Output
from mmlib.data import load_data, read_manifest
from mmlib.train import checkpoint
from mmlib.train.loop import fit
from mmlib.worlds import pets
from tests.train.test_checkpoint import Shaken, Stop, rows_of, started, stop_after, wait_for
from tests.train.test_loop import CPU, Tiny, accuracy, cut, sample_batch, without_seconds

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX systems")
__all__ = ["started"]  # a fixture


# ---- killed


def train(folder: str | None, epochs: int, saving, saved) -> tuple[nn.Module, list[dict]]:
    """A run that does little but save: ``saving`` is 1 while it does, ``saved`` the last step
    that it has on disk.
    """
    torch.set_num_threads(1)
    real, model = checkpoint.save, Tiny(dropout=0.3)

    def save(*arguments) -> None:
        saving.value = 1
        real(*arguments)
        saving.value, saved.value = 0, arguments[1]["step"]

    if folder is not None:
        checkpoint.save = save
    val, config = cut(sample_batch(13, seed=5), 4), replace(CPU, epochs=epochs, checkpoint_every=1)
    extra = {"words": ["cat"] * 1000}
    return model, fit(
        model,
        Shaken(),
        val,
        config,
        {"accuracy": accuracy},
        folder,
        resume=folder is not None,
        extra=extra,
    )


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.long)])
def test_killed_at_random_moments_nothing_is_lost_and_the_history_is_that_of_a_run_never_stopped(
    tmp_path, started, kills
):
    chance, saving, saved, epochs = random.Random(kills), RawValue("i"), RawValue("i"), 2 * kills
    within = half = 0
    for _ in range(kills):
        saving.value = 0
        first, process = (
            saved.value + 1,
            started(str(tmp_path), epochs, saving, saved, target=train),
        )
        wait_for(lambda first=first: saved.value >= first, process)
        began = time.monotonic()
        wait_for(lambda first=first: saved.value >= first + 2, process)
        time.sleep(
            chance.uniform(0, time.monotonic() - began)
        )  # about two steps: any moment of one, computing or writing
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, (
            "it was done before it could be killed: give it more to do"
        )
        within, half = within + saving.value, half + any(tmp_path.glob(".*.tmp"))
        assert saved.value <= checkpoint.load(tmp_path)["step"] <= saved.value + 1
        saved.value = checkpoint.load(tmp_path)["step"]
        if (tmp_path / checkpoint.PREVIOUS).exists():
            assert checkpoint._read(tmp_path / checkpoint.PREVIOUS)["step"] <= saved.value
        rows_of(tmp_path)
    stopped_at, last = saved.value, started(str(tmp_path), epochs, saving, saved, target=train)
    last.join()
    print(
        f"{kills} kills by step {stopped_at}, {within} of them while the checkpoint was saved, "
        f"{half} that left half a file"
    )
    model, history = train(None, epochs, saving, saved)
    assert (
        last.exitcode == 0
        and (within or kills < 100)
        and rows_of(tmp_path) == without_seconds(history)
        and len(history) == epochs
    )
    best = checkpoint.load(tmp_path)["best"]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {
        checkpoint.NAME,
        checkpoint.PREVIOUS,
        checkpoint.HISTORY,
    }


# ---- two runs into one folder


def test_a_second_run_into_a_folder_is_refused_and_a_killed_one_is_in_nobodys_way(
    tmp_path, started
):
    process = started(str(tmp_path), 10_000, RawValue("i"), saved := RawValue("i"), target=train)
    wait_for(lambda: saved.value > 0, process)
    for resume in (True, False):
        with pytest.raises(
            ValueError,
            match=rf"another run is writing into .* now \(process {process.pid} on .*\): wait for "
            r"it",
        ):
            fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path, resume=resume)
    at_work = saved.value
    wait_for(lambda: saved.value > at_work + 3, process)  # it was not disturbed
    assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / checkpoint.LOCK).exists() and len(
        fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    ) == 3
    assert not (tmp_path / checkpoint.LOCK).exists()


def test_a_run_that_failed_leaves_its_folder_free(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    with pytest.raises(
        ValueError, match="lr was"
    ) as kept:  # the traceback keeps all of it alive, as a notebook does
        fit(Tiny(), [sample_batch(8)], config=replace(CPU, lr=0.5), out=tmp_path, resume=True)
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path, resume=True)
    assert kept.value is not None


# ---- Ctrl-C


class Interrupted(nn.Module):
    """Presses Ctrl-C at a forward pass of its choice; ``after`` the gradients are there."""

    def __init__(self, at: int):
        super().__init__()
        self.inner, self.left = Tiny(), at

    def forward(self, batch: Batch) -> Output:
        output = self.inner(batch)
        if self.training:
            self.left -= 1
            if self.left == 0:
                output.loss.backward()  # an interrupt between backward and step leaves gradients
                signal.raise_signal(signal.SIGINT)
        return output


@pytest.mark.parametrize("at", [1, 2, 8, 9])
@pytest.mark.parametrize("folder", [True, False])
def test_an_interrupted_fit_leaves_the_best_weights_the_history_and_a_way_on(tmp_path, at, folder):
    data = (
        cut(sample_batch(12), 4),
        [sample_batch(9, seed=3)],
    )  # three steps an epoch; the second fit has patience with none
    out, config = tmp_path if folder else None, replace(CPU, epochs=4)
    straight, model = fit(Tiny(), *data, config), Interrupted(at)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(model, *data, config, out=out)
    epochs = (at - 1) // 3
    stop = caught.value
    assert without_seconds(stop.history) == without_seconds(straight[:epochs])
    assert (
        f"interrupted in epoch {epochs + 1}, at step {at - 1}" in str(stop)
        and (str(tmp_path) in str(stop)) == folder
    )
    assert not model.training
    if epochs:
        best = min(straight[:epochs], key=lambda row: row["val_loss"])
        assert f"those of epoch {best['epoch']}" in str(stop)
        with torch.no_grad():
            assert model(data[1][0]).loss.item() == pytest.approx(best["val_loss"])
    elif at == 1:
        fresh = Tiny().state_dict()
        assert all(
            torch.equal(value, fresh[name]) for name, value in model.inner.state_dict().items()
        )
        assert without_seconds(
            fit(model, *data, config, out=out, resume=folder)
        ) == without_seconds(straight)  # no gradient was left
    if folder and epochs:
        assert without_seconds(
            fit(Interrupted(0), *data, config, out=out, resume=True)
        ) == without_seconds(straight)


def test_an_error_leaves_the_best_weights_too(tmp_path, monkeypatch):
    stop_after(monkeypatch, 2)
    model = Tiny()
    with pytest.raises(Stop):
        fit(model, cut(sample_batch(12), 4), [sample_batch(8)], CPU, out=tmp_path)
    best = checkpoint.load(tmp_path)["best"]
    assert not model.training and all(
        torch.equal(value, best[name]) for name, value in model.state_dict().items()
    )


def test_ctrl_c_in_a_terminal_ends_with_code_1_and_the_line_to_go_on_with(tmp_path):
    pets.write(pets.draw(24), tmp_path)
    out = tmp_path / "run"
    line = [
        "train",
        str(tmp_path / "manifest.csv"),
        "--use",
        "text",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--epochs",
        "5000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmlib", *line],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / checkpoint.HISTORY).exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert (
        process.returncode == 1
        and f"mmlib: interrupted; go on with the same line and --out {out} --resume" in error
    )
    assert "Traceback" not in error and {path.name for path in out.iterdir()} <= {
        checkpoint.NAME,
        checkpoint.PREVIOUS,
        checkpoint.HISTORY,
    }
    assert load(out, "cpu").predict(text="it purrs")["class"] in ("cat", "dog")


def test_ctrl_c_in_a_notebook_shows_one_line_and_the_next_cell_uses_the_model(tmp_path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    )

    def reply_to(cell: str) -> dict:
        while (message := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != cell:
            pass  # the kernel's greeting may come late
        return message["content"]

    try:
        cell = client.execute(
            "import sys\nfrom tests.train.test_checkpoint import *\nmodel = Tiny()\n"
            "fit(model, Shaken(pause=0.01), [sample_batch(8)], replace(CPU, epochs=1000), "
            f"out={str(tmp_path)!r})",
            stop_on_error=False,
        )  # else the kernel may still abort what comes right after an error
        while not (tmp_path / checkpoint.HISTORY).exists():
            time.sleep(0.02)
        manager.interrupt_kernel()
        reply = reply_to(cell)
        assert reply["ename"] == "Interrupted" and "fit was interrupted in epoch" in reply["evalue"]
        assert len(reply["traceback"]) == 1 and "\n" not in reply["traceback"][0]
        cell = client.execute(
            "assert len(sys.last_value.history) >= 1 and not "
            "model.training\nmodel(sample_batch(8)).loss.item()"
        )
        reply = reply_to(cell)
        assert reply["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert checkpoint.load(tmp_path)["epoch"] >= 1


# ---- a process that reads files


@pytest.fixture()
def from_disk(tmp_path):
    rows = ["audio,label,split"]
    for i in range(24):
        soundfile.write(tmp_path / f"{i}.wav", np.sin(np.arange(4000) * (i + 1) / 50), 16_000)
        rows.append(f"{i}.wav,{'cat' if i % 2 else 'dog'},{'val' if i > 19 else 'train'}")
    (tmp_path / "m.csv").write_text("\n".join(rows))

    def read(**named):
        return load_data(
            read_manifest(tmp_path / "m.csv"), batch_size=2, progress=False, **named
        ).loaders["train"]

    return read


class Murderer(nn.Module):
    """Kills a process that its batches come from, at the third one."""

    def __init__(self, others: set[psutil.Process]):
        super().__init__()
        self.linear, self.others, self.seen = nn.Linear(1, 2), others, 0

    def forward(self, batch: Batch) -> Output:
        self.seen += self.training
        if self.seen == 3:
            next(child for child in psutil.Process().children() if child not in self.others).kill()
        logits = self.linear(batch["audio"].abs().mean(1, keepdim=True))
        return Output(
            logits,
            nn.functional.cross_entropy(logits, batch["target"]),
            torch.tensor(float(len(logits))),
        )


def test_a_killed_loader_process_is_an_error_not_a_hang_and_the_loader_works_again(from_disk):
    loader, memory, others = (
        from_disk(memory=False, workers=2),
        list(from_disk(memory=True)),
        set(psutil.Process().children()),
    )
    for _ in range(3):  # the moments at which it is found out differ
        model = Murderer(others)
        with pytest.raises(
            RuntimeError, match=r"DataLoader worker .* memory has run out: use fewer workers"
        ):
            fit(model, loader, None, replace(CPU, epochs=20))
        assert not model.training
        loader.set_epoch(0)
        again = list(loader)
        assert len(again) == len(memory) and all(
            torch.equal(a["audio"], b["audio"]) for a, b in zip(again, memory, strict=True)
        )


@pytest.mark.parametrize(
    "fault, workers",
    [("vanished", 0), ("replaced", 0), ("touched", 0), ("spoilt", 0), ("vanished", 2)],
)
def test_a_file_that_changes_between_epochs_on_disk_is_named_by_its_row_in_one_line(
    from_disk, tmp_path, workers, fault
):
    loader = from_disk(memory=False, workers=workers)
    assert len(list(loader)) == len(loader)
    place = tmp_path / f"{int(loader.batches.rows[0])}.wav"  # of a training row
    if fault == "vanished":
        place.unlink()
    elif fault == "replaced":
        soundfile.write(place, np.zeros(5000), 16_000)
    else:  # of the same length, now or at another time
        place.write_bytes(place.read_bytes() if fault == "touched" else b"X" * place.stat().st_size)
        os.utime(place, ns=(1, 1))
    with pytest.raises(ValueError) as caught:
        list(loader)
    reason = "No such file" if fault == "vanished" else "has changed since it was first read"
    assert str(caught.value).startswith(
        f"line {int(place.stem) + 2}, column 'audio', {str(place)!r}: "
    )
    assert reason in str(caught.value) and "\n" not in str(caught.value)
