"""A folder of files becomes a manifest, or an error names the files; nothing is overwritten."""

import os

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmlib.cli.main import main, parser
from mmlib.data import load_data, read_manifest
from mmlib.data.folders import KINDS, SPLITS, list_folder, write_manifest
from mmlib.data.image import FORMATS
from mmlib.data.manifest import SPLIT_NAMES


def make(root, *names):
    """Files of these names, of what their endings say."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ending = path.suffix.lower()
        if ending in (".png", ".jpg", ".jpeg"):
            Image.new("RGB", (9, 8), (20 * i % 255, 90, 30)).save(path)
        elif ending == ".wav":
            soundfile.write(path, 0.1 * np.ones(200), 16_000)
        else:
            path.write_text(f"words of {name}")
    return root


def listing(root, *names):
    return list_folder(make(root, *names))


def test_a_folder_per_class_is_a_manifest(tmp_path):
    found = listing(tmp_path, "cat/1.jpg", "cat/2.png", "dog/1.JPEG")
    assert found.header == ["image", "label"]
    assert found.rows == [["cat/1.jpg", "cat"], ["cat/2.png", "cat"], ["dog/1.JPEG", "dog"]]
    assert found.notes == []


def test_files_of_one_name_are_one_row_and_a_missing_one_an_empty_cell(tmp_path):
    found = listing(tmp_path, "cat/1.jpg", "cat/1.wav", "cat/1.txt", "dog/2.wav", "dog/3.jpg")
    assert found.header == ["image", "audio", "text", "label"]
    assert found.rows == [
        ["cat/1.jpg", "cat/1.wav", "words of cat/1.txt", "cat"],
        ["", "dog/2.wav", "", "dog"],
        ["dog/3.jpg", "", "", "dog"],
    ]


def test_folders_per_split_are_the_split_column_and_one_name_in_two_folders_is_two_rows(tmp_path):
    found = listing(tmp_path, "train/cat/1.png", "valid/cat/1.png", "test/dog/1.png")
    assert found.header == ["image", "label", "split"]
    assert sorted(found.rows) == [
        ["test/dog/1.png", "dog", "test"],
        ["train/cat/1.png", "cat", "train"],
        ["valid/cat/1.png", "cat", "valid"],
    ]


def test_a_folder_without_folders_has_no_label(tmp_path):
    found = listing(tmp_path, "1.jpg", "1.txt")
    assert (found.header, found.rows) == (["image", "text"], [["1.jpg", "words of 1.txt"]])


def test_what_is_left_out_is_said_and_hidden_files_are_nothing(tmp_path):
    found = listing(
        tmp_path, "README.txt", "cat/1.png", "cat/x.pdf", "cat/.DS_Store", ".git/1.png",
        "__MACOSX/cat/1.png", "dog/2.png",
    )  # fmt: skip
    assert found.rows == [["cat/1.png", "cat"], ["dog/2.png", "dog"]]
    assert found.notes == ["2 other files are left out: cat/x.pdf, README.txt"]


@pytest.mark.parametrize(
    "names, words",
    [
        (["cat/1.png", "cat/1.jpg"], ["cat/1.jpg", "cat/1.png", "both are of kind image"]),
        (["cat/a.png", "cat/A.wav"], ["cat/A.wav", "cat/a.png", "upper and lower case"]),
        (["Cat/1.png", "cat/1.png"], ["Cat/1.png", "cat/1.png", "upper and lower case"]),
        (["cat/1.png", "0.png"], ["cat/1.png lies deeper than 0.png", "a folder per class"]),
        (["cat/a/1.png", "dog/1.png"], ["cat/a/1.png lies deeper than dog/1.png"]),
        (["x/cat/1.png", "y/dog/1.png"], ["2 folders deep", "x/cat/1.png"]),
        (["train/cat/1.png", "extra/dog/1.png"], ["2 folders deep", "extra/dog/1.png"]),
        (["train/1.png", "test/2.png"], ["test, train are names of splits", "test/2.png"]),
        (["images/1.png", "audio/1.wav"], ["audio/ (audio), images/ (image)", "no classes"]),
        (["cat/1.pdf"], ["no images, sounds or texts", "png"]),
        ([" cat/1.png"], ["' cat/1.png' begins or ends with a space"]),
    ],
)
def test_what_may_mean_two_things_is_refused_by_name(tmp_path, names, words):
    with pytest.raises(ValueError) as caught:
        listing(tmp_path, *names)
    assert all(word in str(caught.value) for word in words), caught.value


def test_names_and_texts_that_are_not_utf8_are_refused_by_name(tmp_path):
    make(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "2.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"2\.txt: byte 3 is not UTF-8"):
        list_folder(tmp_path)
    (tmp_path / "cat" / "2.txt").unlink()
    os.rename(os.fsencode(tmp_path / "cat" / "1.png"), os.fsencode(tmp_path / "cat") + b"/\xe9.png")
    with pytest.raises(ValueError, match="name of the file .* is not UTF-8"):
        list_folder(tmp_path)


def test_the_written_manifest_reads_back_from_wherever_it_stands(tmp_path):
    names = ["cat/1, 2.png", 'cat/"x".png', "dog/ä.png", "cat/3.txt", "dog/4.png"]
    found = listing(tmp_path / "deep" / "photos", *names)
    found.rows[0][found.header.index("text")] = 'two\nlines, "quoted"'
    for out in (tmp_path / "m.csv", tmp_path / "deep/m.csv", tmp_path / "deep/photos/m.csv"):
        write_manifest(found, tmp_path / "deep" / "photos", out)
        manifest = read_manifest(out)
        assert manifest.cells["text"] == [row[1] for row in found.rows]
        assert manifest.target == [row[2] for row in found.rows]
        for cell in filter(None, manifest.cells["image"]):
            assert (out.parent / cell).is_file()


def test_a_manifest_is_never_overwritten_and_never_written_where_its_paths_lead_out(tmp_path):
    found = listing(tmp_path / "photos", "cat/1.png", "dog/1.png")
    (tmp_path / "m.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"m\.csv is there already"):
        write_manifest(found, tmp_path / "photos", tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == "mine"
    (tmp_path / "other").mkdir()
    for out in (tmp_path / "other" / "m.csv", tmp_path / "photos" / "cat" / "m.csv"):
        with pytest.raises(ValueError, match="lead out"):
            write_manifest(found, tmp_path / "photos", out)
        assert not out.exists()
    with pytest.raises(ValueError, match="no such folder"):
        write_manifest(found, tmp_path / "photos", tmp_path / "none" / "m.csv")


def test_a_folder_is_a_manifest_by_itself_unless_it_has_one(tmp_path):
    names = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in "12"]
    make(tmp_path, *names)
    data = load_data(read_manifest(tmp_path), progress=False)
    assert [loader.samples for loader in data.loaders.values()] == [4, 4]
    (tmp_path / "m.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match="it is a folder; name the CSV inside"):
        read_manifest(tmp_path)


def test_the_command_writes_what_train_reads(tmp_path, capsys):
    root = tmp_path / "photos"
    make(root, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(12)), "cat/x.pdf")
    assert main(["manifest", str(root), "--out", str(tmp_path / "m.csv")]) == 0
    out = capsys.readouterr().out
    assert "24 rows; columns image, label" in out and "cat/x.pdf" in out
    assert main(["manifest", str(root), "--out", str(tmp_path / "m.csv")]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert main(["manifest", str(root)]) == 0 and (root / "manifest.csv").is_file()
    line = ["train", str(tmp_path / "m.csv"), "--epochs", "1", "--device", "cpu"]
    assert main([*line, "--out", str(tmp_path / "run")]) == 0


def test_lists_that_stand_in_two_places_agree():
    from mmlib.cli.manifest import LAYOUTS
    from mmlib.data import layouts

    assert tuple(sorted(layouts.LAYOUTS)) == LAYOUTS
    assert {*SPLIT_NAMES, *SPLIT_NAMES.values(), "train", "test"} == set(SPLITS)
    image = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
    assert {f".{ending}" for ending in KINDS["image"]} <= image
    assert "manifest" in parser().format_help()
