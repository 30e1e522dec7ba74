"""The pets world as files: they hold what was drawn, the same bytes every time, and data/pets is
what the command makes.
"""

import csv
import hashlib
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmlib.worlds.pets import captions
from mmlib.worlds.pets.command import main
from mmlib.worlds.pets.dials import MODALITIES, Dials
from mmlib.worlds.pets.files import write
from mmlib.worlds.pets.voices import RATE
from mmlib.worlds.pets.world import CLASSES, draw

DATA = Path(__file__).parents[2] / "data" / "pets"


def tree(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read(folder):
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_hold_what_was_drawn(tmp_path):
    w = draw(25, dials=Dials(missing_image=0.3, missing_text=0.3, missing_audio=0.3))
    rows = read(write(w, tmp_path / "out").parent)
    assert (
        list(rows[0]) == ["image", "text", "text_zh", "audio", "label", "split"] and len(rows) == 25
    )
    for i, row in enumerate(rows):
        assert (row["text"], row["text_zh"], row["label"]) == (
            w.text[i],
            w.text_zh[i],
            CLASSES[w.label[i]],
        )
        assert [bool(row[modality]) for modality in MODALITIES] == [
            w.present[modality][i] for modality in MODALITIES
        ]
        if row["image"]:
            assert np.array_equal(
                np.asarray(Image.open(tmp_path / "out" / row["image"])), w.images[i]
            )
        if row["audio"]:
            wave, sample_rate = soundfile.read(tmp_path / "out" / row["audio"], dtype="float32")
            assert sample_rate == RATE and np.array_equal(wave, w.audio[i])


def test_the_command_writes_the_same_bytes_every_time_on_any_number_of_threads(tmp_path):
    for threads in ("1", "2"):
        out = tmp_path / threads
        command = [
            sys.executable,
            "-m",
            "mmlib.worlds.pets",
            out,
            "--rows",
            "12",
            "--seed",
            "5",
            "--sheet",
            out / "sheet.png",
        ]
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
    assert tree(tmp_path / "1") == tree(tmp_path / "2") and len(tree(tmp_path / "1")) == 12 * 2 + 2
    assert "image + text + audio: 0.970" in done.stdout


def test_the_command_takes_every_dial_and_names_wrong_ones(tmp_path):
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out):
        main(
            [
                str(tmp_path / "a"),
                "--rows",
                "3",
                "--vague-image",
                "1",
                "--label-noise",
                "0.1",
                "--missing-text",
                "1",
            ]
        )
    assert {row["text"] for row in read(tmp_path / "a")} == {
        ""
    } and "with image: 0.500" in out.getvalue()
    with redirect_stderr(error), pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "b"), "--structure", "redundant"])
    assert (
        stop.value.code == 2
        and "must be equal" in error.getvalue()
        and not (tmp_path / "b").exists()
    )


def test_files_of_something_else_are_not_mixed_in(tmp_path):
    write(draw(3), tmp_path)
    write(draw(4), tmp_path)  # replaces all that was there
    with pytest.raises(ValueError, match="images/00003.png"):
        write(draw(3), tmp_path)


def test_the_shipped_files_are_what_the_command_makes():
    fresh, rows = draw(1200, modalities=("text",)), read(DATA)
    drawn = {
        "text": fresh.text,
        "text_zh": fresh.text_zh,
        "label": [CLASSES[k] for k in fresh.label],
    }
    assert drawn == {column: [row[column] for row in rows] for column in drawn}
    some = list(range(0, 1200, 60))
    w = draw(some)
    for i, row in enumerate(some):
        assert np.array_equal(np.asarray(Image.open(DATA / rows[row]["image"])), w.images[i])
        assert np.array_equal(
            soundfile.read(DATA / rows[row]["audio"], dtype="float32")[0], w.audio[i]
        )
    files = tree(DATA)
    assert set(files) == {"manifest.csv"} | {row[c] for row in rows for c in ("image", "audio")}
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 16e6


def test_the_split_is_70_15_15_in_each_class_and_stays_when_rows_are_added(tmp_path):
    rows = read(DATA)
    for kind in CLASSES:
        splits = [row["split"] for row in rows if row["label"] == kind]
        assert 500 < len(splits) < 700
        for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(splits.count(name) / len(splits) - share) < 0.01
    write(draw(30), tmp_path)
    assert [row["split"] for row in read(tmp_path)] == [row["split"] for row in rows[:30]]


def test_every_hint_of_the_test_rows_is_learnt_and_belongs_to_one_species():
    habits = [{english for english, _ in species} for species in captions.HINTS]
    assert not habits[0] & habits[1]
    both, found = habits[0] | habits[1], {"train": set(), "test": set()}
    for row in read(DATA):
        found.setdefault(row["split"], set()).update(
            habit for habit in both if habit in row["text"]
        )
    assert found["test"] <= found["train"] == both
