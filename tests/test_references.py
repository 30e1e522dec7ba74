"""What notebooks and package cite stands in notebooks/REFERENCES.md, where each entry was
checked to exist; links inside the project lead somewhere.
"""

import re

import nbformat
import pytest

from tests.tools import make_outputs

ROOT = make_outputs.ROOT
TITLE, ARXIV = re.compile(r"\*([^*]+)\*|《([^》]+)》"), re.compile(r"arXiv:(\d{4}\.\d{5})")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def title(line: str) -> str:
    found = TITLE.search(line)
    return (found[1] or found[2]).rstrip(".?!") if found else ""


ENTRIES = {
    title(line): line
    for line in (ROOT / "notebooks" / "REFERENCES.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("- ")
}


def cited(source: str) -> list[str]:
    """The lines of a cell's list of papers."""
    if "**Papers" not in source:
        return []
    part = re.split(r"\*\*Next|\n## ", source.split("**Papers")[1].split("**", 1)[1])[0]
    return [line.strip() for line in part.splitlines() if line.strip()]


def problems(lines: list[str]) -> list[str]:
    """The lines whose title is not in the list, or whose arXiv number is another there."""
    found = []
    for line in lines:
        entry, number = ENTRIES.get(title(line), ""), ARXIV.search(line)
        if not entry or (number and number[1] not in entry):
            found.append(line)
    return found


@pytest.mark.parametrize(
    "path", make_outputs.notebooks(), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_papers_of_a_notebook_are_in_the_list_and_links_lead_somewhere(path):
    sources = [
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    lines = [line for source in sources for line in cited(source)]
    assert problems(lines) == [] and (lines or path.parent.name == "solutions")
    assert [
        link
        for source in sources
        for link in LINK.findall(source)
        if not (path.parent / link).exists()
    ] == []


def test_papers_of_the_package_are_in_the_list():
    numbers = {
        number
        for file in (ROOT / "mmlib").rglob("*.py")
        for number in ARXIV.findall(file.read_text(encoding="utf-8"))
    }
    listed = {number for entry in ENTRIES.values() for number in ARXIV.findall(entry)}
    assert numbers and numbers - listed == set()


def test_an_unknown_paper_or_number_is_seen():
    assert problems(["Nobody (2020): *A Paper That Was Never Written*."])
    known = next(entry for entry in ENTRIES.values() if "arXiv" in entry)
    assert not problems([known]) and problems([ARXIV.sub("arXiv:9999.99999", known)])


def test_every_entry_is_used():
    text = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "mmlib").rglob("*.py"))
    lines = [
        title(line)
        for path in make_outputs.notebooks()
        for cell in nbformat.read(path, as_version=4).cells
        for line in (cited(cell.source) if cell.cell_type == "markdown" else [])
    ]
    for name, entry in ENTRIES.items():
        author = re.split(r"[ ,(（]", entry[2:])[0]
        assert name in lines or author in text, f"{entry}: no notebook and no docstring names it"
