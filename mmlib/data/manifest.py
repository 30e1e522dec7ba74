"""A manifest (CSV or DataFrame, one row a sample) -> its cells as text, checked: which
modalities, which files, which target.
"""

import csv
import difflib
import io
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

LONGEST = 10_000_000  # characters of a cell; an honest text may exceed csv's own limit of 131,072
KINDS = ("image", "text", "audio")
SPLIT_NAMES = {
    "training": "train",
    "dev": "val",
    "development": "val",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}


class Problem(NamedTuple):
    """One thing wrong with one row."""

    row: str  # where: 'line 7' of a CSV file, 'row 5' of a DataFrame
    column: str
    path: str  # the cell as it stands there
    reason: str

    def __str__(self) -> str:
        return f"{self.row}, column {self.column!r}, {self.path!r}: {self.reason}"


class ManifestErrors(ValueError):
    """All that is wrong with a manifest's rows, together; ``problems`` is the whole list, the
    message shows twenty.
    """

    def __init__(self, name: str, problems: Sequence[Problem], advice: str = ""):
        self.problems = list(problems)
        shown = [f"  {problem}" for problem in self.problems[:20]]
        more = len(self.problems) - len(shown)
        lines = [
            f"{name}: {len(self.problems)} bad cell(s) or line(s)",
            *shown,
            *([f"  ... and {more} more"] if more else []),
            advice,
        ]
        super().__init__("\n".join(line for line in lines if line))


class Modality(NamedTuple):
    """Where a modality comes from."""

    kind: str  # image, text or audio
    column: str


@dataclass(frozen=True)
class Manifest:
    """A manifest read as text.

    Lists hold one string a row, '' where the cell is empty (= that modality is missing).
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
    extra: dict[str, list[str]] = field(
        default_factory=dict
    )  # the other columns, which no model reads; the leak check does
    group_name: str | None = None  # the group's column
    split_columns: list[Modality] = field(
        default_factory=list
    )  # of all modalities, used or not: see keys
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
        cells = {f"modality {name!r}": found for name, found in self.cells.items()}
        extra = {f"column {name!r}": found for name, found in self.extra.items()}
        return {"target": self.target, "split": self.split, "group": self.group} | cells | extra

    def select(self, rows: Sequence[int]) -> "Manifest":
        """The manifest of these rows alone, in this order."""

        def chosen(cells: list[str] | None) -> list[str] | None:
            return None if cells is None else [cells[row] for row in rows]

        return replace(
            self,
            rows=chosen(self.rows),
            target=chosen(self.target),
            split=chosen(self.split),
            group=chosen(self.group),
            cells={name: chosen(cells) for name, cells in self.cells.items()},
            extra={name: chosen(cells) for name, cells in self.extra.items()},
        )

    def column(self, name: str) -> list[str]:
        """The cells of a column, whether or not a modality is read from it.

        Raises ValueError where there is no such column.
        """
        columns = {
            modality.column: self.cells[key] for key, modality in self.modalities.items()
        } | self.extra
        columns |= {} if self.group is None else {self.group_name: self.group}
        _find(self.name, list(columns), name)
        return columns[name]

    def cells_of(self, name: str, modality: Modality) -> list[str]:
        """The cells of a model's modality, found by its name, else by its column.

        All are empty where the manifest does not have it.
        """
        for other, found in self.modalities.items():
            by_column = name not in self.modalities and found.column == modality.column
            if found.kind == modality.kind and (other == name or by_column):
                return self.cells[other]
        return [""] * len(self)

    def keys(self) -> list[str]:
        """What the split of each row is drawn from; '' where it has nothing to draw from.

        That is the name of its group, or without a group its cells in ``split_columns``. A file
        counts by its path as written: splits are known before any file is opened, and a file that
        is encoded again keeps its split. Whether a row was trained on is told by the bytes
        (``trained.py``).
        """
        columns = [
            (modality.kind, self.column(modality.column)) for modality in sorted(self.split_columns)
        ]
        keys = [
            "\0".join(f"{kind}={cells[row]}" for kind, cells in columns if cells[row])
            for row in range(len(self))
        ]
        groups = self.group or [""] * len(self)
        return [f"group={group}" if group else key for group, key in zip(groups, keys)]

    def problem(self, row: int, column: str, cell: str, reason: str) -> Problem:
        """A Problem that names the row as its author would look it up."""
        return Problem(self.rows[row], column, cell, reason)

    def checksums(self, rows: Iterable[int]) -> dict[str, str]:
        """By column, in words, a checksum of the cells that these rows have in it: they tell
        whether, and where, one was edited since.
        """
        columns = {modality.column: self.cells[name] for name, modality in self.modalities.items()}
        columns |= {} if self.target is None else {self.target_name: self.target}
        chosen = {name: [cells[row] for row in rows] for name, cells in columns.items()}
        return {
            f"column {name!r}": f"{len(cells):,} cells with checksum "
            f"{zlib.crc32(chr(0).join(cells).encode()):08x}"
            for name, cells in chosen.items()
        }


def read_manifest(
    source: Any,
    target: str | None = "label",
    columns: dict[str, str] | None = None,
    group: str | None = None,
    use: Iterable[str] | None = None,
    allow_outside: bool = False,
    root: str | Path | None = None,
    partial: bool = False,
) -> Manifest:
    """Read a CSV file (UTF-8, with a header) or a pandas DataFrame; every cell is text, so ``007``
    and ``NA`` are words.

    ``columns`` maps a kind to its column, {"image": "photo"}; with commas to several modalities
    named by their columns, {"image": "xray,ct"}. Kinds not mapped are read from the columns image,
    text and audio, where there are such. ``use`` keeps some of the modalities. ``group`` names a
    column whose rows must stay in one split (a patient, a speaker). ``target=None``: no target, as
    for prediction. ``partial``: a column of ``columns`` that is not there is no error; that
    modality is missing in every row. But "Text" where "text" is expected is an error, since it is
    surely meant. Paths are relative to ``root``: the file's folder, or for a DataFrame the current
    one; ``allow_outside`` lets them leave it. Raises ValueError (ManifestErrors where rows are at
    fault) that says what was found and what to do.
    """
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        name, folder = "DataFrame", Path.cwd()
        header, table, rows = _from_frame(source)
    else:
        name, folder = str(source), Path(source).parent
        header, table, rows = _from_csv(Path(source))
    if not table:
        raise ValueError(f"{name}: no rows below the header, expected one row a sample")
    columns = columns or {}
    if partial:
        _check_letters(name, header, ",".join(columns.values()).split(","))
        columns = {
            kind: ",".join(c for c in names.split(",") if c.strip() in header)
            for kind, names in columns.items()
        }
    found, modalities = _choose_modalities(name, header, columns, use)
    for modality_name, modality in modalities.items():
        if target is not None and modality.column == target:
            raise ValueError(
                f"{name}: column {target!r} is the target and also the modality {modality_name!r}: "
                "the answer would be in the question"
            )

    def cells(column: str) -> list[str]:
        index = _find(name, header, column)
        return [row[index].strip() for row in table]

    taken = {target, group, "split", *(modality.column for modality in modalities.values())}
    split = (
        [SPLIT_NAMES.get(cell.lower(), cell.lower()) for cell in cells("split")]
        if "split" in header
        else None
    )
    return Manifest(
        name,
        folder if root is None else Path(root),
        rows,
        modalities,
        {n: cells(modality.column) for n, modality in modalities.items()},
        target,
        None if target is None else cells(target),
        split if split and any(split) else None,
        None if group is None else cells(group),
        allow_outside,
        {column: cells(column) for column in header if column and column not in taken},
        group,
        [modality for modality in found.values() if modality.column != target],
        use is not None,
    )


def _from_csv(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """-> header, rows of cells, and where each row begins."""
    limit = csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
    try:
        first = next(reader, [])
        if len(first) == 1:  # a European spreadsheet: semicolons or tabs
            mark = max(";\t", key=first[0].count)
            if mark in first[0]:
                reader = csv.reader(
                    io.StringIO(_decode(path), newline=""), strict=True, delimiter=mark
                )
                first = next(reader)
        header = _check_header(path, first)
        table, rows, ragged, start = [], [], [], reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                reason = (
                    f"{len(row)} cells, expected {len(header)} as in the header; put quotes "
                    "around text with commas"
                )
                ragged.append(Problem(f"line {start}", "", ",".join(row)[:60], reason))
            elif row:  # a blank line is no row
                table.append(row)
                rows.append(f"line {start}")
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; check the quotes and commas there"
        ) from error
    finally:
        csv.field_size_limit(limit)
    if ragged:
        raise ManifestErrors(str(path), ragged)
    return header, table, rows


def _decode(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such manifest file"
            + (" (it is a folder; name the CSV inside)" if path.is_dir() else "")
        )
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: byte {error.start} (line {line}) is not UTF-8; save the file as 'CSV UTF-8' "
            "and try again"
        ) from error


def _check_header(path: Path | str, cells: Sequence[Any]) -> list[str]:
    header = [str(cell).strip() for cell in cells]
    if not any(header):
        raise ValueError(
            f"{path}: the first line is empty; expected a header such as image,text,audio,label"
        )
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise ValueError(
            f"{path}: the header has {twice} more than once; give each column its own name"
        )
    return header


def _from_frame(frame: Any) -> tuple[list[str], list[list[str]], list[str]]:
    missing = frame.isna().to_numpy()
    values = frame.to_numpy(dtype=object)
    table = [
        ["" if gone else str(value) for value, gone in zip(*pair)] for pair in zip(values, missing)
    ]
    return (
        _check_header("DataFrame", list(frame.columns)),
        table,
        [f"row {i}" for i in range(len(table))],
    )


def _find(name: str, header: list[str], column: str) -> int:
    if column not in header:
        close = difflib.get_close_matches(column, header, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{name} has no column {column!r}; it has {[c for c in header if c]}{hint}"
        )
    return header.index(column)


def _check_letters(name: str, header: list[str], columns: list[str]) -> None:
    """Raise ValueError where a column is not there, but one of another upper and lower case is."""
    for column in map(str.strip, columns):
        alike = [found for found in header if found.casefold() == column.casefold()]
        if alike and column not in header:
            raise ValueError(
                f"{name} has no column {column!r}, but it has {alike[0]!r}: rename it "
                f"to {column!r}, or to another name if it is something else"
            )


def _choose_modalities(
    name: str, header: list[str], columns: dict[str, str], use: Iterable[str] | None
) -> tuple[dict[str, Modality], dict[str, Modality]]:
    """All modalities that the table has, and those of ``use``."""
    if set(columns) - set(KINDS):
        raise ValueError(
            f"columns has {sorted(set(columns) - set(KINDS))}; the kinds of modality are "
            f"{list(KINDS)}"
        )
    found: list[tuple[str, Modality]] = []
    for kind in KINDS:
        chosen = [
            column.strip()
            for column in columns.get(kind, kind if kind in header else "").split(",")
            if column.strip()
        ]
        found += [
            (kind if len(chosen) == 1 else column, Modality(kind, column)) for column in chosen
        ]
    modalities = dict(found)
    if not modalities:
        raise ValueError(
            f"{name} has no column image, text or audio; it has {[c for c in header if c]}: "
            "say which to read, as in --image COLUMN"
        )
    for modality_name, modality in found:
        _find(name, header, modality.column)
        if (
            [n for n, _ in found].count(modality_name) > 1
            or modality_name in ("target", "row")
            or modality_name.endswith("_mask")
        ):
            raise ValueError(
                f"{name}: a modality cannot be named {modality_name!r} (taken); rename its column"
            )
    wanted = list(modalities) if use is None else [n.strip() for n in use]
    for modality_name in wanted:
        if modality_name not in modalities:
            raise ValueError(
                f"use asks for {modality_name!r}; {name} has the modalities {sorted(modalities)}"
            )
    if not wanted:
        raise ValueError(f"use is empty; {name} has the modalities {sorted(modalities)}")
    return modalities, {n: modalities[n] for n in modalities if n in wanted}


def resolve(manifest: Manifest, cell: str) -> Path:
    """The file that a cell names, or ValueError with the reason: outside the manifest's folder,
    or not there.
    """
    options = (
        [cell] if "\\" not in cell or os.name == "nt" else [cell, cell.replace("\\", "/")]
    )  # a manifest from Windows
    root = os.path.realpath(manifest.root)
    for option in options:
        path = os.path.realpath(
            os.path.join(root, option)
        )  # follows links: they must not lead out either
        if not manifest.allow_outside:
            if os.path.isabs(option) or PureWindowsPath(option).drive:
                raise ValueError(
                    "absolute path; paths must be relative to the manifest's folder unless "
                    "--allow-outside is given"
                )
            if os.path.commonpath([root, path]) != root:
                raise ValueError(
                    "leads out of the manifest's folder; move the file in, or allow it with "
                    "--allow-outside"
                )
        if os.path.isfile(path):
            return Path(path)
    raise ValueError(
        "this is a folder, not a file"
        if os.path.isdir(path)
        else f"no such file under {manifest.root}"
    )
