"""A manifest -> what leaks in it.

That is: answers among the inputs, copies and groups across splits, files that give the answer away,
and shift between the splits.

What distinguishes an answer from evidence? Evidence has to be read, seen or heard: many words,
pixels or tones, and it errs. An answer needs none of that: a short table, one word for each class,
the file's format or the image's corner is enough. So a good score alone is no finding: a model that
sees trivially little must reach it. Each such score is measured on held-out rows and printed beside
its bound. What a path says is ignored: cats/001.png is how people store data, and no model here
reads paths. The length of a sound is ignored too: a bark is shorter than a meow. Equal samples in
one split with different labels are label noise, not a leak.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmlib.data.manifest import Manifest
from mmlib.data.splits import choose_splits
from mmlib.leaks.columns import (
    A_LITTLE,
    NEARLY_ALL,
    answer_in_missing,
    answer_in_text,
    continuous,
    could_be_group,
    is_identifier,
    score_column,
    suspect_group,
)
from mmlib.leaks.copies import Copies, equal_files, near_files
from mmlib.leaks.files import FileFeatures, Files, contents, file_features, find_files
from mmlib.leaks.score import (
    FOLDS,
    Task,
    choose_rows,
    lookup_shares,
    read_task,
    suspicion,
    tree_shares,
)
from mmlib.leaks.shift import DomainScore, domain_classifier, domain_table
from mmlib.leaks.splits import crossing, describe_crossing
from mmlib.leaks.texts import text_copies

# The kinds of findings, the worst first.
KINDS = ("answer", "missing", "copies", "group", "encoding", "size", "frame", "shift")
# The share of the majority's errors that may be left where the frame of an image or a sound is said
# to predict the target: the subject itself can reach into the frame.
ALMOST_NONE = 0.02
KEEP_TOGETHER = (
    "keep one of each, or name in a column which rows belong together and give it "
    "with --group (and no split column)"
)


class Finding(NamedTuple):
    """One thing found; ``str()`` is its line.

    >>> print(Finding("answer", "diagnosis", "it is the label", "do not use it"))
    answer: diagnosis: it is the label; cure: do not use it
    """

    kind: str  # one of KINDS
    column: str
    evidence: str
    cure: str

    def __str__(self) -> str:
        return " ".join(f"{self.kind}: {self.column}: {self.evidence}; cure: {self.cure}".split())


class _Case(NamedTuple):
    """What every check needs."""

    manifest: Manifest
    splits: np.ndarray  # (rows,) the splits that training would use
    task: Task | None
    groups: np.ndarray  # (rows,)
    folds: np.ndarray  # (rows,)
    seed: int


def find(manifest: Manifest, quick: bool = False, seed: int = 0) -> list[Finding]:
    """All that leaks, the worst kind first; an empty list where nothing was found.

    ``quick`` does not decode files, nor fit models on what is in them: it checks columns, texts,
    groups, and which files have the same bytes. ``seed`` draws folds and rows. Files that cannot be
    read, and a target that cannot be learned, are ignored here: ``load_data`` names them.

    >>> import pandas
    >>> from mmlib import read_manifest
    >>> animals = ["cat", "dog"] * 40
    >>> texts = [f"photo {i} of a {animal}" for i, animal in enumerate(animals)]
    >>> manifest = read_manifest(pandas.DataFrame({"text": texts, "label": animals}))
    >>> for finding in find(manifest):
    ...     print(finding)
    answer: text: 100% of the texts name a class, the right one in 100.0% of held-out rows (bound
    95.0%, majority 50.0%): it is the answer, not evidence; cure: there is nothing else to learn
    from: use another column
    """
    case = _case(manifest, seed)
    findings = [*_columns(case), *_groups(case)]
    for modality, (kind, column) in manifest.modalities.items():
        if kind == "text":
            findings += _text(case, modality, column, quick)
        elif kind != "table":  # its columns are judged with the others
            findings += _files(case, modality, kind, column, quick)
    # Splits that are drawn here are drawn at random: they cannot differ.
    if not quick and manifest.split is not None:
        for column, values in _possible_inputs(manifest).items():
            findings += _column_shift(case, column, values)
    return sorted(findings, key=lambda finding: KINDS.index(finding.kind))


def _case(manifest: Manifest, seed: int) -> _Case:
    """The manifest with its target; without one each row is its own group, in folds by chance."""
    task, splits = read_task(manifest, seed), np.array(choose_splits(manifest))
    if task is not None:
        return _Case(manifest, splits, task, task.groups, task.folds, seed)
    rows = len(manifest)
    folds = np.random.default_rng(seed).permutation(rows) % FOLDS
    return _Case(manifest, splits, None, np.arange(rows), folds, seed)


def checks(manifest: Manifest, quick: bool = False) -> list[str]:
    """What ``find`` checks in this manifest, in words, to be printed where nothing was found."""
    task = read_task(manifest, 0)
    named = task is not None and len(task.classes) > 1
    made = ["groups across splits"]
    if named and _possible_inputs(manifest):
        made.append("columns that are the answer")
    if named and len(manifest.modalities) > 1:
        made.append("classes with missing modalities")
    for kind, column in manifest.modalities.values():
        if kind == "text":
            made += [f"{column}: the answer in words"] * named
            made.append(f"{column}: texts in two splits")
        elif kind != "table":
            made.append(f"{column}: " + ("equal files" if quick else "copies") + " across splits")
            if named and not quick:
                made.append(f"{column}: format, size and edges of files of a class")
    return made + ["shift between splits"] * (not quick and manifest.split is not None)


def _possible_inputs(manifest: Manifest) -> dict[str, list[str]]:
    """The columns of tables, and those that could become inputs; not where ``use`` has chosen."""
    return manifest.table_columns() | ({} if manifest.chosen else manifest.extra)


def _columns(case: _Case) -> Iterator[Finding]:
    """Columns, and patterns of missing modalities, that predict the target."""
    if case.task is None:
        return
    for column, values in _possible_inputs(case.manifest).items():
        suspected = case.manifest.group is None and _why_group(case, column, values)
        if suspected or is_identifier(values, case.splits):
            continue
        score = score_column(values, case.task, case.seed)
        if score is not None and score.suspicious:
            yield Finding(
                "answer",
                column,
                f"{len(set(values)):,} distinct values tell the target in {score}",
                "never use it as an input unless it is known before the answer is",
            )
    predicted = answer_in_missing(case.manifest, case.task, case.seed)
    if predicted:
        yield Finding(
            "missing",
            ",".join(modality.column for modality in case.manifest.modalities.values()),
            f"which modalities a row has, whatever is in them, tells {predicted}",
            "collect all classes alike, or use the modalities that every row has",
        )


def _why_group(case: _Case, column: str, values: list[str]) -> str | None:
    """The reason why a column is a group that stands in several splits, or None."""
    return suspect_group(column, values, case.splits, case.task, case.seed)


def _groups(case: _Case) -> Iterator[Finding]:
    """Groups that stand in several splits: the given ones, or else columns that look like one."""
    rows = case.manifest.rows
    if case.manifest.group is not None:
        if crossing(case.manifest.group, case.splits)[1]:
            yield Finding(
                "group",
                "--group",
                describe_crossing(case.manifest.group, case.splits, rows, "groups") + "; bound 0",
                "move each group into one split, or leave the split column out: it is then drawn "
                "by group",
            )
        return
    for column, values in case.manifest.extra.items():
        reason = _why_group(case, column, values)
        if reason:
            crossed = describe_crossing(values, case.splits, rows, "values")
            yield _torn_group(column, f"{crossed}, and {reason}")


def _torn_group(column: str, evidence: str) -> Finding:
    """A column that is probably a group, and stands in several splits."""
    cure = f"if its rows belong together, add --group {column} and let each value keep to one split"
    return Finding("group", column, evidence, cure)


def _column_shift(case: _Case, column: str, values: list[str]) -> Iterator[Finding]:
    """A column whose values differ between the splits.

    Where it has many names with a few rows each, some of them in both splits, it is a group that
    was torn apart, not a shift.
    """
    score = domain_table(values, case.splits, case.groups, case.folds, case.seed)
    if score is None or not score.suspicious:
        return
    if _why_group(case, column, values):  # ``_groups`` has named it
        return
    if not could_be_group(values) or continuous(values) is not None:
        yield from _shift(score, column)
    elif case.manifest.group is None:
        rows = case.manifest.rows
        yield _torn_group(column, describe_crossing(values, case.splits, rows, "values"))


def _copies(
    case: _Case, column: str, copies: Copies, present: np.ndarray, what: str
) -> Iterator[Finding]:
    """Rows that repeat ``what`` of an earlier split; ``present`` (rows,): those that have one."""
    if not len(copies.later):
        return
    # Where the manifest has no rows of val, they are taken from train.
    drawn = sorted(set(case.splits[copies.later]) - set(case.manifest.split or []))
    note = f" ({', '.join(drawn)} drawn here, row by row)" if drawn else ""
    repeats = copies.describe(case.splits, case.manifest.rows, what, present)
    yield Finding("copies", column, f"{repeats}{note}, bound 0", KEEP_TOGETHER)


def _text(case: _Case, modality: str, column: str, quick: bool) -> Iterator[Finding]:
    """Texts that are the answer, that are copies, or that differ between the splits."""
    texts = case.manifest.cells[modality]
    reason = answer_in_text(texts, case.task, case.seed) if case.task is not None else None
    if reason:
        others = ",".join(name for name in case.manifest.modalities if name != modality)
        cure = "there is nothing else to learn from: use another column"
        if others:
            cure = f"leave it out with --use {others}"
        yield Finding("answer", column, f"{reason}: it is the answer, not evidence", cure)
    present = np.array([bool(text) for text in texts])
    copies = text_copies(texts, case.splits, not quick, case.seed)
    yield from _copies(case, column, copies, present, "a text too long for chance")
    if not quick and case.manifest.split is not None:
        score = domain_classifier(texts, case.splits, present, case.groups, case.folds, case.seed)
        yield from _shift(score, column)


def _files(case: _Case, modality: str, kind: str, column: str, quick: bool) -> Iterator[Finding]:
    """Files that are copies, that give the answer away, or that differ between the splits."""
    files = find_files(case.manifest, modality)
    copies = equal_files(files, contents(files.paths), case.splits)
    features = [] if quick else file_features(files.paths, kind)
    if not quick:
        copies = near_files(files, features, kind, case.splits, copies)
    what = "an image" if kind == "image" else "a sound"
    yield from _copies(case, column, copies, files.of_row >= 0, what)
    if all(one is None for one in features):  # quick, or no file can be read
        return
    readable = np.append([one is not None for one in features], False)[files.of_row]  # (rows,)
    yield from _giveaways(case, kind, column, files, features, readable)
    if case.manifest.split is not None:
        yield from _file_shift(case, column, files, features, readable)


def _giveaways(
    case: _Case,
    kind: str,
    column: str,
    files: Files,
    features: Sequence[FileFeatures | None],
    readable: np.ndarray,
) -> Iterator[Finding]:
    """What predicts the target without the subject itself: encoding, size, frame."""
    task = case.task
    rows = np.zeros(0, np.int64) if task is None else choose_rows(task, readable, case.seed)
    if task is None or not len(rows):
        return
    found = [one for file in files.of_row[rows] if (one := features[file]) is not None]
    encodings = lookup_shares(task, rows, [one.encoding for one in found])
    predicted = suspicion(task, rows, encodings, A_LITTLE)
    if predicted:
        evidence = f"the files' format, mode and rate tell {predicted}"
        cure = "convert all files to one format, mode, quality and rate"
        yield Finding("encoding", column, evidence, cure)
        return  # sizes and frames differ because of it
    classes = len(task.classes)
    sizes = tree_shares(task, rows, np.array([one.size for one in found]), 4 * classes)
    predicted = suspicion(task, rows, sizes, NEARLY_ALL)
    if predicted:
        cure = "bring the files of all classes to one form by one program"
        yield Finding("size", column, f"the files' sizes tell {predicted}", cure)
    frames = tree_shares(task, rows, np.stack([one.frame for one in found]), classes)
    predicted = suspicion(task, rows, frames, ALMOST_NONE)
    if predicted:
        image, audio = "borders and corners", "level, offset and silence at the ends"
        evidence = f"{image if kind == 'image' else audio} alone tell {predicted}"
        cure = "look whether they show the thing itself; if not, crop or mask them"
        yield Finding("frame", column, evidence, cure)


def _file_shift(
    case: _Case,
    column: str,
    files: Files,
    features: Sequence[FileFeatures | None],
    readable: np.ndarray,
) -> Iterator[Finding]:
    """A shift in what the files show."""
    nothing = np.zeros(len(next(one.content for one in features if one is not None)))
    content = [nothing if one is None else one.content for one in features]
    of_row = np.stack([*content, nothing])[files.of_row]  # (rows, F) float64; -1 reads the last
    groups, folds = case.groups, case.folds
    if case.manifest.group is None:  # rows of one file are one group, and lie in one fold
        alone = len(files.paths) + np.arange(len(files.of_row))
        groups = np.where(files.of_row >= 0, files.of_row, alone)
        folds = np.random.default_rng(case.seed).permutation(groups.max() + 1)[groups] % FOLDS
    score = domain_classifier(of_row, case.splits, readable, groups, folds, case.seed)
    yield from _shift(score, column)


def _shift(score: DomainScore | None, column: str) -> Iterator[Finding]:
    """A shift, where the splits can be separated suspiciously well."""
    if score is not None and score.suspicious:
        yield Finding(
            "shift",
            column,
            f"a classifier tells the splits apart, {score}: a shift, not a leak",
            "if by design (new voices, a later year) read the test score as one under this shift; "
            "else draw the splits again",
        )
