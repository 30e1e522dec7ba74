"""The form of a checkpoint, written down; and what in a file does not fit it, in words.

The docstring of each test below is the text of a message: "it is 3, expected a number".
"""

import math
from typing import Any

import torch
from torch import Tensor


def tensor(value: Any) -> bool:
    """a dense tensor without NaN"""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_quantized or value.is_complex() or bool(value.isnan().any()))


def number(value: Any) -> bool:
    """a number"""
    return isinstance(value, int | float)


def finite(value: Any) -> bool:
    """a finite number"""
    return number(value) and math.isfinite(value)


def whole(value: Any) -> bool:
    """a whole number, 0 or more"""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def plain(value: Any) -> bool:
    """plain data, as JSON has it"""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, str | int | float)


def optional(value: Any) -> bool:
    """a number or nothing"""
    return value is None or number(value)


# what a run writes, as a form for ``misfit``; any other key may hold anything
FORM = {
    "model": {str: tensor},
    "best": {str: tensor},
    "random": [{str: tensor}],
    "optimizer": {
        "state": {int: {str: object}},
        "param_groups": [{"params": [whole], str: object}],
        str: object,
    },
    "history": [{"epoch": whole, "seconds": finite, str: number}],
    "extra": plain,
    "config": plain,
    "batches": whole,
    "processes": whole,
    "epoch": whole,
    "batch": whole,
    "step": whole,
    "best_epoch": whole,
    "best_value": optional,
    "loss": finite,
    "count": finite,
    "seconds": finite,
    str: object,
}


def misfit(value: Any, form: Any, name: str) -> str | None:
    """What in ``value`` does not fit ``form``, in words; None if all of it fits.

    A form is a type, or a test whose docstring says what is expected; or [form], a list of such
    values; or a dict of forms by key: each name must be a key of ``value``, and each other key of
    ``value`` must be of a type that stands among the keys of the form.

    >>> misfit({"epoch": -1}, {"epoch": whole}, "it")
    'it, epoch is -1, expected a whole number, 0 or more'
    """
    if isinstance(form, list | dict) and not isinstance(value, type(form)):
        return f"{name} is {_brief(value)}, expected a {type(form).__name__}"
    if isinstance(form, list):
        parts = [(f"{name}[{i}]", part, form[0]) for i, part in enumerate(value)]
    elif isinstance(form, dict):
        missing = [key for key in form if isinstance(key, str) and key not in value]
        if missing:
            return f"{name} has no {missing[0]!r}"
        parts = [(f"{name}, {key}", part, _form_at(key, form)) for key, part in value.items()]
    else:
        return None if _fits(value, form) else f"{name} is {_brief(value)}, expected {_words(form)}"
    return next((found for at, part, inner in parts if (found := misfit(part, inner, at))), None)


def _form_at(key: Any, form: dict[Any, Any]) -> Any:
    """The form for what stands at ``key``; None if no such key is expected."""
    kinds = [form[kind] for kind in form if isinstance(kind, type) and isinstance(key, kind)]
    return form.get(key, kinds[0] if kinds else None)


def _fits(value: Any, form: Any) -> bool:
    try:
        if isinstance(form, type):
            return isinstance(value, form)
        return form is not None and form(value)
    except Exception:  # a test may raise anything on a value of a kind that it does not know
        return False


def _words(form: Any) -> str:
    if form is None:
        return "no such key"
    return form.__name__ if isinstance(form, type) else form.__doc__


def _brief(value: Any) -> str:
    simple = isinstance(value, int | float | str | None)
    return repr(value)[:40] if simple else f"a {type(value).__name__}"
