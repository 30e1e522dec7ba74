"""The command line as a person uses it: what it prints, what it writes, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from mmlib.cli.main import main


def run(capsys, *arguments):
    """The exit code of a line, and what it printed on stdout and stderr."""
    code = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def manifest(folder, names, rows=24):
    """A manifest of words and two classes of these names, and the line that trains on it."""
    lines = ["text,label,split"] + [
        f"word{i % 2},{names[i % 2]},{('train', 'train', 'val', 'test')[i % 8 // 2]}"
        for i in range(rows)
    ]
    (folder / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    return ["train", folder / "m.csv", "--epochs", "1", "--device", "cpu"]


def test_train_leaves_everything_in_its_folder(trained):
    out = trained / "run"
    assert {p.name for p in out.iterdir()} == {
        "checkpoint.pt",
        "history.jsonl",
        "metrics.json",
        "curve.png",
        "confusion.png",
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"val", "test", "seconds", "parameters"} <= set(metrics) and {
        "accuracy",
        "macro_f1",
    } <= set(metrics["test"])
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1]


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["train", "{}/nothing.csv"], 1, "no such manifest"),
        (["train", "{}/manifest.csv", "--target", "labels"], 1, "did you mean 'label'"),
        (["train", "{}/manifest.csv", "--out", "{}/run"], 1, "already holds a run"),
        (
            ["evaluate", "{}/run", "{}/manifest.csv", "--split", "moon"],
            1,
            "no rows in split 'moon'",
        ),
        (
            ["evaluate", "{}/run", "{}/manifest.csv", "--split", "all"],
            1,
            "this model was trained on",
        ),
        (["evaluate", "{}", "{}/manifest.csv"], 1, "does not exist"),
        (["predict", "{}/run", "--image", "{}/manifest.csv"], 1, "image"),
    ],
)
def test_failure_is_exit_code_1_and_says_why(trained, capsys, arguments, code, message):
    got, out, err = run(capsys, *[a.format(trained) for a in arguments])
    assert got == code and message in err and "Traceback" not in err and out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["trian", "m.csv"],
        ["train"],
        ["train", "m.csv", "--lr", "0"],
        ["train", "m.csv", "--budget", "nan"],
        ["train", "m.csv", "--dropout", "2"],
        ["train", "m.csv", "--task", "guess"],
        ["tune", "m.csv", "--resume"],
        ["train", "m.csv", "--fusion", "blend"],
        ["train", "m.csv", "--epochs", "0"],
        ["train", "m.csv", "--resume"],
        ["predict", "d"],
        ["predict", "d", "m.csv", "--text", "a"],
        ["predict", "d", "--modality", "xray"],
        ["predict", "d", "--text", "a", "--out", "a.csv"],
        ["leaks"],
    ],
)
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["train"], ["evaluate"], ["predict"], ["report"], ["leaks"], ["tune"]]
)
def test_help_teaches_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert ("python -m mmlib" in text) and (not command or "example" in text)


def test_killed_and_resumed_from_the_command_line_is_never_stopped(trained, tmp_path):
    """The whole path: SIGKILL of a real process after its first checkpoint, then --resume."""
    line = ["train", str(trained / "manifest.csv"), "--use", "text,audio", "--epochs", "4"]
    whole, killed = (
        [*line, "--device", "cpu", "--out", str(tmp_path / name)] for name in ("whole", "killed")
    )
    assert main(whole) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "mmlib", *killed],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "killed/history.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/metrics.json").exists(), (
        "the run ended before it was killed: nothing was tested"
    )
    assert main([*killed, "--resume"]) == 0

    def history(name):
        return [
            {k: v for k, v in json.loads(row).items() if k != "seconds"}
            for row in (tmp_path / name / "history.jsonl").read_text().splitlines()
        ]

    assert history("killed") == history("whole") and len(history("whole")) == 4
    scores = [
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("killed", "whole")
    ]
    assert scores[0]["test"] == scores[1]["test"]


@pytest.mark.parametrize("names", [("$5_$10", "$10_$20"), ("猫", "狗")])
def test_metrics_and_figures_are_written_whatever_the_classes_are_called(tmp_path, capsys, names):
    line = [*manifest(tmp_path, names), "--out", tmp_path / "run"]
    code, out, err = run(capsys, *line)
    assert (
        code == 0
        and "Glyph" not in err
        and {"metrics.json", "curve.png", "confusion.png"}
        <= {p.name for p in (tmp_path / "run").iterdir()}
    )
    assert run(capsys, *line, "--resume")[0] == 0


def test_metrics_are_there_when_a_figure_fails_and_resume_makes_the_figures(
    tmp_path, capsys, monkeypatch
):
    line = [*manifest(tmp_path, ("cat", "dog")), "--out", tmp_path / "run"]

    def broken(*_):
        raise ValueError("no figure")

    with monkeypatch.context() as patched:
        patched.setattr("mmlib.plots.confusion", broken)
        code, _, err = run(capsys, *line)
    assert (
        code == 1
        and "no figure" in err
        and json.loads((tmp_path / "run/metrics.json").read_text())["test"]["rows"] == 6
    )
    assert run(capsys, *line, "--resume")[0] == 0 and (tmp_path / "run/confusion.png").exists()


def test_an_output_that_is_no_utf8_stops_nothing(tmp_path):
    """As a redirected output on Windows is: cp1252, which has no 狗."""
    train = [*map(str, manifest(tmp_path, ("猫", "狗"))), "--out", str(tmp_path / "run")]
    predict = ["predict", str(tmp_path / "run"), "--text", "a", "--json"]
    code = f"from mmlib.cli.main import main; raise SystemExit(main({train}) or main({predict}))"
    old = os.environ | {"PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=old, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("utf-8")
    *trained, predicted = done.stdout.decode("utf-8").splitlines()
    assert "狗" in "".join(trained) and set(json.loads(predicted)["probabilities"]) == {"猫", "狗"}


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_what_is_printed_is_json_also_where_a_score_is_not_a_number(tmp_path, capsys):
    rows = ["text,label,split"] + [
        f"word{i % 3},{i % 3 + 0.5},{'train' if i < 18 else 'val' if i < 24 else 'test'}"
        for i in range(25)
    ]
    (tmp_path / "m.csv").write_text("\n".join(rows))  # one test row has no variance, and no R2
    code, *_ = run(
        capsys,
        "train",
        tmp_path / "m.csv",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    )
    _, out, _ = run(capsys, "evaluate", tmp_path / "run", tmp_path / "m.csv", "--json")
    for text in (
        out,
        (tmp_path / "run/metrics.json").read_text(),
        *(tmp_path / "run/history.jsonl").read_text().splitlines(),
    ):
        json.loads(text, parse_constant=no_constant)
    assert code == 0 and json.loads(out)["r2"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, out, err = run(capsys, "evaluate", tmp_path / "run", tmp_path / "m.csv")
    assert "R2 undefined" in out and "nan" not in out and "Warning" not in err


@pytest.mark.parametrize(
    "name", ["history.jsonl", "metrics.json", "curve.png", "notes.txt", "trials.jsonl"]
)
def test_a_folder_with_files_of_ones_own_is_refused_untouched(tmp_path, capsys, name):
    line, out = manifest(tmp_path, ("cat", "dog")), tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("mine")
    for more in ((), ("--resume",)):
        code, _, err = run(capsys, *line, "--out", out, *more)
        assert code == 1 and f"files that no run has made ({name})" in err and "empty folder" in err
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]


def test_a_run_that_could_not_begin_leaves_no_folder(tmp_path, capsys):
    line = manifest(tmp_path, ("cat", "dog"))
    assert (
        run(capsys, *line, "--target", "nothing", "--out", tmp_path / "run")[0] == 1
        and not (tmp_path / "run").exists()
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").write_text("of a run that was killed")
    (tmp_path / "run/.checkpoint.pt-0123.tmp").write_text("half")
    assert run(capsys, *line, "--out", tmp_path / "run")[0] == 0


# ---- light


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["leaks", "--help"],
        ["trian"],
        ["train"],
        ["train", "m.csv", "--fusion", "blend"],
        ["train", "m.csv", "--resume"],
        ["predict", "d"],
    ],
)
def test_help_and_wrong_usage_load_neither_torch_nor_numpy(words):
    code = (
        "import sys; from mmlib.cli.main import main\n"
        f"try: main({words})\n"
        "except SystemExit: print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_command_line_sets_how_threads_wait_before_torch_loads_and_leaves_a_choice_alone(
    tmp_path,
):
    """A torch that says, at the moment when it is loaded, what a real one would find set."""
    says = "import os; print('torch', os.environ.get('OMP_WAIT_POLICY')); raise SystemExit"
    (tmp_path / "torch.py").write_text(says)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from mmlib.cli.main import main; main(['leaks', 'nothing.csv'])"
    )
    bare = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in ((bare, "passive"), (bare | {"OMP_WAIT_POLICY": "active"}, "active")):
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True)
        assert done.stdout.decode().split() == ["torch", expected], done.stderr.decode()


def test_where_torch_is_loaded_already_the_environment_stays_as_it_is(capsys, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    run(capsys, "leaks", "nothing.csv")
    assert "OMP_WAIT_POLICY" not in os.environ


# ---- mistakes


@pytest.mark.parametrize(
    "word, meant", [("trian", "did you mean train?"), ("predit", "predict?"), ("fly", "choose")]
)
def test_a_mistyped_command_names_the_one_that_was_meant(capsys, word, meant):
    with pytest.raises(SystemExit):
        main([word, "m.csv"])
    assert f"no command {word!r}" in (said := capsys.readouterr().err) and meant in said


@pytest.mark.parametrize(
    "line", [["--debug", "train", "nothing.csv"], ["train", "nothing.csv", "--debug"]]
)
def test_debug_shows_the_traceback_and_the_code_stays(capsys, line):
    code, _, err = run(capsys, *line)
    assert code == 1 and "Traceback" in err and "no such manifest" in err
    code, _, err = run(capsys, *(word for word in line if word != "--debug"))
    assert code == 1 and "Traceback" not in err and len(err.splitlines()) == 1


def test_an_error_that_may_be_a_bug_names_debug(capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("something")

    monkeypatch.setattr("mmlib.recipes.Recipe.read", broken)
    code, _, err = run(capsys, "train", "m.csv")
    assert code == 1 and err == "mmlib: something (--debug shows where)\n"


def leaking(folder):
    """A manifest with a column that is the answer in other words."""
    rows = [f"word{i},{'cat' if i % 2 else 'dog'},code {i % 2}" for i in range(80)]
    (folder / "leak.csv").write_text("\n".join(["text,label,code", *rows]))
    return folder / "leak.csv"


def test_leaks_has_exit_codes_of_its_own_and_its_help_says_them(tmp_path, capsys):
    assert run(capsys, "leaks", leaking(tmp_path), "--quick")[0] == 1
    assert run(capsys, "leaks", tmp_path / "nothing.csv")[0] == 2
    for line in (["--help"], ["leaks", "--help"]):
        with pytest.raises(SystemExit):
            main(line)
        said = " ".join(capsys.readouterr().out.split())
        assert "0 nothing found, 1 something found, 2" in said


def test_leaks_prints_json_for_programs(tmp_path, capsys):
    code, out, _ = run(capsys, "leaks", leaking(tmp_path), "--quick", "--json")
    found = json.loads(out)
    assert code == 1 and set(found[0]) == {"kind", "column", "evidence", "cure"}


def test_a_reader_that_has_enough_ends_it_quietly(trained):
    """As `mmlib predict ... | head -1` does."""
    line = f"{sys.executable} -m mmlib predict {trained / 'run'} {trained / 'manifest.csv'}"
    done = subprocess.run(f"{line} | head -1", shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("row,class") and done.stderr == ""


# ---- what is not installed


@pytest.mark.parametrize(
    "line, missing, install",
    [
        (["train", "--tensorboard"], "torch.utils.tensorboard", "pip install 'mmlib[tensorboard]'"),
        (["tune"], "optuna", "pip install 'mmlib[tune]'"),
    ],
)
def test_what_is_not_installed_is_found_before_any_file_is_read(
    tmp_path, capsys, monkeypatch, line, missing, install
):
    monkeypatch.setitem(sys.modules, missing, None)
    command, *options = line
    words = [command, tmp_path / "nothing.csv", *options, "--out", tmp_path / "run"]
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "") and install in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


# ---- report


def test_report_starts_at_its_seed_and_prints_json_alone(tmp_path, capsys, monkeypatch):
    asked = {}

    class Made:
        plain = staticmethod(lambda: {"verdict": "狗"})
        __str__ = staticmethod(lambda: "in words")
        write = staticmethod(lambda folder: folder / "report.html")

    def make_report(recipe, seeds):
        recipe.log("plan: a")
        asked.update(seeds=list(seeds), budget=recipe.budget)
        return Made()

    monkeypatch.setattr("mmlib.report.make_report", make_report)
    line = ["report", "m.csv", "--out", tmp_path, "--seed", "7", "--seeds", "2"]
    code, out, err = run(capsys, *line, "--json")
    assert code == 0 and json.loads(out) == {"verdict": "狗"} and "plan: a\nwrote " in err
    assert asked == {"seeds": [7, 8], "budget": 0.25}
    code, out, err = run(capsys, *line)
    assert out.split("\n")[:2] == ["plan: a", "in words"] and err == ""
