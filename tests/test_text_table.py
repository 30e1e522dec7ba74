"""Columns of a text table stand under each other, whatever their words."""

from mmlib.text_table import aligned


def test_the_first_columns_end_with_spaces_and_the_others_begin_with_them():
    rows = [["a", "b", "cde"], ["long", "5", ""]]
    assert aligned(rows, left=1) == [["a   ", "b", "cde"], ["long", "5", "   "]]
    assert aligned([["a", "bcd"], ["long", "5"]]) == [["   a", "bcd"], ["long", "  5"]]
    assert aligned([["a", "bcd"], ["long", "5"]], left=2) == [["a   ", "bcd"], ["long", "5  "]]
