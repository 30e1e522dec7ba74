"""A folder of files -> the rows of a manifest: a folder per class, files of one name are one row.

    photos/cat/1.jpg  photos/cat/1.wav  photos/dog/2.jpg   ->  image, audio, label

Above the classes there may be a folder per split: photos/train/cat/1.jpg.
"""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# The kinds of file, by the end of their names; what a file holds is looked at when it is read.
IMAGES = "avif bmp gif icns ico jfif jp2 jpeg jpg pgm png pnm ppm qoi tga tif tiff webp".split()
SOUNDS = "aif aiff au caf flac mp3 oga ogg opus wav".split()
KINDS = {"image": IMAGES, "audio": SOUNDS, "text": ["txt"]}
# as ``SPLIT_NAMES`` of the manifest has them
SPLITS = "train training val valid validation dev development test testing".split()


class Listing(NamedTuple):
    """The rows of a manifest, before it is written; paths are relative to the folder."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str]  # what was left out, in words


def write_manifest(listing: Listing, folder: str | Path, out: str | Path) -> None:
    """Write the rows as a CSV file, its paths relative to where it stands.

    An existing file is never overwritten. Raises ValueError where there is one, and where the
    folder does not lie beside or below the file, so that the paths would lead out.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     listing = Listing(["image", "label"], [["cat/1.png", "cat"]], [])
    ...     write_manifest(listing, folder, Path(folder) / "manifest.csv")
    ...     print((Path(folder) / "manifest.csv").read_text())
    image,label
    cat/1.png,cat
    <BLANKLINE>
    """
    out = Path(out)
    here, there = os.path.realpath(out.parent), os.path.realpath(folder)
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent}: no such folder, so {out.name} cannot be written there")
    if os.path.splitdrive(here)[0] != os.path.splitdrive(there)[0] or (
        os.path.commonpath([here, there]) != here
    ):
        raise ValueError(
            f"{out} does not stand above {folder}, so its paths would lead out of its folder: "
            f"write it to {Path(folder) / out.name}"
        )
    prefix = os.path.relpath(there, here).replace(os.sep, "/")
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(listing.header)
    for row in listing.rows:
        cells = zip(listing.header, row, strict=True)
        writer.writerow([_below(prefix, cell) if is_path(name) else cell for name, cell in cells])
    try:
        with open(out, "x", encoding="utf-8", newline="") as target:
            target.write(file.getvalue())
    except FileExistsError as error:
        raise ValueError(
            f"{out} is there already and is not overwritten: name another file with --out, or "
            "remove it"
        ) from error


def is_path(column: str) -> bool:
    """Whether a column of a ``Listing`` holds paths.

    >>> is_path("image"), is_path("text")
    (True, False)
    """
    return column in ("image", "audio")


def _below(prefix: str, cell: str) -> str:
    return cell if prefix == "." or not cell else f"{prefix}/{cell}"


def list_folder(folder: str | Path) -> Listing:
    """The rows of a folder that has a folder per class, with or without folders per split above.

    Files of one class with one name (``1.jpg``, ``1.wav``, ``1.txt``) are one row; the content of a
    text file becomes the cell. Hidden files, files of other kinds and texts beside the class
    folders are left out, and counted in ``notes``. Without any folder in it, the folder itself is
    one set of rows without a label.

    Raises ValueError, naming the files, where they can be understood in two ways.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files, strange = _find(root)
    if not files:
        raise ValueError(
            f"{folder} has no images, sounds or texts in it; the kinds of file are "
            f"{', '.join(ending for endings in KINDS.values() for ending in endings)}"
        )
    deepest = max(len(path.parts) for path, _ in files)
    beside = [path for path, kind in files if len(path.parts) == 1 and kind == "text"]
    if deepest > 1 and beside:  # a README
        strange, files = strange + beside, [one for one in files if one[0] not in beside]
    split = _check_depth(root, [path for path, _ in files], deepest)
    listing = _rows(root, _pair(files), deepest, split)
    notes = [f"{len(strange):,} other files are left out: {_few(strange)}"] if strange else []
    return listing._replace(notes=notes)


def _find(root: Path) -> tuple[list[tuple[Path, str]], list[Path]]:
    """The files below a folder with their kinds, and those of no kind; hidden ones are neither."""
    found, strange = [], []
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        for name in sorted(names):
            path = (Path(place) / name).relative_to(root)
            ending = path.suffix[1:].lower()
            kind = next((kind for kind, endings in KINDS.items() if ending in endings), None)
            if name[0] == ".":
                continue
            if kind is None:
                strange.append(path)
                continue
            _check_name(path)
            found.append((path, kind))
    return found, strange


def _check_name(path: Path) -> None:
    """Raise ValueError for a name that a cell of a CSV file cannot hold."""
    text = path.as_posix()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of the file {text!r} is not UTF-8: rename it") from error
    if text != text.strip() or not text.isprintable():
        raise ValueError(
            f"the name of the file {text!r} begins or ends with a space, or has a character that "
            "is not printed: rename it"
        )


def _check_depth(root: Path, paths: Sequence[Path], deepest: int) -> bool:
    """Whether there is a folder per split; ValueError where folders mean no one thing."""
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    splits = {top for top in tops if top.lower() in SPLITS}
    levels = "a folder per class (cat/1.jpg), or per split and class (train/cat/1.jpg)"
    shallow = [path for path in paths if len(path.parts) < deepest]
    if shallow:
        deep = [path for path in paths if len(path.parts) == deepest]
        raise ValueError(
            f"{root}: {_few(deep[:1])} lies deeper than {_few(shallow)}; expected {levels} for all"
        )
    if deepest > 3 or (deepest == 3 and splits != tops):
        raise ValueError(
            f"{root}: {_few(paths)} lie {deepest - 1} folders deep, expected {levels}; name the "
            "folder above the classes"
        )
    if deepest == 2 and splits:
        raise ValueError(
            f"{root}: {', '.join(sorted(splits))} are names of splits, but have files such as "
            f"{_few([p for p in paths if p.parts[0] in splits][:1])} and no folder per class in "
            f"them; expected {levels}"
        )
    return deepest == 3


def _pair(files: Iterable[tuple[Path, str]]) -> dict[Path, dict[str, Path]]:
    """By path without its ending, the file of each kind.

    Raises ValueError where there are two of a kind, or where names differ only in their case.
    """
    pairs: dict[Path, dict[str, Path]] = {}
    spelt: dict[str, Path] = {}
    for path, kind in files:
        stem = path.with_suffix("")
        other = spelt.setdefault(str(stem).casefold(), stem)
        if other != stem:
            names = [*pairs[other].values(), path]
            raise ValueError(
                f"{_few(names)} differ only in upper and lower case: give files of one row one "
                "name, and others another"
            )
        kinds = pairs.setdefault(stem, {})
        if kind in kinds:
            raise ValueError(
                f"{_few([kinds[kind], path])} have one name, and both are of kind {kind}: which "
                "belongs to the row? Rename one, or move it away"
            )
        kinds[kind] = path
    return pairs


def _rows(root: Path, pairs: dict[Path, dict[str, Path]], deepest: int, split: bool) -> Listing:
    """The header and a row for each pair."""
    columns = [kind for kind in KINDS if any(kind in kinds for kinds in pairs.values())]
    header = columns + ["label"] * (deepest > 1) + ["split"] * split
    rows = []
    for stem, kinds in sorted(pairs.items()):
        cells = {kind: path.as_posix() for kind, path in kinds.items()}
        if "text" in kinds:
            cells["text"] = _text(root / kinds["text"])
        parts = list(stem.parts[:-1])[::-1]  # class, split
        rows.append([cells.get(kind, "") for kind in columns] + parts)
    if deepest > 1:
        _check_kinds(root, columns, header, rows)
    return Listing(header, rows, [])


def _check_kinds(root: Path, columns: list[str], header: list[str], rows: list[list[str]]) -> None:
    """Raise ValueError where each class has a kind of its own: images/ and audio/, say."""
    place = header.index("label")
    kinds: dict[str, set[str]] = {}
    for row in rows:
        there = {kind for kind, cell in zip(columns, row, strict=False) if cell}
        kinds[row[place]] = there | kinds.get(row[place], set())
    names = sorted(kinds)
    if len(names) > 1 and not set.intersection(*kinds.values()):
        shown = ", ".join(f"{name}/ ({' and '.join(sorted(kinds[name]))})" for name in names[:4])
        raise ValueError(
            f"{root}: its folders hold files of different kinds, {shown}, so they are no classes: "
            "put files of one row into one folder, under one name"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8") from error


def _few(paths: Sequence[Path]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(paths) - 5:,} more" if len(paths) > 5 else ""
    return ", ".join(path.as_posix() for path in paths[:5]) + more
