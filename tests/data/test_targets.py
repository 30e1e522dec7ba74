"""Targets as people write them: numbers that were meant to be numbers, and several labels a row."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.data import load_data, read_manifest
from mmlib.data.labels import encode, find_labels, flag
from mmlib.data.numbers import not_numbers
from mmlib.data.problems import ManifestErrors
from mmlib.data.targets import TASKS, Target, read_target

TENTHS = [f"{i / 10}" for i in range(300)]


def table(column, cells, **more):
    """A CSV-like table: a text and a target for each cell."""
    texts = [f"text {i}" for i in range(len(cells))]
    return read_manifest(pd.DataFrame({"text": texts, column: cells, **more}), column)


@pytest.mark.parametrize(
    "cell, why",
    [
        ("NA", "not a number"),
        ("n/a", "not a number"),
        ("-", "not a number"),
        ("unknown", "not a number"),
        ("7,5", "a decimal comma: write 7.5"),
        (",5", "a decimal comma: write .5"),
        ("1,234", "a decimal comma: write 1.234, or 1234 if the comma marks thousands"),
        ("1,234,567", "marks between thousands: write 1234567"),
        ("1.234,5", "marks between thousands: write 1234.5"),
        ("1,234.5", "marks between thousands: write 1234.5"),
        ("1'000", "marks between thousands: write 1000"),
        ("1\u00a0000", "marks between thousands: write 1000"),
        ("5 kg", "a number with 'kg': write 5 in every row"),
        ("7.5%", "a number with '%': write 7.5 in every row"),
        ("€ 1,234.50", "a number with '€': write 1234.5 in every row"),
        ("\u22125", "another kind: write -5"),
        ("1e40", "too large: at most 1e+37"),
        ("1_000", "not a number"),
    ],
)
def test_one_cell_among_300_is_named_by_row_column_and_value_and_refused(cell, why):
    cells = [*TENTHS[:150], cell, *TENTHS[150:]]
    with pytest.raises(ManifestErrors) as error:
        load_data(table("weight", cells), progress=False)
    (problem,) = error.value.problems
    assert problem[:3] == ("row 150", "weight", cell) and why in problem.reason
    assert "--on-error skip" in str(error.value) and "--task classification" in str(error.value)
    with pytest.raises(ValueError, match="weight"):
        read_target(cells, column="weight")
    assert len(read_target(cells, "classification").classes) == len(set(cells))


@pytest.mark.parametrize(
    "cells",
    [
        [f"{i / 10}".replace(".", ",") for i in range(300)],
        [f"{i} kg" for i in range(300)],
        [f"{i}.5cm" for i in range(300)],
        [f"1,{i:03d}" for i in range(300)],
        [*["NA"] * 400, *TENTHS],  # words for a missing number do not outvote the numbers
    ],
    ids=lambda cells: cells[0],
)
def test_a_whole_column_in_another_notation_is_never_made_classes(cells):
    with pytest.raises(ManifestErrors, match="weight") as error:
        load_data(table("weight", cells), progress=False)
    assert len(error.value.problems) == sum("." not in c or "cm" in c for c in cells)


def test_a_dot_that_marks_thousands_is_told_from_a_decimal_point_by_the_column():
    sizes = [str(round(1.25**i)) for i in range(20, 50)]  # 87 to 56,052
    german = [size if len(size) < 4 else f"{size[:-3]}.{size[-3:]}" for size in sizes]
    with pytest.raises(ManifestErrors) as error:
        load_data(table("size", german), progress=False)
    assert len(error.value.problems) == sum("." in cell for cell in german) > 10
    first = next(i for i, cell in enumerate(german) if "." in cell)
    assert f"write {sizes[first]} (if it is a decimal point" in str(error.value)
    decimal = [*german[:-1], german[-1] + "0"]  # one cell says that it is a decimal point
    assert read_target(decimal).classes is None
    for cells in ([f"{i / 7:.3f}" for i in range(1, 99)], [*german, "0.125"], [*german, "1500"]):
        assert not_numbers(cells) == {}


def test_an_empty_cell_among_numbers_may_be_skipped_and_a_wrong_one_in_test_is_named():
    cells = [*TENTHS, ""]
    with pytest.raises(ManifestErrors, match="row 300.*the target is empty"):
        load_data(table("weight", cells), progress=False)
    data = load_data(table("weight", cells), progress=False, on_error="skip")
    assert data.preprocessing.target.task == "regression" and len(data.skipped) == 1
    split = ["train"] * 200 + ["test"] * 101
    with pytest.raises(ManifestErrors, match=r"row 300, column 'weight', '7,5'"):
        load_data(table("weight", [*TENTHS, "7,5"], split=split), progress=False)


@pytest.mark.parametrize(
    "cells",
    [
        ["1st", "2nd", "3rd", "4th"] * 9,
        ["5 kg", "10 kg"] * 20,  # a few whole numbers are classes, with a unit or without
        ["1", "2", "NA"] * 20,
        ["2024-01-05", "12:30", "3-5 years"] * 9,
        [f"{i}{'abcdefg'[i % 7]}" for i in range(300)],
        ["cat", "dog", "7.5"] * 9,
    ],
    ids=lambda cells: cells[0],
)
def test_names_that_hold_numbers_stay_classes(cells):
    assert read_target(cells).classes == sorted(set(cells))
    assert not_numbers(cells) == {}


# ---- labels


def test_a_cell_with_a_separator_holds_labels():
    target = read_target(["red;round", " red ; ", "", "?", "a,b"], task="labels", column="tags")
    assert target.labels == ["a,b", "red", "round"] and target.separator == ";"
    assert target.task == "labels" and target.classes is None
    expected = [[0, 1, 1], [0, 1, 0], [0, 0, 0], [math.nan] * 3, [1, 0, 0]]
    found = target.encode(["red;round", " red ; ", "", "?", "a,b"])
    torch.testing.assert_close(found, torch.tensor(expected).float(), equal_nan=True)
    assert target.shares == pytest.approx([1.5 / 5, 2.5 / 5, 1.5 / 5])


@pytest.mark.parametrize("mark", [";", "|", ","])
def test_the_separator_is_found(mark):
    assert find_labels([f"a{mark}b", "c"], "tags") == (["a", "b", "c"], mark)


@pytest.mark.parametrize("columns", ["red,round", ["red", "round"]], ids=str)
def test_columns_of_0_and_1_are_labels_and_a_cell_that_is_neither_is_named(columns):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "red": ["1", "0", ""], "round": [0.0, 1.0, 1.0]})
    manifest = read_manifest(frame, columns)
    assert manifest.target_name == "red,round" and manifest.target == ["1;0.0", "0;1.0", ";1.0"]
    assert list(manifest.extra) == []  # the answer is no possible input
    split = {"split": ["train", "train", "val"]}
    data = load_data(read_manifest(frame.assign(**split), columns), progress=False)
    (batch,) = data.loaders["val"]
    assert batch["target"].dtype == torch.float32
    torch.testing.assert_close(batch["target"], torch.tensor([[math.nan, 1.0]]), equal_nan=True)
    bad = frame.assign(round=["1", "yess", "2"], **split)
    with pytest.raises(ManifestErrors) as error:
        load_data(read_manifest(bad, columns), progress=False)
    assert [problem[:3] for problem in error.value.problems] == [
        ("row 1", "round", "yess"),
        ("row 2", "round", "2"),
    ]


def test_flags_are_0_1_yes_no_or_a_share():
    assert [flag(cell) for cell in ("1", "0", "1.0", "True", "FALSE", "no", "0.25")] == [
        1, 0, 1, 1, 0, 0, 0.25,
    ]  # fmt: skip
    assert math.isnan(flag("")) and math.isnan(flag("?"))
    for cell in ("2", "-1", "maybe"):
        with pytest.raises(ValueError, match="expected 1 if the row has this label"):
            flag(cell)


def test_what_cannot_be_learned_of_labels_is_refused():
    with pytest.raises(ValueError, match="exactly one label.*choose classification"):
        read_target(["a", "b", "a"], task="labels", column="tags")
    with pytest.raises(ValueError, match="no training row has a label"):
        read_target(["", "?"], task="labels")
    with pytest.raises(ValueError, match="name one column"):
        read_target(["1;0"], task="classification", columns=["a", "b"])
    cells, split = ["a;b", "a", "a", "a;c"], ["train", "train", "val", "test"]
    with pytest.raises(ValueError, match=r"1 label\(s\) unseen in training: 'c' \(1 rows in test"):
        load_data(table("tags", cells, split=split), task="labels", progress=False)
    with pytest.raises(ValueError, match="has no column 'rond'.*'round'"):
        read_manifest(pd.DataFrame({"text": ["a"], "red": [1], "round": [1]}), "red,rond")
    with pytest.raises(ValueError, match="each named once"):
        read_manifest(pd.DataFrame({"text": ["a"], "red": [1]}), ["red", "red"])
    with pytest.raises(ValueError, match="column 'text' is the target and also the modality"):
        read_manifest(pd.DataFrame({"text": ["a"], "red": [1]}), "red,text")


def test_a_column_whose_name_has_a_comma_is_one_column():
    manifest = read_manifest(
        pd.DataFrame({"text": ["a", "b"], "red,round": ["x", "y"]}), "red,round"
    )
    assert manifest.target == ["x", "y"] and manifest.target_columns == []


def test_the_summary_says_what_is_rare_unknown_or_the_same_in_all_rows():
    manifest = table("tags", ["a;b", "a", "a;c", "?", ""], split=["train"] * 4 + ["val"])
    lines = "\n".join(load_data(manifest, task="labels", progress=False).summary)
    assert "tags: 3 labels, separated by ';' (a, b, c)" in lines
    assert "0 rows have none of them, 3 labels of rows are not known" in lines
    assert "warning: all of the training rows have the label 'a'" in lines


def test_a_target_of_labels_survives_its_state_and_an_old_state_still_loads():
    from dataclasses import asdict

    target = read_target(["red;round", "red", ""], task="labels")
    assert Target(**asdict(target)) == target
    old = {"classes": ["a", "b"], "mean": 0.0, "std": 1.0, "why": "", "centre": 0.0}
    assert Target(**old).task == "classification" and "labels" in TASKS


def test_labels_are_encoded_as_scikit_learn_does():
    from sklearn.preprocessing import MultiLabelBinarizer

    rng, names = np.random.default_rng(0), list("abcdef")
    sets = [[name for name in names if rng.random() < 0.4] for _ in range(50)]
    found = encode([";".join(one) for one in sets], names, ";")
    expected = MultiLabelBinarizer(classes=names).fit_transform(sets)
    assert found.tolist() == expected.tolist()
