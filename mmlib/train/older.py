"""What version 0.1 wrote, checkpoints and searches -> the words of today."""

import json
import zlib
from typing import Any

from mmlib.renamed import OLD_TASKS

CHECKSUM = "checksum of the preprocessing"  # in the identity of a loader of mmlib.data


def renewed(state: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with today's names: modalities, modality_dropout, classification, regression.

    What version 0.1 kept besides is left out. A checkpoint of today comes back as it is.

    >>> renewed({"extra": {"spec": {"task": "numbers", "why": "5 epochs"}}})
    {'extra': {'spec': {'task': 'regression'}}}
    """
    state, checksums = dict(state), None
    extra, data = state.get("extra"), state.get("data")
    if isinstance(extra, dict):
        state["extra"] = extra = dict(extra)
        if isinstance(spec := extra.get("spec"), dict):
            extra["spec"] = _with_task({name: x for name, x in spec.items() if name != "why"})
        if isinstance(fitted := extra.get("preprocessing"), dict):
            extra["preprocessing"] = _moved(fitted, "senses", "modalities")
            checksums = _checksum(fitted), _checksum(_decided(extra["preprocessing"]))
    if isinstance(data, dict):
        state["data"] = {name: _renewed_loader(one, checksums) for name, one in data.items()}
    return state


def renewed_search(part: Any) -> Any:
    """A line of a search's trials.jsonl with today's names; what is no dict comes back as it is.

    >>> renewed_search({"task": "numbers", "own settings": {"dim": 64, "hide": 0.5}})
    {'task': 'regression', 'own settings': {'dim': 64, 'modality_dropout': 0.5}}
    """
    if not isinstance(part, dict):
        return part
    part = {name: renewed_search(value) for name, value in part.items()}
    return _with_task(_moved(part, "hide", "modality_dropout"))


def _renewed_loader(identity: Any, checksums: tuple[int, int] | None) -> Any:
    """The ``identity`` of a loader of mmlib.data; that of another one comes back as it is.

    ``checksums``: that of the preprocessing as version 0.1 took it, and as it is taken today.
    """
    if not isinstance(identity, dict):
        return identity
    if isinstance(augment := identity.get("augment"), dict):
        identity = identity | {"augment": _moved(augment, "hide", "modality_dropout")}
    if checksums is not None and identity.get(CHECKSUM) == checksums[0]:
        identity = identity | {CHECKSUM: checksums[1]}
    return identity


def _with_task(values: dict[str, Any]) -> dict[str, Any]:
    """The values with today's name of the task, where they have one of version 0.1."""
    task = values.get("task")
    return values | {"task": OLD_TASKS[task]} if task in OLD_TASKS else values


def _decided(fitted: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing without the words that explain a decision, see ``Loader.identity``."""
    target = fitted.get("target")
    if not isinstance(target, dict):
        return fitted
    return fitted | {"target": {name: x for name, x in target.items() if name != "why"}}


def _checksum(fitted: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(fitted, sort_keys=True).encode())


def _moved(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The values in the same order, that of ``old`` under the name ``new``."""
    return {new if name == old else name: value for name, value in values.items()}
