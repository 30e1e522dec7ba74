"""A checkpoint that version 0.1 wrote -> the words of today."""

import json
import zlib
from typing import Any

TASKS = {"classes": "classification", "numbers": "regression"}


def renewed(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the names of today: modalities, modality_dropout, classification, regression.

    What version 0.1 kept besides is left out. A state of today comes back as it is.

    >>> renewed({"extra": {"spec": {"task": "numbers", "why": "5 epochs"}}})
    {'extra': {'spec': {'task': 'regression'}}}
    """
    state, checksum = dict(state), None
    extra = state.get("extra")
    if isinstance(extra, dict):
        state["extra"] = extra = dict(extra)
        if isinstance(spec := extra.get("spec"), dict):
            spec = {name: value for name, value in spec.items() if name != "why"}
            task = spec.get("task")
            extra["spec"] = spec | ({"task": TASKS[task]} if task in TASKS else {})
        if isinstance(fitted := extra.get("preprocessing"), dict) and "senses" in fitted:
            extra["preprocessing"] = _moved(fitted, "senses", "modalities")
            checksum = zlib.crc32(json.dumps(extra["preprocessing"], sort_keys=True).encode())
    if isinstance(data := state.get("data"), dict):
        state["data"] = {name: _renewed_loader(one, checksum) for name, one in data.items()}
    return state


def _renewed_loader(identity: Any, checksum: int | None) -> Any:
    """The ``identity`` of a loader of mmlib.data; that of another one comes back as it is."""
    if not isinstance(identity, dict):
        return identity
    if isinstance(augment := identity.get("augment"), dict) and "hide" in augment:
        identity = identity | {"augment": _moved(augment, "hide", "modality_dropout")}
    name = "checksum of the preprocessing"
    return identity | ({name: checksum} if checksum is not None and name in identity else {})


def _moved(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in values.items()}
