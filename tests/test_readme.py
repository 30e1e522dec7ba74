"""The pages: README.md for learners, docs/engineers.md for those who build, docs/package.md for a
package index.

What they show is run as it stands there, in an empty folder with a small data/pets; what they name
is there.
"""

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from mmlib.worlds import pets

ROOT = Path(__file__).parents[1]
README, ENGINEERS, PACKAGE = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "docs/engineers.md", "docs/package.md")
)
RUN = re.compile(r"<!-- run(?: if (\w+))? -->\n```(\w+)\n(.*?)```", re.S)
SHORTER = {  # the last of two flags counts
    "report": ["--epochs", "1", "--seeds", "1"],
    "tune": ["--epochs", "1", "--trials", "2"],
}
TREE = ENGINEERS.split("## Every file")[1].split("```")[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    pets.write(pets.draw(32), place / "data/pets")
    return place


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Calls something in the folder -> what it printed.

    In this process, which has loaded torch once for all; the tests of the command line and of the
    wheel start processes of their own.
    """
    monkeypatch.chdir(folder)

    def shown(call, *arguments, **options) -> str:
        call(*arguments, **options)
        return capsys.readouterr().out

    return shown


def snippets(page: str, language: str) -> list[str]:
    """The marked snippets of a page whose package, where they name one, is installed."""
    return [
        code
        for needed, kind, code in RUN.findall(page)
        if kind == language and (not needed or importlib.util.find_spec(needed))
    ]


def run_module(name: str, arguments: list[str]) -> None:
    """As ``python -m name``; an exit code that is not 0 is an error."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert not ended.value.code, ended.value.code


def test_every_command_of_the_readme_runs_in_order(folder, run):
    lines = [line for block in snippets(README, "bash") for line in block.strip().splitlines()]
    assert len(lines) >= 6, "the README has lost its marked examples"
    for line in lines:
        program, option, module, *arguments = shlex.split(line)
        assert (program, option) == ("python", "-m")
        assert run(run_module, module, [*arguments, *SHORTER.get(arguments[0], [])]).strip()
    assert (folder / "runs/pets/metrics.json").exists()


def test_every_snippet_of_the_engineers_page_runs_in_one_session(run):
    assert len(RUN.findall(ENGINEERS)) >= 10
    shown = run(exec, "\n".join(snippets(ENGINEERS, "python")), {"__name__": "engineers"})
    assert len(shown.splitlines()) >= 10


def test_a_command_or_snippet_that_fails_is_an_error(run):
    with pytest.raises(AssertionError, match="1"):
        run(run_module, "mmlib", ["evaluate", "nowhere", "nothing.csv"])
    with pytest.raises(RuntimeError, match="broken"):
        run(exec, "raise RuntimeError('broken')", {})


@pytest.mark.parametrize("page", [README, ENGINEERS, PACKAGE])
def test_every_command_of_mmlib_is_understood(page):
    from mmlib.cli.main import parser

    names = "train|evaluate|predict|export|report|leaks|tune|fusions|manifest"
    lines = re.findall(rf"-m mmlib ((?:{names})\b[^`\n]*)", page)
    assert len(lines) >= 3
    for line in lines:
        parser().parse_args(shlex.split(line, comments=True))


def named_files(tree: str) -> list[str]:
    """The paths of the files that a tree of indented names holds."""
    found, folders = [], []
    for line in tree.strip("\n").splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name] if name.endswith("/") else []
        if not name.endswith("/"):
            found.append("".join([*folders, name]))
    return found


def test_a_tree_is_read_as_paths():
    tree = "\na/     what\n  one.py    x\n  b/\n    two.py\n  three.py  y\n"
    assert named_files(tree) == ["a/one.py", "a/b/two.py", "a/three.py"]


def test_the_tree_names_every_file_of_the_package_and_no_other():
    """An __init__.py is its folder; the rest has a line each."""
    named = named_files(TREE)
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mmlib").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(named) == there and len(named) == len(there)


def test_the_table_of_fusions_is_what_the_command_prints_but_for_the_times():
    from mmlib.fusion.cost import table, to_markdown

    def without_times(text: str) -> list[list[str]]:
        return [
            [cell.strip() for cell in line.split("|")[1:7]]
            for line in text.splitlines()
            if re.match(r"\| (fusion|\w+Fusion) ", line)
        ]

    assert without_times(ENGINEERS) == without_times(to_markdown(table(repeats=1)))
    assert len(without_times(ENGINEERS)) == 1 + 16


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page)


def anchors(page: Path) -> set[str]:
    """What a link may name after the # of a Markdown page: its headings, as GitHub spells them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "page", ["README.md", "docs/engineers.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
)
def test_every_link_into_the_project_leads_somewhere(page):
    for link in links((ROOT / page).read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{page}: no heading for {link}"


def test_the_page_of_a_package_index_has_no_link_that_only_holds_here():
    """An index shows the page alone: no relative link, no picture of this folder, no HTML."""
    assert all(link.startswith("https://") for link in links(PACKAGE))
    assert not re.search(r"<\w|!\[|^\[.+\]:", PACKAGE, re.M)


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 150


def test_every_notebook_stands_in_the_table():
    notebooks = {p.name for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == set(re.findall(r"\(notebooks/(\w+\.ipynb)\)", README))


def test_the_set_up_lines_are_one_line_each_and_the_same_on_every_system():
    """The job that the line ends with is the same, whatever the shell."""

    def job(line: str) -> str:
        return re.split(r" && |; if \(\$\?\) \{ ", line)[-1].split("-m ")[-1].strip(" }")

    for name, shells in (
        ("course", ["bash", "powershell", "bat"]),
        ("test", ["bash", "powershell"]),
    ):
        block = README.split(f"<!-- ci: {name} -->")[1]
        found = re.findall(r"```(\w+)\n(.*?)\n```", block, re.S)[: len(shells)]
        assert [shell for shell, _ in found] == shells
        assert not any("\n" in line for _, line in found)
        assert len({job(line).replace("\\", "/") for _, line in found}) == 1
    conda = re.search(r"`(conda .+)`", README)[1]
    assert job(conda) == "jupyterlab notebooks/00_start_here.ipynb"


def test_pip_is_always_that_of_a_named_python():
    """A bare pip may belong to any Python of the machine."""
    for page in (README, ENGINEERS, PACKAGE, (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        assert not re.findall(r"(?<!-m )(?<!%)\bpip (?:install|wheel|download)", page)
