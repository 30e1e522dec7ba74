"""The budgets of notebooks are kept: a notebook that takes too long, too much memory, or asks
for the network, fails its test.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.tools import make_outputs

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def run_pytest(folder: Path, option: str, **environment: str) -> str:
    """What `pytest FOLDER` prints, with the options of pyproject and one more."""
    settings = ["-c", str(make_outputs.ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "-p", "no:cacheprovider", option, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The course's own test set-up on four small notebooks: 10 CPU-seconds and 1 GB for each."""
    folder = tmp_path_factory.mktemp("course") / "notebooks"
    folder.mkdir()
    tools = folder.parent / "tests" / "tools"
    tools.mkdir(parents=True)
    shutil.copy(make_outputs.ROOT / "notebooks" / "conftest.py", folder)
    shutil.copy(make_outputs.ROOT / "tests" / "tools" / "kernel_limits.py", tools)
    cells = {
        "good": "CPU = running = spent = check_budget = MEMORY = None\n###\nassert 'watch' not in "
        "globals()",
        "slow": "import time\nwhile time.process_time() < 60: pass",
        "large": "x = b'1' * 2_000_000_000\n###\nprint(1)",
        "online": "import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=5)",
    }
    for name, source in cells.items():
        path = folder / f"{name}.ipynb"
        nbformat.write(
            nbformat.v4.new_notebook(
                cells=[nbformat.v4.new_code_cell(part) for part in source.split("\n###\n")]
            ),
            path,
        )
    return run_pytest(folder, "-rf", MMLIB_NOTEBOOK_CPU="10", MMLIB_NOTEBOOK_MEMORY="1")


@pytest.mark.parametrize(
    "name, reason",
    [
        ("slow", "CPU-seconds, expected at most 10"),
        ("large", "GB of memory, expected at most 1"),
        ("online", "asked for the network (192.0.2.1)"),
    ],
)
def test_a_notebook_over_its_budget_or_online_fails(result, name, reason):
    assert f"{name}.ipynb::Cell" in result.split("short test summary")[1] and reason in COLOUR.sub(
        "", result
    ), result


def test_a_notebook_within_its_budget_passes(result):
    assert (
        "good.ipynb .. " in result and "good.ipynb" not in result.split("short test summary")[1]
    ), result
