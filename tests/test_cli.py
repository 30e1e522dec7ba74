"""The command line as a person uses it: what it prints, what it writes, how it ends."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mmlib.cli import main
from mmlib.worlds import pets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    pets.write(pets.draw(48), folder)
    assert main(["train", str(folder / "manifest.csv"), "--target", "label", "--epochs", "1", "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return folder


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_train_leaves_everything_in_its_folder(trained):
    out = trained / "run"
    assert {p.name for p in out.iterdir()} == {"checkpoint.pt", "history.jsonl", "metrics.json", "curve.png", "confusion.png"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"val", "test", "seconds", "parameters"} <= set(metrics) and {"accuracy", "macro_f1"} <= set(metrics["test"])
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1]


def test_evaluate_prints_the_scores_of_training(trained, capsys):
    code, out, _ = run(capsys, "evaluate", trained / "run", trained / "manifest.csv", "--split", "test")
    assert code == 0 and json.loads(out) == pytest.approx(json.loads((trained / "run/metrics.json").read_text())["test"], abs=1e-6)


def test_predict_prints_json_for_one_sample_and_for_a_manifest(trained, capsys):
    code, out, _ = run(capsys, "predict", trained / "run", "--image", trained / "images/00000.png", "--text", "它很安静")
    answer = json.loads(out)
    assert code == 0 and answer["senses"] == ["image", "text"] and set(answer) == {"class", "probabilities", "senses"}
    code, out, _ = run(capsys, "predict", trained / "run", trained / "manifest.csv")
    assert code == 0 and len(json.loads(out)) == 48


def test_predict_goes_on_past_bad_files_when_asked(trained, capsys):
    (trained / "some.csv").write_text("image\nimages/00000.png\nnowhere.png\n")
    assert run(capsys, "predict", trained / "run", trained / "some.csv")[0] == 1
    asked = ["predict", trained / "run", trained / "some.csv", "--on-error", "skip"]
    code, out, _ = run(capsys, *asked)
    assert code == 0 and ["error" in answer for answer in json.loads(out)] == [False, True]


@pytest.mark.parametrize("arguments, code, message", [
    (["train", "{}/nothing.csv"], 1, "no such manifest"),
    (["train", "{}/manifest.csv", "--target", "labels"], 1, "did you mean 'label'"),
    (["train", "{}/manifest.csv", "--out", "{}/run"], 1, "already holds a run"),
    (["evaluate", "{}/run", "{}/manifest.csv", "--split", "moon"], 1, "no rows in split 'moon'"),
    (["evaluate", "{}/run", "{}/manifest.csv", "--split", "all"], 1, "this model was trained on"),
    (["evaluate", "{}", "{}/manifest.csv"], 1, "does not exist"),
    (["predict", "{}/run", "--image", "{}/manifest.csv"], 1, "image"),
])
def test_failure_is_exit_code_1_and_says_why(trained, capsys, arguments, code, message):
    got, out, err = run(capsys, *[a.format(trained) for a in arguments])
    assert got == code and message in err and "Traceback" not in err and out == ""


@pytest.mark.parametrize("arguments", [
    [], ["fly"], ["train"], ["train", "m.csv", "--fusion", "blend"], ["train", "m.csv", "--epochs", "0"], ["train", "m.csv", "--resume"],
    ["predict", "d"], ["predict", "d", "m.csv", "--text", "a"], ["predict", "d", "--sense", "xray"],
])
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["predict"]])
def test_help_teaches_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert ("python -m mmlib" in text) and (not command or "example" in text)


def test_killed_and_resumed_from_the_command_line_is_never_stopped(trained, tmp_path):
    """The whole path, with real processes: SIGKILL after the first checkpoint, then --resume."""
    line = [sys.executable, "-m", "mmlib", "train", str(trained / "manifest.csv"), "--use", "text,audio", "--epochs", "6", "--device", "cpu"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    subprocess.run([*line, "--out", str(tmp_path / "whole")], check=True, **quiet)
    process = subprocess.Popen([*line, "--out", str(tmp_path / "killed")], **quiet)
    while not (tmp_path / "killed/history.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/metrics.json").exists(), "the run ended before it was killed: nothing was tested"
    subprocess.run([*line, "--out", str(tmp_path / "killed"), "--resume"], check=True, **quiet)

    def history(name):
        return [{k: v for k, v in json.loads(row).items() if k != "seconds"} for row in (tmp_path / name / "history.jsonl").read_text().splitlines()]

    assert history("killed") == history("whole") and len(history("whole")) == 6
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("killed", "whole")]
    assert scores[0]["test"] == scores[1]["test"]
