"""Libraries that are not always installed: import them, or say how to install them."""

import importlib
from types import ModuleType


def import_optional(package: str, install: str) -> ModuleType:
    """The module of a package that only some encoders need; ImportError saying what to install."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"this encoder needs the package {package}, which is not installed: pip install "
            f"{install}"
        ) from error
