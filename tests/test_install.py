"""pyproject.toml is the one place where versions stand; every other file only points to it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mmlib

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))


def lines(name: str) -> list[str]:
    return [
        line.strip()
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def name_of(requirement: str) -> str:
    return Requirement(requirement).name.lower()


def test_requirements_are_the_package_with_course_and_test():
    assert lines("requirements.txt") == ["-e .[course,test]"]


def test_environment_points_to_requirements_and_the_same_pythons():
    """conda takes the newest Python that it may: without an end, one that has no torch yet."""
    text = lines("environment.yml")
    assert "- -r requirements.txt" in text
    versions = [line for line in text if re.search(r"[<>=]", line)]
    after = f"3.{int(PYTHONS[-1].split('.')[1]) + 1}"
    assert versions == [f"- python{PROJECT['requires-python']},<{after}"]


def test_every_page_names_the_same_pythons():
    assert PYTHONS == ["3.11", "3.12", "3.13", "3.14"]
    assert f">={PYTHONS[0]}" == PROJECT["requires-python"]
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    assert SETTINGS["tool"]["mypy"]["python_version"] == PYTHONS[0]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r'"(3\.\d+)"', workflow) == PYTHONS and "bash .ci/run" in workflow
    for page in ("README.md", "docs/package.md"):
        assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / page).read_text(encoding="utf-8")


def test_the_version_stands_in_one_place_and_the_citation_repeats_it():
    assert PROJECT["dynamic"] == ["version"]
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mmlib.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", mmlib.__version__)
    assert f"version: {mmlib.__version__}" in lines("CITATION.cff")


def test_the_package_alone_brings_no_jupyter():
    alone = {name_of(r) for r in PROJECT["dependencies"]}
    brought = {name_of(r) for r in EXTRAS["course"] + EXTRAS["test"]}
    assert alone & brought <= {"torch"}, "torch has a cap there, for torchvision and torchaudio"
    assert not any(word in name for name in alone for word in ("jupyter", "ipy", "notebook", "nb"))


def test_the_package_alone_caps_no_torch():
    """A library that caps torch caps it for everybody who uses the library."""
    torch = next(Requirement(r) for r in PROJECT["dependencies"] if name_of(r) == "torch")
    assert torch.specifier.contains("99.0") and not torch.specifier.contains("2.13.0")
    assert not {"torchvision", "torchaudio"} & {name_of(r) for r in PROJECT["dependencies"]}


@pytest.mark.parametrize("extra", ["course", "test"])
def test_course_and_test_hold_the_extras_that_they_need_word_for_word(extra):
    """Named as mmlib[torchvision] they would come too late for an old pip: see pyproject.toml."""
    assert set(EXTRAS["torchvision"] + EXTRAS["wav2vec2"]) <= set(EXTRAS[extra])
    if extra == "test":
        assert set(EXTRAS["tune"]) <= set(EXTRAS[extra])


def imported(code: str) -> set[str]:
    """The first part of every module that the code imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_dependency_is_used():
    """What the package imports is what it asks for: nothing undeclared, nothing idle."""
    distribution = {"PIL": "pillow", "sklearn": "scikit-learn"}
    files = [p.read_text(encoding="utf-8") for p in (ROOT / "mmlib").rglob("*.py")]
    modules = set().union(*map(imported, files)) - set(sys.stdlib_module_names) - {"mmlib"}
    needed = {distribution.get(m, m) for m in modules}
    declared = {name_of(r) for r in PROJECT["dependencies"]}
    # scipy comes with scikit-learn, IPython with ipywidgets
    known = {"timm", "transformers", "scipy", "IPython"}
    optional = {name_of(r) for extra in EXTRAS.values() for r in extra} - declared
    assert needed - optional - known == declared


def test_every_extra_is_on_the_engineers_page():
    page = (ROOT / "docs/engineers.md").read_text(encoding="utf-8").split("## What it takes")[0]
    assert set(EXTRAS) <= set(re.findall(r"`(\w+)`", page))


def test_what_is_installed_fits_what_is_declared():
    for text in PROJECT["dependencies"] + EXTRAS["course"] + EXTRAS["test"]:
        requirement = Requirement(text)
        assert version(requirement.name) in requirement.specifier, (
            f"{requirement} asked for, {version(requirement.name)} installed"
        )


def test_continuous_integration_checks_style_and_types_before_the_tests():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    places = [
        script.index(part)
        for part in (
            'bash -c "$course_command"',
            "-m ruff check .",
            "-m ruff format --check .",
            "-m mypy",
            'bash -c "$test_command"',
        )
    ]
    assert places == sorted(places)
    assert SETTINGS["tool"]["mypy"]["files"] == ["mmlib"]
