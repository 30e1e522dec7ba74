"""Columns of numbers and categories beside texts: trained, saved, resumed, predicted, judged."""

import csv
import io
import json
import random
from dataclasses import replace

import pandas as pd
import pytest
import torch

from mmlib import Recipe, load
from mmlib.cli.main import main
from mmlib.data import read_manifest
from mmlib.leaks import find
from mmlib.recipes import train
from mmlib.report import make_report

QUIET = {"log": lambda line: None, "progress": False, "device": "cpu"}
TABLE = ["age", "weight", "colour"]


def rows(count=400):
    """The label is an exclusive-or of a number and a category; the text says nothing."""
    draw, found = random.Random(0), []
    for i in range(count):
        age, colour = draw.gauss(5, 2), draw.choice(["red", "green", "blue"])
        found.append(
            {
                "age": f"{age:.2f}",
                "weight": f"{draw.gauss(100, 30):.1f}" if draw.random() < 0.8 else "",
                "colour": colour,
                "text": f"word {i}" if draw.random() < 0.8 else "",
                "label": "cat" if (age > 5) ^ (colour == "red") else "dog",
            }
        )
    return pd.DataFrame(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rows().to_csv(folder / "m.csv", index=False)
    recipe = Recipe(folder / "m.csv", folder / "run", table=TABLE, epochs=12, **QUIET)
    return folder, recipe, train(recipe)


def test_what_lies_in_two_columns_together_is_learned(trained):
    assert trained[2].metrics["test"]["accuracy"] > 0.85
    assert trained[1].columns == {"table": "age,weight,colour"}


def test_the_loaded_model_answers_from_a_dict_a_manifest_or_without_a_table(trained):
    folder, _, run = trained
    predictor = load(folder / "run", "cpu")
    assert predictor.predict(table={"age": 8, "colour": "green"})["class"] == "cat"
    assert predictor.predict(table={"age": 8, "colour": "red"})["class"] == "dog"
    several = predictor.predict(table=[{"age": 8, "colour": "red"}, None], text=[None, "word"])
    assert [answer["modalities"] for answer in several] == [["table"], ["text"]]
    assert predictor.predict(table={"colour": "purple"})["modalities"] == []  # never seen
    assert predictor.evaluate(folder / "m.csv") == pytest.approx(run.metrics["test"], abs=1e-6)
    frame = pd.read_csv(folder / "m.csv", dtype=str, keep_default_na=False)
    whole = predictor.predict_manifest(frame)
    first = {key: frame[key][0] for key in TABLE}
    alone = predictor.predict(table=first, text=frame.text[0])
    assert whole[0]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_a_manifest_without_some_of_the_columns_is_answered_as_if_they_were_empty(trained):
    predictor = load(trained[0] / "run", "cpu")
    frame = rows(20)
    found = predictor.predict_manifest(frame.drop(columns=["age", "label"]))
    expected = predictor.predict_manifest(frame.assign(age=""))
    assert [one["probabilities"] for one in found] == [one["probabilities"] for one in expected]
    with pytest.raises(ValueError, match="column 'age', 'old'"):
        predictor.predict_manifest(frame.assign(age="old"))


def test_the_order_of_the_columns_and_further_ones_do_not_matter(trained):
    predictor, frame = load(trained[0] / "run", "cpu"), rows(20)
    other = frame[frame.columns[::-1]].assign(more="x")
    assert predictor.predict_manifest(other) == predictor.predict_manifest(frame)


def test_killed_and_resumed_is_never_stopped(trained, tmp_path):
    from unittest import mock

    from mmlib.train import loop

    folder, recipe, run = trained
    again, calls, evaluate = replace(recipe, out=tmp_path / "run"), [], loop.evaluate

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    with mock.patch.object(loop, "evaluate", dies), pytest.raises(KeyboardInterrupt):
        train(again)
    resumed = train(replace(again, resume=True))
    for a, b in zip(
        resumed.predictor.model.parameters(), run.predictor.model.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_an_edited_cell_of_the_table_ends_a_resume(trained, tmp_path):
    _, recipe, _ = trained
    frame = rows()
    out = replace(recipe, manifest=frame, out=tmp_path / "run", epochs=1)
    train(out)
    frame.loc[:, "weight"] = "7"
    with pytest.raises(ValueError, match="age,weight,colour"):
        train(replace(out, resume=True))


def test_from_the_command_line(trained, tmp_path, capsys):
    folder, run = trained[0], tmp_path / "run"
    line = ["train", str(folder / "m.csv"), "--table", "age,weight,colour", "--use", "table"]
    assert main([*line, "--epochs", "1", "--out", str(run), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "numbers age, weight; categories colour (3)" in said
    assert "plan: table TableEncoder, fusion sum, ClassifyHead" in said
    assert main(["evaluate", str(run), str(folder / "m.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] > 0
    given = ["predict", str(folder / "run"), "--table"]
    assert main([*given, "age=8,colour=green"]) == 0
    assert capsys.readouterr().out.startswith("class          cat")
    assert main([*given, "age=8kg"]) == 1
    assert "column 'age', '8kg': a number with 'kg'" in capsys.readouterr().err
    assert main([*given, "8"]) == 1
    assert "write the cell of each column, as in age=3,colour=red" in capsys.readouterr().err
    assert main(["predict", str(run), str(folder / "m.csv")]) == 0
    answers = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(answers) == 400 and {row["modalities"] for row in answers} == {"table"}


@pytest.mark.parametrize("fusion", ["attention", "join", "lowrank", "perceiver"])
def test_other_fusions_train_and_come_back(trained, tmp_path, fusion):
    recipe = replace(trained[1], out=tmp_path / "run", fusion=fusion, epochs=1)
    run = train(recipe)
    sample = {"table": {"age": 3.0}, "text": "word"}
    expected = run.predictor.predict(**sample)["probabilities"]
    found = load(tmp_path / "run", "cpu").predict(**sample)["probabilities"]
    assert found == pytest.approx(expected, abs=1e-5)


def test_numbers_and_labels_are_targets_beside_a_table(tmp_path):
    frame = rows(120)
    frame["sum"] = [f"{2 * float(a) + 1:.2f}" for a in frame.age]
    found = train(
        Recipe(frame, table="age,colour", target="sum", epochs=20, use=["table"], **QUIET)
    )
    assert found.metrics["test"]["r2"] > 0.5
    frame["tags"] = [f"{c};old" if float(a) > 5 else c for a, c in zip(frame.age, frame.colour)]
    recipe = Recipe(
        frame, table="age,colour", target="tags", task="labels", epochs=12, use=["table"], **QUIET
    )
    assert train(recipe).metrics["test"]["subset_accuracy"] > 0.7


def test_a_column_that_is_the_answer_is_a_leak(trained):
    frame = rows(200)
    frame["diagnosis"] = frame.label.map({"cat": "x", "dog": "y"})
    clean = find(read_manifest(frame.drop(columns="diagnosis"), table=TABLE), quick=True)
    assert clean == []
    found = find(read_manifest(frame, table=[*TABLE, "diagnosis"]), quick=True)
    assert [(one.kind, one.column) for one in found] == [("answer", "diagnosis")]


def test_a_report_compares_the_table_with_the_text(trained, tmp_path):
    recipe = Recipe(rows(150), table=TABLE, epochs=3, **QUIET)
    report = make_report(recipe, seeds=[0])
    assert {"table", "text"} <= {row["model"] for row in report.table}
    page = report.write(tmp_path / "report").read_text(encoding="utf-8")
    assert "colour red" in page or "colour green" in page or "colour blue" in page
