"""export: what it writes and says; what is refused before anything is read."""

import json
from importlib import import_module

import pytest

from tests.cli.test_main import run

exporting = import_module("mmlib.recipes.export")


def test_the_files_stand_beside_the_model_and_what_was_written_is_said(trained, tmp_path, capsys):
    for name in (*exporting.PACKAGES, "safetensors"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra export)")
    line = ["export", trained / "run", tmp_path / "pet.onnx", "--weights"]
    code, out, err = run(capsys, *line)
    assert code == 0, err
    files = [tmp_path / f"pet.{end}" for end in ("onnx", "json", "py", "safetensors")]
    assert all(file.exists() and str(file) in out for file in files)
    assert "input   image (batch, 3, image_height, image_width)" in out.splitlines()
    assert json.loads(files[1].read_text())["preprocessing"]["target"]["classes"] == ["cat", "dog"]
    files[0].unlink()
    code, _, err = run(capsys, *line)
    assert code == 1 and f"{files[1]} exists: give another name" in err


def test_a_missing_package_and_a_wrong_name_come_before_the_run_is_read(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    code, _, err = run(capsys, "export", tmp_path / "nowhere", tmp_path / "pet.onnx")
    assert code == 1 and "export needs onnx, onnxscript, onnxruntime, not" in err
    assert "pip install 'mmlib[export]'" in err and "nowhere" not in err
    with pytest.raises(SystemExit, match="2"):
        run(capsys, "export", tmp_path / "nowhere", tmp_path / "pet.pt")
    assert "pet.pt is not the name of an ONNX file: NAME.onnx" in capsys.readouterr().err
