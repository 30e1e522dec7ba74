"""The direction of imports, read from the source; and what `import mmlib` must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmlib"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each file or folder of the package may import besides itself: DESIGN, section 1.
PARTS = {"core", "layers", "language", "encoders", "fusion", "heads", "models"}
BELOW = {"files", "machine", "data", "metrics", "train", "plots", "text_table", "tracing"}
# what questions a trained model: recipes hand it the model and the batches
AFTER = {"core", "files", "machine", "data", "layers", "models", "train", "metrics", "plots"}
ALLOWED = {
    "core": set(),
    "renamed": set(),  # every part may use it, as long as it has old names
    "files": set(),
    "machine": {"core"},
    "text_table": set(),
    "layers": {"core"},
    "language": {"core", "layers"},
    "encoders": {"core", "layers", "language"},
    "fusion": {"core", "layers", "language", "text_table"},
    "heads": {"core", "layers", "language"},
    "models": {"core", "layers", "encoders", "fusion", "heads"},
    "metrics": set(),
    "plots": set(),
    "worlds": set(),
    "tracing": {"core", "plots", "text_table"},
    "data": {"core", "files", "machine"},
    "train": {"core", "files", "machine", "metrics", "plots", "text_table", "tracing"},
    "leaks": {"core", "files", "machine", "data"},
    "explain": AFTER,
    "trust": AFTER,
    "compress": AFTER,
    "recipes": PARTS | BELOW | {"explain", "trust", "compress"},
    "report": PARTS | BELOW | {"recipes"},
    "tune": PARTS | BELOW | {"recipes"},
    "serve": PARTS | BELOW | {"recipes"},
    "course": PARTS | BELOW | {"worlds", "recipes", "report", "leaks", "trust"},
    "cli": PARTS
    | BELOW
    | {"recipes", "report", "leaks", "tune", "trust", "explain", "serve", "course"},
    "__main__": {"cli"},
}
HEAVY = [
    "torchvision",
    "torchaudio",
    "sklearn",
    "scipy",
    "seaborn",
    "ipywidgets",
    "matplotlib",
    "pandas",
    "soundfile",
    "PIL",
    "timm",
    "transformers",
]


def own_name(path: Path) -> str:
    """'mmlib/data/image.py' -> 'data.image'; a package goes by its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {own_name(path) for path in FILES}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import from mmlib, at the top or inside a function: ('data',
    'Data').
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("mmlib."):
                    yield alias.name.removeprefix("mmlib."), ""
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert not node.level, f"{path}:{node.lineno}: relative import; write `from mmlib...`"
            if module == "mmlib" or module.startswith("mmlib."):
                for alias in node.names:
                    inner = f"{module}.{alias.name}".removeprefix("mmlib.")
                    if inner in MODULES:
                        yield inner, ""
                    else:
                        yield module.removeprefix("mmlib").lstrip("."), alias.name


def wrong_directions(path: Path, own: str) -> list[str]:
    room = own.split(".")[0]
    found = {(module or name).split(".")[0] for module, name in imported(path)}
    return sorted(found - ALLOWED[room] - {room, "renamed"})


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_imports_point_one_way(path):
    own = own_name(path)
    if own != "__init__":  # the public names come from everywhere
        assert wrong_directions(path, own) == []


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_no_file_imports_a_private_name_of_another(path):
    assert [(module, name) for module, name in imported(path) if name.startswith("_")] == []


def test_there_is_no_circle_of_files():
    graph = {
        own_name(path): {m for m, _ in imported(path)} - {own_name(path), ""} for path in FILES
    }
    del graph["__init__"]
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        for other in sorted(graph.get(module, set())) if module not in done else []:
            visit(other, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_every_file_and_folder_of_the_package_has_its_rule():
    assert {own_name(path).split(".")[0] for path in FILES} - {"__init__"} <= set(ALLOWED)


@pytest.mark.parametrize(
    "own, line, wrong",
    [
        ("train.loop", "from mmlib.models import Model", ["models"]),
        ("train.loop", "from mmlib import recipes", ["recipes"]),
        ("data.load", "import mmlib.heads.classify", ["heads"]),
        ("recipes.plan", "from mmlib.course import widgets", ["course"]),
        ("core", "from mmlib.layers import attend", ["layers"]),
    ],
)
def test_the_direction_test_sees_a_wrong_import(tmp_path, own, line, wrong):
    file = tmp_path / "wrong.py"
    file.write_text(f"def fit():\n    {line}\n")
    assert wrong_directions(file, own) == wrong


def test_the_private_test_sees_a_private_name(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("from mmlib.data.load import _fit\n")
    assert list(imported(file)) == [("data.load", "_fit")]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_mmlib_loads_neither_torch_nor_numpy():
    code = "import mmlib, sys; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert run(code) == "[]"


def test_using_mmlib_loads_nothing_heavy_and_changes_nobodys_environment():
    code = (
        "import os, sys; environment = dict(os.environ); import torch; before = set(sys.modules); "
        "import mmlib; mmlib.fit, mmlib.Model; "
        f"print([m for m in {HEAVY} if m in sys.modules and m not in before], "
        "environment == dict(os.environ))"
    )
    assert run(code) == "[] True"


def public() -> list[str]:
    import mmlib

    return [name for name in dir(mmlib) if not name.startswith("_")]


def test_every_public_name_is_there_and_documented():
    import mmlib

    assert len(public()) > 70
    assert [n for n in public() if not (getattr(mmlib, n).__doc__ or "").strip()] == []


def test_type_checkers_are_told_the_same_names():
    told = set()
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmlib"):
            told |= {alias.asname for alias in node.names}
    assert told == set(public())


def test_an_unknown_name_is_an_attribute_error():
    import mmlib

    with pytest.raises(AttributeError, match="mmlib.*'fitt'"):
        mmlib.fitt  # noqa: B018
    assert not hasattr(mmlib, "_something")


def test_help_names_every_public_name_and_stays_short():
    import pydoc

    import mmlib

    lines = pydoc.render_doc(mmlib).splitlines()
    assert len(lines) <= 400
    words = set((mmlib.__doc__ or "").replace(",", " ").split())
    assert [name for name in public() if name not in words] == []
