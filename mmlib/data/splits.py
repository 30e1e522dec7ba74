"""The split of every row: from the split column, or drawn from its own cells or its group."""

from collections.abc import Sequence
from hashlib import blake2b

from mmlib.data.manifest import Manifest

# fixed: `evaluate` must find the test rows that `train` left out, whichever seed trained the model
SEED = 0
# A small file can miss a class in test: with 20 rows of each of two classes once in 43 files here,
# once in 13 with 15% for test. In a large file, 20% are little loss.
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
CURE = (
    "Give it a column 'split' with train, val and test, each with rows of every class; "
    "or more rows (with --group: more groups, or finer ones); or take out rare classes"
)


def is_drawn(manifest: Manifest, split: str) -> bool:
    """Whether mmlib, and not the split column, decides which rows this split has."""
    given = manifest.split
    if given is None:
        return True
    return split in ("train", "val") and "train" in given and "val" not in given


def choose_splits(manifest: Manifest) -> list[str]:
    """The split of every row: its cell in the split column, or without one a draw.

    Where the column has no val rows, val is drawn from its train rows, never from test. A draw is a
    function of ``Manifest.keys`` alone: of the name of the row's group, or of the row's own cells.
    The target, the other rows, their order and their number do not matter. So a row keeps its split
    when the file grows, shrinks or is sorted, and equal rows are in one split, as are the rows of a
    group. A row without any cell is in train, where it is left out and counted. The price is that
    shares and classes are as the draw makes them: ``load_data`` prints and checks them.
    """
    if manifest.split is None:
        return [_draw(key, SHARES) for key in manifest.keys()]
    if not is_drawn(manifest, "val"):
        return list(manifest.split)
    shares = {"train": 1 - SHARES["val"], "val": SHARES["val"]}
    pairs = zip(manifest.split, manifest.keys(), strict=True)
    return [_draw(key, shares) if name == "train" else name for name, key in pairs]


def check_drawn(manifest: Manifest, names: Sequence[str]) -> None:
    """Raise ValueError, saying what to do, where a split that was drawn is empty."""
    drawn = [name for name in SHARES if is_drawn(manifest, name)]
    empty = [name for name in drawn if name not in names]
    if not empty:
        return
    pairs = zip(manifest.keys(), names, strict=True)
    count = len({key for key, name in pairs if name in drawn})
    things = "rows" if manifest.group is None else f"groups of {manifest.group_name!r}"
    lacks = "split column" if manifest.split is None else "val rows"
    raise ValueError(
        f"{manifest.name} has no {lacks}, and of its {count:,} different {things} none was drawn "
        f"into {empty[0]!r}: each is drawn by itself, so a small file can miss a split. {CURE}"
    )


def _draw(key: str, shares: dict[str, float]) -> str:
    """The split into whose share of 0..1 the hash of the key falls."""
    if not key:
        return "train"
    place = int.from_bytes(blake2b(f"{SEED}\0{key}".encode(), digest_size=8).digest()) / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name  # by rounding, the shares may add up to a little less than 1
