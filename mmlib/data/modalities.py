"""The columns of a table -> the modalities that are read from them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmlib.data.table import Table

KINDS = ("image", "text", "audio", "table")
TAKEN = ("target", "row", "table_category")  # keys of a batch that are no modality
OWN_COLUMN = KINDS[:3]  # kinds that are read from a column of their name where none is given


class Modality(NamedTuple):
    """Where a modality comes from."""

    kind: str  # image, text, audio or table
    column: str  # of a table: all of its columns, "age,weight"

    @property
    def columns(self) -> list[str]:
        """The columns of a table, or the one of another kind."""
        return self.column.split(",") if self.kind == "table" else [self.column]


def present(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    """Those of the named columns that the table has.

    Raises ValueError where it has one that differs only in upper and lower case.
    """
    present = {}
    for kind, names in columns.items():
        wanted = [name.strip() for name in names.split(",")]
        for column in wanted:
            alike = [found for found in table.header if found.casefold() == column.casefold()]
            if alike and column not in table.header:
                raise ValueError(
                    f"{table.name} has no column {column!r}, but it has {alike[0]!r}: rename it "
                    f"to {column!r}, or to another name if it is something else"
                )
        present[kind] = ",".join(column for column in wanted if column in table.header)
    return present


def find_modalities(table: Table, columns: Mapping[str, str]) -> dict[str, Modality]:
    """All modalities that the table has, by name."""
    unknown = sorted(set(columns) - set(KINDS))
    if unknown:
        raise ValueError(f"columns has {unknown}; the kinds of modality are {list(KINDS)}")
    found: list[tuple[str, Modality]] = []
    for kind in KINDS:
        usual = kind if kind in table.header and kind in OWN_COLUMN else ""
        named = columns.get(kind, usual).split(",")
        chosen = [column.strip() for column in named if column.strip()]
        if kind == "table":
            found += [(kind, Modality(kind, ",".join(chosen)))] * bool(chosen)
            continue
        found += [
            (kind if len(chosen) == 1 else column, Modality(kind, column)) for column in chosen
        ]
    if not found:
        raise ValueError(
            f"{table.name} has no column {', '.join(OWN_COLUMN[:-1])} or {OWN_COLUMN[-1]}; it has "
            f"{[name for name in table.header if name]}: say which to read, as in --image COLUMN"
        )
    names = [name for name, _ in found]
    for name, modality in found:
        for column in modality.columns:
            table.find(column)
        if len(set(modality.columns)) < len(modality.columns):
            raise ValueError(f"{table.name}: {modality.column!r} names a column twice")
        if names.count(name) > 1 or name in TAKEN or name.endswith("_mask"):
            raise ValueError(
                f"{table.name}: a modality cannot be named {name!r} (taken); rename its column"
            )
    return dict(found)


def keep(table: str, found: dict[str, Modality], use: Iterable[str] | None) -> dict[str, Modality]:
    """Those of the modalities that ``use`` names; None: all."""
    wanted = list(found) if use is None else [name.strip() for name in use]
    for name in wanted:
        if name not in found:
            raise ValueError(f"use asks for {name!r}; {table} has the modalities {sorted(found)}")
    if not wanted:
        raise ValueError(f"use is empty; {table} has the modalities {sorted(found)}")
    return {name: modality for name, modality in found.items() if name in wanted}
