"""A Hugging Face dataset, with Image and Audio features, trains as any manifest does."""

import csv
import io
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmlib.data import load_data, read_image, read_manifest, write_dataset


def png(shade):
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file := io.BytesIO(), "PNG")
    return {"bytes": file.getvalue(), "path": None}


def wav(level):
    soundfile.write(file := io.BytesIO(), np.full(160, level), 16_000, format="WAV")
    return {"bytes": file.getvalue(), "path": "some/where/x.wav"}


@pytest.fixture
def made():
    """A dataset of four rows: all kinds of columns, each with something missing."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    columns = {
        "image": [png(10), png(20), None, png(40)],
        "voice": [wav(0.1), None, wav(0.3), wav(0.4)],
        "text": ["a, b", "two\nlines", None, "d"],
        "label": [1, 0, 1, -1],
        "age": [1.5, 2.5, None, 4.0],
        "boxes": [[1], [2], [3], [4]],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "voice": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "age": datasets.Value("float64"),
            "boxes": datasets.Sequence(datasets.Value("int64")),
        }
    )
    made = datasets.Dataset.from_dict(columns, features=features)
    # Audio by itself would encode what it is given, and needs torchcodec for it
    return made.cast_column("voice", datasets.Audio(sampling_rate=8000))


def rows_of(folder):
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_of_column_is_a_cell_or_named_as_left_out(tmp_path, made):
    notes = write_dataset(made, tmp_path / "out")
    assert len(notes) == 1 and "'boxes'" in notes[0]
    rows = rows_of(tmp_path / "out")
    assert [row["label"] for row in rows] == ["dog", "cat", "dog", ""]
    assert [row["text"] for row in rows] == ["a, b", "two\nlines", "", "d"]
    assert [row["age"] for row in rows] == ["1.5", "2.5", "", "4.0"]
    assert [bool(row["image"]) for row in rows] == [True, True, False, True]
    assert rows[3]["voice"] == "voice/0000003.wav" and rows[1]["voice"] == ""
    stored = (tmp_path / "out" / rows[0]["image"]).read_bytes()
    assert stored == png(10)["bytes"], "neither decoded nor encoded"
    assert read_image(tmp_path / "out" / rows[3]["image"], 8)[0].min() == 40


def test_splits_are_a_column_and_the_manifest_loads(tmp_path, made):
    import datasets

    part = made.select([0, 1, 2])
    both = datasets.DatasetDict({"train": part, "validation": part.select([1, 0])})
    write_dataset(both, tmp_path / "out")
    assert [row["split"] for row in rows_of(tmp_path / "out")] == ["train"] * 3 + ["validation"] * 2
    manifest = read_manifest(tmp_path / "out" / "manifest.csv", columns={"audio": "voice"})
    data = load_data(manifest, progress=False)
    assert {name: loader.samples for name, loader in data.loaders.items()} == {"train": 3, "val": 2}


def test_saved_streamed_and_formatted_datasets_give_the_same_files(tmp_path, made):
    made.save_to_disk(str(tmp_path / "saved"))
    sources = [tmp_path / "saved", made.to_iterable_dataset(), made.with_format("numpy"), made]
    found = []
    for i, source in enumerate(sources):
        write_dataset(source, tmp_path / str(i))
        files = sorted(path for path in (tmp_path / str(i)).rglob("*") if path.is_file())
        found.append({str(f.relative_to(tmp_path / str(i))): f.read_bytes() for f in files})
    assert found[0] == found[1] == found[2] == found[3] and len(found[0]) == 7


def test_files_that_the_dataset_only_names_are_copied_or_named_as_missing(tmp_path, made):
    import datasets

    (tmp_path / "a.png").write_bytes(png(50)["bytes"])
    names = {"image": [str(tmp_path / "a.png")]}
    named = datasets.Dataset.from_dict(names).cast_column("image", datasets.Image())
    write_dataset(named, tmp_path / "out")
    assert rows_of(tmp_path / "out") == [{"image": "image/0000000.png"}]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"row 0000000, column 'image': .*a\.png' is no file"):
        write_dataset(named, tmp_path / "again")
    assert not (tmp_path / "again").exists(), "nothing is half written"


def test_nothing_is_overwritten_and_a_dataset_is_no_manifest(tmp_path, made):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        write_dataset(made, tmp_path)
    with pytest.raises(ValueError, match=r"write_dataset\(dataset, folder\)"):
        read_manifest(made)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'mmlib\[datasets\]'"):
        write_dataset(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"dict, expected a datasets\.Dataset"):
        write_dataset({}, tmp_path / "out")
