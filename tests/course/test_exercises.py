"""Every exercise: the right answer is done, and each typical mistake gets its own hint.

The check itself is checked, too.
"""

import importlib
import pkgutil
import re

import pytest
import torch

from mmlib.course import exercises
from mmlib.course.exercises.exercise import Exercise

ALL = [
    (module.name, name, value)
    for module in pkgutil.iter_modules(exercises.__path__)
    for name, value in vars(
        importlib.import_module(f"mmlib.course.exercises.{module.name}")
    ).items()
    if isinstance(value, Exercise)
]
EACH = pytest.mark.parametrize(
    "exercise", [pytest.param(value, id=f"{module}.{name}") for module, name, value in ALL]
)


@EACH
def test_the_right_answer_is_done(exercise):
    assert exercise.check(exercise.reference) == "done"


@EACH
def test_at_least_three_typical_mistakes_get_a_hint_of_their_own(exercise):
    assert len(exercise.wrong) >= 3
    for hint, mistake in exercise.wrong.items():
        assert exercise.check(mistake) == f"not yet: {hint}"


@EACH
def test_nothing_and_nonsense_are_refused(exercise):
    assert exercise.check(None).startswith("not yet: fill in")
    for nonsense in (lambda *inputs: None, lambda *inputs: "cat", lambda *inputs: 1 / 0):
        assert exercise.check(nonsense).startswith("not yet: it ")


@EACH
def test_no_hint_tells_of_the_answer_by_accident(exercise):
    assert not any(hint.startswith("not yet") or hint[0].isupper() for hint in exercise.wrong)


DOUBLE = Exercise(
    lambda x: 2 * x,
    {"that is the square": lambda x: x**2},
    lambda make: (torch.randn(3, 4, generator=make),),
)


def in_place(x):
    return x.mul_(2)


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda x: x + x, "done"),
        (lambda x: (x + x).double(), "done"),
        (lambda x: (2 * x).numpy(), "done"),
        (lambda x: x * x, "that is the square"),
        (in_place, "changes its own input"),
        (lambda x: x, "differ by up to"),
        (lambda x: 2 * x[:2], r"gives shape \(2, 4\), expected \(3, 4\)"),
        (lambda x: x / 0, "not finite"),
        (lambda x: [2 * x], "expected a tensor"),
        (lambda x: x.no, "AttributeError"),
        (lambda: 1, "TypeError"),
    ],
)
def test_an_answer_is_told_what_is_wrong_with_it(answer, message):
    assert re.search(message, DOUBLE.check(answer))


def test_the_answer_of_one_input_is_not_the_answer_of_another():
    seen = []
    DOUBLE.check(lambda x: seen.append(x.clone()) or 2 * x)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])
    assert DOUBLE.check(lambda x: 2 * seen[0]) != "done"


def test_an_answer_right_only_on_the_first_input_is_not_done():
    calls = []
    assert (
        DOUBLE.check(lambda x: calls.append(0) or (2 * x if len(calls) == 1 else 3 * x)) != "done"
    )


def test_values_tuples_dicts_and_texts_are_compared_too():
    number = Exercise(0.25, {"the other way round": 4, "per cent": 25, "a sign": -0.25})
    assert (
        number.check(0.25) == "done"
        and number.check(4) == "not yet: the other way round"
        and "not yet" in number.check(1)
    )
    many = Exercise((1, {"a": torch.ones(2)}, "cat"), {})
    assert many.check((1, {"a": [1.0, 1.0]}, "cat")) == "done"
    ones = {"a": torch.ones(2)}
    for wrong in (
        (1, ones),
        (1, {"b": torch.ones(2)}, "cat"),
        (1, ones, "dog"),
        (2, ones, "cat"),
        1,
    ):
        assert many.check(wrong).startswith("not yet: ")
