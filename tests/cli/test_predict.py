"""evaluate and predict: lines for people, CSV and JSON for programs; a line for every row."""

import csv
import io
import json

import pytest

from mmlib import load
from mmlib.cli.predict import LIKELIEST, as_csv, in_words
from tests.cli.test_main import run


def test_evaluate_prints_the_scores_of_training(trained, capsys):
    line = ["evaluate", trained / "run", trained / "manifest.csv", "--split", "test"]
    saved = json.loads((trained / "run/metrics.json").read_text())["test"]
    code, out, _ = run(capsys, *line, "--json")
    assert code == 0 and json.loads(out) == pytest.approx(saved, abs=1e-6)
    code, out, _ = run(capsys, *line)
    assert code == 0 and len(out.splitlines()) == 1 and out.startswith("test  accuracy ")
    for said in (
        f"accuracy {saved['accuracy']:.3f} +- {saved['accuracy_error']:.3f} ({saved['rows']} rows",
        f"most frequent class {saved['accuracy_baseline']:.3f})",
        f"macro F1 {saved['macro_f1']:.3f}",
        f"log loss {saved['log_loss']:.3f}",
    ):
        assert said in out


def test_predict_answers_about_one_sample_in_words_or_json(trained, capsys):
    asked = ["--image", trained / "images/00000.png", "--text", "它很安静"]
    code, out, _ = run(capsys, "predict", trained / "run", *asked, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["modalities"] == ["image", "text"]
    assert set(answer) == {"class", "probabilities", "modalities"}
    code, out, _ = run(capsys, "predict", trained / "run", *asked)
    name = answer["class"]
    assert code == 0 and out.splitlines()[0].split() == ["class", name]
    assert f" {name} {answer['probabilities'][name]:.3f}, " in out and "image, text" in out


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_answers_to_a_manifest_are_a_csv_with_a_line_for_each_row(trained, capsys, tmp_path):
    line = ["predict", trained / "run", trained / "manifest.csv"]
    code, out, _ = run(capsys, *line)
    expected = load(trained / "run", "cpu").predict_manifest(trained / "manifest.csv")
    found = rows(out)
    assert code == 0 and [row["row"] for row in found] == [str(i + 1) for i in range(48)]
    for row, answer in zip(found, expected, strict=True):
        assert (row["class"], row["error"]) == (answer["class"], "")
        assert row["modalities"].split() == answer["modalities"]
        for name, share in answer["probabilities"].items():
            assert float(row[f"probability_{name}"]) == pytest.approx(share, abs=1e-5)
    code, said, _ = run(capsys, *line, "--out", tmp_path / "new/answers.csv")
    assert code == 0 and (tmp_path / "new/answers.csv").read_text() == out and "48 rows" in said
    code, json_out, _ = run(capsys, *line, "--json")
    assert code == 0 and [one["class"] for one in json.loads(json_out)] == [
        row["class"] for row in found
    ]


def test_a_file_that_is_there_is_never_written_over(trained, capsys):
    before = (trained / "manifest.csv").read_bytes()
    line = ["predict", trained / "run", trained / "manifest.csv", "--out", trained / "manifest.csv"]
    code, _, err = run(capsys, *line)
    assert code == 1 and "exists" in err and (trained / "manifest.csv").read_bytes() == before


def test_rows_that_do_not_load_keep_their_place_when_asked(trained, capsys, tmp_path):
    path = trained / "some.csv"
    path.write_text("image\nnowhere.png\nimages/00000.png\n")
    assert run(capsys, "predict", trained / "run", path)[0] == 1
    asked = ["predict", trained / "run", path, "--on-error", "skip"]
    code, out, _ = run(capsys, *asked)
    first, second = rows(out)
    assert code == 0 and "nowhere.png" in first["error"] and first["class"] == ""
    assert second["error"] == "" and second["class"] in ("cat", "dog")
    code, out, _ = run(capsys, *asked, "--json")
    assert code == 0 and ["error" in answer for answer in json.loads(out)] == [True, False]
    _, out, _ = run(capsys, *asked, "--out", tmp_path / "answers.csv")
    assert "2 rows, 1 of them without an answer" in out


def test_a_table_keeps_names_with_commas_and_numbers_whole():
    answers = [
        {"class": 'a,"b', "probabilities": {'a,"b': 0.75, "c": 0.25}, "modalities": ["text"]},
        {"error": "line 3, bad"},
    ]
    first, second = rows(as_csv(answers, ['a,"b', "c"]))
    assert first["class"] == 'a,"b' and first['probability_a,"b'] == "0.75"
    assert second["error"] == "line 3, bad" and second["probability_c"] == ""
    number = rows(as_csv([{"value": 1234567.25, "modalities": []}], None))[0]
    assert float(number["value"]) == 1234567.25 and number["modalities"] == ""


def test_of_many_classes_the_likeliest_are_shown():
    shares = {f"class{i}": i / 190 for i in range(20)}
    said = in_words({"class": "class19", "probabilities": shares, "modalities": []})
    assert "class19 0.100, class18" in said and "class9 " not in said and "class10 " in said
    assert f"{20 - LIKELIEST} more" in said and "none: " in said


def test_a_number_is_answered_and_scored_with_its_error(tmp_path, capsys):
    lines = ["text,label,split"] + [
        f"word{i % 4},{i % 4 + 0.5},{('train', 'train', 'val', 'test')[i // 4 % 4]}"
        for i in range(48)
    ]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    line = [*manifest_line(tmp_path), "--task", "regression", "--out", tmp_path / "run"]
    code, out, _ = run(capsys, *line)
    assert (
        code == 0 and "test  mean absolute error" in out and "always the training mean 1.000" in out
    )
    code, out, _ = run(capsys, "predict", tmp_path / "run", "--text", "word1")
    assert code == 0 and out.split()[0] == "value" and float(out.split()[1]) < 10
    code, out, _ = run(capsys, "predict", tmp_path / "run", tmp_path / "m.csv")
    assert code == 0 and out.startswith("row,value,modalities,error\n1,")


def manifest_line(folder):
    return ["train", folder / "m.csv", "--epochs", "1", "--device", "cpu"]
