"""A Hugging Face dataset -> files on disk and a manifest of them.

From there on everything is as for any manifest: splits, leaks, resuming, workers.
"""

import csv
import io
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmlib.data.folders import KINDS

FILES = ("Image", "Audio")  # features that become files


def write_dataset(dataset: Any, folder: str | Path) -> list[str]:
    """Write the rows of a ``datasets.Dataset`` into a new folder -> what was left out, in words.

    ``dataset`` may also be a ``DatasetDict``, whose splits become the column ``split``, or the
    folder in which ``save_to_disk`` left one. Image and Audio features become files as they are
    stored, neither decoded nor encoded; a ``ClassLabel`` becomes its name; texts, numbers and truth
    values become cells. Columns keep their names: ``read_manifest(folder / "manifest.csv",
    columns={"image": "img"})`` says which is which. Nothing is downloaded.

    Raises ValueError where the folder is not empty, or where a row names a file that is not there;
    ImportError, with what to install, where the package datasets is needed and missing. After an
    error nothing is left behind.
    """
    out = Path(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty, and nothing is overwritten: name a new folder")
    parts = _parts(dataset)
    header, left_out = _columns(parts)
    out.mkdir(parents=True, exist_ok=True)
    try:
        _write(parts, header, out)
    except BaseException:  # also Ctrl-C: a part of a dataset is none
        shutil.rmtree(out)
        raise
    return [f"column {name!r} of type {kind} is left out" for name, kind in left_out.items()]


def _write(parts: Mapping[str | None, Any], header: list[str], out: Path) -> None:
    """The files, and last the manifest."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    several = [] if None in parts else ["split"]
    writer.writerow(header + several)
    for split, part in parts.items():
        for number, row in enumerate(_undecoded(part, header)):
            name = f"{_plain(split)}-{number:07d}" if split else f"{number:07d}"
            cells = [_cell(out, part.features[key], key, row[key], name) for key in header]
            writer.writerow(cells + [split for _ in several])
    with open(out / "manifest.csv", "x", encoding="utf-8", newline="") as target:
        target.write(file.getvalue())


def is_dataset(source: Any) -> bool:
    """Whether an object is of the package datasets, which is not imported for it."""
    return type(source).__module__.partition(".")[0] == "datasets"


def _parts(dataset: Any) -> dict[str | None, Any]:
    """The datasets by split; under None where there is one without splits."""
    if isinstance(dataset, (str, Path)):
        try:
            from datasets import load_from_disk
        except ImportError as error:
            raise ImportError(
                "to read a saved dataset, the package datasets is needed, which is not installed: "
                "pip install 'mmlib[datasets]' (or pip install datasets)"
            ) from error
        if not Path(dataset).is_dir():
            raise ValueError(f"{dataset}: no such folder")
        dataset = load_from_disk(str(dataset))
    if not is_dataset(dataset):
        raise ValueError(f"{type(dataset).__name__}, expected a datasets.Dataset or DatasetDict")
    if isinstance(dataset, Mapping):
        return {str(name): part for name, part in dataset.items()}
    return {None: dataset}


def _columns(parts: Mapping[str | None, Any]) -> tuple[list[str], dict[str, str]]:
    """The columns that become cells, and the types of the others."""
    header: list[str] = []
    left_out: dict[str, str] = {}
    for split, part in parts.items():
        if part.features is None:
            raise ValueError("the dataset does not know its features: give it some with cast()")
        kinds = {name: type(feature).__name__ for name, feature in part.features.items()}
        found = [name for name, kind in kinds.items() if kind in (*FILES, "ClassLabel", "Value")]
        if header and found != header:
            raise ValueError(f"split {split!r} has the columns {found}, others have {header}")
        header, left_out = found, {n: kind for n, kind in kinds.items() if n not in found}
    if None not in parts and "split" in header:
        raise ValueError("the dataset has splits and a column 'split': rename that column")
    if not header:
        raise ValueError(f"no column that a manifest can have; there are {left_out}")
    return header, left_out


def _undecoded(part: Any, header: Iterable[str]) -> Any:
    """The dataset with its files as they are stored."""
    features = part.features
    part = part.with_format(None)
    for name in header:
        if type(features[name]).__name__ in FILES:
            part = part.cast_column(name, type(features[name])(decode=False))
    return part


def _cell(out: Path, feature: Any, column: str, value: Any, name: str) -> str:
    """What stands in the manifest; a file is written for it."""
    if value is None:
        return ""
    kind = type(feature).__name__
    if kind == "ClassLabel":
        return "" if value < 0 else str(feature.int2str(value))  # -1: not known
    if kind not in FILES:
        return str(value)
    source = value["path"] or ""
    suffix = Path(source).suffix.lower()
    known = any(suffix[1:] in endings for endings in KINDS.values())
    target = out / _plain(column) / (name + (suffix if known else ""))
    target.parent.mkdir(exist_ok=True)
    if value["bytes"] is not None:
        target.write_bytes(value["bytes"])
    elif Path(source).is_file():
        shutil.copyfile(source, target)
    else:
        raise ValueError(f"row {name}, column {column!r}: {source!r} is no file of this machine")
    return target.relative_to(out).as_posix()


def _plain(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.-]", "_", name)
