"""Drawing many small pictures at once: shapes given by their signed distance, painted with soft
edges and soft textures.

Only + - * / and square roots are used, each pixel by itself, so the same numbers give the same
pictures on every machine, for any number of threads and in any company: row 7 of a thousand is row
7 alone. A shape is evaluated in its own small window only.
"""

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import NamedTuple

import numpy as np

SIZE = 64  # pixels, and the unit of every length here
TILE = 128  # side of a texture tile, in half pixels; tiles repeat
Array = np.ndarray
Number = float | Array  # one for all pictures, or one per picture: (n, 1, 1)


class Shape(NamedTuple):
    """A signed distance (negative inside) around a centre, and how far the shape reaches from
    there.
    """

    x: Number
    y: Number
    reach: Number
    distance: Callable[
        [Array, Array], Array
    ]  # coordinates about the centre (n, k, k) -> distance (n, k, k)


def ellipse(x: Number, y: Number, rx: Number, ry: Number, turn: Number = 0.0) -> Shape:
    """``turn`` is the tangent of half the angle, clockwise: all rotations here are written so,
    to need no sine.
    """
    c, s = _rotation(turn)

    def distance(u: Array, v: Array) -> Array:
        a, b = (c * u + s * v) / rx, (c * v - s * u) / ry
        near = a * a + b * b + 1e-6
        length = np.sqrt(near)
        return (near - length) / np.sqrt((a / rx) ** 2 + (b / ry) ** 2 + 1e-9)

    return Shape(x, y, _most((rx, ry)), distance)


def stroke(*points: tuple[Number, Number], start: Number = 1.0, end: Number | None = None) -> Shape:
    """A line through points, its half width going from ``start`` to ``end``: legs, tails,
    whiskers.
    """
    end = start if end is None else end
    x, y, reach = _box(points)

    def distance(u: Array, v: Array) -> Array:
        best = None
        for i, ((px, py), (qx, qy)) in enumerate(zip(points, points[1:])):
            dx, dy, a, b = qx - px, qy - py, u - (px - x), v - (py - y)
            t = np.clip((a * dx + b * dy) / (dx * dx + dy * dy), 0, 1)
            width = start + (end - start) * (i + t) / (len(points) - 1)
            here = np.sqrt((a - t * dx) ** 2 + (b - t * dy) ** 2) - width
            best = here if best is None else np.minimum(best, here)
        return best

    return Shape(x, y, reach + _most((start, end)), distance)


def polygon(*corners: tuple[Number, Number], rounding: float = 0.8) -> Shape:
    """A convex polygon with rounded corners, given clockwise as seen on the picture (y points
    down).
    """
    x, y, reach = _box(corners)

    def distance(u: Array, v: Array) -> Array:
        best = None
        for (px, py), (qx, qy) in zip(corners, corners[1:] + corners[:1]):
            dx, dy = qx - px, qy - py
            side = ((u - (px - x)) * dy - (v - (py - y)) * dx) / np.sqrt(
                dx * dx + dy * dy, dtype=np.float32
            )
            best = side if best is None else np.maximum(best, side)
        return (
            np.maximum(best, np.maximum(np.abs(u), np.abs(v)) - reach) - rounding
        )  # a sharp corner stays within reach

    return Shape(x, y, reach + rounding, distance)


def join(first: Shape, second: Shape, soft: float = 3.0) -> Shape:
    """Both shapes in one, the crease between them filled to a width of ``soft``.

    ``second`` is placed in the frame of ``first``.
    """
    dx, dy = second.x - first.x, second.y - first.y

    def distance(u: Array, v: Array) -> Array:
        a, b = first.distance(u, v), second.distance(u - dx, v - dy)
        near = np.maximum(soft - np.abs(a - b), 0) / soft
        return np.minimum(a, b) - near * near * (soft / 4)

    reach = _most((first.reach, _most((dx, -dx, dy, -dy)) + second.reach))
    return Shape(first.x, first.y, reach, distance)


class Canvas:
    """n pictures and the frame that the next shapes are drawn in; ``pixels`` (3, n, SIZE, SIZE)
    float32 in 0..1 change in place.
    """

    def __init__(self, pixels: Array):
        self.pixels, self.flat = pixels, pixels.reshape(3, -1)
        self.first = (
            np.arange(pixels.shape[1])[:, None, None] * SIZE * SIZE
        )  # (n, 1, 1) where each picture begins
        self.frame(0.0, 0.0)

    def frame(
        self, x: Number, y: Number, scale: Number = 1.0, turn: Number = 0.0, mirror: Number = 1.0
    ) -> None:
        """Put the origin of the coming shapes at pixel (x, y), scaled, turned (see ``ellipse``),
        mirrored where ``mirror`` is -1.
        """
        self.x, self.y, self.scale, self.mirror = x, y, scale, mirror
        self.c, self.s = _rotation(turn)

    def paint(
        self,
        shape: Shape,
        colour: Array | tuple,
        opacity: Number = 1.0,
        rim: Array | None = None,
        width: float = 1.0,
    ) -> None:
        """Lay a shape of one colour, (3,) or (3, n, 1, 1), over the pictures; ``rim`` is the
        colour of its outline.
        """
        index, u, v = self._window(shape)
        self._blend(index, shape.distance(u, v) * self.scale, rgb(colour), opacity, rim, width)

    def fur(
        self,
        shape: Shape,
        coat: Array,
        mark: Array,
        tile: Array,
        shift: Array,
        rim: Array,
        tone: Number = 1.0,
    ) -> None:
        """Lay a furry shape: ``coat`` with ``mark`` where the texture ``tile`` (n ids) says, lit
        from above, with a soft grain.
        """
        index, u, v = self._window(shape)
        texel = _texel(u + shape.x, v + shape.y, shift)  # (n, k, k)
        marked = np.take(textures(), tile * TILE * TILE + texel)
        light = tone * (
            1 - 0.12 * np.clip(v / shape.reach, -1, 1) + 0.16 * (np.take(textures(), texel) - 0.5)
        )
        colour = (coat + marked * (mark - coat)) * light
        self._blend(index, shape.distance(u, v) * self.scale, colour, 1.0, rim, 1.0)

    def _window(self, shape: Shape) -> tuple[Array | None, Array, Array]:
        """Where a shape falls: flat index of its pixels (n, k, k), None for the whole picture,
        and its own coordinates u, v there.
        """
        x = self.x + self.scale * (self.c * self.mirror * shape.x - self.s * shape.y)
        y = self.y + self.scale * (self.s * self.mirror * shape.x + self.c * shape.y)
        k = min(
            SIZE, int(2 * np.max(shape.reach * self.scale * (np.abs(self.c) + np.abs(self.s)))) + 5
        )
        left, top = (
            np.clip(np.floor(centre - k / 2 + 0.5), 0, SIZE - k).astype(np.int64)
            for centre in (x, y)
        )
        steps = np.arange(k)
        across = ((left + steps).astype(np.float32) + 0.5 - self.x) / self.scale  # (n, 1, k)
        down = ((top + steps[:, None]).astype(np.float32) + 0.5 - self.y) / self.scale  # (n, k, 1)
        u = self.mirror * (self.c * across + self.s * down) - shape.x  # (n, k, k)
        v = self.c * down - self.s * across - shape.y
        index = (
            None if k == SIZE else self.first + top * SIZE + left + (steps[:, None] * SIZE + steps)
        )
        return index, u, v

    def _blend(
        self,
        index: Array | None,
        distance: Array,
        colour: Array,
        opacity: Number,
        rim: Array | None,
        width: float,
    ) -> None:
        if rim is not None:
            colour = rim + np.clip(0.5 - width - distance, 0, 1) * (colour - rim)
        cover = np.clip(0.5 - distance, 0, 1) * opacity
        below = self.pixels if index is None else np.take(self.flat, index, axis=1)  # (3, n, k, k)
        change = colour - below
        change *= cover
        below += change
        if index is not None:
            self.flat[:, index] = below


def rgb(colour: Array | tuple) -> Array:
    """A colour as (3, n, 1, 1) float32, n = 1 for one colour for all."""
    colour = np.asarray(colour, np.float32)
    return colour.reshape(3, 1, 1, 1) if colour.ndim == 1 else colour


def texture(name: str, u: Array, v: Array, shift: Array) -> Array:
    """The named texture at pixel coordinates u, v, moved by ``shift`` (n, 1, 1) in 0..1 -> (n,
    ...) in 0..1.
    """
    return np.take(textures(), TEXTURES.index(name) * TILE * TILE + _texel(u, v, shift))


TEXTURES = ("grain", "plain", "striped", "patched", "spotted", "streaks", "ripples", "clouds")


@cache
def textures() -> Array:
    """All texture tiles, (len(TEXTURES), TILE, TILE) float32 in 0..1, each repeating without a
    seam; the same on every call.
    """
    rng = np.random.default_rng(20)
    line = np.arange(TILE, dtype=np.float64)
    fine, coarse = _noise(rng, 4, 1), _noise(rng, 16, 6)
    saw = (line + 18 * (coarse - 0.5) + 6 * (_noise(rng, 8, 3) - 0.5)) % 16 / 16
    waves = (line[:, None] + 30 * (coarse - 0.5)) % 8 / 8
    points = (np.indices((6, 6)).reshape(2, -1) + rng.random((2, 36)) * 0.55) * TILE / 6
    gap = np.abs(np.stack(np.meshgrid(line, line))[:, None] - points[:, :, None, None])
    spots = np.sqrt((np.minimum(gap, TILE - gap) ** 2).sum(axis=0)).min(axis=0)
    tiles = {
        "grain": fine,
        "plain": 0 * fine,
        "striped": np.clip((np.abs(2 * saw - 1) - 0.45) * 5, 0, 1),
        "patched": np.clip((_noise(rng, 32, 9) - 0.56) * 14, 0, 1),
        "spotted": np.clip((6 - spots) / 2, 0, 1),
        "streaks": _smooth(rng.random((TILE, TILE)), 7, 1, axis=0),
        "ripples": np.abs(2 * waves - 1),
        "clouds": coarse,
    }
    return np.stack([tiles[name] for name in TEXTURES]).astype(np.float32)


def _noise(rng: np.random.Generator, cell: int, radius: int) -> Array:
    """Soft noise with bumps of about ``cell`` texels, stretched to 0..1."""
    coarse = np.kron(rng.random((TILE // cell, TILE // cell)), np.ones((cell, cell)))
    return _smooth(_smooth(coarse, radius, 2, axis=0), radius, 2, axis=1)


def _smooth(x: Array, radius: int, times: int, axis: int) -> Array:
    for _ in range(times):
        x = sum(np.roll(x, step, axis) for step in range(-radius, radius + 1))
    return (x - x.min()) / (x.max() - x.min())


def _texel(u: Array, v: Array, shift: Array) -> Array:
    """Index into a tile, two texels a pixel; the shift moves the tile differently along each
    axis.
    """
    across = (2 * u + (TILE * shift + 4 * TILE)).astype(np.int64) & (TILE - 1)
    down = (2 * v + (TILE * 7 * shift + 4 * TILE)).astype(np.int64) & (TILE - 1)
    return down * TILE + across


def _rotation(turn: Number) -> tuple[Number, Number]:
    """Cosine and sine of twice the angle whose tangent is ``turn``, by division alone."""
    square = turn * turn
    return (1 - square) / (1 + square), 2 * turn / (1 + square)


def _box(points: tuple[tuple[Number, Number], ...]) -> tuple[Number, Number, Number]:
    """The middle of the box around some points, and half its longer side."""
    (left, top), (right, low) = (
        [-_most([-value for value in axis]) for axis in zip(*points)],
        [_most(axis) for axis in zip(*points)],
    )
    return (left + right) / 2, (top + low) / 2, _most((right - left, low - top)) / 2


def _most(values: Sequence[Number]) -> Number:
    """The largest, picture by picture.

    Plain numbers stay plain: a numpy float64 would turn every array it meets to float64.
    """
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    numbers = (
        [float(max(value for value in values if not isinstance(value, np.ndarray)))]
        if len(arrays) < len(values)
        else []
    )
    return reduce(np.maximum, arrays + numbers) if arrays else numbers[0]
