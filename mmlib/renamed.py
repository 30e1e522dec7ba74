"""Names of version 0.1 that have changed: for one release they still work, with a warning."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

OLD_TASKS = {"classes": "classification", "numbers": "regression"}

C = TypeVar("C", bound=Callable[..., Any])


def warn(old: str, new: str, depth: int = 2) -> None:
    """Warn that ``old`` is now ``new``, for the line ``depth`` calls up: 1 is the caller's own."""
    text = f"{old} is now {new}; the old name will go with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=depth + 1)


def renamed(**names: str) -> Callable[[C], C]:
    """Decorate a function, or a class, that still takes these old keyword arguments.

    On a class, the old names work as attributes of its objects, too: to be read only.

    >>> @renamed(size="width")
    ... def area(width): return width**2
    >>> with warnings.catch_warnings(record=True) as found:
    ...     warnings.simplefilter("always")
    ...     area(size=3)
    9
    >>> print(found[0].message)
    area(size=) is now area(width=); the old name will go with the next release
    """

    def decorate(thing: C) -> C:
        if not isinstance(thing, type):
            return cast(C, _translate(thing, thing.__name__, names))
        title = thing.__name__
        changed = {"__init__": _translate(vars(thing)["__init__"], title, names)}
        properties = {old: _attribute(title, old, new) for old, new in names.items()}
        for name, value in {**changed, **properties}.items():
            setattr(thing, name, value)
        return thing

    return decorate


def _translate(
    function: Callable[..., Any], title: str, names: dict[str, str]
) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        for old in names.keys() & given.keys():
            new = names[old]
            if new in given:
                raise TypeError(f"{title} got {new!r} and its old name {old!r}; give {new!r} only")
            warn(f"{title}({old}=)", f"{title}({new}=)")
            given[new] = given.pop(old)
        return function(*args, **given)

    return call


def _attribute(title: str, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        warn(f"{title}.{old}", f"{title}.{new}")
        return getattr(self, new)

    return property(read, doc=f"Now ``{new}``.")


def old_names(module: str, names: dict[str, str], found: dict[str, Any]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` (PEP 562): old name -> new name, which ``found`` (globals()) has.

    >>> get = old_names("shapes", {"SIDES": "EDGES"}, {"EDGES": 4})
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     get("SIDES")
    4
    >>> print(seen[0].message)
    shapes.SIDES is now shapes.EDGES; the old name will go with the next release
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name}", f"{module}.{names[name]}")
        return found[names[name]]

    return get
