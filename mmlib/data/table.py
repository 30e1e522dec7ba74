"""A CSV file or a pandas DataFrame -> its header and its cells, all of them text."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlib.data.folders import list_folder
from mmlib.data.problems import ManifestErrors, Problem, did_you_mean
from mmlib.data.sources import is_dataset

BETWEEN = "\x1f"  # the cells of several columns of one row, in one string
LONGEST = 10_000_000  # characters of a cell; an honest text may exceed csv's own limit of 131,072


@dataclass(frozen=True)
class Table:
    """The cells of a manifest as they were written, before anything is known of them."""

    name: str  # the file, for messages
    folder: Path  # paths in the cells are relative to it
    header: list[str]
    rows: list[list[str]]
    places: list[str]  # where each row begins: 'line 7' of the file

    def find(self, column: str) -> int:
        """The place of a column. Raises ValueError, with a name that is close, if it is missing."""
        if column not in self.header:
            raise ValueError(missing_column(self.name, self.header, column))
        return self.header.index(column)

    def cells(self, column: str) -> list[str]:
        """The cells of a column, without the spaces around them."""
        index = self.find(column)
        return [row[index].strip() for row in self.rows]


def join_cells(cells: Sequence[str]) -> str:
    """The cells of several columns of one row as one; '' where all of them are empty.

    >>> split_cell(join_cells(["3", "", "red"]), 3), join_cells(["", ""])
    (['3', '', 'red'], '')
    """
    return BETWEEN.join(cells) if any(cells) else ""


def split_cell(cell: str, count: int) -> list[str]:
    """The inverse of ``join_cells``, for so many columns."""
    return cell.split(BETWEEN) if cell else [""] * count


def missing_column(name: str, header: Sequence[str], column: str) -> str:
    """The message that a table has no such column, and which one may be meant."""
    there = [known for known in header if known]
    return f"{name} has no column {column!r}; it has {there}{did_you_mean(column, header)}"


def read_table(source: Any) -> Table:
    """Read a CSV file (UTF-8, with a header), a pandas DataFrame, or a folder per class.

    Raises ValueError for a file that is missing, not UTF-8 or not CSV, for a folder that may mean
    several things (see ``folders.list_folder``) or has a CSV file in it, and for a table without
    header or rows; ManifestErrors for rows whose number of cells is not that of the header.
    """
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        table = _from_frame(source)
    elif is_dataset(source):
        raise ValueError(
            "a Hugging Face dataset has no files that a manifest could name: write them with "
            "mmlib.data.write_dataset(dataset, folder), and read folder/manifest.csv"
        )
    elif Path(source).is_dir() and not any(Path(source).glob("*.csv")):
        listing = list_folder(source)
        places = [f"row {i}" for i in range(len(listing.rows))]
        table = Table(str(source), Path(source), listing.header, listing.rows, places)
    else:
        table = _from_csv(Path(source))
    if not table.rows:
        raise ValueError(f"{table.name}: no rows below the header, expected one row a sample")
    return table


def _from_csv(path: Path) -> Table:
    text, limit = _decode(path), csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        first = next(reader, [])
        if len(first) == 1:  # a European spreadsheet: semicolons or tabs
            mark = max(";\t", key=first[0].count)
            if mark in first[0]:
                reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=mark)
                first = next(reader)
        header = _check_header(str(path), first)
        numbered = list(_numbered(reader))
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; check the quotes and commas there"
        ) from error
    finally:
        csv.field_size_limit(limit)
    _check_lengths(str(path), header, numbered)
    rows, places = [row for _, row in numbered], [place for place, _ in numbered]
    return Table(str(path), path.parent, header, rows, places)


def _numbered(reader: Any) -> Iterator[tuple[str, list[str]]]:
    """Each row and where it begins: a quoted cell may span lines. A blank line is not a row."""
    start = reader.line_num + 1
    for row in reader:
        if row:
            yield f"line {start}", row
        start = reader.line_num + 1


def _check_lengths(name: str, header: list[str], numbered: Sequence[tuple[str, list[str]]]) -> None:
    ragged = [
        Problem(
            place,
            "",
            ",".join(row)[:60],
            f"{len(row)} cells, expected {len(header)} as in the header; put quotes around text "
            "with commas",
        )
        for place, row in numbered
        if len(row) != len(header)
    ]
    if ragged:
        raise ManifestErrors(name, ragged)


def _decode(path: Path) -> str:
    if not path.is_file():
        folder = " (it is a folder; name the CSV inside)" if path.is_dir() else ""
        raise ValueError(f"{path}: no such manifest file{folder}")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: byte {error.start} (line {line}) is not UTF-8; save the file as 'CSV UTF-8' "
            "and try again"
        ) from error


def _check_header(name: str, cells: Sequence[Any]) -> list[str]:
    header = [str(cell).strip() for cell in cells]
    if not any(header):
        raise ValueError(
            f"{name}: the first line is empty; expected a header such as image,text,audio,label"
        )
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise ValueError(
            f"{name}: the header has {twice} more than once; give each column its own name"
        )
    return header


def _from_frame(frame: Any) -> Table:
    """NaN, None and NaT are empty cells; what pandas read as numbers is written as it prints."""
    values, missing = frame.to_numpy(dtype=object), frame.isna().to_numpy()
    rows = [
        ["" if gone else str(value) for value, gone in zip(cells, empty, strict=True)]
        for cells, empty in zip(values, missing, strict=True)
    ]
    header = _check_header("DataFrame", list(frame.columns))
    return Table("DataFrame", Path.cwd(), header, rows, [f"row {i}" for i in range(len(rows))])
