"""The direction of imports, read from the source; and what `import mmlib` must not load."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmlib"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each group may import itself and the groups named; `data`, `train` and the rest never see a model.
GROUPS = {
    "alt_text": ["alt_text"],                   # every figure speaks
    "core": ["core"],
    "layers": ["layers"],
    "parts": ["encoders", "fusion", "heads"],
    "models": ["models"],
    "trace": ["trace"],
    "lessons": ["exercises", "parity"],         # only notebooks and tests import them
    "loop": ["data", "worlds", "metrics", "train", "checkpoint", "memory", "distributed"],
    "recipes": ["recipes"],
    "judges": ["report", "leaks", "tune", "robust"],
    "plots": ["plots", "widgets"],
    "top": ["cli", "__main__", "__init__"],
}
ALLOWED = {
    "alt_text": {"alt_text"},
    "core": {"core"},
    "layers": {"core", "layers"},
    "parts": {"core", "layers", "parts"},
    "models": {"core", "layers", "parts", "models"},
    "trace": {"alt_text", "core", "trace"},
    "lessons": {"core", "layers", "parts", "models", "loop", "lessons"},
    "loop": {"alt_text", "core", "trace", "loop"},
    "recipes": {"core", "layers", "parts", "models", "loop", "recipes"},
    "judges": {"core", "layers", "parts", "models", "trace", "loop", "recipes", "judges", "plots"},
    "plots": {"alt_text", "core", "loop", "plots"},
    "top": set(GROUPS),
}
HEAVY = ["torchvision", "torchaudio", "sklearn", "scipy", "seaborn", "ipywidgets", "matplotlib", "pandas", "soundfile", "PIL", "timm", "transformers"]


def group_of(module: str) -> str:
    first = module.split(".")[0]
    for group, names in GROUPS.items():
        if any(first == name or first.startswith(f"{name}_") for name in names):
            return group
    raise LookupError(f"mmlib/{first} belongs to no group: say in tests/test_imports.py what it may import")


def imported(path: Path) -> set[str]:
    """The mmlib modules that a file imports, at the top or inside a function: 'core', 'data.image', ..."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("mmlib.") for alias in node.names if alias.name.startswith("mmlib.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}:{node.lineno}: relative import; write `from mmlib...`")
        elif isinstance(node, ast.ImportFrom) and node.module == "mmlib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mmlib."):
            found.add(node.module.removeprefix("mmlib."))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imported(path):
        assert group_of(module) in ALLOWED[group_of(own)], f"{path.name} imports mmlib.{module}"


def test_the_direction_test_sees_a_wrong_import(tmp_path):
    wrong = tmp_path / "train.py"
    wrong.write_text("def fit():\n    from mmlib.models import Model\n")
    assert {group_of(m) for m in imported(wrong)} - ALLOWED["loop"] == {"models"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_mmlib_loads_nothing_heavy():
    loaded = run(f"import torch, sys; before = set(sys.modules); import mmlib; print([m for m in {HEAVY} if m in sys.modules and m not in before])")
    assert loaded.strip() == "[]"


def test_every_public_name_is_written_out_and_there():
    import mmlib
    assert set(mmlib.__all__) <= set(dir(mmlib))
    assert len(mmlib.__all__) == len(set(mmlib.__all__))
    undocumented = [n for n in mmlib.__all__ if not (getattr(mmlib, n).__doc__ or "").strip()]
    assert undocumented == []
