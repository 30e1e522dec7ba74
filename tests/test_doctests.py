"""Every public name shows itself at work: an example in its docstring, which runs as it stands."""

import doctest
import importlib
import pkgutil
from operator import attrgetter

import pytest

import mmlib

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mmlib.__path__, "mmlib.")
    if not module.name.endswith("__main__")
)
NAMES = [
    name
    for name in dir(mmlib)
    if not name.startswith("_")
    and callable(getattr(mmlib, name))  # not the modules
    and name != "Batch"  # a name for dict[str, Tensor]: its example stands in mmlib.core
]
NAMES += [
    f"{module}.{name}"
    for module in ("leaks", "metrics", "plots", "report", "tune")
    for name in getattr(mmlib, module).__all__
    if callable(getattr(getattr(mmlib, module), name))
]
NAMES += [f"robust.{name}" for name in ("corrupt", "curves", "kind_of", "subsets")]

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = attrgetter(name)(mmlib)
    assert any(test.examples for test in finder.find(found, name)), f"help(mmlib.{name})"


@pytest.mark.parametrize("module", MODULES)
def test_every_example_runs_and_shows_what_it_says(module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(module), optionflags=FLAGS)
    assert not failed, capsys.readouterr().out
