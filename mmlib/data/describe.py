"""What was found in a manifest and what was chosen, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mmlib.data import labels
from mmlib.data.audio import RATE, WINDOW
from mmlib.data.columns import describe as describe_columns
from mmlib.data.loaders import Loader
from mmlib.data.manifest import Manifest
from mmlib.data.preprocessing import Preprocessing
from mmlib.data.splits import SHARES, is_drawn
from mmlib.data.store import MAX_TOKENS, Columns, Images, Store, Texts
from mmlib.data.targets import Target, alike


def missing_classes(
    manifest: Manifest, target: Target, split: np.ndarray, names: Iterable[str]
) -> dict[str, list[str]]:
    """By split, the classes that it has no row of; splits that have all are left out."""
    if target.classes is None or manifest.target is None:
        return {}
    there = set(zip(split.tolist(), manifest.target, strict=True))
    missing = {name: [c for c in target.classes if (name, c) not in there] for name in names}
    return {name: classes for name, classes in missing.items() if classes}


def brief(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def describe(
    manifest: Manifest,
    names: Sequence[str],
    fitted: Preprocessing,
    stores: Mapping[str, Store],
    split: np.ndarray,
    loaders: Mapping[str, Loader],
) -> list[str]:
    """What was found and chosen, in words: splits, target, each modality, and warnings."""
    lines = [_describe_splits(manifest, names, split, loaders)]
    if manifest.target is not None:
        lines += _describe_target(fitted.target)
        if fitted.target.labels is not None:
            used = [value for value, name in zip(manifest.target, split) if name == "train"]
            lines += labels.describe(fitted.target.encode(used), fitted.target.labels)
    for name, classes in missing_classes(manifest, fitted.target, split, loaders).items():
        lines.append(f"warning: split {name!r} has no row of class {brief(classes)}")
    rows = np.flatnonzero(split != "")
    for name in fitted.modalities:
        store = stores[name]
        missing = (~store.row_present(rows)).sum()
        what = _describe_store(fitted, name, store, rows)
        lines.append(f"{name}: {what}, missing in {missing:,} rows")
        if name in fitted.tables:
            lines += _describe_table(manifest, fitted, name, split)
    dropped = sum(loader.dropped for loader in loaders.values())
    if dropped:
        lines.append(f"{dropped:,} training rows have none of these modalities and are left out")
    crossing = _crossing_groups(manifest, split)
    if crossing:
        lines.append(
            f"warning: {crossing:,} groups have rows in more than one split, so test rows are "
            "not independent of training"
        )
    return lines


def _describe_splits(
    manifest: Manifest, names: Sequence[str], split: np.ndarray, loaders: Iterable[str]
) -> str:
    """How many rows each split has, and who decided it."""
    counts = {name: int((split == name).sum()) for name in loaders}
    if manifest.split is not None:
        how = "the manifest's split column"
        if "val" in names and is_drawn(manifest, "val"):
            how += f"; val is {SHARES['val']:.0%} of its train rows, {_drawn_from(manifest)}"
        return f"rows: {', '.join(f'{n:,} {name}' for name, n in counts.items())} ({how})"
    total = max(1, sum(counts.values()))
    shown = ", ".join(f"{n:,} {name} ({n / total:.0%})" for name, n in counts.items())
    return f"rows: {shown}, {_drawn_from(manifest)}"


def _drawn_from(manifest: Manifest) -> str:
    if manifest.group is not None:
        return f"drawn by group, from the names in {manifest.group_name!r}"
    columns = [column for modality in manifest.split_columns for column in modality.columns]
    return f"drawn from each row's cells in {', '.join(columns)}"


def _describe_target(target: Target) -> list[str]:
    names = target.labels or target.classes
    what, one = ("classes", "class") if target.labels is None else ("labels", "label")
    if names is None:
        return [target.why]
    more = ", ..." if len(names) > 12 else ""
    warnings = [
        f"warning: the {what} {same} differ only in how they are written; if they are one "
        f"{one}, write it in one way"
        for same in alike(names)
    ]
    return [f"{target.why} ({', '.join(names[:12])}{more})", *warnings]


def _describe_table(
    manifest: Manifest, fitted: Preprocessing, name: str, split: np.ndarray
) -> list[str]:
    cells = manifest.cells_of(name, fitted.modalities[name])
    train = [cell for cell, part in zip(cells, split) if part == "train"]
    others = [cell for cell, part in zip(cells, split) if part not in ("", "train")]
    return describe_columns(fitted.tables[name], train, others)


def _describe_store(fitted: Preprocessing, name: str, store: Store, rows: np.ndarray) -> str:
    if isinstance(store, Images):
        ends = [f"{low:,g} black and {high:,g} white" for low, high in (store.scale or {}).values()]
        deep = f", more than 8 bits with {' or '.join(ends)}" if ends else ""
        return f"images at {store.size} x {store.size} pixels{deep}"
    if isinstance(store, Columns):
        return f"{store.mask.shape[1]} columns"
    if isinstance(store, Texts):
        cut = f", {store.truncated:,} texts cut to {MAX_TOKENS} tokens" if store.truncated else ""
        return f"{len(fitted.vocabularies[name]):,} tokens in the vocabulary{cut}"
    lengths = store.row_lengths(rows)
    long = (lengths > WINDOW).sum()
    what = f"clips at {RATE} Hz, longest {lengths.max(initial=0) / RATE:.1f} s"
    if not long:
        return what
    return (
        f"{what}, {long:,} clips over {WINDOW // RATE} s are cut at random in training and "
        "windowed in evaluation"
    )


def _crossing_groups(manifest: Manifest, split: np.ndarray) -> int:
    """How many groups have rows in more than one split."""
    if manifest.group is None:
        return 0
    pairs = set(zip(manifest.group, split.tolist(), strict=True))
    homes = Counter(group for group, name in pairs if group and name)
    return sum(count > 1 for count in homes.values())
