"""Drawing many small pictures at once: shapes with soft edges and soft textures.

A shape is given by its signed distance, and evaluated in its own small window only. Only + - * /
and square roots are used, each pixel by itself, so the same numbers give the same pictures on every
machine, for any number of threads, whatever else is drawn: row 7 of a thousand is row 7 alone.
"""

from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np

SIZE = 64  # pixels, and the unit of every length here
TILE = 128  # side of a texture tile, in half pixels; tiles repeat
Array = np.ndarray
Number = float | Array  # one for all pictures, or one per picture: (n, 1, 1)


class Shape(NamedTuple):
    """A signed distance (negative inside) around a centre."""

    x: Number
    y: Number
    reach: Number  # how far the shape extends from its centre
    distance: Callable[[Array, Array], Array]  # coordinates about the centre, (n, k, k) -> the same


def ellipse(x: Number, y: Number, rx: Number, ry: Number, turn: Number = 0.0) -> Shape:
    """``turn`` is the tangent of half the angle, clockwise: so no rotation here needs a sine."""
    c, s = _rotation(turn)

    def distance(u: Array, v: Array) -> Array:
        a, b = (c * u + s * v) / rx, (c * v - s * u) / ry
        near = a * a + b * b + 1e-6
        length = np.sqrt(near)
        return (near - length) / np.sqrt((a / rx) ** 2 + (b / ry) ** 2 + 1e-9)

    return Shape(x, y, _most((rx, ry)), distance)


def stroke(*points: tuple[Number, Number], start: Number = 1.0, end: Number | None = None) -> Shape:
    """A line through points: legs, tails, whiskers.

    Its half width goes from ``start`` to ``end``.
    """
    last = start if end is None else end
    x, y, reach = _box(points)

    def distance(u: Array, v: Array) -> Array:
        parts = []
        for i, ((px, py), (qx, qy)) in enumerate(pairwise(points)):
            dx, dy, a, b = qx - px, qy - py, u - (px - x), v - (py - y)
            t = np.clip((a * dx + b * dy) / (dx * dx + dy * dy), 0, 1)
            width = start + (last - start) * (i + t) / (len(points) - 1)
            parts.append(np.sqrt((a - t * dx) ** 2 + (b - t * dy) ** 2) - width)
        return reduce(np.minimum, parts)

    return Shape(x, y, reach + _most((start, last)), distance)


def polygon(*corners: tuple[Number, Number], rounding: float = 0.8) -> Shape:
    """A convex polygon with rounded corners.

    They are given clockwise as seen on the picture (y points down).
    """
    x, y, reach = _box(corners)

    def distance(u: Array, v: Array) -> Array:
        sides = []
        for (px, py), (qx, qy) in pairwise((*corners, corners[0])):
            dx, dy = qx - px, qy - py
            length = np.sqrt(dx * dx + dy * dy, dtype=np.float32)
            sides.append(((u - (px - x)) * dy - (v - (py - y)) * dx) / length)
        square = np.maximum(np.abs(u), np.abs(v)) - reach  # a sharp corner stays within reach
        return np.maximum(reduce(np.maximum, sides), square) - rounding

    return Shape(x, y, reach + rounding, distance)


def join(first: Shape, second: Shape, soft: float = 3.0) -> Shape:
    """Both shapes in one; the crease between them is filled to a width of ``soft``."""
    dx, dy = second.x - first.x, second.y - first.y

    def distance(u: Array, v: Array) -> Array:
        a, b = first.distance(u, v), second.distance(u - dx, v - dy)
        near = np.maximum(soft - np.abs(a - b), 0) / soft
        return np.minimum(a, b) - near * near * (soft / 4)

    reach = _most((first.reach, _most((dx, -dx, dy, -dy)) + second.reach))
    return Shape(first.x, first.y, reach, distance)


class Canvas:
    """n pictures, and the frame that the next shapes are drawn in.

    ``pixels`` (3, n, SIZE, SIZE) float32 in 0..1 change in place.
    """

    def __init__(self, pixels: Array):
        self.pixels, self.flat = pixels, pixels.reshape(3, -1)
        # (n, 1, 1) where each picture begins in ``flat``
        self.first = np.arange(pixels.shape[1])[:, None, None] * SIZE * SIZE
        self.frame(0.0, 0.0)

    def frame(
        self, x: Number, y: Number, scale: Number = 1.0, turn: Number = 0.0, mirror: Number = 1.0
    ) -> None:
        """Put the origin of the next shapes at pixel (x, y).

        They are scaled, turned (see ``ellipse``), and mirrored where ``mirror`` is -1.
        """
        self.x, self.y, self.scale, self.mirror = x, y, scale, mirror
        self.c, self.s = _rotation(turn)

    def paint(
        self,
        shape: Shape,
        colour: Array | tuple[float, ...],
        opacity: Number = 1.0,
        rim: Array | None = None,
        width: float = 1.0,
    ) -> None:
        """Lay a shape of one colour, (3,) or (3, n, 1, 1), over the pictures.

        ``rim`` is the colour of its outline, ``width`` pixels wide.
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
        """Lay a furry shape, lit from above, with a soft grain.

        It has the colour ``mark`` where the texture ``tile`` (n ids) says so, ``coat`` elsewhere.
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
        """The pixels that a shape may touch, and its own coordinates u, v there.

        -> flat index (n, k, k), None for the whole picture; u and v (n, k, k).
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


def rgb(colour: Array | tuple[float, ...]) -> Array:
    """A colour as (3, n, 1, 1) float32, n = 1 for one colour for all."""
    colour = np.asarray(colour, np.float32)
    return colour.reshape(3, 1, 1, 1) if colour.ndim == 1 else colour


def texture(name: str, u: Array, v: Array, shift: Array) -> Array:
    """The named texture at pixel coordinates u, v -> (n, ...) in 0..1.

    It is moved by ``shift`` (n, 1, 1) in 0..1.
    """
    return np.take(textures(), TEXTURES.index(name) * TILE * TILE + _texel(u, v, shift))


TEXTURES = ("grain", "plain", "striped", "patched", "spotted", "streaks", "ripples", "clouds")


@cache
def textures() -> Array:
    """All texture tiles: (len(TEXTURES), TILE, TILE) float32 in 0..1.

    Each repeats without a seam. They are the same on every call.
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
        x = sum((np.roll(x, step, axis) for step in range(-radius, radius + 1)), np.zeros_like(x))
    return (x - x.min()) / (x.max() - x.min())


def _texel(u: Array, v: Array, shift: Array) -> Array:
    """Index into a tile, two texels a pixel; the shift moves it differently along each axis."""
    across = (2 * u + (TILE * shift + 4 * TILE)).astype(np.int64) & (TILE - 1)
    down = (2 * v + (TILE * 7 * shift + 4 * TILE)).astype(np.int64) & (TILE - 1)
    return down * TILE + across


def _rotation(turn: Number) -> tuple[Number, Number]:
    """Cosine and sine of twice the angle whose tangent is ``turn``, by division alone."""
    square = turn * turn
    return (1 - square) / (1 + square), 2 * turn / (1 + square)


def _box(points: tuple[tuple[Number, Number], ...]) -> tuple[Number, Number, Number]:
    """The middle of the box around some points, and half its longer side."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top = -_most([-x for x in xs]), -_most([-y for y in ys])
    right, low = _most(xs), _most(ys)
    return (left + right) / 2, (top + low) / 2, _most((right - left, low - top)) / 2


def _most(values: Sequence[Number]) -> Number:
    """The largest, picture by picture.

    Plain numbers stay plain: a numpy float64 would turn every array it meets to float64.
    """
    numbers = [value for value in values if not isinstance(value, np.ndarray)]
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    largest: Number = float(max(numbers)) if numbers else arrays[0]
    for array in arrays:
        largest = np.maximum(largest, array)
    return largest
