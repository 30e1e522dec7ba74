"""Which rows was a model trained on? Checksums that stay with the model, and the rows they find."""

import hashlib
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from mmlib.data.manifest import Manifest, resolve
from mmlib.data.modalities import Modality
from mmlib.data.splits import is_drawn
from mmlib.machine import cores

USED = ("train", "val")  # val rows chose the epoch, so a score on them is too good as well
SHOWN = 5  # rows named in a message
_hash = partial(hashlib.blake2b, digest_size=8)


class Marks(NamedTuple):
    """Checksums of one row."""

    own: set[int]  # a row is recognised by these: files and group, else texts, else its table
    every: set[int]  # files, group, texts and table


def remember(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
    names: Sequence[str],
    used: Mapping[str, Sequence[int]],
) -> dict[str, str]:
    """The checksums of a training, as text: of its "train" and "val" rows, and what is "shared".

    ``names`` has the split of every row, ``used`` the rows of train and val that were not skipped.
    A file counts by its bytes, wherever it lies; a text as it is written; a group by its name.
    Shared is what also stands in another split of the same manifest, as where two questions are
    asked about one image: training itself was scored with it there, so no row is refused for it.
    So are the cells of a table that several rows have: they do not tell one row from another.
    """
    others = [row for row, name in enumerate(names) if name not in USED]
    found = {name: _every(manifest, modalities, rows) for name, rows in used.items()}
    shared = set().union(*found.values()) & _every(manifest, modalities, others)
    found["shared"] = shared | _repeated(manifest, modalities, used)
    return {name: _pack(marks) for name, marks in found.items()}


def check_unseen(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
    names: Sequence[str],
    trained: Mapping[str, str],
    split: str,
) -> None:
    """Raise ValueError, naming rows, where a model was trained on some rows of ``split``."""
    train, val, shared = (_unpack(trained.get(name, "")) for name in (*USED, "shared"))
    known = {"train": set(), "val": train - val}.get(split, train | val) - shared
    chosen = [row for row, name in enumerate(names) if name == split]
    bad = [row for row, marks in _marks(manifest, modalities, chosen).items() if marks.own & known]
    if bad:
        more = ", ..." if len(bad) > SHOWN else ""
        shown = ", ".join(manifest.rows[row] for row in bad[:SHOWN]) + more
        raise ValueError(
            f"{manifest.name}: this model was trained on {len(bad):,} of the {len(chosen):,} rows "
            f"of split {split!r} ({shown}): it has seen their files, their text or their group, so "
            "their score would be too good. Take these rows out, or choose a split that training "
            "left out"
        )


def check_untrained(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
    names: Sequence[str],
    trained: Mapping[str, str],
    split: str,
) -> None:
    """Raise ValueError where ``split`` does not consist of rows that were left out of training.

    There are two cases. The model was trained on some of its rows. Or the split is drawn, but most
    of the rows that it leaves out are new to the model: then this is not the file of training.
    """
    check_unseen(manifest, modalities, names, trained, split)
    if not is_drawn(manifest, split):
        return
    seen = set().union(*(_unpack(trained.get(name, "")) for name in USED))
    chosen = [name for name in names if name == split]
    others = [row for row, name in enumerate(names) if name in USED and name != split]
    rest = [marks.own for marks in _marks(manifest, modalities, others).values() if marks.own]
    new = sum(not own & seen for own in rest)
    if new > len(rest) / 2:
        raise ValueError(
            f"{manifest.name} does not say which rows are {split!r}, and it is not the file that "
            f"this model was trained on: a split drawn here would score {len(chosen):,} rows and "
            f"leave out {new:,} rows that the model never saw. To score every row, ask for "
            "split='all' (--split all); to score some of them, name them in a column 'split'"
        )


def merge(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """The checksums of two trainings, one of which went on from the other."""
    names = (*USED, "shared")
    return {
        name: _pack(_unpack(first.get(name, "")) | _unpack(second.get(name, ""))) for name in names
    }


def _every(manifest: Manifest, modalities: Mapping[str, Modality], rows: Sequence[int]) -> set[int]:
    """All checksums of these rows together."""
    return set().union(*(marks.every for marks in _marks(manifest, modalities, rows).values()))


def _repeated(
    manifest: Manifest, modalities: Mapping[str, Modality], used: Mapping[str, Sequence[int]]
) -> set[int]:
    """The checksums of cells of tables that several of the used rows have."""
    counts = Counter(
        _number(f"table {cells[row]}")
        for cells in _tables(manifest, modalities)
        for rows in used.values()
        for row in rows
    )
    return {mark for mark, count in counts.items() if count > 1}


def _tables(manifest: Manifest, modalities: Mapping[str, Modality]) -> list[list[str]]:
    found = {name: one for name, one in modalities.items() if one.kind == "table"}
    return [manifest.cells_of(name, modality) for name, modality in found.items()]


def _marks(
    manifest: Manifest, modalities: Mapping[str, Modality], rows: Sequence[int]
) -> dict[int, Marks]:
    """The marks of these rows. A file that cannot be opened gives none: ``load_data`` names it."""
    files: dict[int, list[str]] = {row: [] for row in rows}
    texts: dict[int, set[int]] = {row: set() for row in rows}
    tables: dict[int, set[int]] = {row: set() for row in rows}
    for name, modality in modalities.items():
        cells = manifest.cells_of(name, modality)
        for row in rows:
            if cells[row] and modality.kind == "table":
                tables[row].add(_number(f"table {cells[row]}"))
            elif cells[row] and modality.kind == "text":
                texts[row].add(_number(f"text {cells[row]}"))
            elif cells[row]:
                files[row].append(cells[row])
    found = _contents(manifest, {cell for cells in files.values() for cell in cells})
    marks = {}
    for row in rows:
        own = {found[cell] for cell in files[row] if cell in found}
        if manifest.group is not None and manifest.group[row]:
            own.add(_number(f"group {manifest.group[row]}"))
        marks[row] = Marks(own or texts[row] or tables[row], own | texts[row] | tables[row])
    return marks


def _contents(manifest: Manifest, cells: Collection[str]) -> dict[str, int]:
    """By cell, the checksum of its file's bytes; cells whose file cannot be read are left out."""

    def read(cell: str) -> int | None:
        try:
            with open(resolve(manifest, cell), "rb") as file:
                return int.from_bytes(hashlib.file_digest(file, _hash).digest())
        except (ValueError, OSError):
            return None

    with ThreadPoolExecutor(cores()) as pool:
        marks = list(pool.map(read, cells))
    return {cell: mark for cell, mark in zip(cells, marks, strict=True) if mark is not None}


def _number(text: str) -> int:
    return int.from_bytes(_hash(text.encode()).digest())


def _pack(marks: set[int]) -> str:
    """Sorted numbers of 8 bytes, as text that a checkpoint can hold."""
    return b64encode(np.array(sorted(marks), dtype="<u8").tobytes()).decode()


def _unpack(text: str) -> set[int]:
    return set(np.frombuffer(b64decode(text), dtype="<u8").tolist())
