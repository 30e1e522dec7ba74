"""Tables: numbers and categories, fitted on training rows; what is missing, unseen or wrong."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.data import Augment, Preprocessing, load_data, read_manifest
from mmlib.data.columns import FARTHEST, Fitted
from mmlib.data.problems import ManifestErrors
from mmlib.data.splits import choose_splits
from mmlib.data.table import join_cells, split_cell
from mmlib.data.trained import check_untrained, remember

COLUMNS = "age,weight,colour"
ROWS = {
    "age": ["1", "3", "", "5", "9"],
    "weight": ["10", "", "", "30", "-7e3"],
    "colour": ["red", "blue", "", "red", "green"],
    "label": ["a", "b", "a", "b", "a"],
    "split": ["train", "train", "train", "val", "test"],
}


def manifest(table=COLUMNS, use=None, **changes):
    frame = pd.DataFrame(ROWS | {"text": [f"word {i}" for i in range(5)]} | changes)
    return read_manifest(frame, table=table, use=use)


def batches(data, split):
    (batch,) = data.loaders[split]
    return batch


def test_the_columns_are_one_modality_and_no_column_is_read_without_being_named():
    found = manifest()
    assert list(found.modalities) == ["text", "table"]
    assert found.modalities["table"] == ("table", COLUMNS)
    assert [split_cell(cell, 3) for cell in found.cells["table"]][:3] == [
        ["1", "10", "red"],
        ["3", "", "blue"],
        ["", "", ""],
    ]
    assert found.cells["table"][2] == "" and "age" not in found.extra
    frame = pd.DataFrame({"table": ["1", "2"], "text": ["a", "b"], "label": ["x", "y"]})
    assert list(read_manifest(frame).modalities) == ["text"]  # a column of that name is no table
    same = read_manifest(pd.DataFrame(ROWS), columns={"table": COLUMNS})
    assert same.cells["table"] == manifest(use=["table"]).cells["table"]


def test_numbers_are_scaled_by_the_training_rows_only_and_missing_cells_are_masked():
    data = load_data(manifest(), progress=False)
    table = data.preprocessing.tables["table"]
    assert table.numbers == {"age": [2.0, 1.0], "weight": [10.0, 0.0]}
    assert table.categories == {"colour": ["blue", "red"]}  # green is in test alone
    rows = {name: batches(data, name) for name in ("val", "test")}
    assert rows["val"]["table"].tolist() == [[3.0, 0.0]]
    assert rows["val"]["table_category"].tolist() == [[2]]
    assert rows["val"]["table_mask"].tolist() == [[True, True, True]]
    assert rows["test"]["table"].tolist() == [[7.0, 0.0]]  # a constant column tells nothing
    assert rows["test"]["table_category"].tolist() == [[0]]  # never seen: as if missing
    assert rows["test"]["table_mask"].tolist() == [[True, True, False]]
    train = batches(data, "train")
    row = train["row"].tolist().index(2)
    assert not train["table_mask"][row].any() and not train["table"][row].any()
    assert train["table"].dtype == torch.float32 and train["table_category"].dtype == torch.int64


def test_the_scaling_is_that_of_scikit_learn():
    from sklearn.preprocessing import StandardScaler

    values = np.random.default_rng(0).normal(1e6, 3, size=(50, 2))
    rows = [join_cells([repr(float(x)) for x in row]) for row in values]
    found = Fitted.fit(["a", "b"], rows).encode(rows).numbers
    expected = StandardScaler().fit_transform(values)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_unit_of_a_number_does_not_matter_and_an_outlier_stays_in_bounds():
    metres = [str(x) for x in (1.5, 1.7, 1.9)]
    millimetres = [str(int(1000 * float(x))) for x in metres]
    a, b = (Fitted.fit(["height"], cells).encode(cells).numbers for cells in (metres, millimetres))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    far = Fitted.fit(["height"], metres).encode(["1e30", "-1e30"]).numbers
    assert far.tolist() == [[FARTHEST], [-FARTHEST]]


@pytest.mark.parametrize(
    "column, cells, wrong",
    [
        ("age", ["1", "3", "NA", "5", "9"], [2]),
        ("age", ["1", "3,5", "", "5 kg", "9"], [1, 3]),
        ("age", ["1", "3", "", "5", "nine"], [4]),
        ("weight", ["10", "", "", "x", "y"], [3, 4]),  # training decides that it holds numbers
    ],
)
def test_wrong_cells_of_a_column_of_numbers_are_named_and_refused(column, cells, wrong):
    many = {name: (list(ROWS[name]) * 10) for name in ROWS}
    many[column] = cells + [c for c in ROWS[column]] * 9
    frame = pd.DataFrame(many)
    with pytest.raises(ManifestErrors) as error:
        load_data(read_manifest(frame, table=COLUMNS), progress=False)
    found = {(problem.row, problem.column, problem.path) for problem in error.value.problems}
    assert found == {(f"row {i}", column, cells[i]) for i in wrong}
    assert "empty the cell where the value is not known" in str(error.value)
    data = load_data(read_manifest(frame, table=COLUMNS), progress=False, on_error="skip")
    assert len(data.skipped) == len(wrong) and column in data.preprocessing.tables["table"].numbers


def test_a_column_in_which_names_stand_beside_numbers_is_one_of_categories():
    cells = ["1", "2", "B", "C", "D"]
    table = load_data(manifest(age=cells), progress=False).preprocessing.tables["table"]
    assert table.categories["age"] == ["1", "2", "B"]


def test_in_training_data_only_of_other_rows_a_word_among_numbers_is_found_late():
    """Over all rows the column looks like names: the fitted column says that it holds numbers."""
    cells = ["1", "2", "3", "x", "y"]
    with pytest.raises(ManifestErrors, match="row 3, column 'age', 'x': not a number"):
        load_data(manifest(age=cells), progress=False)
    data = load_data(manifest(age=cells), progress=False, on_error="skip")
    assert [problem.path for problem in data.skipped] == ["x", "y"]


def test_what_cannot_be_read_as_a_table_is_refused():
    with pytest.raises(ValueError, match="has no column 'aeg'.*did you mean 'age'"):
        manifest("aeg,weight")
    with pytest.raises(ValueError, match="names a column twice"):
        manifest("age,age")
    with pytest.raises(ValueError, match="'label' is the target and also the modality 'table'"):
        manifest("age,label")
    with pytest.raises(ValueError, match="column 'weight' of the table is empty in all training"):
        load_data(manifest(weight=["", "", "", "1", "2"]), progress=False)


def test_the_summary_says_what_was_found_and_what_can_tell_nothing():
    lines = "\n".join(load_data(manifest(), progress=False).summary)
    assert "table: 3 columns, missing in 1 rows" in lines
    assert "numbers age, weight; categories colour (2); 1 cells of categories never seen" in lines
    assert "warning: column 'weight' has one value in training" in lines
    names = {name: cells * 30 for name, cells in ROWS.items()}
    names["colour"] = [f"id {i}" for i in range(150)]
    data = load_data(read_manifest(pd.DataFrame(names), table=COLUMNS), progress=False)
    assert any("'colour' has 90 categories in 90 training rows" in line for line in data.summary)


def test_it_survives_its_state_and_a_state_without_tables_still_loads():
    fitted = load_data(manifest(), progress=False).preprocessing
    again = Preprocessing.from_state(json.loads(json.dumps(fitted.state())))
    assert again.tables == fitted.tables and again.state() == fitted.state()
    old = load_data(manifest((), use=["text"]), progress=False).preprocessing.state()
    assert "tables" not in old and not {"labels", "shares"} & set(old["target"])
    assert Preprocessing.from_state(old).tables == {}  # as an older mmlib wrote it


def test_raw_samples_give_the_batch_of_the_manifest():
    data = load_data(manifest(use=["table"]), progress=False)
    fitted, expected = data.preprocessing, batches(data, "val")
    samples = [
        {"table": {"age": 5, "weight": 30.0, "colour": "red"}},
        {"table": {"age": "5", "weight": "30", "colour": " red "}},
        {COLUMNS: {"colour": "red", "weight": np.float32(30), "age": np.int64(5)}},
    ]
    batch = fitted.batch(samples)
    for key in ("table", "table_mask", "table_category"):
        assert all(torch.equal(row, expected[key][0]) for row in batch[key])
    empty = fitted.batch([{}, {"table": {}}, {"table": {"age": None, "weight": math.nan}}])
    assert not empty["table_mask"].any()
    for value, words in [
        ({"aeg": 3}, "no column 'aeg'; the table has .*did you mean 'age'"),
        ({"age": "3,5"}, "column 'age', '3,5': a decimal comma: write 3.5"),
        ("age=3", "str, expected a dict by column"),
    ]:
        with pytest.raises(ValueError, match=f"sample 0, table: {words}"):
            fitted.batch([{"table": value}])


def test_drawn_splits_hash_the_cells_of_the_table_and_no_other_column():
    frame = pd.DataFrame({"age": range(200), "colour": ["red", "blue"] * 100, "label": ["a"] * 200})
    names = choose_splits(read_manifest(frame, table="age,colour"))
    assert {*names} == {"train", "val", "test"}
    assert choose_splits(read_manifest(frame.assign(label="b"), table="age,colour")) == names
    assert choose_splits(read_manifest(frame[::-1], table="age,colour")) == names[::-1]
    other = choose_splits(read_manifest(frame.assign(age=frame.age + 1), table="age,colour"))
    assert other != names and other[:-1] != names[:-1]
    text = frame.assign(text="same")
    with_text, without = (
        choose_splits(read_manifest(text, table="age,colour", use=use)) for use in (None, ["text"])
    )
    assert with_text == without  # the table decides also where it is not used


def test_a_row_of_a_table_that_was_trained_on_is_refused_unless_several_rows_have_its_cells():
    cells = [*(str(i) for i in range(20)), *["7.5"] * 20]
    frame = pd.DataFrame({"age": cells, "label": ["a", "b"] * 20, "split": ["train"] * 40})
    old = read_manifest(frame, table="age")
    trained = remember(old, old.modalities, ["train"] * 40, {"train": list(range(40)), "val": []})
    new = read_manifest(
        pd.DataFrame({"age": ["3", "7.5", "99"], "label": ["a"] * 3, "split": ["test"] * 3}),
        table="age",
    )
    with pytest.raises(ValueError, match=r"trained on 1 of the 3 rows of split 'test' \(row 0\)"):
        check_untrained(new, new.modalities, ["test"] * 3, trained, "test")
    rest = new.select([1, 2])
    check_untrained(rest, rest.modalities, ["test"] * 2, trained, "test")


def test_modality_dropout_empties_a_table_whose_first_cell_is_missing():
    frame = pd.DataFrame(
        {
            "age": [""] * 50 + ["1"] * 50,
            "colour": ["red", "blue"] * 50,
            "text": ["word"] * 100,
            "label": ["a", "b"] * 50,
            "split": ["train"] * 98 + ["val"] * 2,
        }
    )
    data = load_data(
        read_manifest(frame, table="age,colour"),
        augment=Augment(modality_dropout=0.5),
        batch_size=98,
        progress=False,
    )
    batch = batches(data, "train")
    there = torch.stack([batch["table_mask"].any(dim=1), batch["text_mask"].any(dim=1)], dim=1)
    assert there.any(dim=1).all()  # one is always left
    first = batch["row"] < 50
    for rows in (first, ~first):
        assert 0.2 < (~there[rows, 0]).float().mean() < 0.5
    assert not batch["table"][~there[:, 0]].any()
    assert not batch["table_category"][~there[:, 0]].any()
    assert batch["table_mask"].shape == (98, 2)
