"""The README's command lines and snippets run as they stand there, in an empty folder with a
small data/pets.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmlib.worlds import pets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", README, re.S)
SHORTER = {
    "report": ["--epochs", "1", "--seeds", "1"],
    "tune": ["--epochs", "1", "--trials", "2"],
}  # the last of two flags counts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    pets.write(pets.draw(32), place / "data/pets")
    return place


def run(command, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_line_and_snippet_runs_in_order(folder):
    kinds = [kind for kind, _ in BLOCKS]
    assert {"bash", "python"} <= set(kinds), "the README has lost its marked examples"
    for kind, code in BLOCKS:
        if kind == "python":
            assert run([sys.executable, "-c", code], folder).strip()
        else:
            for line in code.strip().splitlines():
                program, *arguments = re.findall(r'"[^"]*"|\S+', line)
                assert program == "python"
                arguments = [a.strip('"') for a in arguments]
                assert run(
                    [sys.executable, *arguments, *SHORTER.get(arguments[2], [])], folder
                ).strip()
    assert (folder / "runs/pets/metrics.json").exists()


def test_every_command_of_mmlib_in_the_readme_is_understood():
    from mmlib.cli.main import parser

    lines = re.findall(
        r"-m mmlib ((?:train|evaluate|predict|report|leaks|tune|fusions)[^`\n]*)", README
    )
    assert len(lines) >= 5
    for line in lines:
        parser().parse_args([a.strip('"') for a in re.findall(r'"[^"]*"|\S+', line.split("#")[0])])


def test_the_tree_names_every_file_of_the_package_and_no_other():
    tree = README.split("## What is where")[1].split("```")[1]
    named = set(re.findall(r"(\w+\.py)\b", tree))
    there = {p.name for p in (ROOT / "mmlib").rglob("*.py")} | {"make_outputs.py"}
    assert named == there - {"__init__.py"} | ({"__init__.py"} & named)


def test_the_table_of_fusions_is_what_the_command_prints_but_for_the_times():
    from mmlib.fusion.cost import table, to_markdown

    def without_times(text: str) -> list[list[str]]:
        return [
            [cell.strip() for cell in line.split("|")[1:7]]
            for line in text.splitlines()
            if re.match(r"\| \w+Fusion", line)
        ]

    assert without_times(README) == without_times(to_markdown(table(repeats=1)))
    assert len(without_times(README)) == 16


def test_every_link_into_the_project_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_every_notebook_stands_in_the_table():
    notebooks = {p.name for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == set(re.findall(r"\(notebooks/(\w+\.ipynb)\)", README))


def test_the_set_up_lines_are_one_line_each_and_the_same_on_both_systems():
    for name in ("course", "test"):
        block = README.split(f"<!-- ci: {name} -->")[1]
        linux, windows = re.findall(r"```(?:bash|powershell)\n(.*?)\n```", block, re.S)[:2]
        assert "\n" not in linux and "\n" not in windows
        job = linux.split("&&")[-1].split("-m ")[-1].strip()
        assert windows.replace("\\", "/").endswith(f"-m {job} }}")
