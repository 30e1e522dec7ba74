"""Exercises that check themselves: an answer is compared with a reference on inputs that it has not
seen, and typical mistakes are known.

One module per notebook holds its exercises. A notebook says ``loss.cross_entropy.check(answer)``
and gets "done", or "not yet:" and a hint.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """What is right, on which inputs, and what people write instead.

    ``reference`` and the answer are functions of ``inputs(generator)``, or, where there are no
    inputs, plain values. They give a number, a text, a tensor, or a tuple, list or dict of these.
    ``wrong`` maps a hint to the function (or value) that a typical wrong answer computes: an answer
    that agrees with it gets that hint. ``tolerance`` is absolute and relative. ``trials`` inputs
    are drawn.
    """

    reference: Any
    wrong: Mapping[str, Any]
    inputs: Callable[[torch.Generator], tuple[Any, ...]] = lambda generator: ()
    tolerance: float = 1e-4
    trials: int = 3

    def check(self, answer: Any) -> str:
        """ "done", or "not yet: " and what is wrong with the answer.

        An error in the answer is told, not raised.
        """
        if answer is None:
            return "not yet: fill in the cell above, run it, then run this one again"
        cases = [self.inputs(torch.Generator().manual_seed(seed)) for seed in range(self.trials)]
        results = []
        for case in cases:
            given = copy.deepcopy(case)
            try:
                results.append(_call(answer, given))
            except Exception as error:  # whatever a learner's code raises is part of the answer
                return f"not yet: it raised {type(error).__name__}: {error}"
            if any(
                isinstance(was, Tensor) and _numbers(now, was, 0.0) for now, was in zip(given, case)
            ):
                return "not yet: it changes its own input; work on a copy"
        expected = [_call(self.reference, copy.deepcopy(case)) for case in cases]
        problem = _difference(results, expected, self.tolerance)
        if not problem:
            return "done"
        for hint, mistake in self.wrong.items():
            if not _difference(
                results, [_call(mistake, copy.deepcopy(case)) for case in cases], self.tolerance
            ):
                return f"not yet: {hint}"
        return f"not yet: {problem}"


def _call(function: Any, given: tuple[Any, ...]) -> Any:
    return function(*given) if callable(function) else function


def _difference(found: Any, expected: Any, tolerance: float) -> str:
    """ "" where they agree, else the first thing in which they do not."""
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return f"it gives {_describe(found)}, expected {_describe(expected)}"
        return next(
            (text for pair in zip(found, expected) if (text := _difference(*pair, tolerance))), ""
        )
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return f"it gives {_describe(found)}, expected {_describe(expected)}"
        return next(
            (
                text
                for key in expected
                if (text := _difference(found[key], expected[key], tolerance))
            ),
            "",
        )
    if isinstance(expected, (Tensor, int, float)):
        return _numbers(found, expected, tolerance)
    return "" if found == expected else f"it gives {found!r}, which is not right"


def _numbers(found: Any, expected: Tensor | float, tolerance: float) -> str:
    try:
        found, expected = (
            torch.as_tensor(found).detach().double(),
            torch.as_tensor(expected).detach().double(),
        )
    except (TypeError, ValueError, RuntimeError):
        return f"it gives {_describe(found)}, expected {_describe(expected)}"
    if found.shape != expected.shape:
        return f"it gives shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
        return ""
    if not found.isfinite().all():
        return "it gives numbers that are not finite"
    return (
        "the shape is right, the numbers are not: they differ by up to "
        f"{(found - expected).abs().max():.2g}"
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return (
        f"{type(value).__name__} of {len(value)}"
        if isinstance(value, (list, tuple, dict))
        else type(value).__name__
    )
