"""A small world and a model trained on it, from the command line."""

import pytest

from mmlib.cli.main import main
from mmlib.worlds import pets


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a manifest and the run that was trained on it, of one epoch."""
    folder = tmp_path_factory.mktemp("cli")
    pets.write(pets.draw(48), folder)
    line = ["train", folder / "manifest.csv", "--epochs", "1", "--device", "cpu"]
    assert main([*map(str, line), "--out", str(folder / "run")]) == 0
    return folder
