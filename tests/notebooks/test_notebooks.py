"""Hygiene of the notebooks and of the script that makes their outputs.

That they run, and give those outputs, nbval tests (pyproject).
"""

import ast
import os
import re

import nbformat
import pytest
from nbformat import NotebookNode

from tests.tools import make_outputs
from tests.tools.test_kernel_limits import run_pytest

NOTEBOOKS = make_outputs.notebooks()
TAGS = {"nbval-ignore-output", "raises-exception", "exercise", "check"}
PRIVATE = re.compile(r"(?:/work|/root|/home|/tmp|/Users|/var|/opt)/|\b[A-Za-z]:\\")
NUMBER = re.compile(r"(?<![\w.:/-])\d+\.\d+(?![\w.])|\d+(?= ?%)")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def shown(cell: NotebookNode) -> str:
    """All text of a cell's outputs; sounds and images, which are base64, left out."""
    texts = []
    for output in cell.outputs:
        texts.append(output.get("text", ""))
        texts += [
            str(value)
            for kind, value in output.get("data", {}).items()
            if not kind.startswith("image/")
        ]
        texts += output.get("traceback", [])
    return re.sub(r"base64,[\w+/=]+", "", "\n".join(texts))


def speaks(source: str) -> bool:
    """Does the cell print, or end with an expression?"""
    tree = ast.parse(source)
    prints = any(
        isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        for node in walk_now(tree)
    )
    return prints or bool(
        tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";")
    )


def walk_now(tree: ast.AST) -> list[ast.AST]:
    """The nodes that run with the cell: not those inside functions and classes."""
    inside = [
        node
        for node in ast.iter_child_nodes(tree)
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda))
    ]
    return inside + [deeper for node in inside for deeper in walk_now(node)]


def problems_of_cell(cell: NotebookNode, number: int) -> list[str]:
    """What is wrong with the code cell that should have this execution count."""
    tree, tags, found = ast.parse(cell.source), cell.metadata.get("tags", []), []
    if cell.execution_count != number:
        found.append(
            f"execution count {cell.execution_count}, expected {number}: make the outputs again"
        )
    if len(cell.source.splitlines()) > 25:
        found.append("over 25 lines")
    if max(map(len, cell.source.splitlines())) > 105:
        found.append("a line over 105 characters: the page of JupyterLab cuts it off")
    if speaks(cell.source) and not cell.outputs:
        found.append("no output, though it prints or ends with an expression")
    if number > 1 and any(
        isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)
    ):
        found.append("imports; all imports stand in the first code cell")
    if (
        any(output.output_type == "error" for output in cell.outputs)
        and "raises-exception" not in tags
    ):
        found.append("an error that no tag allows")
    if any(output.get("name") == "stderr" for output in cell.outputs):
        found.append("writes to stderr: a warning, or a progress bar")
    if any(
        "image/png" in output.get("data", {})
        and not output.metadata.get("image/png", {}).get("alt")
        for output in cell.outputs
    ):
        found.append(
            "a figure without alternative text: draw it with mmlib.plots, or on plots.panels(...)"
        )
    if "Warning" in shown(cell):
        found.append("shows a warning")
    return found


def problems_of(notebook: NotebookNode) -> list[str]:
    """Everything that is wrong with a notebook, cell by cell."""
    found, codes, text = [], code_cells(notebook), "\n".join(map(shown, code_cells(notebook)))
    for number, cell in enumerate(codes, 1):
        found += [f"{cell.id}: {problem}" for problem in problems_of_cell(cell, number)]
    for cell in tagged(notebook, "nbval-ignore-output"):
        place = codes.index(cell)
        if not any(
            isinstance(node, ast.Assert)
            for near in codes[place : place + 2]
            for node in walk_now(ast.parse(near.source))
        ):
            found.append(
                f"{cell.id}: outputs are not compared, so this cell or the next code "
                "cell must assert what they should be"
            )
    for cell in notebook.cells:
        if set(cell.metadata.get("tags", [])) - TAGS:
            found.append(f"{cell.id}: unknown tags {cell.metadata.tags}")
        if PRIVATE.search(cell.source) or (
            cell.cell_type == "code" and PRIVATE.search(shown(cell))
        ):
            found.append(f"{cell.id}: a path of somebody's machine")
        if cell.cell_type == "markdown":
            found += [f"{cell.id}: {problem}" for problem in problems_of_prose(cell.source, text)]
    return found


def problems_of_prose(source: str, outputs: str) -> list[str]:
    found = []
    if re.search(r"!\[\s*\]\(", source) or re.search(r"<img(?![^>]*\balt=\"\w)", source):
        found.append("an image without alternative text")
    measured = [number for number in NUMBER.findall(source) if number not in outputs]
    if measured:
        found.append(f"the numbers {measured} are printed by no cell")
    return found


@pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.relative_to(make_outputs.ROOT).as_posix()
)
def test_notebook_is_clean(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems_of(notebook) == []
    assert path.stat().st_size < 1_500_000
    make_outputs.write(notebook, tmp_path / "again.ipynb")
    assert path.read_bytes() == (tmp_path / "again.ipynb").read_bytes(), (
        "not as tests/make_outputs.py writes it"
    )


@pytest.mark.parametrize(
    "path",
    [path for path in NOTEBOOKS if path.parent.name == "notebooks"],
    ids=lambda path: path.name,
)
def test_every_exercise_has_a_check_and_a_solution_that_passes_it(path):
    notebook = nbformat.read(path, as_version=4)
    assert 30 <= len(notebook.cells) <= 45
    checks = [cell.source for cell in tagged(notebook, "check")]
    assert len(tagged(notebook, "exercise")) == len(checks) >= 3
    solution = nbformat.read(path.parent / "solutions" / path.name, as_version=4)
    solved = tagged(solution, "check")
    assert [cell.source for cell in solved] == checks, (
        "the solutions must be checked by the same cells"
    )
    assert all("done" in shown(cell) and "not yet" not in shown(cell) for cell in solved)
    assert not any("done" in shown(cell) for cell in tagged(notebook, "check")), (
        "an exercise that is done already"
    )


def test_no_solution_without_its_notebook():
    names = [path.name for path in NOTEBOOKS]
    assert [name for name in names if names.count(name) != 2] == []


# ---- the judges judged: each rule sees what it forbids, and the script repeats itself


def cell(
    source: str, text: str | None = "1\n", number: int = 1, stream: str = "stdout", **metadata
) -> NotebookNode:
    outputs = [] if text is None else [nbformat.v4.new_output("stream", name=stream, text=text)]
    return nbformat.v4.new_code_cell(
        source, outputs=outputs, execution_count=number, metadata=metadata
    )


def book(*cells: NotebookNode | str) -> NotebookNode:
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
    )


def drawn(**metadata) -> NotebookNode:
    picture = cell("figure", None)
    picture.outputs = [
        nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=metadata)
    ]
    return picture


def failing() -> NotebookNode:
    wrong = cell("1 / 0", None)
    wrong.outputs = [
        nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="no", traceback=["no"])
    ]
    return wrong


@pytest.mark.parametrize(
    "wrong, problem",
    [
        (book(cell("print(1)", number=2)), "execution count"),
        (book(cell("x = 1", None, number=None)), "execution count"),
        (book(cell("x = 1\n" * 26, None)), "over 25"),
        (book(cell(f"x = {'1' * 102}", None)), "over 105"),
        (book(cell("print(1)", None)), "no output"),
        (book(cell("for i in [1]:\n    print(i)", None)), "no output"),
        (book(cell("x = 1\nx", None)), "no output"),
        (book(cell("import os", None), cell("import sys", None, 2)), "imports"),
        (
            book(cell("import os", None), cell("def f():\n    from os import path", None, 2)),
            "imports",
        ),
        (book(failing()), "an error"),
        (book(cell("print(1)", stream="stderr")), "stderr"),
        (book(cell("print(1)", "UserWarning: beware\n")), "warning"),
        (book(cell("print(1)", "/home/someone/x.png\n")), "machine"),
        (book(cell("print(1)", "C:\\Users\\x.png\n")), "machine"),
        (book(cell("x = '/work/main'", None)), "machine"),
        (book("![](pets.png)"), "alternative"),
        (book('<img src="pets.png">'), "alternative"),
        (book(drawn()), "alternative"),
        (book(drawn(**{"image/png": {"alt": ""}})), "alternative"),
        (book("It reaches 0.97 here.", cell("print(1)", "0.96\n")), "printed by no cell"),
        (book("It reaches 97 % here."), "printed by no cell"),
        (
            book(cell("print(1)", tags=["nbval-ignore-output"]), cell("x = 1", None, 2)),
            "must assert",
        ),
        (book(cell("x = 1", None, tags=["nbval-skip"])), "unknown tags"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hygiene_sees(wrong, problem):
    assert [found for found in problems_of(wrong) if problem in found]


def test_hygiene_lets_a_good_notebook_pass():
    assert (
        problems_of(
            book(
                "# Title 1",
                "![a cat](cat.png) scores 0.96 (arXiv:1702.01992, pages 3-4)",
                cell("import os\n\ndef f():\n    print(2)", None),
                cell("print(0.96)", "0.96\n", 2),
                cell("x = 1; x;", None, 3),
                cell("print(3)", "3\n", 4, tags=["nbval-ignore-output"]),
                cell("assert 1", None, 5),
            )
        )
        == []
    )
    assert problems_of(book(drawn(**{"image/png": {"alt": "1 line"}}))) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny notebook, run twice by the script; before the second run an editor has left its
    traces.
    """
    path = tmp_path_factory.mktemp("notebooks") / "tiny.ipynb"
    path.write_text(
        nbformat.writes(
            book(
                "# Tiny",
                cell("import os, sys", None),
                cell("print(1)\nsys.stdout.flush()\nprint(2)", None),
                cell("os.environ['OMP_NUM_THREADS'], os.getcwd().rsplit('/')[-1][:9]", None),
            )
        )
    )
    make_outputs.run(path)
    first = path.read_bytes()
    touched = nbformat.read(path, as_version=4)
    touched.metadata["widgets"], touched.cells[1].id = {"state": {}}, "a1b2"
    touched.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    nbformat.write(touched, path)
    return path, first, make_outputs.run(path)


def test_the_same_notebook_gives_the_same_bytes(made):
    path, first, costs = made
    assert path.read_bytes() == first
    assert b'"1\\n"' in first and b"iopub" not in first and b"widgets" not in first
    assert re.fullmatch(r"\d+ CPU-seconds, 0\.[1-9] GB", costs), "what an empty kernel costs"


def test_outputs_are_made_with_one_thread_in_the_notebooks_folder(made):
    cells = code_cells(nbformat.read(made[0], as_version=4))
    assert shown(cells[2]) == "\n('1', 'notebooks')"
    assert len(cells[1].outputs) == 1, "one stream, however often it was flushed"
    assert problems_of(nbformat.read(made[0], as_version=4)) == []


def test_an_error_stops_the_script_and_nothing_is_written(tmp_path):
    path = tmp_path / "wrong.ipynb"
    path.write_text(nbformat.writes(book(cell("1 / 0", None))))
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        make_outputs.run(path)
    assert path.read_bytes() == before


def test_widget_ids_are_numbered():
    text = "".join(f'"model_id": "{name * 32}"' for name in "bab")
    assert make_outputs._number_widgets(text) == "".join(
        f'"model_id": "{number:032x}"' for number in (1, 2, 1)
    )


def test_kernels_of_the_tests_have_the_environment_of_the_script():
    wanted = {
        key: value
        for key, value in make_outputs.ENVIRONMENT.items()
        if key != "CUDA_VISIBLE_DEVICES"
    }
    assert wanted.items() <= os.environ.items()


def test_the_test_command_compares_outputs(made):
    """Plain `pytest FOLDER`, with the options of pyproject, runs notebooks and fails one whose
    committed output is wrong.
    """
    folder = made[0].parent
    (folder / "stale.ipynb").write_text(made[0].read_text().replace('"2\\n"', '"3\\n"'))
    said = run_pytest(folder, "-q")
    assert "stale.ipynb::Cell 1" in said and "1 failed, 5 passed" in said, said
