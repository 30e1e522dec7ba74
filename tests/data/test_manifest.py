"""Manifests as people write them: what is read, and what is refused in which words; targets."""

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmlib.data import load_data
from mmlib.data.manifest import Modality, read_manifest, resolve
from mmlib.data.problems import ManifestErrors
from mmlib.data.targets import alike, check_target, read_target


def write(folder, text: str, name: str = "m.csv", encoding: str = "utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_every_cell_is_text(tmp_path):
    m = read_manifest(write(tmp_path, 'text,label\nNA,007\nnull,1.0\n"a, ""b""\nc",True\n'))
    assert m.cells["text"] == ["NA", "null", 'a, "b"\nc'] and m.target == ["007", "1.0", "True"]
    assert m.rows == ["line 2", "line 3", "line 4"]
    assert m.modalities == {"text": Modality("text", "text")}
    assert m.split is m.group is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_bom_line_ends_and_separators_do_not_matter(tmp_path, encoding, end, mark):
    rows = ["image", "text", "label"], ["猫.png", "一只猫", "猫"], ["", "狗", "狗"]
    text = "".join(mark.join(row) + end for row in rows)
    m = read_manifest(write(tmp_path, text, encoding=encoding))
    assert m.cells == {"image": ["猫.png", ""], "text": ["一只猫", "狗"]}
    assert m.target == [
        "猫",
        "狗",
    ]


def test_blank_lines_are_no_rows_and_line_numbers_stay_true(tmp_path):
    m = read_manifest(write(tmp_path, 'text,label\n\na,1\n"two\nlines",2\n\nb,3\n'))
    assert m.rows == ["line 3", "line 4", "line 7"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("text,label,text\na,b,c\n", ["text", "more than once"]),
        ("", ["empty", "header"]),
        ("text,label\n", ["no rows"]),
        ("text,label\na,b\nc\nd,e,f\n", ["line 3", "1 cells", "line 4", "3 cells", "expected 2"]),
        ('text,label\na,b\n"c,d\n', ["line 3"]),
        ("txt,label\na,b\n", ["image, text or audio", "txt", "--image"]),
        ("text,lable\na,b\n", ["'label'", "lable", "did you mean 'lable'"]),
    ],
)
def test_what_is_wrong_with_the_table_is_said(tmp_path, text, words):
    with pytest.raises(ValueError) as error:
        read_manifest(write(tmp_path, text))
    assert all(word in str(error.value) for word in [*words, "m.csv"])


def test_a_long_text_is_a_text_and_the_limit_of_the_csv_module_stays_what_it_was(tmp_path):
    before, long = csv.field_size_limit(), "word " * 28_000  # 140 kB
    assert read_manifest(write(tmp_path, f"text,label\n{long},a\nb,c\n")).cells["text"] == [
        long.strip(),
        "b",
    ]
    with pytest.raises(ValueError, match="line 3"):
        read_manifest(write(tmp_path, f'text,label\n"{long},a\nb,c\n'))
    assert csv.field_size_limit() == before


def test_another_encoding_is_named_with_its_place(tmp_path):
    path = write(tmp_path, "text,label\nplain,a\ncafé,b\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"m.csv: byte 22 \(line 3\).*UTF-8"):
        read_manifest(path)
    with pytest.raises(ValueError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="folder"):
        read_manifest(tmp_path)


def test_columns_are_mapped_and_two_views_get_their_own_names(tmp_path):
    path = write(tmp_path, "xray,ct,note,text,y,patient\na,b,c,d,1,p\n")
    m = read_manifest(
        path, target="y", columns={"image": "xray,ct", "text": "note"}, group="patient"
    )
    assert m.modalities == {
        "xray": Modality("image", "xray"),
        "ct": Modality("image", "ct"),
        "text": Modality("text", "note"),
    }
    assert m.cells["text"] == ["c"] and m.group == ["p"]
    assert list(
        read_manifest(path, target="y", columns={"image": "xray, ct"}, use=["ct"]).modalities
    ) == ["ct"]
    assert list(read_manifest(path, target=None, columns={"image": "xray"}).modalities) == [
        "image",
        "text",
    ]
    for wrong, word in [
        ({"columns": {"image": "xry"}}, "did you mean 'xray'"),
        ({"columns": {"picture": "xray"}}, "kinds"),
        ({"use": ["sound"]}, "'sound'"),
        ({"use": []}, "empty"),
        ({"group": "hospital"}, "'hospital'"),
        ({"columns": {"text": "y"}}, "answer"),
        ({"columns": {"image": "ct,ct"}}, "named"),
    ]:
        with pytest.raises(ValueError, match=word):
            read_manifest(path, **{"target": "y", **wrong})


def test_split_names_are_brought_to_one_form(tmp_path):
    names = [
        "Train",
        "TRAINING",
        "dev",
        "valid",
        "Validation",
        " val ",
        "test",
        "Testing",
        "holdout",
        "训练",
    ]
    m = read_manifest(
        write(tmp_path, "text,label,split\n" + "".join(f"a,b,{name}\n" for name in names))
    )
    assert m.split == [
        "train",
        "train",
        "val",
        "val",
        "val",
        "val",
        "test",
        "test",
        "holdout",
        "训练",
    ]
    assert read_manifest(write(tmp_path, "text,label,split\na,b,\n")).split is None


def test_a_dataframe_is_read_the_same(tmp_path):
    frame = pd.DataFrame(
        {"text": ["a", None, "007"], "audio": ["x.wav", float("nan"), ""], "label": [1, 2, 3]}
    )
    m = read_manifest(frame, root=tmp_path)
    assert m.cells == {"text": ["a", "", "007"], "audio": ["x.wav", "", ""]}
    assert m.target == [
        "1",
        "2",
        "3",
    ]
    assert m.root == tmp_path and m.rows[1] == "row 1"
    with pytest.raises(ValueError, match="more than once"):
        read_manifest(pd.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_paths_stay_inside_the_folder_unless_allowed(tmp_path):
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    for path in (tmp_path / "out.png", home / "in.png", home / "sub" / "x.png"):
        path.write_text("x")
    (home / "link.png").symlink_to(tmp_path / "out.png")
    (home / "inner.png").symlink_to(home / "in.png")
    (tmp_path / "home2").mkdir()
    (tmp_path / "home2" / "x.png").write_text("x")
    csv = write(home, "image,label\nin.png,a\n")
    inside, free = read_manifest(csv), read_manifest(csv, allow_outside=True)
    for cell in ("in.png", "sub/x.png", "./sub/../in.png", "sub\\x.png", "inner.png"):
        assert resolve(inside, cell).is_file()
    for cell in ("../out.png", "sub/../../out.png", "link.png", "../home2/x.png", "..\\out.png"):
        with pytest.raises(ValueError, match="leads out"):
            resolve(inside, cell)
        assert resolve(free, cell).is_file()
    for cell in (str(tmp_path / "out.png"), str(home / "in.png"), "C:\\out.png"):
        with pytest.raises(ValueError, match="absolute"):
            resolve(inside, cell)
    assert resolve(free, str(tmp_path / "out.png")).is_file()
    for cell, word in (("none.png", "no such file"), ("sub", "folder"), ("a\0b", "null")):
        with pytest.raises(ValueError, match=word):
            resolve(inside, cell)


def test_many_errors_are_shown_up_to_twenty_and_all_are_kept(tmp_path):
    with pytest.raises(ManifestErrors) as error:
        read_manifest(write(tmp_path, "text,label\n" + "a\n" * 25))
    assert len(error.value.problems) == 25 and "... and 5 more" in str(error.value)
    assert "line 21" in str(error.value) and "line 22" not in str(error.value)


def test_all_columns_of_a_manifest_have_a_cell_for_each_row(tmp_path):
    text = "text,label,split,who,note\na,1,train,p,x\nb,2,val,q,y\nc,1,test,p,z\n"
    m = read_manifest(write(tmp_path, text), group="who")
    kept = m.select([2, 0])
    assert kept.rows == ["line 4", "line 2"] and kept.cells == {"text": ["c", "a"]}
    assert kept.extra == {"note": ["z", "x"]}
    assert (kept.target, kept.split, kept.group) == (["1", "1"], ["test", "train"], ["p", "p"])
    assert kept.column("note") == ["z", "x"] and kept.column("who") == ["p", "p"]
    assert len(m.select([])) == 0
    for change in (
        {"rows": ["line 2"]},
        {"target": ["1"]},
        {"split": []},
        {"group": ["p"] * 4},
        {"cells": {"text": ["a"]}},
        {"extra": {"note": ["x"]}},
    ):
        with pytest.raises(ValueError, match=r"m.csv: .* has \d cells, expected \d, one for each"):
            replace(m, **change)


def test_a_column_in_other_letters_is_surely_meant_so_prediction_refuses_it(tmp_path):
    path = write(tmp_path, "Text,image\na,b.png\n")
    with pytest.raises(ValueError, match="no column 'text', but it has 'Text'"):
        read_manifest(path, None, {"text": "text", "image": "image"}, partial=True)
    other = read_manifest(path, None, {"text": "words", "image": "image"}, partial=True)
    assert list(other.modalities) == ["image"]


# ---- targets


def test_classes_and_numbers_are_told_apart():
    assert read_target(["10", "9", "2", "9"]).classes == ["2", "9", "10"]
    assert read_target(["007", "7", "b"]).classes == ["007", "7", "b"]
    assert read_target(["0.5", "1.5", "2"]).classes is None
    assert read_target([str(i) for i in range(200)]).classes is None
    assert len(read_target([str(i % 21) for i in range(2000)]).classes) == 21  # many rows of each
    assert read_target(["1", "2", "nan"]).classes == ["1", "2", "nan"]
    assert read_target(["1_0", "2_0"]).classes == ["1_0", "2_0"]
    assert read_target(["1", "2"], task="regression").classes is None
    assert read_target(["0.5", "1.5"], task="classification").classes == ["0.5", "1.5"]


@pytest.mark.parametrize("old, new", [("classes", "classification"), ("numbers", "regression")])
def test_the_old_names_of_the_tasks_work_and_warn(old, new):
    cells = ["1", "2", "3"]
    with pytest.warns(DeprecationWarning, match=f"task='{old}' is now task='{new}'") as found:
        target = read_target(cells, old)
    assert target == read_target(cells, new) and found[0].filename == __file__
    manifest = read_manifest(
        pd.DataFrame({"text": list("abcd"), "label": list("1212"), "split": ["train", "val"] * 2})
    )
    with pytest.raises(ValueError, match="one class" if old == "classes" else "one value"):
        with pytest.warns(DeprecationWarning, match=old):
            load_data(manifest, task=old)


def test_checksums_of_rows_given_once_are_those_of_a_list(tmp_path):
    m = read_manifest(write(tmp_path, "text,label\na,1\nb,2\nc,1\n"))
    assert m.checksums(iter([0, 2])) == m.checksums([0, 2]) != m.checksums([0, 1])
    assert set(m.checksums([])) == {"column 'text'", "column 'label'"}


def test_encoding_a_target():
    numbers = read_target(["1.5", "2.5", "5"])
    assert numbers.encode(["2.5"]).tolist() == [2.5]
    assert numbers.mean == pytest.approx(3) and numbers.std == pytest.approx(np.std([1.5, 2.5, 5]))
    assert read_target(["b", "a"]).encode(["b", "a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "values, task, words",
    [
        (["cn"] * 3, None, ["'label'", "one class", "'cn'", "--target"]),
        (["1.5"] * 3, None, ["one value", "'1.5'"]),
        (["1", "x"], "regression", ["'x'", "numbers"]),
        ([], None, ["no training rows"]),
        (["a", "b"], "guess", ["'guess'", "'classification', 'regression'"]),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(values, task, words):
    with pytest.raises(ValueError) as error:
        read_target(values, task, "label")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "one, other, shown",
    [
        ("Cat", "cat", "'Cat' and 'cat'"),
        ("1", "1.0", "'1' and '1.0'"),
        ("café", "cafe\u0301", r"'caf\xe9' and 'cafe\u0301'"),
        ("a  b", "a b", "'a  b' and 'a b'"),
        ("ﬁsh", "fish", r"'\ufb01sh' and 'fish'"),
        ("007", "7", "'007' and '7'"),
    ],
)
def test_labels_that_differ_only_in_how_they_are_written_are_two_classes_and_a_hint_names_both(
    tmp_path, one, other, shown
):
    rows = "".join(
        f"w{i},{(one, other, 'x')[i % 3]},{('train', 'val', 'test')[i // 9]}\n" for i in range(27)
    )
    data = load_data(
        read_manifest(write(tmp_path, f"text,label,split\n{rows}")),
        task="classification",
        progress=False,
    )
    assert len(data.preprocessing.target.classes) == 3
    hints = [line for line in data.summary if line.startswith("warning")]
    assert len(hints) == 1
    assert all(part in hints[0] for part in shown.split(" and "))
    assert "one class" in hints[0]


def test_labels_that_are_plainly_different_get_no_hint():
    assert not alike(["cat", "cats", "1", "10", "-1", "猫", "狗", "a b", "ab"])


def test_numbers_that_differ_beyond_float32_are_told_apart_and_those_beyond_float64_are_refused():
    times = [f"{1_700_000_000 + 50 * (i % 2) + i % 7 / 10}" for i in range(100)]
    target, exact = read_target(times, "regression"), np.array([float(value) for value in times])
    assert len(set(target.encode(times).tolist())) == len(set(times))
    np.testing.assert_allclose(
        target.encode(times).double().numpy() + target.centre, exact, rtol=0, atol=1e-4
    )
    held = read_target([f"{i / 7}" for i in range(100)], "regression")
    assert held.centre == 0  # what float32 can hold stays as it is
    with pytest.raises(
        ValueError, match="differ by .* beyond the digits .* subtract what they have in common"
    ):
        read_target(["1e16", "10000000000000002", "1e16"], "regression")


def test_a_class_unseen_in_training_is_named_with_split_and_count():
    with pytest.raises(
        ValueError, match=r"'bird' \(2 rows in test\).*'fish' \(1 rows in val\).*train"
    ):
        check_target(
            read_target(["a", "b"]),
            ["a", "bird", "bird", "fish"],
            ["train", "test", "test", "val"],
            "label",
        )
    with pytest.raises(ValueError, match="'x'"):
        check_target(read_target(["1.5", "2.5"]), ["x"], ["test"], "label")
