"""Mutants break what they say, in today's files, and are tried on the tests that mirror them."""

import ast

import pytest

from tests.tools import mutants
from tests.tools.named_mutants import NAMED


def test_each_named_mutant_finds_its_place_and_is_python():
    found = mutants.named()
    assert len(found) == len(NAMED) == len(set(found))
    for mutant in found:
        text = (mutants.ROOT / mutant.file).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(mutant.apply(text))) != ast.dump(ast.parse(text)), str(mutant)


def test_a_draw_is_a_function_of_its_seed_and_every_mutant_is_python():
    drawn = mutants.draw(40, seed=3)
    assert drawn == mutants.draw(40, seed=3) != mutants.draw(40, seed=4)
    assert len(set(drawn)) == 40
    for mutant in drawn:
        ast.parse(mutant.apply((mutants.ROOT / mutant.file).read_text(encoding="utf-8")))


def test_a_mutant_meets_its_own_tests_first():
    places = mutants.tests_of("mmlib/fusion/tokens.py")
    assert places[:2] == ["tests/fusion/test_tokens.py", "tests/fusion"]
    assert "tests/test_laws.py" in places


def test_a_text_that_has_moved_on_is_named(monkeypatch):
    lost = [("mmlib/core.py", "no such line", "pass")]
    monkeypatch.setattr("tests.tools.named_mutants.NAMED", lost)
    with pytest.raises(ValueError, match=r"mmlib/core.py has 'no such line' 0 times"):
        mutants.named()
