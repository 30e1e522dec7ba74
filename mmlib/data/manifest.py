"""A manifest (CSV or DataFrame, one row a sample) -> its modalities, files, target and splits."""

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from mmlib.data.labels import COLUMNS
from mmlib.data.modalities import Modality, find_modalities, keep, present
from mmlib.data.problems import Problem
from mmlib.data.table import Table, join_cells, missing_column, read_table, split_cell
from mmlib.renamed import renamed

SPLIT_NAMES = {
    "training": "train",
    "dev": "val",
    "development": "val",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}


@renamed(senses="modalities")
@dataclass(frozen=True)
class Manifest:
    """A manifest read as text, by ``read_manifest``.

    Lists hold one string a row, '' where the cell is empty: then that modality is missing. Raises
    ValueError where a list has not one cell for each row.

    >>> import pandas as pd
    >>> table = {"text": ["it purrs", "it barks"], "label": ["cat", "dog"], "age": [3, 7]}
    >>> manifest = read_manifest(pd.DataFrame(table))
    >>> len(manifest), manifest.cells, manifest.target
    (2, {'text': ['it purrs', 'it barks']}, ['cat', 'dog'])
    >>> manifest.select([1]).column("age")
    ['7']
    """

    name: str  # the file, for messages
    root: Path  # paths are relative to it
    rows: list[str]  # where each row stands: 'line 7' of the file
    modalities: dict[str, Modality]
    cells: dict[str, list[str]]  # by modality
    target_name: str | None
    target: list[str] | None  # None when no target was asked for
    split: list[str] | None  # train, val, test or other names; None without a split column
    group: list[str] | None
    allow_outside: bool = False
    extra: dict[str, list[str]] = field(default_factory=dict)  # columns for the leak check alone
    group_name: str | None = None  # the group's column
    # of all modalities, used or not: see ``keys``
    split_columns: list[Modality] = field(default_factory=list)
    target_columns: list[str] = field(default_factory=list)  # one for each label; see ``labels``
    chosen: bool = False  # ``use`` named the modalities: the other columns are left out on purpose

    def __post_init__(self) -> None:
        for column, cells in self._lists().items():
            if cells is not None and len(cells) != len(self):
                raise ValueError(
                    f"{self.name}: {column} has {len(cells)} cells, expected {len(self)}, one for "
                    "each row; to keep some of the rows, use Manifest.select"
                )

    def __len__(self) -> int:
        return len(self.rows)

    def _lists(self) -> dict[str, list[str] | None]:
        """Every list that has a cell for each row, by a name for messages."""
        lists = {"target": self.target, "split": self.split, "group": self.group}
        lists |= {f"modality {name!r}": cells for name, cells in self.cells.items()}
        return lists | {f"column {name!r}": cells for name, cells in self.extra.items()}

    def select(self, rows: Sequence[int]) -> "Manifest":
        """The manifest of these rows alone, in this order."""

        def pick(cells: list[str]) -> list[str]:
            return [cells[row] for row in rows]

        return replace(
            self,
            rows=pick(self.rows),
            target=None if self.target is None else pick(self.target),
            split=None if self.split is None else pick(self.split),
            group=None if self.group is None else pick(self.group),
            cells={name: pick(cells) for name, cells in self.cells.items()},
            extra={name: pick(cells) for name, cells in self.extra.items()},
        )

    def column(self, name: str) -> list[str]:
        """The cells of a column, whether or not a modality is read from it.

        Raises ValueError where there is no such column.
        """
        columns = {modality.column: self.cells[key] for key, modality in self.modalities.items()}
        columns |= self.table_columns() | self.extra
        if self.group is not None and self.group_name is not None:
            columns[self.group_name] = self.group
        parts = name.split(",")
        if name not in columns and all(part in columns for part in parts):  # of a table
            return [join_cells(row) for row in zip(*(columns[part] for part in parts))]
        if name not in columns:
            raise ValueError(missing_column(self.name, list(columns), name))
        return columns[name]

    def table_columns(self) -> dict[str, list[str]]:
        """The cells of each column of the modalities of kind table."""
        found: dict[str, list[str]] = {}
        for name, modality in self.modalities.items():
            if modality.kind == "table":
                rows = [split_cell(cell, len(modality.columns)) for cell in self.cells[name]]
                names = enumerate(modality.columns)
                found |= {column: [row[i] for row in rows] for i, column in names}
        return found

    def cells_of(self, name: str, modality: Modality) -> list[str]:
        """The cells of a model's modality, found by its name, or else by its column.

        All are empty where the manifest does not have it, as are those of a table's column.
        """
        if modality.kind == "table":
            there, empty = self.table_columns(), [""] * len(self)
            columns = [there.get(column, empty) for column in modality.columns]
            return [join_cells(row) for row in zip(*columns, strict=True)]
        for other, found in self.modalities.items():
            by_column = name not in self.modalities and found.column == modality.column
            if found.kind == modality.kind and (other == name or by_column):
                return self.cells[other]
        return [""] * len(self)

    def keys(self) -> list[str]:
        """What the split of each row is drawn from; '' where it has nothing to draw from.

        That is the name of its group, or without a group its cells in ``split_columns``. A file
        counts by its path as written: splits are known before any file is opened, and a file that
        is encoded again keeps its split. ``trained.py`` compares the bytes of files: they say
        whether a row was trained on.
        """
        columns = [
            (modality.kind, self.column(modality.column)) for modality in sorted(self.split_columns)
        ]
        keys = [
            "\0".join(f"{kind}={cells[row]}" for kind, cells in columns if cells[row])
            for row in range(len(self))
        ]
        if self.group is None:
            return keys
        pairs = zip(self.group, keys, strict=True)
        return [f"group={group}" if group else key for group, key in pairs]

    def problem(self, row: int, column: str, cell: str, reason: str) -> Problem:
        """A Problem that names the row as its author can find it."""
        return Problem(self.rows[row], column, cell, reason)

    def checksums(self, rows: Iterable[int]) -> dict[str, str]:
        """By column, in words, a checksum of the cells of these rows.

        Compared with those of an earlier day, they say in which column a cell was edited.
        """
        columns = {modality.column: self.cells[name] for name, modality in self.modalities.items()}
        if self.target is not None and self.target_name is not None:
            columns[self.target_name] = self.target
        rows = list(rows)
        chosen = {name: [cells[row] for row in rows] for name, cells in columns.items()}
        return {
            f"column {name!r}": f"{len(cells):,} cells with checksum "
            f"{zlib.crc32(chr(0).join(cells).encode()):08x}"
            for name, cells in chosen.items()
        }


def read_manifest(
    source: Any,
    target: str | Sequence[str] | None = "label",
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    use: Iterable[str] | None = None,
    allow_outside: bool = False,
    root: str | Path | None = None,
    partial: bool = False,
    table: str | Sequence[str] = (),
) -> Manifest:
    """Read a CSV file (UTF-8, with a header) or a pandas DataFrame.

    Every cell is text, so ``007`` and ``NA`` are words. ``target`` is the column of the answers;
    None: there is none, as for prediction; several ("red,round", or a list) have 0 and 1 for a
    label each. ``columns`` maps a kind of modality to its column, {"image": "photo"}; with commas,
    to several modalities that are named by their columns, {"image": "xray,ct"}. Kinds that it
    leaves out are read from the columns image, text and audio, where these exist. ``table`` (or
    columns["table"]) names the columns of numbers and categories, "age,weight,colour", that make
    one modality of the name "table". ``group`` names a column whose rows must stay in one split (a
    patient, a speaker). ``use`` keeps some of the modalities.

    Paths are relative to ``root``: the file's folder by default, or for a DataFrame the current
    one. ``allow_outside`` lets them lead out of it. With ``partial``, a column of ``columns`` may
    be missing: then that modality is missing in every row. A column "Text" where "text" is
    expected is still an error, since it is surely meant.

    Raises ValueError (ManifestErrors where rows are at fault) that says what was found and what to
    do.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"photo": ["1.png", ""], "text": ["NA", "007"], "label": ["a", "b"]})
    >>> manifest = read_manifest(table, columns={"image": "photo"})
    >>> manifest.modalities["image"]
    Modality(kind='image', column='photo')
    >>> manifest.cells
    {'image': ['1.png', ''], 'text': ['NA', '007']}
    >>> read_manifest(table, target="lable")
    Traceback (most recent call last):
    ValueError: DataFrame has no column 'lable'; it has [...]; did you mean 'label'?
    """
    read, wanted = read_table(source), dict(columns or {})
    if table:
        wanted["table"] = table if isinstance(table, str) else ",".join(table)
    target_name, answers, flags = _target(read, target)
    found = find_modalities(read, present(read, wanted) if partial else wanted)
    modalities = keep(read.name, found, use)
    for name, modality in modalities.items():
        for column in set(modality.columns).intersection(answers):
            raise ValueError(
                f"{read.name}: column {column!r} is the target and also the modality "
                f"{name!r}: the answer would be in the question"
            )
    taken = {*answers, group, "split"}.union(*(one.columns for one in modalities.values()))
    return Manifest(
        name=read.name,
        root=read.folder if root is None else Path(root),
        rows=read.places,
        modalities=modalities,
        cells={name: _cells(read, modality) for name, modality in modalities.items()},
        target_name=target_name,
        target=flags if len(answers) > 1 else next(map(read.cells, answers), None),
        split=_splits(read),
        group=None if group is None else read.cells(group),
        allow_outside=allow_outside,
        extra={name: read.cells(name) for name in read.header if name and name not in taken},
        group_name=group,
        split_columns=[one for one in found.values() if not set(one.columns) & set(answers)],
        target_columns=answers if len(answers) > 1 else [],
        chosen=use is not None,
    )


def _cells(table: Table, modality: Modality) -> list[str]:
    """The cells of a modality; those of a table, joined."""
    if modality.kind != "table":
        return table.cells(modality.column)
    columns = [table.cells(column) for column in modality.columns]
    return [join_cells(row) for row in zip(*columns, strict=True)]


def _target(
    table: Table, target: str | Sequence[str] | None
) -> tuple[str | None, list[str], list[str] | None]:
    """The target's name, its columns, and where these are several, the cells of each row joined."""
    if target is None:
        return None, [], None
    columns = [target] if isinstance(target, str) else list(target)
    if isinstance(target, str) and target not in table.header and "," in target:
        columns = [name.strip() for name in target.split(",") if name.strip()]
    for column in columns:
        table.find(column)
    if len(set(columns)) < max(1, len(columns)):
        raise ValueError(f"{table.name}: target is {target!r}, expected columns, each named once")
    if len(columns) == 1:
        return columns[0], columns, None
    cells = zip(*map(table.cells, columns), strict=True)
    return ",".join(columns), columns, [COLUMNS.join(row) for row in cells]


def _splits(table: Table) -> list[str] | None:
    """The split column under the names train, val and test; None where it is missing or empty."""
    if "split" not in table.header:
        return None
    split = [SPLIT_NAMES.get(cell.lower(), cell.lower()) for cell in table.cells("split")]
    return split if any(split) else None


def resolve(manifest: Manifest, cell: str) -> Path:
    """The file that a cell names.

    Raises ValueError with the reason: it lies outside the manifest's folder, or does not exist.
    """
    root, path = os.path.realpath(manifest.root), ""
    for option in _spellings(cell):
        path = os.path.realpath(os.path.join(root, option))  # follows links, which may lead out
        if not manifest.allow_outside:
            _check_inside(root, option, path)
        if os.path.isfile(path):
            return Path(path)
    if os.path.isdir(path):
        raise ValueError("this is a folder, not a file")
    raise ValueError(f"no such file under {manifest.root}")


def _spellings(cell: str) -> list[str]:
    """The path as written; and for a manifest from Windows, with the slashes of this system."""
    return [cell] if "\\" not in cell or os.name == "nt" else [cell, cell.replace("\\", "/")]


def _check_inside(root: str, cell: str, path: str) -> None:
    if os.path.isabs(cell) or PureWindowsPath(cell).drive:
        raise ValueError(
            "absolute path; paths must be relative to the manifest's folder unless "
            "--allow-outside is given"
        )
    if os.path.commonpath([root, path]) != root:
        raise ValueError(
            "leads out of the manifest's folder; move the file in, or allow it with --allow-outside"
        )
