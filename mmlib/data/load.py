"""A manifest -> loaders per split, and the preprocessing fitted on its training rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmlib.data.augment import DEFAULT, Augment
from mmlib.data.decode import estimate
from mmlib.data.describe import describe
from mmlib.data.find import empty_cells, find_files, read_files, wrong_columns
from mmlib.data.fitting import choose_sizes, fit, fit_target
from mmlib.data.labels import COLUMNS
from mmlib.data.loaders import Loader
from mmlib.data.manifest import Manifest
from mmlib.data.preprocessing import Preprocessing
from mmlib.data.problems import ManifestErrors, Problem
from mmlib.data.splits import check_drawn, choose_splits
from mmlib.data.store import Columns, Store, Texts
from mmlib.data.targets import Target, check_task
from mmlib.machine import cores, free_memory

_SKIP = "Correct these, or leave the rows out with --on-error skip"


@dataclass(frozen=True)
class Data:
    """What ``load_data`` returns.

    >>> import pandas as pd
    >>> from mmlib import load_data, read_manifest
    >>> table = {"text": ["it purrs", "it barks", "purrs"], "label": ["cat", "dog", "cat"]}
    >>> table = pd.DataFrame(table | {"split": ["train", "train", "val"]})
    >>> data = load_data(read_manifest(table))
    >>> list(data.loaders), data.counts, data.skipped
    (['train', 'val'], [1, 1], [])
    """

    loaders: dict[str, Loader]  # by split: "train", the one that shuffles, "val", "test", others
    preprocessing: Preprocessing
    counts: list[int] | None  # training rows per class, for the prior; None for regression, labels
    skipped: list[Problem]  # rows left out because something in them is bad
    summary: list[str]  # what was found and chosen, to print


def load_data(
    manifest: Manifest,
    preprocessing: Preprocessing | None = None,
    *,
    splits: Iterable[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    augment: Augment | None = DEFAULT,
    task: str | None = None,
    on_error: str = "raise",
    memory: bool | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Data:
    """Read a manifest's files and make a loader for each split (or those of ``splits``).

    Without ``preprocessing`` it is fitted on the training rows; with that of a trained model, data
    is prepared as for that model. ``augment`` is for the loader "train"; None makes it one like the
    others, in order and unchanged, as for evaluation. ``task`` is "classification", "regression"
    or "labels"; None lets a rule decide (``read_target``). ``on_error`` "raise" reports all bad
    rows in one ManifestErrors; "skip" leaves them out and lists them.

    ``memory`` True keeps what was decoded, False reads from disk with ``workers`` processes. None
    decides: memory, if the data takes less than half of what is free. Where splits are drawn here
    (see ``choose_splits``), an empty one, or a class that train or test has no row of, is a
    ValueError that says what to do.

    >>> import pandas as pd
    >>> from mmlib import load_data, read_manifest
    >>> table = {"text": ["it purrs", "it barks", "purrs"], "label": ["cat", "dog", "cat"]}
    >>> table = pd.DataFrame(table | {"split": ["train", "train", "val"]})
    >>> print(*load_data(read_manifest(table)).summary, sep="\\n")
    rows: 2 train, 1 val (the manifest's split column)
    label: 2 classes (cat, dog)
    warning: split 'val' has no row of class 'dog'
    text: 7 tokens in the vocabulary, missing in 0 rows
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    task, names = check_task(task), choose_splits(manifest)
    if preprocessing is None and splits is None:
        check_drawn(manifest, names)
    wanted = _wanted_splits(manifest, names, splits, preprocessing is None)
    split = np.array([name if name in wanted else "" for name in names])
    # the target before the files: its errors are found at once
    target = fit_target(manifest, split, task, preprocessing)
    modalities = manifest.modalities if preprocessing is None else preprocessing.modalities
    modalities = dict(sorted(modalities.items()))
    files, problems = find_files(manifest, modalities, split)
    tables = {} if preprocessing is None else preprocessing.tables
    problems += wrong_columns(manifest, modalities, split, tables)
    choose_sizes(files, split, preprocessing)
    needed = sum(estimate(store) for store in files.values())
    memory = needed < free_memory() / 2 if memory is None else memory
    problems += empty_cells(manifest, split, target)
    problems += read_files(manifest, modalities, files, memory, progress)
    bad = _left_out(manifest, problems, split, on_error)
    if preprocessing is None:
        target = fit_target(manifest, split, task, None) if bad else target
        preprocessing = fit(manifest, modalities, files, split, target)
        # what fitted columns of numbers cannot read, where it did not look like numbers before
        late = wrong_columns(manifest, modalities, split, preprocessing.tables)
        bad += _left_out(manifest, late, split, on_error)
    texts = _encode_texts(manifest, preprocessing, split)
    stores: dict[str, Store] = {**files, **texts, **_encode_tables(manifest, preprocessing, split)}
    encoded = _encode_target(manifest, target, split)
    workers = 0 if memory else min(8, cores()) if workers is None else workers

    def make(name: str) -> Loader:
        rows, changes = np.flatnonzero(split == name), augment if name == "train" else None
        return Loader(preprocessing, stores, rows, encoded, batch_size, seed, changes, workers)

    loaders = {name: make(name) for name in wanted}
    summary = describe(manifest, names, preprocessing, stores, split, loaders)
    summary += _describe_files(needed, memory, workers)
    return Data(loaders, preprocessing, _count(manifest, target, split), bad, summary)


def _left_out(
    manifest: Manifest, problems: list[tuple[int, Problem]], split: np.ndarray, on_error: str
) -> list[Problem]:
    """The problems in the order of their rows, which are of no split from here on.

    Raises ManifestErrors where there is one, and ``on_error`` is "raise".
    """
    bad = [problem for _, problem in sorted(problems)]
    if bad and on_error == "raise":
        raise ManifestErrors(manifest.name, bad, _SKIP)
    split[[row for row, _ in problems]] = ""
    return bad


def _wanted_splits(
    manifest: Manifest, names: Sequence[str], splits: Iterable[str] | None, training: bool
) -> list[str]:
    """The splits to make loaders for: train, val, test, then others by name."""
    order = ["train", "val", "test"]
    others = sorted(set(names) - {"", *order})
    there = [name for name in order if name in names] + others
    wanted = there if splits is None else list(splits)
    missing = [name for name in wanted + ["train"] * training if name not in there]
    if missing:
        raise ValueError(
            f"{manifest.name} has no rows in split {missing[0]!r}; its splits are {there}"
        )
    return wanted


def _encode_texts(manifest: Manifest, fitted: Preprocessing, split: np.ndarray) -> dict[str, Texts]:
    """The token ids of each text modality; rows of no split have none."""
    stores = {}
    for name, vocabulary in fitted.vocabularies.items():
        cells = manifest.cells_of(name, fitted.modalities[name])
        used = [cell if part else "" for cell, part in zip(cells, split, strict=True)]
        stores[name] = Texts.encode(used, vocabulary)
    return stores


def _encode_tables(
    manifest: Manifest, fitted: Preprocessing, split: np.ndarray
) -> dict[str, Columns]:
    """The columns of each table; rows of no split are empty."""
    stores = {}
    for name, table in fitted.tables.items():
        cells = manifest.cells_of(name, fitted.modalities[name])
        stores[name] = table.encode([c if part else "" for c, part in zip(cells, split)])
    return stores


def _encode_target(manifest: Manifest, target: Target, split: np.ndarray) -> Tensor | None:
    """(rows, ...) as ``Target.encode``; in rows of no split anything: nobody reads them."""
    if manifest.target is None:
        return None
    anything = target.classes[0] if target.classes else "0"
    if target.labels is not None:
        anything = COLUMNS * (len(target.labels) - 1) if target.separator is None else ""
    pairs = zip(manifest.target, split, strict=True)
    return target.encode([value if part else anything for value, part in pairs])


def _count(manifest: Manifest, target: Target, split: np.ndarray) -> list[int] | None:
    """Training rows of each class; None for regression and labels."""
    if target.classes is None or manifest.target is None:
        return None
    pairs = zip(manifest.target, split, strict=True)
    counts = Counter(value for value, part in pairs if part == "train")
    return [counts[name] for name in target.classes]


def _describe_files(needed: int, memory: bool, workers: int) -> list[str]:
    """Where the decoded files are; nothing where there are no files."""
    if not needed:
        return []
    if memory:
        return [f"files: in memory, about {needed / 1e6:.0f} MB"]
    return [f"files: read from disk by {workers} workers ({needed / 1e6:.0f} MB decoded)"]
