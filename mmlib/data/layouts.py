"""Data sets as their authors hand them out -> the rows of a manifest.

Nothing is downloaded. Each function reads one layout; ``list_layout`` chooses by its name. Rows
whose files are not there are left out and counted: often only a part of a set is at hand.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmlib.data.folders import Listing, is_path

Found = tuple[list[str], list[list[str]]]  # header, rows


def list_layout(folder: str | Path, layout: str) -> Listing:
    """The rows of a data set in a known layout, one of ``LAYOUTS``.

    Raises ValueError where the folder does not hold it, or a file of it is not as expected.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {sorted(LAYOUTS)}")
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder")
    header, rows = LAYOUTS[layout](root)
    return _complete(root, header, rows)


def coco(root: Path) -> Found:
    """COCO captions (Chen et al., 2015): a row for each caption.

    ``annotations/captions_train2017.json`` beside ``train2017/``, or any other years.
    """
    rows = []
    for path in _some(root, "captions_*.json"):
        part = path.stem.removeprefix("captions_")  # train2017
        place = _folder(root, part, f"images/{part}")
        found = _json(path, "images", "annotations")
        images = _each(path, found["images"], "id", "file_name")
        names = {str(image["id"]): image["file_name"] for image in images}
        for one in _each(path, found["annotations"], "image_id", "caption"):
            key = str(one["image_id"])
            if key not in names:
                raise ValueError(f"{path}: a caption of image {key}, which is not in its images")
            text = _line(one["caption"])
            rows.append([f"{place}/{names[key]}", text, key, _split(part)])
    return ["image", "text", "image_id", "split"], rows


def flickr8k(root: Path) -> Found:
    """Flickr8k (Hodosh et al., 2013): a row for each of the five captions of an image.

    ``Flickr8k.token.txt``, ``Flicker8k_Dataset/``, and a list of images for each split.
    """
    (path,) = _some(root, "Flickr8k.token.txt")
    place = _folder(root, "Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
    splits = {}
    for name, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        for image in _lines(_some(root, f"Flickr_8k.{name}Images.txt")[0]):
            splits[image] = split
    rows = []
    for number, line in enumerate(_lines(path), 1):
        name, tab, text = line.partition("\t")
        image, mark, _ = name.rpartition("#")
        if not (tab and mark):
            raise ValueError(f"{path}, line {number}: expected NAME.jpg#0, a tab, and the caption")
        rows.append([f"{place}/{image}", _line(text), image, splits.get(image, "")])
    return ["image", "text", "image_id", "split"], rows


def esc50(root: Path) -> Found:
    """ESC-50 (Piczak, 2015): environmental sounds of 50 classes.

    Its five folds keep the clips of one recording together; here fold 4 is for validation and fold
    5 is the test. For its own five-fold score, change the split column.
    """
    (path,) = _some(root, "esc50.csv")
    rows = [
        [
            f"audio/{one['filename']}",
            one["category"],
            one["src_file"],
            one["fold"],
            {"4": "val", "5": "test"}.get(one["fold"], "train"),
        ]
        for one in _csv(path, "filename", "fold", "category", "src_file")
    ]
    return ["audio", "label", "recording", "fold", "split"], rows


def speech_commands(root: Path) -> Found:
    """Speech Commands (Warden, 2018): a folder per word; its lists say which files are held out."""
    splits = {}
    for name, split in (("validation_list.txt", "val"), ("testing_list.txt", "test")):
        for line in _lines(_some(root, name)[0]):
            splits[line] = split
    rows = []
    for path in sorted(root.glob("*/*.wav")):
        word, name = path.parts[-2:]
        if word.startswith("_"):  # _background_noise_: minutes, of no word
            continue
        cell = f"{word}/{name}"
        rows.append([cell, word, name.partition("_nohash_")[0], splits.get(cell, "train")])
    if not rows:
        raise ValueError(f"{root} has no WORD/*.wav in it")
    return ["audio", "label", "speaker", "split"], rows


def vqa(root: Path) -> Found:
    """VQA 1 and 2 (Goyal et al., 2017) on COCO: a row for each question, its most given answer.

    ``*questions.json`` with their ``*annotations.json``, and ``train2014/COCO_train2014_*.jpg``.
    Questions without a published answer are left out.
    """
    answers = {}
    for path in _some(root, "*annotations.json"):
        found = _json(path, "annotations")["annotations"]
        for one in _each(path, found, "question_id", "multiple_choice_answer"):
            answers[str(one["question_id"])] = str(one["multiple_choice_answer"])
    rows = []
    for path in _some(root, "*questions.json"):
        found = _json(path, "questions")
        part = str(found.get("data_subtype", ""))  # train2014
        place = _folder(root, part, f"images/{part}")
        for one in _each(path, found["questions"], "question_id", "image_id", "question"):
            key, image = str(one["question_id"]), str(one["image_id"])
            if key in answers:
                name = f"{place}/COCO_{part}_{image.zfill(12)}.jpg"
                rows.append([name, _line(one["question"]), answers[key], image, _split(part)])
    return ["image", "text", "label", "image_id", "split"], rows


def movielens(root: Path) -> Found:
    """MovieLens (Harper and Konstan, 2015): a row for each rating, with title and genres as text.

    ``ratings.csv`` and ``movies.csv`` of the later sets, or the ``.dat`` files of 1M and 10M.
    """
    newer = any(root.glob("ratings.csv"))
    if newer:
        movies = list(_csv(root / "movies.csv", "movieId", "title", "genres"))
        ratings = list(_csv(root / "ratings.csv", "userId", "movieId", "rating", "timestamp"))
    else:
        movies = list(_dat(_some(root, "movies.dat")[0], "movieId", "title", "genres"))
        path = _some(root, "ratings.dat")[0]
        ratings = list(_dat(path, "userId", "movieId", "rating", "timestamp"))
    texts = {one["movieId"]: f"{one['title']} {one['genres'].replace('|', ' ')}" for one in movies}
    rows = [
        [texts.get(one["movieId"], ""), one["rating"], one["userId"], one["movieId"]]
        + [one["timestamp"]]
        for one in ratings
    ]
    return ["text", "label", "user", "item", "time"], rows


LAYOUTS: dict[str, Callable[[Path], Found]] = {
    "coco": coco,
    "esc50": esc50,
    "flickr8k": flickr8k,
    "movielens": movielens,
    "speech-commands": speech_commands,
    "vqa": vqa,
}


def _complete(root: Path, header: list[str], rows: list[list[str]]) -> Listing:
    """The rows whose files are there and which have a split, where others have one."""
    there: dict[str, bool] = {}
    kept, missing, unsplit = [], [], 0
    places = [i for i, name in enumerate(header) if is_path(name)]
    split = header.index("split") if "split" in header else None
    for row in rows:
        cells = [row[i] for i in places]
        for cell in cells:
            if cell not in there:
                there[cell] = (root / cell).is_file()
        lost = [cell for cell in cells if not there[cell]]
        if lost:
            missing.append(lost[0])
        elif split is not None and not row[split]:
            unsplit += 1
        else:
            kept.append(row)
    if not kept:
        what = f"no file {missing[0]!r}, nor any other" if missing else "no rows"
        raise ValueError(f"{root}: {what}; is all of it unpacked, and in this folder?")
    notes = []
    if missing:
        first = f"the first is {missing[0]}"
        notes.append(f"{len(missing):,} rows are left out, their files are not there: {first}")
    if unsplit:
        notes.append(f"{unsplit:,} rows are left out, no list of a split has them")
    return Listing(header, kept, notes)


def _some(root: Path, pattern: str) -> list[Path]:
    """The files of this pattern in a folder or in a folder of it; ValueError for none."""
    found = sorted([*root.glob(pattern), *root.glob(f"*/{pattern}")])
    if not found:
        raise ValueError(f"{root} has no {pattern} in it, nor a folder of it")
    return found


def _folder(root: Path, *names: str) -> str:
    """The first of these folders that exists, or else the first."""
    return next((name for name in names if name and (root / name).is_dir()), names[0])


def _split(part: str) -> str:
    """train2017 -> train."""
    return part.rstrip("0123456789")


def _line(text: Any) -> str:
    """A text on one line."""
    return " ".join(str(text).split())


def _lines(path: Path) -> list[str]:
    return [line.strip("\r") for line in _read(path).split("\n") if line.strip()]


def _read(path: Path, encoding: str = "utf-8-sig") -> str:
    try:
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


def _json(path: Path, *keys: str) -> dict[str, Any]:
    """An object with a list under each key; ValueError where it is another thing."""
    try:
        found = json.loads(_read(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    for key in keys:
        if not (isinstance(found, dict) and isinstance(found.get(key), list)):
            raise ValueError(f"{path}: expected an object with a list {key!r}")
    return found


def _each(path: Path, items: list[Any], *keys: str) -> Iterator[dict[str, Any]]:
    """Each object of a list; ValueError, with its place, where one lacks a key."""
    for i, one in enumerate(items):
        lacking = [key for key in keys if not (isinstance(one, dict) and key in one)]
        if lacking:
            raise ValueError(f"{path}: entry {i} has no {lacking[0]!r}: {str(one)[:60]}")
        yield one


def _csv(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Each row of a CSV file; ValueError, with its line, where a column is missing."""
    reader = csv.DictReader(io.StringIO(_read(path), newline=""))
    for row in reader:
        lacking = [column for column in columns if row.get(column) is None]
        if lacking:
            raise ValueError(f"{path}, line {reader.line_num}: no column {lacking[0]!r}")
        yield row


def _dat(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Each row of a file of cells between ``::``, in Latin-1, without a header."""
    for number, line in enumerate(_read(path, "latin-1").splitlines(), 1):
        cells = line.split("::")
        if len(cells) != len(columns):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells between '::', expected {len(columns)}"
            )
        yield dict(zip(columns, cells, strict=True))
