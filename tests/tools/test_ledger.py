"""The equality ledger of docs/engineers.md names every hand-written operation of package and
notebooks, and each of them holds.
"""

import re

from tests.tools import ledger

PAGE = ledger.PAGE.read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if re.match(r"\| (mmlib|\d\d) \|", line)
    ]


def test_every_operation_of_the_package_equals_its_reference_and_all_stand_on_the_page():
    measured = ledger.operations()  # raises where one does not hold
    shown = rows(PAGE.split(ledger.MARK)[1])
    assert [(row[1], row[2]) for row in shown if row[0] == "mmlib"] == [
        (p.name, p.reference) for p in measured
    ]
    assert (
        all(p.forward <= 1e-5 and (p.gradient or 0) <= 1e-5 for p in measured)
        and len(measured) >= 18
    )
    assert sum(p.gradient is not None for p in measured) >= 14


def test_every_operation_of_the_notebooks_stands_on_the_page_with_its_error():
    shown = rows(PAGE.split(ledger.MARK)[1])
    expected = ledger.of_notebooks()
    assert expected and [row for row in shown if row[0] != "mmlib"] == [
        list(row) for row in expected
    ]
    assert all(float(error) <= 1e-4 for row in expected for error in row[3:] if error)


def test_a_notebook_s_line_is_read_whatever_its_names_hold():
    text = (
        "before\nequal: a = b, 20 steps = torch.optim.SGD(momentum=0.5), forward 6e-17, no "
        "gradient\nequal: x = y, forward 1e-07, gradient 2e-08\n"
    )
    assert ledger.LINE.findall(text) == [
        ("a", "b, 20 steps = torch.optim.SGD(momentum=0.5)", "6e-17", ""),
        ("x", "y", "1e-07", "2e-08"),
    ]
