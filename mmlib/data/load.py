"""A manifest -> loaders per split and the preprocessing fitted on its training rows.

Bad files are reported all together.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mmlib.data.augment import Augment
from mmlib.data.decode import decode, estimate
from mmlib.data.describe import brief, describe, missing_classes
from mmlib.data.image import choose_size, image_size
from mmlib.data.loaders import Loader
from mmlib.data.manifest import Manifest, ManifestErrors, Modality, Problem, resolve
from mmlib.data.preprocessing import Preprocessing
from mmlib.data.splits import SHARES, choose_splits, is_drawn
from mmlib.data.store import Clips, Images, Origin, Store, Texts
from mmlib.data.targets import Target, check_target, read_target
from mmlib.data.text import Vocabulary
from mmlib.machine import cores, free_memory

_DRAWN_CURE = (
    "Give it a column 'split' with train, val and test, each with rows of every class; "
    "or more rows (with --group: more groups, or finer ones); or take out rare classes"
)


@dataclass(frozen=True)
class Data:
    """What ``load_data`` returns."""

    loaders: dict[
        str, Loader
    ]  # "train", "val", "test" and any other split; "train" is the one that shuffles
    preprocessing: Preprocessing
    counts: (
        list[int] | None
    )  # training rows per class, for prior and class weights; None for numbers
    skipped: list[Problem]  # rows left out because something in them is bad
    summary: list[str]  # what was found and chosen, to print


def load_data(
    manifest: Manifest,
    preprocessing: Preprocessing | None = None,
    *,
    splits: Iterable[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    augment: Augment | None = Augment(),
    task: str | None = None,
    on_error: str = "raise",
    memory: bool | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Data:
    """Read a manifest's files and make a loader for each split (or those of ``splits``).

    Without ``preprocessing`` it is fitted on the training rows; with that of a trained model, data
    is brought to its form. ``augment`` is for the loader "train"; None makes it one like the
    others, in order and unchanged, as for evaluation. ``task`` "classes" or "numbers" overrules the
    rule that tells them apart. ``on_error`` "raise" reports all bad rows in one ManifestErrors;
    "skip" leaves them out and lists them. ``memory`` True keeps what was decoded, False reads from
    disk with ``workers`` processes, None decides: memory while it takes less than half of what is
    free. Where splits are drawn here (see ``choose_splits``), one that is empty, or a class that
    train or test has no row of, is a ValueError that says what to do.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    names = choose_splits(manifest)
    if preprocessing is None and splits is None and is_drawn(manifest, "val"):
        _check_drawn(manifest, names)
    wanted = _wanted_splits(manifest, names, splits, preprocessing is None)
    split = np.array([name if name in wanted else "" for name in names])
    target = _fit_target(
        manifest, split, task, preprocessing
    )  # before the files: its errors are the quickest to find
    modalities = dict(
        sorted((manifest.modalities if preprocessing is None else preprocessing.modalities).items())
    )
    stores, problems = _find_files(manifest, modalities, split)
    problems += _empty_cells(manifest, split)
    fitted = preprocessing or Preprocessing(
        modalities,
        manifest.target_name,
        target,
        _fit_sizes(stores, split),
        group=manifest.group_name,
        split_columns=manifest.split_columns,
    )
    for name in fitted.sizes:
        stores[name].size = fitted.sizes[name]
    total = sum(estimate(store) for store in stores.values())
    memory = total < free_memory() / 2 if memory is None else memory
    problems = sorted(
        sum(
            [
                _read_files(manifest, name, modalities[name], stores[name], memory, progress)
                for name in stores
            ],
            problems,
        )
    )
    if problems and on_error == "raise":
        raise ManifestErrors(
            manifest.name,
            [p for _, p in problems],
            "Correct these, or leave the rows out with --on-error skip",
        )
    split[[row for row, _ in problems]] = ""
    if preprocessing is None:
        fitted = _fit(
            replace(
                fitted, target=_fit_target(manifest, split, task, None) if problems else target
            ),
            manifest,
            stores,
            split,
        )
    for name in fitted.vocabularies:
        cells = manifest.cells_of(name, modalities[name])
        stores[name] = Texts.encode(
            [cell if part else "" for cell, part in zip(cells, split)], fitted.vocabularies[name]
        )
    workers = 0 if memory else (min(8, cores()) if workers is None else workers)
    loaders = _make_loaders(
        manifest, fitted, stores, split, wanted, batch_size, seed, augment, workers
    )
    where = (
        f"in memory, about {total / 1e6:.0f} MB"
        if memory
        else f"read from disk by {workers} workers ({total / 1e6:.0f} MB decoded)"
    )
    summary = describe(manifest, names, fitted, stores, split, loaders) + [
        f"files: {where}"
    ] * bool(total)
    return Data(
        loaders, fitted, _count(manifest, fitted.target, split), [p for _, p in problems], summary
    )


def _wanted_splits(
    manifest: Manifest, names: Sequence[str], splits: Iterable[str] | None, training: bool
) -> list[str]:
    there = sorted(
        set(names) - {""}, key=lambda name: (["train", "val", "test", name].index(name), name)
    )
    wanted = there if splits is None else list(splits)
    missing = [name for name in wanted + ["train"] * training if name not in there]
    if missing:
        raise ValueError(
            f"{manifest.name} has no rows in split {missing[0]!r}; its splits are {there}"
        )
    return wanted


def _check_drawn(manifest: Manifest, names: Sequence[str]) -> None:
    """Raise ValueError where a drawn split is empty."""
    drawn = [name for name in SHARES if is_drawn(manifest, name)]
    empty = [name for name in drawn if name not in names]
    if not empty:
        return
    count = len({key for key, name in zip(manifest.keys(), names) if name in drawn})
    things = "rows" if manifest.group is None else f"groups of {manifest.group_name!r}"
    lacks = "split column" if manifest.split is None else "val rows"
    raise ValueError(
        f"{manifest.name} has no {lacks}, and of its {count:,} different {things} none was drawn "
        f"into {empty[0]!r}: each is drawn by itself, so a small file can miss a split. "
        f"{_DRAWN_CURE}"
    )


def _fit_target(
    manifest: Manifest, split: np.ndarray, task: str | None, preprocessing: Preprocessing | None
) -> Target:
    """The target read from the training rows (or the given one), checked against the other rows.

    A class that a drawn test split lacks is an error. In a split column it is its author's choice:
    there it is a warning in the summary.
    """
    if manifest.target is None:
        return Target(None) if preprocessing is None else preprocessing.target
    values, names = zip(
        *[(value, name) for value, name in zip(manifest.target, split) if value and name]
        or [((), ())]
    )
    training = [value for value, name in zip(values, names) if name == "train"]
    target = (
        preprocessing.target if preprocessing else read_target(training, task, manifest.target_name)
    )
    check_target(target, values, names, manifest.target_name)
    if preprocessing is None and manifest.split is None and "test" in names:
        for classes in missing_classes(manifest, target, split, ["test"]).values():
            raise ValueError(
                f"{manifest.name} has no split column, and no row of {brief(classes)} was drawn "
                f"into 'test', so no score there would tell of it. {_DRAWN_CURE}"
            )
    return target


def _empty_cells(manifest: Manifest, split: np.ndarray) -> list[tuple[int, Problem]]:
    found = []
    for i, name in enumerate(split):
        if name and manifest.target is not None and not manifest.target[i]:
            found.append((i, manifest.problem(i, manifest.target_name, "", "the target is empty")))
        if manifest.split is not None and not manifest.split[i]:
            found.append(
                (
                    i,
                    manifest.problem(
                        i, "split", "", "the split is empty, though other rows have one"
                    ),
                )
            )
    return found


def _find_files(
    manifest: Manifest, modalities: dict[str, Modality], split: np.ndarray
) -> tuple[dict[str, Store], list[tuple[int, Problem]]]:
    """Undecoded stores of the images and sounds; one entry per file, however many rows name it."""
    stores: dict[str, Store] = {}
    problems: list[tuple[int, Problem]] = []
    for name, modality in modalities.items():
        if modality.kind == "text":
            continue
        where, paths, known = np.full(len(manifest), -1), [], {}
        for i, cell in enumerate(manifest.cells_of(name, modality)):
            if not cell or not split[i]:
                continue
            if cell not in known:
                try:
                    paths.append(str(resolve(manifest, cell)))
                    known[cell] = len(paths) - 1
                except (ValueError, OSError) as error:
                    known[cell] = str(error)
            if isinstance(known[cell], str):
                problems.append((i, manifest.problem(i, modality.column, cell, known[cell])))
            else:
                where[i] = known[cell]
        image = modality.kind == "image"
        stores[name] = (
            Images(where, paths, 0)
            if image
            else Clips(where, paths, np.zeros(len(paths), dtype=np.int64))
        )
        stores[name].origin = Origin(modality.column, manifest.rows)
    return stores, problems


def _training_files(store: Store, split: np.ndarray, count: int) -> list[int]:
    """Up to ``count`` evenly spaced files of the training rows."""
    files = np.unique(store.where[(split == "train") & (store.where >= 0)])
    return (
        files[
            np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).astype(int))
        ].tolist()
        if len(files)
        else []
    )


def _fit_sizes(stores: dict[str, Store], split: np.ndarray) -> dict[str, int]:
    sizes = {}
    for name, store in stores.items():
        if isinstance(store, Images):
            found = []
            for i in _training_files(store, split, 1000):
                try:
                    found.append(image_size(store.paths[i]))
                except ValueError:
                    continue  # reported with all the others when the files are read
            sizes[name] = choose_size(found)
    return sizes


def _read_files(
    manifest: Manifest, name: str, modality: Modality, store: Store, memory: bool, progress: bool
) -> list[tuple[int, Problem]]:
    """Read every file once, to keep it or only to know that it can be read."""
    reasons = decode(store, memory, progress)
    if not reasons:
        return []
    cells, bad = (
        manifest.cells_of(name, modality),
        np.flatnonzero(np.isin(store.where, list(reasons))),
    )
    return [
        (i, manifest.problem(i, modality.column, cells[i], reasons[int(store.where[i])]))
        for i in bad.tolist()
    ]


def _fit(
    fitted: Preprocessing, manifest: Manifest, stores: dict[str, Store], split: np.ndarray
) -> Preprocessing:
    """Normalisation and vocabularies, from the training rows only."""
    mean, std, vocabularies = {}, {}, {}
    for name, modality in fitted.modalities.items():
        if modality.kind == "image":
            mean[name], std[name] = _moments(
                stores[name], _training_files(stores[name], split, 1000)
            )
        elif modality.kind == "text":
            vocabularies[name] = Vocabulary.fit(
                cell for cell, part in zip(manifest.cells[name], split) if part == "train"
            )
    return replace(fitted, mean=mean, std=std, vocabularies=vocabularies)


def _moments(store: Images, files: list[int]) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel of 0..1, from exact integer sums; a deviation is at least
    0.02.
    """
    total, square = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for i in files:
        pixels = (
            (store.load(i) if store.data is None else store.data[i]).long().flatten(1)
        )  # (3, S * S)
        total, square = total + pixels.sum(dim=1), square + (pixels**2).sum(dim=1)
    count = max(1, len(files)) * store.size**2 * 255
    mean = total.double() / count
    return mean.tolist(), (square.double() / count / 255 - mean**2).clamp(
        min=0.02**2
    ).sqrt().tolist()


def _make_loaders(
    manifest: Manifest,
    fitted: Preprocessing,
    stores: dict[str, Store],
    split: np.ndarray,
    wanted: list[str],
    batch_size: int,
    seed: int,
    augment: Augment | None,
    workers: int,
) -> dict[str, Loader]:
    target = None
    if manifest.target is not None:
        stand_in = fitted.target.classes[0] if fitted.target.classes else "0"  # rows of no loader
        target = fitted.target.encode(
            [value if part else stand_in for value, part in zip(manifest.target, split)]
        )
    return {
        name: Loader(
            fitted,
            stores,
            np.flatnonzero(split == name),
            target,
            batch_size,
            seed,
            augment if name == "train" else None,
            workers,
        )
        for name in wanted
    }


def _count(manifest: Manifest, target: Target, split: np.ndarray) -> list[int] | None:
    if target.classes is None or manifest.target is None:
        return None
    counts = Counter(value for value, part in zip(manifest.target, split) if part == "train")
    return [counts[name] for name in target.classes]
