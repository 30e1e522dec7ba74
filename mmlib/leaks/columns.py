"""Columns and texts that are the answer; groups that stand in two splits. Reads no file."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmlib.data.manifest import Manifest
from mmlib.data.text import tokenize
from mmlib.leaks.score import (
    Score,
    Task,
    bound,
    choose_rows,
    grow,
    lookup,
    lookup_shares,
    told_by,
    tree,
)
from mmlib.leaks.splits import crossing

# of the majority's errors may stay where a column is called the answer: two annotators differ by
# about that
NEARLY_ALL = 0.1
A_LITTLE = (
    0.9  # for what should tell nothing at all: a tenth of the majority's errors gone is enough
)
# rows per distinct text, from which on texts are a closed set, and a table of them can be checked
REPEATS = 5
# values a class must have for a column to be a group: with fewer, keeping each in one split takes
# classes out of others
SEVERAL = 5
THINGS = {
    "id",
    "uuid",
    "scene",
    "image",
    "picture",
    "photo",
    "video",
    "film",
    "movie",
    "clip",
    "document",
    "page",
    "article",
    "dialogue",
    "dialog",
    "story",
}  # a group where a value has at most 50 rows
PEOPLE = {
    "patient",
    "subject",
    "speaker",
    "user",
    "writer",
    "author",
    "person",
    "participant",
    "donor",
    "owner",
    "child",
    "customer",
    "client",
    "session",
    "recording",
    "actor",
    "singer",
    "reader",
    "household",
}


def continuous(values: Sequence[str]) -> np.ndarray | None:
    """(rows,) float64, NaN where there is none, if all non-empty values are numbers and over 20
    are different; else None.
    """
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
    numbers = np.where(
        np.isfinite(numbers), np.clip(numbers, -1e30, 1e30), np.nan
    )  # single precision holds these
    return numbers if len(np.unique(numbers[np.isfinite(numbers)])) > 20 else None


def is_identifier(values: Sequence[str], splits: np.ndarray) -> bool:
    """Each value names a row, or a group that is kept in one split: a table of such values
    cannot be used on other rows.
    """
    if _measured(values):
        return False
    filled = [value for value in values if value]
    return len(set(filled)) == len(filled) or not crossing(values, splits)[0].any()


def tell_column(values: Sequence[str], task: Task, seed: int) -> Score | None:
    """How well a column of the table tells the target: by intervals where it has numbers, else
    by a table of its values.
    """
    rows = choose_rows(task, np.ones(len(values), bool), seed)
    if not len(rows):
        return None
    numbers = continuous(values)
    if numbers is None:
        return lookup(task, rows, [values[row] for row in rows], NEARLY_ALL)
    return tree(
        task, rows, np.nan_to_num(numbers[rows, None], nan=-1e30), 4 * len(task.classes), NEARLY_ALL
    )


def tell_text(texts: Sequence[str], task: Task, seed: int) -> tuple[Score, str] | None:
    """The score and the reason where a text is the answer, not evidence; else None.

    Three signs, each scored on held-out rows: a closed set of texts with one answer each; the
    classes' own names, right nearly always and in half the rows or more; as few words as there are
    classes (a tree with a leaf per class on which words occur).
    """
    keys = [" ".join(tokenize(text)) for text in texts]
    rows = choose_rows(task, np.array([bool(key) for key in keys]), seed)
    if not len(rows):
        return None
    chosen = [keys[row] for row in rows]
    distinct = len(set(chosen))
    if len(rows) >= REPEATS * distinct:
        score = lookup(task, rows, chosen, NEARLY_ALL)
        if score.suspicious:
            return score, f"{distinct:,} distinct texts tell the target in {score}"
    return _names(chosen, rows, task) or _few_words(chosen, rows, task)


def _names(keys: list[str], rows: np.ndarray, task: Task) -> tuple[Score, str] | None:
    """The classes' own names in the texts."""
    classes = {f" {' '.join(tokenize(name))} ": code for code, name in enumerate(task.classes)}
    if len(classes) > 200:
        return None
    named = [{code for name, code in classes.items() if name in f" {key} "} for key in keys]
    one = np.array([len(codes) == 1 for codes in named])
    if one.mean() < 0.5 or len(np.unique(task.codes[rows[one]])) < 2:
        return None
    right = np.mean(
        [
            task.codes[row] in codes
            for row, codes in zip(rows[one], (c for c in named if len(c) == 1))
        ]
    )
    score = Score(float(right), *bound(task, rows[one], NEARLY_ALL))
    return (
        (score, f"{one.mean():.0%} of the texts name a class, the right one in {score}")
        if score.suspicious
        else None
    )


def _few_words(keys: list[str], rows: np.ndarray, task: Task) -> tuple[Score, str] | None:
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        tokenizer=str.split, token_pattern=None, lowercase=False, binary=True, max_features=5_000
    )
    found = counter.fit_transform(keys).astype(np.float32)  # (rows, words)
    score = tree(task, rows, found, len(task.classes), NEARLY_ALL)
    if not score.suspicious:
        return None
    used = grow(found, task.codes[rows], len(task.classes)).tree_.feature
    words = [repr(str(counter.get_feature_names_out()[i])) for i in used if i >= 0]
    shown = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
    return score, f"{len(words)} word(s) ({shown}) tell the target in {score}"


def tell_missing(manifest: Manifest, task: Task, seed: int) -> str | None:
    """What is told by which modalities a row has, whatever is in them; None where nothing is, or
    every row has the same.
    """
    pattern = list(zip(*[[bool(cell) for cell in cells] for cells in manifest.cells.values()]))
    rows = choose_rows(task, np.ones(len(pattern), bool), seed)
    if not len(rows) or len(set(pattern)) < 2:
        return None
    shares = lookup_shares(task, rows, [pattern[row] for row in rows])
    return told_by(task, rows, shares, A_LITTLE)


def suspect_group(
    column: str, values: Sequence[str], splits: np.ndarray, task: Task | None, seed: int
) -> str | None:
    """Why a column looks like a group (patient, speaker) that stands in several splits, or None.

    By its name: a person or a session, at least five of them; or a scene, a document, an id with at
    most 50 rows each. By its values: twenty or more, 2 to 50 rows each, and the target follows the
    value in at least half of what the majority gets wrong. An ordinary attribute (a colour, a city)
    has a few values with many rows each, or does not tell the target. A column with only a few
    values for each class is another name of the class, no group.
    """
    counts = Counter(value for value in values if value)
    if not crossing(values, splits)[1] or _measured(values) or len(counts) < 5:
        return None
    each = sum(counts.values()) / len(counts)
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower()))
    words |= {word.removesuffix("s") for word in words}
    if words & PEOPLE or (words & THINGS and 2 <= each <= 50 and not _names_classes(values, task)):
        return "its name says group"
    if not could_be_group(values) or task is None or _names_classes(values, task):
        return None
    chosen = choose_rows(task, np.array([bool(value) for value in values]), seed)
    score = lookup(task, chosen, [values[row] for row in chosen], 0.5) if len(chosen) else None
    return (
        f"the value tells the target in {score}" if score is not None and score.suspicious else None
    )


def could_be_group(values: Sequence[str]) -> bool:
    """Twenty values or more, 2 to 50 rows each, that measure nothing."""
    counts = Counter(value for value in values if value)
    return (
        len(counts) >= 20
        and 2 <= sum(counts.values()) / len(counts) <= 50
        and not _measured(values)
    )


def _measured(values: Sequence[str]) -> bool:
    numbers = continuous(values)
    return numbers is not None and not np.all(numbers[np.isfinite(numbers)] % 1 == 0)


def _names_classes(values: Sequence[str], task: Task | None) -> bool:
    """Half the classes or more have fewer than SEVERAL values, each value in one class."""
    if task is None:
        return False
    pairs = {
        (value, code) for value, code in zip(values, task.codes.tolist()) if value and code >= 0
    }
    one_each = len({value for value, _ in pairs}) == len(pairs)
    return one_each and np.median(list(Counter(code for _, code in pairs).values())) < SEVERAL
