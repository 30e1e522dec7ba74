"""Pictures of pets, from what is decided about them: place, then pet, then what lies beside it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from mmlib.worlds.pets import poses, scenery
from mmlib.worlds.pets.drawing import SIZE, TEXTURES, Array, Canvas, ellipse

COATS = {  # coat, stripes and spots, patches, outline
    "black": ((0.15, 0.15, 0.18), (0.34, 0.33, 0.38), (0.88, 0.87, 0.86), (0.52, 0.53, 0.62)),
    "white": ((0.95, 0.94, 0.91), (0.70, 0.66, 0.62), (0.35, 0.33, 0.35), (0.50, 0.48, 0.50)),
    "grey": ((0.58, 0.60, 0.66), (0.37, 0.38, 0.44), (0.93, 0.93, 0.94), (0.25, 0.26, 0.32)),
    "brown": ((0.52, 0.33, 0.20), (0.30, 0.17, 0.10), (0.90, 0.83, 0.72), (0.22, 0.12, 0.07)),
    "orange": ((0.95, 0.60, 0.24), (0.76, 0.36, 0.10), (0.98, 0.95, 0.90), (0.48, 0.22, 0.07)),
    "cream": ((0.94, 0.84, 0.66), (0.72, 0.55, 0.36), (0.55, 0.38, 0.26), (0.50, 0.38, 0.25)),
}
IRISES = ((0.45, 0.78, 0.30), (0.96, 0.74, 0.20), (0.40, 0.68, 0.92))
CLOTHS = (
    (0.80, 0.24, 0.28),
    (0.22, 0.45, 0.72),
    (0.30, 0.58, 0.38),
    (0.58, 0.35, 0.66),
    (0.90, 0.62, 0.18),
)
COLLARS = {
    "red": (0.86, 0.12, 0.14),
    "blue": (0.12, 0.36, 0.90),
    "green": (0.10, 0.62, 0.26),
    "yellow": (0.98, 0.80, 0.12),
    "none": (0, 0, 0),
}
PATTERNS = ("plain", "striped", "patched", "spotted")
HIDDEN = -1  # in the place of a species: the picture shows none


def pictures(looks: dict[str, Array], chance: dict[str, Array], species: Array) -> Array:
    """Draw n pictures together, (n, SIZE, SIZE, 3) float32 about 0..1.

    ``looks`` names coat, pattern, collar, place, prop and pose, (n,) str each; ``chance`` holds
    numbers in 0..1, (n,) each, for all that has no name; ``species`` (n,) is 0 or 1, or HIDDEN:
    then nothing that depends on the species can reach the picture.
    """
    pixels = np.zeros((3, len(species), SIZE, SIZE), np.float32)
    chance = {key: values.astype(np.float32)[:, None, None] for key, values in chance.items()}
    for place, scene in scenery.PLACES.items():
        for canvas, at in _where(looks["place"] == place, pixels):
            scene(canvas, [chance[f"w{i}"][at] for i in range(8)])
    for pose, hide in poses.HIDING.items():
        for canvas, at in _where(looks["pose"] == pose, pixels):
            hide(canvas, _pet(canvas, at, looks, chance))
    for pose, show in poses.TELLING.items():
        for dog in (False, True):
            for canvas, at in _where((looks["pose"] == pose) & (species == dog), pixels):
                show(canvas, _pet(canvas, at, looks, chance), dog)
    for prop, thing in scenery.PROPS.items():
        if thing is not None:
            for canvas, at in _where(looks["prop"] == prop, pixels):
                _beside(canvas, at, chance, thing)
    return np.moveaxis(pixels, 0, -1)  # (n, SIZE, SIZE, 3)


def pick(chance: Array, table: Iterable[Any]) -> Array:
    """An entry of the table (its keys, for a dict) for each number in 0..1."""
    names = np.array(list(table))
    return names[(chance * len(names)).astype(np.int64)]


def contact_sheet(images: Array, pose: Array, species: Array, columns: int = 12) -> Array:
    """A row of pictures for each pose: cats on the left, dogs on the right.

    (8 SIZE, columns SIZE, 3) uint8, white where there are too few. In the poses that hide the
    species, the two halves look alike.
    """
    sheet = np.full((len(poses.TELLING) + len(poses.HIDING), columns, SIZE, SIZE, 3), 255, np.uint8)
    for i, name in enumerate((*poses.TELLING, *poses.HIDING)):
        for kind in (0, 1):
            found = np.flatnonzero((pose == name) & (species == kind))[: columns // 2]
            sheet[i, kind * (columns // 2) :][: len(found)] = images[found]
    return sheet.swapaxes(1, 2).reshape(-1, columns * SIZE, 3)


def _where(condition: Array, pixels: Array) -> Iterator[tuple[Canvas, Array]]:
    """Once, a canvas of all pictures for which the condition holds, and their numbers.

    What was drawn on it is then copied back. Nothing, where it holds for none.
    """
    at = np.flatnonzero(condition)
    if len(at):
        canvas = Canvas(np.ascontiguousarray(pixels[:, at]))
        yield canvas, at
        pixels[:, at] = canvas.pixels


def _pet(canvas: Canvas, at: Array, looks: dict[str, Array], chance: dict[str, Array]) -> poses.Pet:
    """The looks of these pets; puts them in their frame, with a shadow."""
    of = {key: values[at] for key, values in chance.items()}
    canvas.frame(
        29 + 6 * of["x"],
        34 + 3 * of["y"],
        0.86 + 0.22 * of["scale"],
        0.1 * of["turn"] - 0.05,
        np.where(of["mirror"] < 0.5, np.float32(-1), np.float32(1)),
    )
    canvas.paint(ellipse(0, 25.5, 21, 4), (0.05, 0.05, 0.12), 0.25)
    pattern, collar = looks["pattern"][at], looks["collar"][at]
    coat, mark, patch, rim = (
        _colours([COATS[name][i] for name in looks["coat"][at]]) for i in range(4)
    )
    return poses.Pet(
        coat=coat,
        mark=np.where((pattern == "patched")[:, None, None], patch, mark),
        pale=coat + 0.72 * (1 - coat),
        rim=rim,
        iris=_colours(pick(of["iris"][:, 0, 0], IRISES)),
        cloth=_colours(pick(of["cloth"][:, 0, 0], CLOTHS)),
        collar=_colours([COLLARS[name] for name in collar]),
        collared=(collar != "none").astype(np.float32)[:, None, None],
        tile=np.array([TEXTURES.index(name) for name in pattern])[:, None, None],
        shift=of["shift"],
        wiggle=[2 * of[f"wiggle{i}"] - 1 for i in range(2)],
    )


def _colours(table: Iterable[Any]) -> Array:
    return np.array(table, np.float32).T[:, :, None, None]  # (3, n, 1, 1)


def _beside(
    canvas: Canvas,
    at: Array,
    chance: dict[str, Array],
    thing: Callable[[Canvas, list[Array]], None],
) -> None:
    """Draw a prop at the left or right of these pets."""
    right = (chance["side"][at] >= 0.5).astype(np.float32)
    canvas.frame(8 + 48 * right, 54 + 3 * chance["w0"][at], 0.85 + 0.2 * chance["w1"][at])
    thing(canvas, [chance[f"w{i}"][at] for i in range(8)])
