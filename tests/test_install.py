"""pyproject.toml is the one place where versions stand; requirements.txt and environment.yml
only point to it.
"""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lines(name: str) -> list[str]:
    return [
        line.strip()
        for line in (ROOT / name).read_text().splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def test_requirements_are_the_package_with_course_and_test():
    assert lines("requirements.txt") == ["-e .[course,test]"]
    assert {"course", "test", "export", "tensorboard", "tune", "browser"} == set(EXTRAS)


def test_environment_points_to_requirements_and_the_same_python():
    text = lines("environment.yml")
    assert "- -r requirements.txt" in text
    assert [line for line in text if line.startswith("- python")] == [
        f"- python{PROJECT['requires-python']}"
    ]
    versions = [line for line in text if re.search(r"[<>=]", line)]
    assert versions == [f"- python{PROJECT['requires-python']}"], (
        "a version stands outside pyproject.toml"
    )


def name_of(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower()


def test_the_package_alone_brings_no_jupyter():
    alone = {name_of(r) for r in PROJECT["dependencies"]}
    assert not alone & {name_of(r) for r in EXTRAS["course"] + EXTRAS["test"]}
    assert not any(word in name for name in alone for word in ("jupyter", "ipy", "notebook", "nb"))


def test_every_dependency_is_used():
    """What the package imports is what it asks for: nothing undeclared, nothing idle."""
    distribution = {"PIL": "pillow", "sklearn": "scikit-learn"}
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "mmlib").rglob("*.py"))
    modules = (
        set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.M))
        - set(sys.stdlib_module_names)
        - {"mmlib"}
    )
    needed = {distribution.get(m, m) for m in modules}
    known = {
        "timm",
        "transformers",
        "scipy",
        "IPython",
    }  # scipy comes with scikit-learn, IPython with ipywidgets
    optional = known | {name_of(r) for extra in EXTRAS.values() for r in extra}
    declared = {name_of(r) for r in PROJECT["dependencies"]}
    assert needed - optional == declared


def test_what_is_installed_fits_what_is_declared():
    for text in PROJECT["dependencies"] + EXTRAS["course"] + EXTRAS["test"]:
        requirement = Requirement(text)
        assert version(requirement.name) in requirement.specifier, (
            f"{requirement} asked for, {version(requirement.name)} installed"
        )
