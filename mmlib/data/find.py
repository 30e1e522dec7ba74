"""The cells of a manifest -> the files they name, and which cells are bad."""

from collections.abc import Mapping

import numpy as np

from mmlib.data.columns import Fitted, wrong_cells
from mmlib.data.decode import decode
from mmlib.data.manifest import Manifest, resolve
from mmlib.data.modalities import Modality
from mmlib.data.problems import Problem
from mmlib.data.store import Clips, Files, Images, Origin
from mmlib.data.targets import Target

Problems = list[tuple[int, Problem]]  # with the number of the row


def find_files(
    manifest: Manifest, modalities: Mapping[str, Modality], split: np.ndarray
) -> tuple[dict[str, Files], Problems]:
    """Stores of the images and clips, not yet decoded; rows of no split are left out.

    A store has one entry per file, however many rows name it.
    """
    stores: dict[str, Files] = {}
    problems: Problems = []
    for name, modality in modalities.items():
        if modality.kind in ("text", "table"):
            continue
        where, paths = np.full(len(manifest), -1), []
        known: dict[str, int | str] = {}  # by cell, the place of its file, or what is wrong with it
        for row, cell in enumerate(manifest.cells_of(name, modality)):
            if not cell or not split[row]:
                continue
            if cell not in known:
                try:
                    paths.append(str(resolve(manifest, cell)))
                    known[cell] = len(paths) - 1
                except (ValueError, OSError) as error:
                    known[cell] = str(error)
            found = known[cell]
            if isinstance(found, str):
                problems.append((row, manifest.problem(row, modality.column, cell, found)))
            else:
                where[row] = found
        origin = Origin(modality.column, manifest.rows)
        if modality.kind == "image":
            stores[name] = Images(where, paths, 0, origin=origin)
        else:
            stores[name] = Clips(where, paths, np.zeros(len(paths), np.int64), origin=origin)
    return stores, problems


def read_files(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
    files: Mapping[str, Files],
    memory: bool,
    progress: bool,
) -> Problems:
    """Read every file once, to keep it (``memory``) or only to know that it can be read."""
    problems: Problems = []
    for name, store in files.items():
        reasons = decode(store, memory, progress)
        column, cells = modalities[name].column, manifest.cells_of(name, modalities[name])
        for row in np.flatnonzero(np.isin(store.where, list(reasons))).tolist():
            reason = reasons[int(store.where[row])]
            problems.append((row, manifest.problem(row, column, cells[row], reason)))
    return problems


def wrong_columns(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
    split: np.ndarray,
    fitted: Mapping[str, Fitted],
) -> Problems:
    """The cells of tables that should be numbers; before anything is ``fitted`` as it seems."""
    problems: Problems = []
    used = np.flatnonzero(split != "").tolist()
    for name, modality in modalities.items():
        if modality.kind == "table":
            cells = manifest.cells_of(name, modality)
            wrong = wrong_cells(modality.columns, [cells[row] for row in used], fitted.get(name))
            problems += [
                (used[i], manifest.problem(used[i], column, cell, why))
                for i, column, cell, why in wrong
            ]
    return problems


def empty_cells(manifest: Manifest, split: np.ndarray, target: Target) -> Problems:
    """The rows that have no target, or no split where others have one.

    A row without any label is none of them.
    """
    found: Problems = []
    cells = None if target.labels is not None else manifest.target
    for row, name in enumerate(split):
        if name and cells is not None and not cells[row]:
            column = manifest.target_name or "target"
            found.append((row, manifest.problem(row, column, "", "the target is empty")))
        if manifest.split is not None and not manifest.split[row]:
            reason = "the split is empty, though other rows have one"
            found.append((row, manifest.problem(row, "split", "", reason)))
    return found
