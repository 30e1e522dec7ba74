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
    fit_tree,
    lookup_shares,
    score_lookup,
    score_tree,
    suspicion,
)
from mmlib.leaks.splits import crossing

# The share of the majority's errors that may be left where a column is called the answer: two
# annotators disagree about as often.
NEARLY_ALL = 0.1
# The same for what should say nothing about the target: it may not remove a tenth of the errors.
A_LITTLE = 0.9
# From this many rows per distinct text on, the texts are a closed set that a table can hold.
REPEATS = 5
# The values that a class must have for a column to be a group: with fewer, keeping each value in
# one split would take whole classes out of the others.
SEVERAL = 5
# Words in a column's name that say group: of things only where a value has at most 50 rows.
THINGS = set(
    "id uuid scene image picture photo video film movie clip document page article dialogue dialog "
    "story".split()
)
PEOPLE = set(
    "patient subject speaker user writer author person participant donor owner child customer "
    "client session recording actor singer reader household".split()
)


def continuous(values: Sequence[str]) -> np.ndarray | None:
    """(rows,) float64, NaN in empty cells, if all cells are numbers and over 20 differ; else None.

    Infinite numbers become NaN too.
    """
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
    within = np.clip(numbers, -1e30, 1e30)  # the tree works in float32, which can hold these
    numbers = np.where(np.isfinite(numbers), within, np.nan)
    return numbers if len(np.unique(numbers[np.isfinite(numbers)])) > 20 else None


def is_identifier(values: Sequence[str], splits: np.ndarray) -> bool:
    """Whether each value names one row, or a group that is kept in one split.

    What a model learned of such values cannot be used on other rows.
    """
    if _is_measurement(values):
        return False
    filled = [value for value in values if value]
    return len(set(filled)) == len(filled) or not crossing(values, splits)[0].any()


def score_column(values: Sequence[str], task: Task, seed: int) -> Score | None:
    """How well a column predicts the target; None where there are no rows to try it on.

    A column of numbers is cut into intervals by a tree, another one is a table of its values.
    """
    rows = choose_rows(task, np.ones(len(values), bool), seed)
    if not len(rows):
        return None
    numbers = continuous(values)
    if numbers is None:
        return score_lookup(task, rows, [values[row] for row in rows], NEARLY_ALL)
    filled = np.nan_to_num(numbers[rows, None], nan=-1e30)
    return score_tree(task, rows, filled, 4 * len(task.classes), NEARLY_ALL)


def answer_in_text(texts: Sequence[str], task: Task, seed: int) -> str | None:
    """Why these texts are the answer, not evidence, in words; None where they are not.

    Three signs, each scored on held-out rows: a closed set of texts with one answer each; the
    classes' own names, in half the rows or more and nearly always right; as few words as there are
    classes, by a tree with one leaf for each class on which words occur.
    """
    keys = [" ".join(tokenize(text)) for text in texts]
    rows = choose_rows(task, np.array([bool(key) for key in keys]), seed)
    if not len(rows):
        return None
    chosen = [keys[row] for row in rows]
    return (
        _closed_set(chosen, rows, task)
        or _class_names(chosen, rows, task)
        or _few_words(chosen, rows, task)
    )


def _closed_set(keys: list[str], rows: np.ndarray, task: Task) -> str | None:
    """Whether a few texts come again and again, each with its own class."""
    distinct = len(set(keys))
    if len(rows) < REPEATS * distinct:
        return None
    score = score_lookup(task, rows, keys, NEARLY_ALL)
    return f"{distinct:,} distinct texts tell the target in {score}" if score.suspicious else None


def _class_names(keys: list[str], rows: np.ndarray, task: Task) -> str | None:
    """Whether the texts name their own class. A text that names several classes does not count."""
    names = {f" {' '.join(tokenize(name))} ": code for code, name in enumerate(task.classes)}
    if len(names) > 200:
        return None
    named = [{code for name, code in names.items() if name in f" {key} "} for key in keys]
    single = np.array([len(codes) == 1 for codes in named])
    if single.mean() < 0.5 or len(np.unique(task.codes[rows[single]])) < 2:
        return None
    answers = np.array([codes.pop() for codes in named if len(codes) == 1])
    right = float(np.mean(answers == task.codes[rows[single]]))
    score = Score(right, *bound(task, rows[single], NEARLY_ALL))
    if not score.suspicious:
        return None
    return f"{single.mean():.0%} of the texts name a class, the right one in {score}"


def _few_words(keys: list[str], rows: np.ndarray, task: Task) -> str | None:
    """Whether it is enough to know which of a few words occur in a text."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        tokenizer=str.split, token_pattern=None, lowercase=False, binary=True, max_features=5_000
    )
    occurs = counter.fit_transform(keys).astype(np.float32)  # (rows, words)
    score = score_tree(task, rows, occurs, len(task.classes), NEARLY_ALL)
    if not score.suspicious:
        return None
    used = fit_tree(occurs, task.codes[rows], len(task.classes)).tree_.feature
    vocabulary = counter.get_feature_names_out()
    words = [repr(str(vocabulary[place])) for place in used if place >= 0]  # -2 marks a leaf
    shown = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
    return f"{len(words)} word(s) ({shown}) tell the target in {score}"


def answer_in_missing(manifest: Manifest, task: Task, seed: int) -> str | None:
    """What can be known from which modalities a row has, whatever their content, in words.

    None where that says nothing suspicious, or all rows have the same modalities.
    """
    pattern = list(zip(*[[bool(cell) for cell in cells] for cells in manifest.cells.values()]))
    rows = choose_rows(task, np.ones(len(pattern), bool), seed)
    if not len(rows) or len(set(pattern)) < 2:
        return None
    shares = lookup_shares(task, rows, [pattern[row] for row in rows])
    return suspicion(task, rows, shares, A_LITTLE)


def suspect_group(
    column: str, values: Sequence[str], splits: np.ndarray, task: Task | None, seed: int
) -> str | None:
    """Why a column looks like a group (patient, speaker) that stands in several splits, or None.

    By its name: a person or a session, at least five of them; or a scene, a document, an id with at
    most 50 rows each. By its values: twenty or more, 2 to 50 rows each, and the target follows the
    value in at least half of what the majority gets wrong. An ordinary attribute (a colour, a city)
    has a few values with many rows each, or does not predict the target. A column with only a few
    values for each class is another name of the class, not a group.
    """
    counts = Counter(value for value in values if value)
    if not crossing(values, splits)[1] or _is_measurement(values) or len(counts) < 5:
        return None
    each = sum(counts.values()) / len(counts)
    words = _words_of_name(column)
    if words & PEOPLE or (words & THINGS and 2 <= each <= 50 and not _renames_class(values, task)):
        return "its name says group"
    if not could_be_group(values) or task is None or _renames_class(values, task):
        return None
    rows = choose_rows(task, np.array([bool(value) for value in values]), seed)
    if not len(rows):
        return None
    score = score_lookup(task, rows, [values[row] for row in rows], 0.5)
    return f"the value tells the target in {score}" if score.suspicious else None


def _words_of_name(column: str) -> set[str]:
    """The lower-case words of a column's name, plural and singular: patientIDs -> patient, ids, id.

    Words are split at capitals, digits and signs.
    """
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower()))
    return words | {word.removesuffix("s") for word in words}


def could_be_group(values: Sequence[str]) -> bool:
    """Whether there are twenty values or more, of 2 to 50 rows each, that are no measurements."""
    counts = Counter(value for value in values if value)
    return (
        len(counts) >= 20
        and 2 <= sum(counts.values()) / len(counts) <= 50
        and not _is_measurement(values)
    )


def _is_measurement(values: Sequence[str]) -> bool:
    """Whether the values are many numbers, not all of them whole."""
    numbers = continuous(values)
    return numbers is not None and not np.all(numbers[np.isfinite(numbers)] % 1 == 0)


def _renames_class(values: Sequence[str], task: Task | None) -> bool:
    """Whether each value stands in one class, and half the classes or more have under SEVERAL."""
    if task is None:
        return False
    codes = task.codes.tolist()
    pairs = {(value, code) for value, code in zip(values, codes) if value and code >= 0}
    one_class_each = len({value for value, _ in pairs}) == len(pairs)
    return one_class_each and np.median(list(Counter(code for _, code in pairs).values())) < SEVERAL
