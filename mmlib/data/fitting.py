"""What is fitted on the training rows: target, sizes and normalisation of images, vocabularies."""

from collections.abc import Mapping

import numpy as np
import torch

from mmlib.data.columns import Fitted
from mmlib.data.depth import fit_scale
from mmlib.data.describe import brief, missing_classes
from mmlib.data.image import choose_size, image_extrema, image_size
from mmlib.data.labels import wrong_flags
from mmlib.data.manifest import Manifest
from mmlib.data.modalities import Modality
from mmlib.data.preprocessing import Preprocessing
from mmlib.data.problems import ManifestErrors
from mmlib.data.splits import CURE
from mmlib.data.store import Files, Images
from mmlib.data.targets import TO_CORRECT, Target, check_target, odd_numbers, read_target
from mmlib.data.text import Vocabulary

MANY = 1000  # files whose sizes and pixels are measured, at most


def fit_target(
    manifest: Manifest, split: np.ndarray, task: str | None, given: Preprocessing | None
) -> Target:
    """The target of the training rows, or the given one; checked against the other rows.

    A class that a drawn test split lacks is an error. In a split column it is its author's choice:
    there it is a warning in the summary.
    """
    if manifest.target is None:
        return Target(None) if given is None else given.target
    column = manifest.target_name or "target"
    labels = task == "labels" or bool(manifest.target_columns)
    if given is not None:
        labels = given.target.labels is not None
    kept = [
        row
        for row, (value, name) in enumerate(zip(manifest.target, split.tolist(), strict=True))
        if name and (value or labels)  # a row without any label is a row
    ]
    values, names = [manifest.target[row] for row in kept], [str(split[row]) for row in kept]
    _refuse_odd_cells(manifest, kept, values, task if given is None else given.target.task)
    if given is None:
        used = [value for value, name in zip(values, names, strict=True) if name == "train"]
        target = read_target(used, task, column, manifest.target_columns)
    else:
        target = given.target
    check_target(target, values, names, column)
    if given is None and manifest.split is None and "test" in names:
        for classes in missing_classes(manifest, target, split, ["test"]).values():
            raise ValueError(
                f"{manifest.name} has no split column, and no row of {brief(classes)} was drawn "
                f"into 'test', so no score there would say anything about it. {CURE}"
            )
    return target


def _refuse_odd_cells(
    manifest: Manifest, rows: list[int], values: list[str], task: str | None
) -> None:
    """Raise ManifestErrors for cells of the target that should be numbers, or flags of labels."""
    column = manifest.target_name or "target"
    if manifest.target_columns:
        wrong = wrong_flags(values, manifest.target_columns)
        problems = [manifest.problem(rows[i], name, cell, why) for i, name, cell, why in wrong]
        advice = "Correct these cells, or name other columns with --target"
    else:
        odd = odd_numbers(values, task)
        problems = [manifest.problem(rows[i], column, values[i], why) for i, why in odd.items()]
        advice = TO_CORRECT
    if problems:
        raise ManifestErrors(manifest.name, problems, advice)


def choose_sizes(
    files: Mapping[str, Files], split: np.ndarray, given: Preprocessing | None
) -> None:
    """Set the size in pixels of each store of images, and the scale of more than 8 bits.

    They are the given ones, or else chosen from files of the training rows: sizes from the
    headers, scales from the pixels of those that have more than 8 bits.
    """
    for name, store in files.items():
        if not isinstance(store, Images):
            continue
        if given is not None:
            store.size, store.scale = given.sizes[name], given.scale.get(name)
            continue
        sizes, extrema = [], []
        for i in _training_files(store, split):
            try:
                sizes.append(image_size(store.paths[i]))
                extrema.append(image_extrema(store.paths[i]))
            except ValueError:
                continue  # reported with all the others when the files are read
        store.size = choose_size(sizes)
        store.scale = fit_scale([found for found in extrema if found is not None])


def fit(
    manifest: Manifest,
    modalities: dict[str, Modality],
    files: Mapping[str, Files],
    split: np.ndarray,
    target: Target,
) -> Preprocessing:
    """Normalisation and vocabularies, from the training rows only, beside what is known."""
    sizes, mean, std, scale, vocabularies = {}, {}, {}, {}, {}
    for name, store in files.items():
        if isinstance(store, Images):
            sizes[name] = store.size
            if store.scale:
                scale[name] = {kind: list(ends) for kind, ends in store.scale.items()}
            mean[name], std[name] = _moments(store, split)
    for name, modality in modalities.items():
        if modality.kind == "text":
            pairs = zip(manifest.cells[name], split, strict=True)
            vocabularies[name] = Vocabulary.fit(cell for cell, part in pairs if part == "train")
    tables = {
        name: _fit_table(manifest, name, modality, split)
        for name, modality in modalities.items()
        if modality.kind == "table"
    }
    return Preprocessing(
        modalities,
        manifest.target_name,
        target,
        sizes,
        mean,
        std,
        vocabularies,
        group=manifest.group_name,
        split_columns=manifest.split_columns,
        tables=tables,
        scale=scale,
    )


def _fit_table(manifest: Manifest, name: str, modality: Modality, split: np.ndarray) -> Fitted:
    pairs = zip(manifest.cells[name], split, strict=True)
    try:
        return Fitted.fit(modality.columns, [cell for cell, part in pairs if part == "train"])
    except ValueError as error:
        raise ValueError(f"{manifest.name}: {error}") from error


def _training_files(store: Images, split: np.ndarray) -> list[int]:
    """Up to ``MANY`` evenly spaced files of the training rows."""
    files = np.unique(store.where[(split == "train") & (store.where >= 0)])
    if not len(files):
        return []
    places = np.linspace(0, len(files) - 1, min(MANY, len(files))).astype(int)
    return files[np.unique(places)].tolist()


def _moments(store: Images, split: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel of 0..1, from exact integer sums.

    A deviation is at least 0.02: images of one colour are not blown up.
    """
    files = _training_files(store, split)
    total, square = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for i in files:
        image = store.load(i) if store.data is None else store.data[i]
        pixels = image.long().flatten(1)  # (3, S * S)
        total, square = total + pixels.sum(dim=1), square + (pixels**2).sum(dim=1)
    count = max(1, len(files)) * store.size**2 * 255
    mean = total.double() / count
    variance = square.double() / count / 255 - mean**2
    return mean.tolist(), variance.clamp(min=0.02**2).sqrt().tolist()
