"""Checkpoints: killed at any moment and resumed = never stopped, bit for bit; what is wrong with a file is said; no code is run."""
import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from test_train import CPU, Tiny, accuracy, cut, overfitting, sample_batch, without_seconds

from mmlib import checkpoint
from mmlib.core import Batch
from mmlib.train import TrainConfig, fit

KILLED = replace(CPU, epochs=8, accumulate=2, checkpoint_every=2, patience=6)


class Shaken:
    """Batches whose order and noise are functions of (seed, epoch, row), as those of mmlib.data; ``pause`` makes them slow."""

    def __init__(self, seed: int = 0, pause: float = 0.0):
        self.whole, self.seed, self.pause = sample_batch(44), seed, pause
        self.set_epoch(0)

    def __len__(self) -> int:
        return 11

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epoch, self.skip = epoch, skip

    def __iter__(self):
        order = torch.randperm(44, generator=torch.Generator().manual_seed(1000 * self.seed + self.epoch)).split(4)
        for rows in order[self.skip:]:
            time.sleep(self.pause)
            draws = [torch.Generator().manual_seed(self.epoch * 100 + row) for row in rows.tolist()]
            noise = torch.stack([torch.randn(3, 4, 5, generator=draw) for draw in draws])
            batch = {key: value[rows] for key, value in self.whole.items()}
            yield batch | {"image": batch["image"] + noise * batch["image_mask"][:, None, None]}


def train(folder: str, pause: float = 0.0) -> None:
    """What the killed processes do: always with resume, as a supervisor would."""
    torch.set_num_threads(1)
    model = Tiny(dropout=0.3)
    val = cut(sample_batch(13, seed=5), 4)
    fit(model, Shaken(pause=pause), val, KILLED, {"accuracy": accuracy}, folder, resume=True, extra={"words": ["cat"]})
    torch.save(model.state_dict(), Path(folder) / "final.pt")


def rows_of(folder: Path) -> list[dict]:
    path = folder / "history.jsonl"
    return without_seconds([json.loads(line) for line in path.read_text().splitlines()]) if path.exists() else []


def wait_for(condition, process, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def started():
    """Processes that have torch loaded already, so that a kill finds them at work."""
    context = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
    if sys.platform != "win32":
        context.set_forkserver_preload(["torch._dynamo", "mmlib.train", "test_train", "test_checkpoint", "test_faults_killed"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent))      # or it silently loads no test file
            multiprocessing.forkserver.ensure_running()

    def start(*arguments, target=train) -> multiprocessing.Process:
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process
    return start


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_at_any_moment_and_resumed_is_never_stopped_bit_for_bit(tmp_path, started):
    straight, folder, chance = tmp_path / "straight", tmp_path / "killed", random.Random(0)
    straight.mkdir(), folder.mkdir()
    never = started(str(straight))
    stood = []
    for moment in ["at once", "soon", "while writing", "later", "while writing", "later"]:
        process, before = started(str(folder), 0.02), stamp(folder)
        if moment != "at once":
            wait_for(lambda: stamp(folder) != before, process)     # it has come further than the one before
        if moment == "later":
            time.sleep(chance.uniform(0, 0.1))
        if moment == "while writing":
            wait_for(lambda: any(folder.glob(".checkpoint*.tmp")), process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it could be killed: give it more to do"
        if checkpoint.exists(folder):
            stood.append(checkpoint.load(folder)["batch"])          # whatever was going on, the file is whole
            rows_of(folder)                                         # no half line
    assert any(stood), "no kill within an epoch"
    last = started(str(folder))
    last.join(), never.join()
    assert last.exitcode == never.exitcode == 0
    assert rows_of(folder) == rows_of(straight) and len(rows_of(folder)) >= 4
    a, b = (torch.load(place / "final.pt") for place in (straight, folder))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp"))


def stamp(folder: Path) -> int:
    path = folder / checkpoint.NAME
    return path.stat().st_mtime_ns if path.exists() else 0


class Stop(Exception):
    pass


def stop_after(monkeypatch, saves: int) -> None:
    """From now on the run is interrupted once the given number of checkpoints has been written."""
    left, real = [saves], checkpoint.save

    def save(folder, state):
        real(folder, state)
        left[0] -= 1
        if left[0] == 0:
            raise Stop
    monkeypatch.setattr(checkpoint, "save", save)


def straight_and_resumed(tmp_path, monkeypatch, loader, config: TrainConfig, saves: int) -> tuple[list[dict], list[dict]]:
    runs = []
    for name in ("straight", "stopped"):
        model, out = Tiny(dropout=0.3), tmp_path / name
        if name == "stopped":
            with monkeypatch.context() as patched:
                stop_after(patched, saves)
                with pytest.raises(Stop):
                    fit(model, loader(), cut(sample_batch(9, seed=3), 4), config, out=out)
            model = Tiny(dropout=0.3)
            torch.manual_seed(12345)                # another process: nothing is left but the file
        history = fit(model, loader(), cut(sample_batch(9, seed=3), 4), config, out=out, resume=name == "stopped")
        assert rows_of(out) == without_seconds(history)
        runs.append(without_seconds(history) + [{name: value.tolist() for name, value in model.state_dict().items()}])
    return tuple(runs)


@pytest.mark.parametrize("saves", [1, 2, 5, 6, 7])
def test_resumed_from_every_kind_of_place(tmp_path, monkeypatch, saves):
    """Within the first epoch, at its end, within a later one; the best weights and the patience go on too."""
    config = replace(CPU, epochs=4, checkpoint_every=2, accumulate=2, lr=0.05)
    a, b = straight_and_resumed(tmp_path, monkeypatch, Shaken, config, saves)
    assert a == b


def test_resumed_runs_stop_early_at_the_same_epoch_with_the_same_weights(tmp_path, monkeypatch):
    for saves in (2, 3):
        model, history, val = overfitting(epochs=20, patience=3, checkpoint_every=2)
        with monkeypatch.context() as patched:
            stop_after(patched, 2 * saves)
            with pytest.raises(Stop):
                overfit_in(tmp_path, False)
        again, resumed = overfit_in(tmp_path, True)
        assert without_seconds(resumed) == without_seconds(history)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def overfit_in(folder: Path, resume: bool) -> tuple[nn.Module, list[dict]]:
    train, val = cut(sample_batch(12), 4), cut(sample_batch(12), 5)
    for batch in val:
        batch["target"] = (batch["target"] + 1) % 3
    model = Tiny()
    config = replace(CPU, epochs=20, lr=0.03, patience=3, checkpoint_every=2)
    return model, fit(model, train, val, config, {"accuracy": accuracy}, folder, resume)


class Noisy(torch.utils.data.Dataset):
    """Draws from torch's global generator, as many a dataset does."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Batch:
        one = {key: value[i] for key, value in sample_batch(12).items()}
        return one | {"image": one["image"] + torch.randn(3, 4, 5) * one["image_mask"]}


@pytest.mark.parametrize("saves", [1, 3, 4])
def test_a_plain_shuffling_dataloader_is_resumed_bit_for_bit_too(tmp_path, monkeypatch, saves):
    a, b = straight_and_resumed(tmp_path, monkeypatch, lambda: torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True),
                                replace(CPU, checkpoint_every=1), saves)
    assert a == b


def test_a_finished_run_resumed_does_nothing_and_gives_history_and_best_weights(tmp_path):
    model, history = overfit_in(tmp_path, False)
    before = stamp(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"epoch": 1, "lo')            # half a line
    again, resumed = overfit_in(tmp_path, True)
    assert resumed == history and stamp(tmp_path) == before
    assert rows_of(tmp_path) == without_seconds(history)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_checkpoint_holds_what_a_user_of_the_model_needs(tmp_path):
    extra = {"vocabulary": ["cat", "狗"], "rate": 16000, "nested": {"sizes": [1, 2]}, "none": None}
    model = Tiny()
    history = fit(model, [sample_batch(8)], [sample_batch(8)], CPU, out=tmp_path, extra=extra)
    state = checkpoint.load(tmp_path)
    assert state["extra"] == extra and state["history"] == history and state["config"]["lr"] == CPU.lr
    assert all(torch.equal(value, state["best"][name]) for name, value in model.state_dict().items())
    without_val = fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    state = checkpoint.load(tmp_path)
    assert len(without_val) == 3 and all(torch.equal(value, state["model"][name]) for name, value in state["best"].items())


def test_a_new_run_removes_the_old_one_and_resume_without_any_starts_anew(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path / "new", resume=True)
    assert len(rows_of(tmp_path / "new")) == 3
    with pytest.raises(ValueError, match="loss is not finite"):
        fit(Tiny(), [{**sample_batch(8), "image": sample_batch(8)["image"] * torch.nan}], config=CPU, out=tmp_path / "new")
    assert not checkpoint.exists(tmp_path / "new") and not (tmp_path / "new" / "history.jsonl").exists()


@pytest.mark.parametrize("changed, expected", [
    ({"config": replace(CPU, lr=0.5)}, "lr was 0.01 and is now 0.5"), ({"config": replace(CPU, epochs=9)}, "epochs was 3 and is now 9"),
    ({"extra": {"words": ["dog"]}}, "words was ['cat'] and is now ['dog']"), ({"extra": None}, "words was ['cat'] and is now None"),
    ({"train": [sample_batch(8)] * 2}, "batches was 1 and is now 2"), ({"model": nn.Sequential(Tiny())}, "another model")])
def test_a_run_of_something_else_is_not_resumed_and_the_difference_is_named(tmp_path, changed, expected):
    given = {"model": Tiny(), "train": [sample_batch(8)], "config": CPU, "extra": {"words": ["cat"]}}
    fit(**given, out=tmp_path)
    with pytest.raises(ValueError) as caught:
        fit(**given | changed, out=tmp_path, resume=True)
    assert expected in str(caught.value)


def test_a_model_of_another_width_is_told_by_its_first_weight(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    wide = Tiny()
    wide.head = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"'head.bias' is \(3,\) there and \(4,\) here"):
        fit(wide, [sample_batch(8)], config=CPU, out=tmp_path, resume=True)


def test_what_does_not_change_the_result_may_differ_on_resume(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    assert len(fit(Tiny(), [sample_batch(8)], config=replace(CPU, checkpoint_every=7, progress=True), out=tmp_path, resume=True)) == 3


class Bomb:
    def __reduce__(self):
        return os.system, ("echo ran > bomb",)


def test_code_in_a_checkpoint_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "model": Bomb()}, tmp_path / checkpoint.NAME)
    with pytest.raises(ValueError, match="more than plain data"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "bomb").exists()


def test_a_missing_foreign_newer_or_damaged_file_is_named(tmp_path):
    path = tmp_path / checkpoint.NAME

    def problem() -> str:
        with pytest.raises(ValueError) as caught:
            checkpoint.load(tmp_path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "does not exist" in problem()
    for content in (b"", b"hello", b"\x80\x04K\x01."):
        path.write_bytes(content)
        assert "damaged" in problem()
    torch.save({"weights": torch.ones(3)}, path)
    assert "not written by mmlib" in problem()
    torch.save([1, 2], path)
    assert "not written by mmlib" in problem()
    torch.save({"format": 99}, path)
    assert "format 99" in problem() and "format 1" in problem()
    checkpoint.save(tmp_path, {"model": {"w": torch.ones(1000)}})
    whole = path.read_bytes()
    for cut_at in (len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut_at])
        assert "damaged" in problem()
    byte = whole.index(torch.ones(2).numpy().tobytes()) + 5                        # of the weights, which torch.load would not notice
    path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 255]) + whole[byte + 1:])
    assert "damaged" in problem()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path, {"model": {}})

    def broken(file):
        file.write(b"half")
        raise OSError("no space left on device")
    with pytest.raises(OSError, match="no space"):
        checkpoint.write_atomically(tmp_path / checkpoint.NAME, broken)
    assert checkpoint.load(tmp_path)["model"] == {} and [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order, real_sync, real_replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), real_sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append((Path(a).parent == Path(b).parent, "replace")), real_replace(a, b)))
    checkpoint.save(tmp_path, {})
    assert order == ["fsync", (True, "replace"), "fsync"]
