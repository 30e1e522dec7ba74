"""An exercise that checks itself against a reference, on inputs that the answer has not seen.

Each notebook has a module with its exercises. A notebook says ``loss.loss_of_all.check(answer)``
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

    ``reference`` and the answer are functions of ``inputs(generator)``, or plain values if there
    are no inputs. They give a number, a text, a tensor, or a tuple, list or dict of these.
    ``wrong`` maps a hint to the function (or the value) of a typical mistake: an answer that agrees
    with it gets that hint. ``tolerance`` is both absolute and relative. ``trials`` inputs are
    drawn.

    >>> draw = lambda generator: (torch.rand(5, generator=generator),)
    >>> mean = Exercise(torch.mean, {"divide by how many there are": torch.sum}, draw)
    >>> mean.check(torch.sum)
    'not yet: divide by how many there are'
    >>> mean.check(lambda x: x.sum() / len(x))
    'done'
    """

    reference: Any
    wrong: Mapping[str, Any]
    inputs: Callable[[torch.Generator], tuple[Any, ...]] = lambda generator: ()
    tolerance: float = 1e-4
    trials: int = 3

    def check(self, answer: Any) -> str:
        """Check an answer: "done", or "not yet: " and what is wrong with it.

        An error that the answer raises is part of the text; it is not raised here.
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
            if _changed(given, case):
                return "not yet: it changes its own input; work on a copy"
        expected = [_call(self.reference, copy.deepcopy(case)) for case in cases]
        problem = _difference(results, expected, self.tolerance)
        if not problem:
            return "done"
        for hint, mistake in self.wrong.items():
            mistaken = [_call(mistake, copy.deepcopy(case)) for case in cases]
            if not _difference(results, mistaken, self.tolerance):
                return f"not yet: {hint}"
        return f"not yet: {problem}"


def _changed(given: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """Has a tensor among the inputs other numbers than before?"""
    pairs = zip(given, before)
    return any(isinstance(was, Tensor) and bool(_numbers(now, was, 0.0)) for now, was in pairs)


def _call(function: Any, given: tuple[Any, ...]) -> Any:
    """What a function gives for these inputs; a plain value gives itself."""
    return function(*given) if callable(function) else function


def _difference(found: Any, expected: Any, tolerance: float) -> str:
    """The first thing in which the answer is not as expected, in words; "" if they agree."""
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return f"it gives {_describe(found)}, expected {_describe(expected)}"
        pairs = list(zip(found, expected))
    elif isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return f"it gives {_describe(found)}, expected {_describe(expected)}"
        pairs = [(found[key], expected[key]) for key in expected]
    elif isinstance(expected, (Tensor, int, float)):
        return _numbers(found, expected, tolerance)
    else:
        return "" if found == expected else f"it gives {found!r}, which is not right"
    return next((text for pair in pairs if (text := _difference(*pair, tolerance))), "")


def _numbers(found: Any, expected: Tensor | float, tolerance: float) -> str:
    """``_difference`` for a tensor or a number."""
    try:
        found = torch.as_tensor(found).detach().double()
        expected = torch.as_tensor(expected).detach().double()
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
    if isinstance(value, (list, tuple, dict)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
