"""A manifest -> what in it leaks: answers among the inputs, copies and groups across splits, files
that give the answer away, shift.

What distinguishes an answer from evidence? Evidence has to be read, seen or heard: many words,
pixels or tones, and it errs. An answer is there at once: a short table, one word per class, the
file's format, the image's corner. So a good score is no finding, and only scores that trivially
little reaches are held against a bound. Every bound is passed on held-out rows and said in the
line. What a path says is not looked at: cats/001.png is how people store data, and no model here
reads paths. The length of a sound is not held against it either: a bark is shorter than a meow.
Equal samples in one split with different labels are label noise, not a leak.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mmlib.data.manifest import Manifest
from mmlib.data.splits import choose_splits
from mmlib.leaks.columns import (
    A_LITTLE,
    NEARLY_ALL,
    continuous,
    could_be_group,
    is_identifier,
    suspect_group,
    tell_column,
    tell_missing,
    tell_text,
)
from mmlib.leaks.copies import Copies, equal_files, near_files
from mmlib.leaks.files import Files, Look, contents, file_features, find_files
from mmlib.leaks.score import (
    FOLDS,
    Task,
    choose_rows,
    lookup_shares,
    read_task,
    told_by,
    tree_shares,
)
from mmlib.leaks.shift import Told, domain_classifier, tell_values
from mmlib.leaks.splits import crossing, tell_crossing
from mmlib.leaks.texts import text_copies

# of the majority's errors may stay where the frame of an image or sound alone is said to tell the
# target
ALMOST_NONE = 0.02
KEEP_TOGETHER = (
    "keep one of each, or name in a column which rows belong together and give it "
    "with --group (and no split column)"
)


class Finding(NamedTuple):
    """One thing found; ``str()`` is its line."""

    kind: str  # answer, missing, copies, group, encoding, size, frame, shift
    column: str
    evidence: str
    cure: str

    def __str__(self) -> str:
        return " ".join(f"{self.kind}: {self.column}: {self.evidence}; cure: {self.cure}".split())


class _Case(NamedTuple):
    """What every check is given."""

    manifest: Manifest
    splits: np.ndarray  # (rows,) the splits that training would use
    task: Task | None
    groups: np.ndarray  # (rows,)
    folds: np.ndarray  # (rows,)
    seed: int


def find(manifest: Manifest, quick: bool = False, seed: int = 0) -> list[Finding]:
    """All that leaks, worst kind first; an empty list where nothing was found.

    ``quick`` leaves out what needs files decoded or models fitted on them: it looks at columns,
    texts, groups and at files of the same bytes. Files that cannot be read, and a target that
    cannot be learnt, are passed over here: the loader names them.
    """
    task = read_task(manifest, seed)
    names = np.array(choose_splits(manifest))
    alone = np.arange(len(manifest))
    groups = alone if task is None else task.groups
    folds = (
        np.random.default_rng(seed).permutation(len(alone)) % FOLDS if task is None else task.folds
    )
    case = _Case(manifest, names, task, groups, folds, seed)
    findings = [*_columns(case), *_groups(case)]
    for modality, (kind, column) in manifest.modalities.items():
        findings += (
            _text(case, modality, column, quick)
            if kind == "text"
            else _files(case, modality, kind, column, quick)
        )
    if (
        not quick and manifest.split is not None
    ):  # splits drawn here are drawn at random: nothing can tell them apart
        for column, values in _in_use(manifest).items():
            findings += _column_shift(case, column, values)
    order = ["answer", "missing", "copies", "group", "encoding", "size", "frame", "shift"]
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def checks(manifest: Manifest, quick: bool = False) -> list[str]:
    """What ``find`` looks for in this manifest, in words: for the line that says that nothing
    was found.
    """
    task = read_task(manifest, 0)
    named = task is not None and len(task.classes) > 1
    looked = ["groups across splits"]
    if named and _in_use(manifest):
        looked.append("columns that are the answer")
    if named and len(manifest.modalities) > 1:
        looked.append("classes with missing modalities")
    for kind, column in manifest.modalities.values():
        if kind == "text":
            looked += [f"{column}: the answer in words"] * named + [
                f"{column}: texts in two splits"
            ]
        else:
            looked.append(f"{column}: " + ("equal files" if quick else "copies") + " across splits")
            looked += [f"{column}: format, size and edges of files of a class"] * (
                named and not quick
            )
    return looked + ["shift between splits"] * (not quick and manifest.split is not None)


def _columns(case: _Case) -> Iterator[Finding]:
    if case.task is None:
        return
    for column, values in _in_use(case.manifest).items():
        if is_identifier(values, case.splits) or (
            case.manifest.group is None and _suspect(case, column, values)
        ):
            continue
        score = tell_column(values, case.task, case.seed)
        if score is not None and score.suspicious:
            yield Finding(
                "answer",
                column,
                f"{len(set(values)):,} distinct values tell the target in {score}",
                "never use it as an input unless it is known before the answer is",
            )
    told = tell_missing(case.manifest, case.task, case.seed)
    if told:
        yield Finding(
            "missing",
            ",".join(modality.column for modality in case.manifest.modalities.values()),
            f"which modalities a row has, whatever is in them, tells {told}",
            "collect all classes alike, or use the modalities that every row has",
        )


def _in_use(manifest: Manifest) -> dict[str, list[str]]:
    """The other columns, as inputs that one may come to think of; none where ``use`` has chosen."""
    return {} if manifest.chosen else manifest.extra


def _suspect(case: _Case, column: str, values: list[str]) -> str | None:
    return suspect_group(column, values, case.splits, case.task, case.seed)


def _groups(case: _Case) -> Iterator[Finding]:
    rows = case.manifest.rows
    if case.manifest.group is not None:
        if crossing(case.manifest.group, case.splits)[1]:
            yield Finding(
                "group",
                "--group",
                tell_crossing(case.manifest.group, case.splits, rows, "groups") + "; bound 0",
                "move each group into one split, or leave the split column out: it is then drawn "
                "by group",
            )
        return
    for column, values in case.manifest.extra.items():
        reason = _suspect(case, column, values)
        if reason:
            yield Finding(
                "group",
                column,
                f"{tell_crossing(values, case.splits, rows, 'values')}, and {reason}",
                f"if its rows belong together, add --group {column} and let each value keep to "
                "one split",
            )


def _column_shift(case: _Case, column: str, values: list[str]) -> Iterator[Finding]:
    """A column that tells the splits apart. Where it has many names with a few rows each, some of
    them in both splits, it is a group torn apart, not a shift of the world."""
    told = tell_values(values, case.splits, case.groups, case.folds, case.seed)
    if (
        told is None or not told.suspicious or _suspect(case, column, values)
    ):  # that is said already
        return
    if not could_be_group(values) or continuous(values) is not None:
        yield from _shift(told, column)
    elif case.manifest.group is None:
        yield Finding(
            "group",
            column,
            tell_crossing(values, case.splits, case.manifest.rows, "values"),
            f"if its rows belong together, add --group {column} and let each value keep to one "
            "split",
        )


def _copies(
    case: _Case, column: str, copies: Copies, present: np.ndarray, what: str
) -> Iterator[Finding]:
    if len(copies.later):
        given = case.manifest.split or []
        drawn = sorted(
            set(case.splits[copies.later]) - set(given)
        )  # val is taken from train where the manifest has none
        note = f" ({', '.join(drawn)} drawn here, row by row)" if drawn else ""
        yield Finding(
            "copies",
            column,
            copies.describe(case.splits, case.manifest.rows, what, present) + note + ", bound 0",
            KEEP_TOGETHER,
        )


def _text(case: _Case, modality: str, column: str, quick: bool) -> Iterator[Finding]:
    texts = case.manifest.cells[modality]
    others = ",".join(name for name in case.manifest.modalities if name != modality)
    told = tell_text(texts, case.task, case.seed) if case.task is not None else None
    if told:
        yield Finding(
            "answer",
            column,
            f"{told[1]}: it is the answer, not evidence",
            f"leave it out with --use {others}"
            if others
            else "there is nothing else to learn from: use another column",
        )
    present = np.array([bool(text) for text in texts])
    copies = text_copies(texts, case.splits, not quick, case.seed)
    yield from _copies(case, column, copies, present, "a text too long for chance")
    if not quick and case.manifest.split is not None:
        yield from _shift(
            domain_classifier(texts, case.splits, present, case.groups, case.folds, case.seed),
            column,
        )


def _files(case: _Case, modality: str, kind: str, column: str, quick: bool) -> Iterator[Finding]:
    files = find_files(case.manifest, modality)
    copies = equal_files(files, contents(files.paths), case.splits)
    looks = [] if quick else file_features(files.paths, kind)
    if not quick:
        copies = near_files(files, looks, kind, case.splits, copies)
    yield from _copies(
        case, column, copies, files.where >= 0, "an image" if kind == "image" else "a sound"
    )
    if any(look is not None for look in looks):
        yield from _looks(case, kind, column, files, looks)


def _looks(
    case: _Case, kind: str, column: str, files: Files, looks: list[Look | None]
) -> Iterator[Finding]:
    readable = np.append([look is not None for look in looks], False)[files.where]
    task = case.task
    rows = np.zeros(0, np.int64) if task is None else choose_rows(task, readable, case.seed)
    if task is not None and len(rows):
        mine = [looks[file] for file in files.where[rows]]
        classes = len(task.classes)
        encoding = lookup_shares(task, rows, [look.encoding for look in mine])
        size = tree_shares(task, rows, np.array([look.size for look in mine]), 4 * classes)
        frame = tree_shares(task, rows, np.stack([look.frame for look in mine]), classes)
        around = (
            "borders and corners" if kind == "image" else "level, offset and silence at the ends"
        )
        for name, shares, room, what, cure in (
            (
                "encoding",
                encoding,
                A_LITTLE,
                "the files' format, mode and rate tell",
                "convert all files to one format, mode, quality and rate",
            ),
            (
                "size",
                size,
                NEARLY_ALL,
                "the files' sizes tell",
                "bring the files of all classes to one form by one program",
            ),
            (
                "frame",
                frame,
                ALMOST_NONE,
                f"{around} alone tell",
                "look whether they show the thing itself; if not, crop or mask them",
            ),
        ):
            told = told_by(task, rows, shares, room)
            if told:
                yield Finding(name, column, f"{what} {told}", cure)
                if name == "encoding":  # sizes and edges follow from it
                    break
    if case.manifest.split is not None:
        width = next(len(look.content) for look in looks if look is not None)
        features = np.stack(
            [np.zeros(width) if look is None else look.content for look in looks]
            + [np.zeros(width)]
        )[files.where]
        groups, folds = case.groups, case.folds
        if case.manifest.group is None:  # rows of one file are one witness, and lie in one fold
            groups = np.where(
                files.where >= 0, files.where, len(files.paths) + np.arange(len(files.where))
            )
            folds = np.random.default_rng(case.seed).permutation(groups.max() + 1)[groups] % FOLDS
        yield from _shift(
            domain_classifier(features, case.splits, readable, groups, folds, case.seed), column
        )


def _shift(told: Told | None, column: str) -> Iterator[Finding]:
    if told is not None and told.suspicious:
        yield Finding(
            "shift",
            column,
            f"a classifier tells the splits apart, {told}: a shift, not a leak",
            "if by design (new voices, a later year) read the test score as one under this shift; "
            "else draw the splits anew",
        )
