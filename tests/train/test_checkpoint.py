"""Checkpoints: a run that was killed and resumed is a run never stopped, bit for bit.

What is wrong with a file is named, and no code in it is ever run.
"""

import csv
import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import shutil
import signal
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

from mmlib import load, load_weights
from mmlib.core import Batch, Output
from mmlib.data import Augment, load_data, read_manifest
from mmlib.files import write_atomically
from mmlib.train import checkpoint
from mmlib.train.config import TrainConfig
from mmlib.train.loop import fit
from mmlib.worlds import pets
from tests.train.test_loop import (
    CPU,
    Tiny,
    accuracy,
    cut,
    overfitting,
    sample_batch,
    without_seconds,
)

KILLED = replace(CPU, epochs=8, accumulate=2, checkpoint_every=2, patience=6)


class Shaken:
    """Batches whose order and noise depend on (seed, epoch, row), as those of mmlib.data do.

    ``pause`` makes them slow.
    """

    def __init__(self, seed: int = 0, pause: float = 0.0):
        self.whole, self.seed, self.pause = sample_batch(44), seed, pause
        self.set_epoch(0)

    def __len__(self) -> int:
        return 11

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epoch, self.skip = epoch, skip

    def __iter__(self):
        order = torch.randperm(
            44, generator=torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        ).split(4)
        for rows in order[self.skip :]:
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
    fit(
        model,
        Shaken(pause=pause),
        val,
        KILLED,
        {"accuracy": accuracy},
        folder,
        resume=True,
        extra={"words": ["cat"]},
    )
    torch.save(model.state_dict(), Path(folder) / "final.pt")


def rows_of(folder: Path) -> list[dict]:
    path = folder / "history.jsonl"
    return (
        without_seconds([json.loads(line) for line in path.read_text().splitlines()])
        if path.exists()
        else []
    )


def wait_for(condition, process, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def started():
    """Processes that have torch loaded already, so that a kill finds them at work."""
    context = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
    if sys.platform != "win32":
        context.set_forkserver_preload(
            [
                "torch._dynamo",
                "mmlib.train",
                "tests.train.test_loop",
                "tests.train.test_checkpoint",
                "tests.faults.test_killed",
            ]
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(
                "PYTHONPATH", str(Path(__file__).parents[2])
            )  # or it silently loads no test file
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
            wait_for(
                lambda before=before: stamp(folder) != before, process
            )  # it has come further than the one before
        if moment == "later":
            time.sleep(chance.uniform(0, 0.1))
        if moment == "while writing":
            wait_for(lambda: any(folder.glob(".checkpoint*.tmp")), process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, (
            "it was done before it could be killed: give it more to do"
        )
        if checkpoint.exists(folder):
            stood.append(
                checkpoint.load(folder)["batch"]
            )  # whatever was going on, the file is whole
            rows_of(folder)  # no half line
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


def straight_and_resumed(
    tmp_path, monkeypatch, loader, config: TrainConfig, saves: int, **named
) -> tuple[list[dict], list[dict]]:
    runs = []
    for name in ("straight", "stopped"):
        model, out = Tiny(dropout=0.3), tmp_path / name
        if name == "stopped":
            with monkeypatch.context() as patched:
                stop_after(patched, saves)
                with pytest.raises(Stop):
                    fit(model, loader(), cut(sample_batch(9, seed=3), 4), config, out=out, **named)
            model = Tiny(dropout=0.3)
            torch.manual_seed(12345)  # another process: nothing is left but the file
        history = fit(
            model,
            loader(),
            cut(sample_batch(9, seed=3), 4),
            config,
            out=out,
            resume=name == "stopped",
            **named,
        )
        assert rows_of(out) == without_seconds(history)
        runs.append(
            without_seconds(history)
            + [{name: value.tolist() for name, value in model.state_dict().items()}]
        )
    return tuple(runs)


@pytest.mark.parametrize("saves", [1, 2, 5, 6, 7])
def test_resumed_from_every_kind_of_place(tmp_path, monkeypatch, saves):
    """Within the first epoch, at its end, within a later one.

    The best weights and the patience go on too.
    """
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
        assert all(
            torch.equal(value, again.state_dict()[name])
            for name, value in model.state_dict().items()
        )


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


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("saves", [1, 3, 4])
def test_a_plain_shuffling_dataloader_is_resumed_bit_for_bit_too(tmp_path, monkeypatch, saves, own):
    """Also with a generator of its own, as torch's notes on reproducibility advise."""

    def loader():
        generator = torch.Generator().manual_seed(0) if own else None
        return torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator)

    a, b = straight_and_resumed(
        tmp_path, monkeypatch, loader, replace(CPU, checkpoint_every=1), saves
    )
    assert a == b


OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, 0.05, momentum=0.9),
    "plain SGD": lambda groups: torch.optim.SGD(groups, 0.05),
    "Adafactor": torch.optim.Adafactor,
    "Adam, tensor": lambda groups: torch.optim.Adam(groups, torch.tensor(0.01)),
}


def own(kind: str, head: float = 0.1):
    def make(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        names = dict(model.named_parameters())
        return OPTIMIZERS[kind](
            [
                {"params": [p for n, p in names.items() if not n.startswith("head")]},
                {"params": [p for n, p in names.items() if n.startswith("head")], "lr": head},
            ]
        )

    return make


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("saves", [2, 6])
def test_an_own_optimizer_is_resumed_bit_for_bit_within_and_after_an_epoch(
    tmp_path, monkeypatch, kind, saves
):
    config = replace(CPU, epochs=4, checkpoint_every=2, accumulate=2)
    a, b = straight_and_resumed(tmp_path, monkeypatch, Shaken, config, saves, optimizer=own(kind))
    assert a == b


@pytest.mark.parametrize(
    "other, expected",
    [
        (own("SGD", 0.2), "group 1, lr was 0.1 and is now 0.2"),
        (None, "algorithm was 'SGD' and is now 'AdamW'"),
        (own("plain SGD"), "group 0, momentum was 0.9 and is now 0"),
    ],
)
def test_a_run_is_not_resumed_with_another_optimizer(tmp_path, other, expected):
    def run(optimizer, resume: bool) -> list[dict]:
        return fit(
            Tiny(), [sample_batch(8)], config=CPU, out=tmp_path, resume=resume, optimizer=optimizer
        )

    run(own("SGD"), False)
    with pytest.raises(ValueError, match=f"cannot resume .*{expected}"):
        run(other, True)
    run(own("SGD"), True)


def after(row: dict, model: nn.Module) -> bool:
    """Changes the weights and draws, as a schedule of one's own may; stops after three epochs."""
    with torch.no_grad():
        model.head.bias.add_(0.5 * row["epoch"])
    torch.rand(7)
    return row["epoch"] == 3


@pytest.mark.parametrize("saves", [2, 3, 4, 6])
def test_what_is_done_and_decided_after_an_epoch_is_resumed_too(tmp_path, monkeypatch, saves):
    """Stopped within an epoch, after one, and after the one that ended the run."""
    config = replace(
        CPU, epochs=5, checkpoint_every=4
    )  # two checkpoints in an epoch of eleven steps, and one after it
    a, b = straight_and_resumed(tmp_path, monkeypatch, Shaken, config, saves, after_epoch=after)
    assert a == b and len(a) == 4
    history = fit(
        Tiny(dropout=0.3),
        Shaken(),
        cut(sample_batch(9, seed=3), 4),
        config,
        out=tmp_path / "stopped",
        resume=True,
    )
    assert len(history) == 3  # after_epoch is not asked again: the run knows that it was stopped


def test_a_run_that_ends_between_the_question_and_the_checkpoint_asks_again(tmp_path):
    asked = []

    def once(row: dict, model: nn.Module) -> bool:
        asked.append(row["epoch"])
        if asked == [1, 2]:
            raise Stop
        return row["epoch"] == 2

    with pytest.raises(Stop):
        fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path, after_epoch=once)
    assert len(
        fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path, after_epoch=once, resume=True)
    ) == 2 and asked == [1, 2, 2]


def test_a_finished_run_resumed_does_nothing_and_gives_history_and_best_weights(tmp_path):
    model, history = overfit_in(tmp_path, False)
    before = stamp(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"epoch": 1, "lo')  # half a line
    again, resumed = overfit_in(tmp_path, True)
    assert resumed == history and stamp(tmp_path) == before
    assert rows_of(tmp_path) == without_seconds(history)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_the_checkpoint_holds_what_a_user_of_the_model_needs(tmp_path):
    extra = {"vocabulary": ["cat", "狗"], "rate": 16000, "nested": {"sizes": [1, 2]}, "none": None}
    model = Tiny()
    history = fit(model, [sample_batch(8)], [sample_batch(8)], CPU, out=tmp_path, extra=extra)
    state = checkpoint.load(tmp_path)
    assert (
        state["extra"] == extra and state["history"] == history and state["config"]["lr"] == CPU.lr
    )
    assert all(
        torch.equal(value, state["best"][name]) for name, value in model.state_dict().items()
    )
    without_val = fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    state = checkpoint.load(tmp_path)
    assert len(without_val) == 3 and all(
        torch.equal(value, state["model"][name]) for name, value in state["best"].items()
    )


def test_a_new_run_removes_the_old_one_and_resume_without_any_starts_anew(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path / "new", resume=True)
    assert len(rows_of(tmp_path / "new")) == 3
    with pytest.raises(ValueError, match="loss is not finite"):
        fit(
            Tiny(),
            [sample_batch(8), {**sample_batch(8), "image": sample_batch(8)["image"] * torch.nan}],
            config=CPU,
            out=tmp_path / "new",
        )
    assert (
        not checkpoint.exists(tmp_path / "new")
        and not (tmp_path / "new" / "history.jsonl").exists()
    )


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"config": replace(CPU, lr=0.5)}, "lr was 0.01 and is now 0.5"),
        ({"config": replace(CPU, epochs=9)}, "epochs was 3 and is now 9"),
        ({"extra": {"words": ["dog"]}}, "words was ['cat'] and is now ['dog']"),
        ({"extra": None}, "words was ['cat'] and is now None"),
        ({"train": [sample_batch(8)] * 2}, "batches was 1 and is now 2"),
        ({"model": nn.Sequential(Tiny())}, "another model"),
    ],
)
def test_a_run_of_something_else_is_not_resumed_and_the_difference_is_named(
    tmp_path, changed, expected
):
    given = {
        "model": Tiny(),
        "train": [sample_batch(8)],
        "config": CPU,
        "extra": {"words": ["cat"]},
    }
    fit(**given, out=tmp_path)
    with pytest.raises(ValueError) as caught:
        fit(**given | changed, out=tmp_path, resume=True)
    assert expected in str(caught.value)


class Sizes(nn.Module):
    """How large the numbers of each modality are -> two classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 2)

    def forward(self, batch: Batch) -> Output:
        means = [
            batch[name].float().flatten(1).abs().mean(1) for name in ("audio", "image", "text")
        ]
        logits = self.linear(torch.stack(means, dim=1))
        return Output(
            logits,
            nn.functional.cross_entropy(logits, batch["target"]),
            torch.tensor(float(len(logits))),
        )


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """24 pets on disk, and a run over them that has one epoch of two."""
    folder = tmp_path_factory.mktemp("begun")
    pets.write(pets.draw(24), folder)
    with pytest.raises(Stop):
        fit(Sizes(), *loaders(folder), TWO, out=folder / "run", after_epoch=stop_at_two)
    return folder


TWO = replace(CPU, epochs=2)


def stop_at_two(row: dict, model: nn.Module) -> None:
    if row["epoch"] == 2:
        raise Stop


def loaders(folder: Path, **named) -> list:
    settings = {
        "batch_size": 8,
        "seed": 0,
        "augment": Augment(modality_dropout=0.3),
        "memory": True,
        "workers": 0,
        "progress": False,
    } | named
    data = load_data(read_manifest(folder / "manifest.csv"), **settings)
    return [data.loaders["train"], data.loaders["val"]]


def resume(folder: Path, *given) -> list[dict]:
    return without_seconds(fit(Sizes(), *given, TWO, out=folder / "run", resume=True))


@pytest.fixture()
def copied(begun, tmp_path):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    "changed, expected",
    [
        (
            {"augment": Augment(modality_dropout=0.0)},
            "train, augment, modality_dropout was 0.3 and is now 0.0",
        ),
        (
            {"augment": Augment(modality_dropout=0.3, speed=0.0)},
            "train, augment, speed was 0.1 and is now 0.0",
        ),
        ({"augment": None}, "train, augment was .* and is now None"),
        ({"seed": 1}, "train, seed was 0 and is now 1"),
        ({"batch_size": 7}, "train, batch_size was 8 and is now 7"),
    ],
)
def test_a_run_is_not_resumed_with_another_augmentation_order_or_batch(copied, changed, expected):
    with pytest.raises(
        ValueError, match=f"cannot resume the run in .*{expected}; give what it was"
    ):
        resume(copied, *loaders(copied, **changed))


def first(folder: Path, split: str, column: str) -> Path:
    with open(folder / "manifest.csv", encoding="utf-8") as file:
        return folder / next(
            row[column] for row in csv.DictReader(file) if row["split"] == split and row[column]
        )


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_run_is_not_resumed_over_files_with_another_content_and_test_files_are_free(
    copied, split, memory
):
    """A sound played backwards: the same name, length, and size of the file."""
    path = first(copied, split, "audio")
    clip, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, clip[::-1], rate)
    if split == "test":
        assert len(resume(copied, *loaders(copied, memory=memory))) == 2
    else:
        with pytest.raises(ValueError, match=f"{split}, checksum of the content of 'audio' was"):
            resume(copied, *loaders(copied, memory=memory))


@pytest.mark.parametrize(
    "column, expected",
    [
        ("image", "checksum of the content of 'image'"),
        ("text", "checksum of the content of 'text'"),
        ("label", "checksum of the targets"),
    ],
)
def test_a_run_is_not_resumed_where_two_cells_of_train_rows_have_changed_places(
    copied, column, expected
):
    with open(copied / "manifest.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    one, *others = [row for row in rows if row["split"] == "train" and row[column]]
    other = next(row for row in others if row[column] != one[column])
    one[column], other[column] = other[column], one[column]
    with open(copied / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=f"train, {expected} was"):
        resume(copied, *loaders(copied))


@pytest.mark.parametrize("memory", [True, False])
def test_a_run_over_the_same_data_goes_on_wherever_the_data_lies(begun, copied, memory):
    """The same pixels in another folder, with later times of change and another encoding.

    From memory or from disk.
    """
    path = first(copied, "train", "image")
    with Image.open(path) as image:
        image.copy().save(path, compress_level=0)
    never = without_seconds(fit(Sizes(), *loaders(begun), TWO))
    assert resume(copied, *loaders(copied, memory=memory)) == never


def test_a_checkpoint_of_an_older_mmlib_is_resumed_with_a_warning_on_what_it_does_not_say(
    begun, copied
):
    state = checkpoint.load(copied / "run")
    checkpoint.save(
        copied / "run",
        {
            name: value
            for name, value in state.items()
            if name not in ("data", "optimizer settings", "stopped")
        },
    )
    with pytest.warns(
        UserWarning, match="older mmlib, which did not note the (data|optimizer settings)"
    ) as warned:
        resumed = resume(copied, *loaders(copied))
    assert len(warned) == 2 and resumed == without_seconds(fit(Sizes(), *loaders(begun), TWO))


def saved_with(run: Path, fitted: dict) -> None:
    """Give a run this state of the preprocessing, and its checksum, as version 0.1 took it."""
    state = checkpoint.load(run)
    state["extra"] = {"preprocessing": fitted}
    for identity in state["data"].values():
        whole = json.dumps(fitted, sort_keys=True).encode()
        identity["checksum of the preprocessing"] = zlib.crc32(whole)
    checkpoint.save(run, state)


def test_a_run_is_resumed_where_the_words_for_a_decision_have_changed_and_nothing_else(copied):
    """``why`` says how the kind of target was decided, and decides about no batch."""
    train, val = loaders(copied)
    fitted = train.batches.preprocessing.state()
    extra = {"preprocessing": fitted}
    named = {"out": copied / "run", "resume": True, "extra": extra}
    saved_with(copied / "run", fitted | {"target": fitted["target"] | {"why": "other words"}})
    assert len(fit(Sizes(), train, val, TWO, **named)) == 2
    saved_with(copied / "run", fitted | {"target": fitted["target"] | {"std": 2.0}})
    with pytest.raises(ValueError, match="preprocessing, target, std was 2.0 and is now 1.0"):
        fit(Sizes(), train, val, TWO, **named)


def test_a_run_over_a_list_is_not_resumed_over_a_list_of_other_numbers(tmp_path):
    fit(Tiny(), [sample_batch(8)], [sample_batch(8)], CPU, out=tmp_path)
    fit(Tiny(), [sample_batch(8)], [sample_batch(8)], CPU, out=tmp_path, resume=True)
    for train, val, name in [
        ([sample_batch(8, seed=1)], [sample_batch(8)], "train"),
        ([sample_batch(8)], [sample_batch(8, seed=1)], "val"),
    ]:
        with pytest.raises(ValueError, match=f"{name}, checksum was"):
            fit(Tiny(), train, val, CPU, out=tmp_path, resume=True)


def test_weights_of_a_run_are_loaded_into_a_model_of_ones_own_best_or_last(tmp_path):
    model, history = overfit_in(tmp_path, False)
    assert len(history) > min(range(len(history)), key=lambda i: history[i]["val_loss"]) + 1
    state, again = checkpoint.load(tmp_path), Tiny()
    for best, name in ((True, "best"), (False, "model")):
        load_weights(again, tmp_path, best)
        assert (
            all(torch.equal(value, state[name][key]) for key, value in again.state_dict().items())
            and again.training
        )
    assert any(
        not torch.equal(value, state["best"][key]) for key, value in again.state_dict().items()
    )
    wide = Tiny()
    wide.head = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"'head.bias' is \(3,\) there and \(4,\) here"):
        load_weights(wide, tmp_path)
    with pytest.raises(ValueError, match="'0.head.bias' is nothing there"):
        load_weights(nn.Sequential(Tiny()), tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        load_weights(Tiny(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"made by fit.*mmlib.load_weights\(model, folder\)"):
        load(tmp_path)


def test_a_run_begins_with_the_best_weights_of_another_and_with_nothing_else_of_it(tmp_path):
    overfit_in(tmp_path / "first", False)
    best = Tiny()
    load_weights(best, tmp_path / "first")
    batches, begun = cut(sample_batch(12), 4), Tiny()
    assert not same_weights(begun, best)  # so that it is the weights that count
    one = fit(best, batches, config=CPU)
    two = fit(begun, batches, config=CPU, out=tmp_path / "second", start=tmp_path / "first")
    assert without_seconds(one) == without_seconds(two) and two[0]["epoch"] == 1
    assert same_weights(begun, best)


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_that_cannot_begin_from_another_says_why(tmp_path):
    first, batches, model = tmp_path / "first", [sample_batch(8)], Tiny()
    fit(Tiny(), batches, config=CPU, out=first)
    before = checkpoint.weights(model)
    wide = Tiny()
    wide.head = nn.Linear(8, 4)
    for message, part, asked in [
        (r"'head.bias' is \(3,\) there and \(4,\) here", wide, {"start": first}),
        ("resume=True goes on .*: give one", model, {"start": first, "resume": True}),
        ("start and out are both", model, {"start": first, "out": first}),
        ("nowhere/checkpoint.pt does not exist", model, {"start": tmp_path / "nowhere"}),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(part, batches, config=CPU, **{"out": tmp_path / "second"} | asked)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert checkpoint.exists(first) and not (tmp_path / "second").exists()


def test_a_model_of_another_width_is_named_by_its_first_weight(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    wide = Tiny()
    wide.head = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"'head.bias' is \(3,\) there and \(4,\) here"):
        fit(wide, [sample_batch(8)], config=CPU, out=tmp_path, resume=True)


def test_what_does_not_change_the_result_may_differ_on_resume(tmp_path):
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    assert (
        len(
            fit(
                Tiny(),
                [sample_batch(8)],
                config=replace(CPU, checkpoint_every=7, progress=True),
                out=tmp_path,
                resume=True,
            )
        )
        == 3
    )


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
    byte = (
        whole.index(torch.ones(2).numpy().tobytes()) + 5
    )  # of the weights, which torch.load would not notice
    path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 255]) + whole[byte + 1 :])
    assert "damaged" in problem()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path, {"model": {}})

    def broken(file):
        file.write(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / checkpoint.NAME, broken)
    assert checkpoint.load(tmp_path)["model"] == {} and [
        path.name for path in tmp_path.iterdir()
    ] == [checkpoint.NAME]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order, real_sync, real_replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), real_sync(handle)))
    monkeypatch.setattr(
        os,
        "replace",
        lambda a, b: (
            order.append((Path(a).parent == Path(b).parent, "replace")),
            real_replace(a, b),
        ),
    )
    checkpoint.save(tmp_path, {})
    assert order == ["fsync", (True, "replace"), "fsync"]
