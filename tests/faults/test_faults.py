"""What goes wrong with disk, memory, network and data: it is said, what was saved stays, and
there is a way on.
"""

import csv
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mmlib import Recipe, classify, load
from mmlib.cli.main import main
from mmlib.core import Batch, Output
from mmlib.train import checkpoint
from mmlib.train.evaluate import evaluate
from mmlib.train.loop import fit
from mmlib.worlds import pets
from tests.train.test_checkpoint import Bomb, rows_of
from tests.train.test_loop import CPU, Tiny, cut, sample_batch, without_seconds

POSIX = pytest.mark.skipif(os.name != "posix", reason="a fault of POSIX systems")
QUICK = replace(CPU, epochs=4, checkpoint_every=1)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same_state(a: dict, b: dict) -> bool:
    weights = all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())
    return weights and {**a, "model": 0} == {**b, "model": 0}


# ---- the disk


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to let a file grow further, as a full disk would, and with the same
    kind of error.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@POSIX
@pytest.mark.parametrize("size", [0, 100, 5_000, 100_000])
def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path, size):
    checkpoint.save(tmp_path, {"step": 1, "model": {"w": torch.ones(10)}})
    checkpoint.save(tmp_path, {"step": 2, "model": {"w": torch.ones(20)}})
    before = names(tmp_path)
    with (
        files_of_at_most(size),
        pytest.raises(
            OSError, match=r"checkpoint\.pt cannot be written \(File too large\): make room"
        ) as caught,
    ):
        checkpoint.save(tmp_path, {"step": 3, "model": {"w": torch.randn(100_000)}})
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == before and checkpoint.load(tmp_path)["step"] == 2


@POSIX
def test_a_run_stopped_by_a_full_disk_goes_on_when_there_is_room(tmp_path):
    data, calls = (cut(sample_batch(12), 4), [sample_batch(8)], QUICK), []
    straight, model = fit(Tiny(), *data, {"score": lambda *_: 0.0}), Tiny()
    with ExitStack() as full:

        def disk_fills(*_) -> float:
            calls.append(0)
            if len(calls) == 2:
                full.enter_context(files_of_at_most(3000))
            return 0.0

        with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written"):
            fit(model, *data, {"score": disk_fills}, tmp_path)
    assert checkpoint.load(tmp_path)["step"] == 5 and names(tmp_path) == {
        checkpoint.NAME,
        checkpoint.PREVIOUS,
        checkpoint.HISTORY,
    }
    assert not model.training
    assert without_seconds(
        fit(Tiny(), *data, {"score": lambda *_: 0.0}, tmp_path, resume=True)
    ) == without_seconds(straight)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = Tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            OSError, match="a run cannot be written into .*file.*give another folder"
        ):
            fit(model, [sample_batch(8)], config=CPU, out=out)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


MOUNTS = {
    "full": "mount -t tmpfs -o size={size} tmpfs {out}",
    "read-only": "mount --bind {out} {out} && mount -o remount,ro,bind {out}",
}


@pytest.mark.long
@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs a Linux that lets us mount",
)
@pytest.mark.parametrize("kind", MOUNTS)
def test_the_command_line_on_a_disk_that_is_really_full_or_read_only(tmp_path, kind):
    pets.write(pets.draw(24), tmp_path)
    train = (
        f"{sys.executable} -m mmlib train {tmp_path}/manifest.csv --epochs 3 --device cpu "
        "--use text --out "
    )
    subprocess.run(train + str(tmp_path / "whole"), shell=True, check=True, capture_output=True)
    out, size = tmp_path / "out", (tmp_path / "whole" / checkpoint.NAME).stat().st_size
    out.mkdir()
    mount = MOUNTS[kind].format(
        out=out, size=size * 5 // 2
    )  # room for two, not for a third while the two before it stay
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            f"{mount} && {train}{out}; echo code $?; ls -A {out}; cp {out}/*.pt {tmp_path}",
        ],
        text=True,
        capture_output=True,
    )
    reason = "No space left" if kind == "full" else "Read-only file system"
    assert (
        "code 1" in done.stdout
        and f"mmlib: [Errno {errno.ENOSPC if kind == 'full' else errno.EROFS}]" in done.stderr
    )
    assert reason in done.stderr and "Traceback" not in done.stderr and ".tmp" not in done.stdout
    if kind == "full":
        assert checkpoint.load(tmp_path)["epoch"] == 2


def test_at_no_moment_is_there_no_complete_checkpoint(tmp_path, monkeypatch):
    def watched(real):
        def call(*arguments, **named):
            steps.append(checkpoint.load(tmp_path)["step"])
            done = real(*arguments, **named)
            steps.append(checkpoint.load(tmp_path)["step"])
            return done

        return call

    steps: list[int] = []
    for step in range(3):
        checkpoint.save(tmp_path, {"step": step})
    for place, name in (
        (os, "link"),
        (os, "replace"),
        (os, "fsync"),
        (Path, "unlink"),
        (os, "unlink"),
        (shutil, "copyfile"),
    ):
        monkeypatch.setattr(place, name, watched(getattr(place, name)))
    checkpoint.save(tmp_path, {"step": 3})
    assert steps == sorted(steps) and set(steps) == {2, 3}
    assert checkpoint._read(tmp_path / checkpoint.PREVIOUS)["step"] == 2


def test_a_disk_without_hard_links_keeps_the_one_before_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for step in range(3):
        checkpoint.save(tmp_path, {"step": step})
    assert names(tmp_path) == {checkpoint.NAME, checkpoint.PREVIOUS}
    assert (
        checkpoint.load(tmp_path)["step"] == 2
        and checkpoint._read(tmp_path / checkpoint.PREVIOUS)["step"] == 1
    )


# ---- the checkpoint


def test_no_damage_to_a_checkpoint_goes_unnoticed(tmp_path):
    """Cut off at any place, or any byte changed: an error, or exactly what was saved."""
    saved = {
        "step": 5,
        "model": {"w": torch.randn(50), "n": torch.arange(5)},
        "history": [{"epoch": 1, "seconds": 2.5}],
        "words": ["cat", "狗"],
    }
    checkpoint.save(tmp_path, saved)
    path = tmp_path / checkpoint.NAME
    whole, same, noticed = path.read_bytes(), 0, 0
    saved = checkpoint.load(tmp_path)
    broken = [whole[:length] for length in range(0, len(whole), 17)]
    broken += [
        whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(0, len(whole), 5)
    ]
    for content in broken:
        path.write_bytes(content)
        try:
            found = checkpoint.load(tmp_path)
        except ValueError as error:
            assert str(path) in str(error)
            noticed += 1
        else:
            assert same_state(found, saved), "a changed checkpoint was loaded"
            same += 1
    assert noticed > len(broken) / 2 and same < len(broken) / 2


DAMAGE = {
    "empty": b"",
    "text": b"hello",
    "cut": -40,
    "code": {"format": 1, "model": Bomb()},
    "another program's": {"state_dict": {}},
    "another format": {"format": 99},
    "gone": None,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_of_a_bad_checkpoint_the_one_before_is_offered_and_goes_on_as_if_never_stopped(
    tmp_path, kind
):
    def train(resume: bool) -> list[dict]:
        return without_seconds(
            fit(
                Tiny(dropout=0.3),
                cut(sample_batch(12), 4),
                [sample_batch(8)],
                QUICK,
                out=tmp_path,
                resume=resume,
            )
        )

    straight = train(False)
    path, previous, damage = (
        tmp_path / checkpoint.NAME,
        tmp_path / checkpoint.PREVIOUS,
        DAMAGE[kind],
    )
    whole = path.read_bytes()
    if isinstance(damage, dict):
        torch.save(damage, path)
    else:
        path.unlink() if damage is None else path.write_bytes(
            whole[:damage] if isinstance(damage, int) else damage
        )
    step = checkpoint._read(previous)["step"]
    for use in (lambda: checkpoint.load(tmp_path), lambda: train(True)):
        with pytest.raises(
            ValueError,
            match=rf"whole \(step {step}\): to go on from there, rename checkpoint.previous.pt to "
            r"checkpoint.pt$",
        ):
            use()
    previous.replace(path)  # as the message says
    assert 0 < step < straight[-1]["step"] and train(True) == straight == rows_of(tmp_path)


def test_two_bad_checkpoints_are_both_named_and_a_single_one_offers_nothing(tmp_path):
    (tmp_path / checkpoint.NAME).write_bytes(b"bad")
    with pytest.raises(ValueError, match="use a copy of it, or train again$"):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.PREVIOUS).write_bytes(b"bad too")
    either = "the one before it, .*checkpoint.previous.pt, cannot be used either: train again$"
    with pytest.raises(ValueError, match=either):
        checkpoint.load(tmp_path)
    checkpoint.clear(tmp_path)
    assert not names(tmp_path)


def run(folder: Path, resume: bool = False) -> None:
    batches, extra = [sample_batch(8)], {"words": ["cat"]}
    fit(Tiny(), batches, batches, CPU, out=folder, resume=resume, extra=extra)


def run_state(folder: Path) -> dict:
    run(folder)
    return checkpoint.load(folder)


BAD = {
    "best": [1],
    "optimizer": {},
    "history": 5,
    "random": [],
    "model": {"w": 5},
    "epoch": -1,
    "batch": "x",
    "config": None,
    "step": 0.5,
    "loss": float("nan"),
    "best_value": "high",
    "extra": [torch.ones(2)],
    "processes": True,
    "seconds": None,
}


@pytest.mark.parametrize("key", BAD)
@pytest.mark.parametrize("gone", [False, True])
def test_content_that_no_run_writes_is_named_by_its_key(tmp_path, key, gone):
    state = run_state(tmp_path)
    assert key in state
    checkpoint.save(
        tmp_path, {k: v for k, v in state.items() if k != key} if gone else state | {key: BAD[key]}
    )
    (tmp_path / checkpoint.PREVIOUS).unlink()
    with pytest.raises(
        ValueError, match=rf"{'it has no .' if gone else ''}{key}|states of torch's generators"
    ):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"betas": (0.9,)}, "another optimizer"),
        ({"amsgrad": True}, "another optimizer"),
        ({"params": [0]}, "another optimizer"),
        ({"lr": 0.7}, ""),
    ],
)
def test_an_optimizer_of_another_kind_is_refused_and_only_its_rate_may_differ(
    tmp_path, change, reason
):
    state = run_state(tmp_path)
    state["optimizer"]["param_groups"][0] |= change
    checkpoint.save(tmp_path, state)
    try:
        run(tmp_path, resume=True)
    except ValueError as error:
        assert reason and reason in str(error)
    else:
        assert not reason


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_weight_that_is_not_finite_is_named_and_answers_nothing(interrupted, tmp_path, value):
    shutil.copytree(interrupted.out, tmp_path / "run")
    state = checkpoint.load(tmp_path / "run")
    name = next(name for name, weight in state["best"].items() if weight.ndim == 2)
    state["best"][name][0, 0] = float(value)
    checkpoint.save(tmp_path / "run", state)
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "run", "cpu")
    assert name in str(caught.value)


def test_infinity_in_a_buffer_of_a_model_of_ones_own_is_its_own_affair(tmp_path):
    model = Tiny()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    fit(model, [sample_batch(8)], config=CPU, out=tmp_path)
    assert checkpoint.load(tmp_path)["best"]["mask"][0, 1] == -torch.inf


def test_a_folder_that_fit_wrote_says_what_to_do_with_it(tmp_path, capsys):
    fit(model := Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    with pytest.raises(
        ValueError, match=r"was made by fit\(\.\.\., out=\).*build the model.*load_weights"
    ):
        load(tmp_path)
    assert (
        main(["predict", str(tmp_path), "--text", "a"]) == 1
        and "Traceback" not in capsys.readouterr().err
    )
    other = Tiny()
    checkpoint.set_weights(other, checkpoint.load(tmp_path)["best"])  # as it says
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()
    )


# ---- whose files


@POSIX
@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_who_may_read_a_file_is_for_the_umask_to_say(tmp_path, umask):
    before = os.umask(umask)
    try:
        for _ in range(2):  # new, and replaced
            fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    finally:
        os.umask(before)
    for name in (checkpoint.NAME, checkpoint.HISTORY):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_fit_overwrites_no_history_that_is_of_no_run_and_leaves_other_files_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path / "a")
    (tmp_path / checkpoint.HISTORY).write_text("mine")
    with pytest.raises(
        ValueError, match=r"history\.jsonl is there, and no checkpoint.* would be overwritten"
    ):
        fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    assert (tmp_path / checkpoint.HISTORY).read_text() == "mine"
    (tmp_path / checkpoint.HISTORY).unlink()
    fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine" and checkpoint.exists(tmp_path)


@POSIX
def test_a_run_that_begins_while_another_reads_its_files_is_refused_and_destroys_nothing(
    tmp_path, interrupted, monkeypatch
):
    """The first has looked at the folder, and reads; a second that is quicker must not be
    overwritten when the first comes to train.
    """
    module = sys.modules["mmlib.recipes.recipe"]
    real, refused = module.load_data, []

    def reading(*arguments, **named):
        def quicker() -> None:
            try:
                fit(Tiny(), [sample_batch(8)], config=CPU, out=tmp_path / "run")
            except ValueError as error:
                refused.append(str(error))

        thread = threading.Thread(target=quicker)
        thread.start()
        thread.join()
        return real(*arguments, **named)

    monkeypatch.setattr(module, "load_data", reading)
    recipe = replace(interrupted, out=tmp_path / "run")
    classify(recipe)
    assert len(refused) == 1 and "another run is writing into" in refused[0]
    assert load(tmp_path / "run", "cpu").classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="already holds a run"):
        classify(recipe)


# ---- memory


class Greedy(nn.Module):
    """Asks for more memory than any machine has, when ``at`` says so."""

    def __init__(self, at: str, device: str = "cpu"):
        super().__init__()
        self.inner, self.at, self.device = Tiny(), at, device

    def forward(self, batch: Batch) -> Output:
        if len(batch["target"]) > 1 and (self.at == "training") == self.training:
            made = torch.ones(1000, device=self.device)
            self.made = weakref.ref(made)
            torch.empty(1 << 50, dtype=torch.uint8, device=self.device)
        return self.inner(batch)


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("at", ["training", "evaluation"])
def test_out_of_memory_names_the_batch_and_what_to_try(at, device):
    model = Greedy(at, device)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        fit(model, [sample_batch(8)], [sample_batch(7)], replace(CPU, device=device))
    text = str(caught.value)
    size = 8 if at == "training" else 7
    assert f"batch of {size} samples (image ({size}, 3, 4, 5), text ({size}, 6))" in text
    advice = ("accumulate", "bf16", "--batch-size") if at == "training" else ("device='cpu'",)
    assert (
        all(words in text for words in ("batch_size", "memory=False", *advice)) and "\n" not in text
    )
    assert not model.training and model.made() is None, (
        "the error keeps the tensors of the forward pass"
    )


def test_other_errors_of_a_model_stay_as_they_are():
    model = Tiny()
    model.head = nn.Linear(7, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        evaluate(model, [sample_batch(8)])
    assert not isinstance(caught.value, torch.OutOfMemoryError)


# ---- the data


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A recipe whose run has a checkpoint, over a manifest with a split column."""
    folder = tmp_path_factory.mktemp("edited")
    pets.write(pets.draw(40), folder)
    recipe = Recipe(
        folder / "manifest.csv",
        out=folder / "run",
        epochs=1,
        device="cpu",
        use=("text", "image"),
        log=lambda line: None,
    )
    classify(recipe)
    return recipe


def edited(recipe: Recipe, split: str, change) -> Recipe:
    """The recipe resumed, after ``change(rows of that split)``, which returns the rows to keep."""
    with open(recipe.manifest, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row["split"] == split]
    kept = change(chosen)
    path = Path(recipe.manifest).with_name("edited.csv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([row for row in rows if row not in chosen or row in kept])
    return replace(recipe, manifest=path, resume=True)


def swap(rows: list[dict], column: str) -> list[dict]:
    first = next(row for row in rows if row[column] != rows[0][column])
    rows[0][column], first[column] = first[column], rows[0][column]
    return rows


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("column", ["text", "label", "image"])
def test_a_manifest_edited_between_stop_and_resume_is_refused_by_split_and_column(
    interrupted, split, column
):
    """Two cells change places: the same words, classes and counts, so that nothing but the cells
    can tell.
    """
    with pytest.raises(
        ValueError,
        match=rf"cannot resume .*manifest, {split} rows, column '{column}' was .* is now .*give "
        r"what it was",
    ):
        classify(edited(interrupted, split, lambda rows: swap(rows, column)))


def test_a_row_taken_out_is_refused_with_the_numbers(interrupted):
    with pytest.raises(
        ValueError,
        match=r"manifest, train rows, column 'image' was '(\d+) cells .* and is now '(?!\1)\d+ "
        r"cells",
    ):
        classify(edited(interrupted, "train", lambda rows: rows[1:]))


def test_test_rows_may_be_edited_since_training_never_sees_them(interrupted):
    assert len(classify(edited(interrupted, "test", lambda rows: swap(rows, "label"))).history) == 1
    assert len(classify(edited(interrupted, "train", lambda rows: rows)).history) == 1


def test_a_row_taken_out_before_training_rows_is_refused_as_their_places_decide_the_order(
    interrupted,
):
    with pytest.raises(ValueError, match="train, checksum of the rows' places in the manifest was"):
        classify(edited(interrupted, "test", lambda rows: rows[1:]))


# ---- the network


def test_training_and_predicting_ask_for_no_network(interrupted, monkeypatch):
    def cut_off(*arguments):
        raise AssertionError(f"asked for the network: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, cut_off)
    monkeypatch.setattr(socket, "getaddrinfo", cut_off)
    out = f"{interrupted.out}-offline"
    assert (
        main(
            [
                "train",
                str(interrupted.manifest),
                "--epochs",
                "1",
                "--device",
                "cpu",
                "--use",
                "text,audio",
                "--out",
                out,
            ]
        )
        == 0
    )
    assert load(out, "cpu").predict(text="it purrs")["class"] in ("cat", "dog")
