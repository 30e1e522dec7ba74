"""Figures of convolution: a filter's response, tiles, receptive fields, and heat over an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, empty_figure, styled

# (3, 3) each, for images whose ink is large and whose paper is 0
FILTERS = {
    "left edge": np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]]) / 3,
    "upper edge": np.array([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]]) / 3,
    "falling line": np.array([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2]]) / 3,
    "spot": np.array([[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 8,
    "blur": np.ones((3, 3)) / 9,
}


def size_after(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """How many places a filter of ``kernel`` pixels finds along ``size`` pixels.

    Raises ValueError if it finds none.
    """
    if size + 2 * padding < kernel:
        raise ValueError(
            f"a filter of {kernel} pixels does not fit into {size} pixels with {padding} of "
            "padding on either side"
        )
    return (size + 2 * padding - kernel) // stride + 1


def slide(picture: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """The response (H', W') of a filter (h, w) at every place of an image (H, W).

    It is the cross-correlation: the filter is not flipped.
    """
    padded = np.pad(picture, padding)
    rows, columns = (
        size_after(size, k, stride, padding) for size, k in zip(picture.shape, kernel.shape)
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)[::stride, ::stride]
    return (windows[:rows, :columns] * kernel).sum(axis=(2, 3))  # (H', W')


def receptive(layers: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """How many pixels a place sees after ``layers``, and how many lie between two neighbours.

    A layer is a pair (kernel, stride); the first layer stands first.
    """
    seen, step = 1, 1
    for kernel, stride in layers:
        seen, step = seen + (kernel - 1) * step, step * stride
    return seen, step


def describe(picture: np.ndarray, name: str, stride: int = 1, padding: int = 0) -> str:
    """A sentence for the reader: the sizes, and where the response is largest."""
    response = slide(picture, FILTERS[name], stride, padding)
    row, column = map(int, np.unravel_index(response.argmax(), response.shape))
    size = len(picture)
    return (
        f"{name}: {size} pixels, padding {padding}, stride {stride}: ({size} + 2 x {padding} - 3) "
        f"// {stride} + 1 = {len(response)} places a side. The largest response, "
        f"{response.max():.2f}, is at row {row}, column {column}."
    )


@styled
def response(picture: np.ndarray, name: str, stride: int = 1, padding: int = 0) -> Any:
    """An image (H, W) with its padding, the filter ``name``, and the response to it.

    A frame shows the window of the largest response. Raises ValueError for an unknown filter.
    """
    if name not in FILTERS:
        raise ValueError(f"filter is {name!r}, expected one of {list(FILTERS)}")
    values = slide(picture, FILTERS[name], stride, padding)
    figure = empty_figure(8.0, 2.9)
    left, middle, right = figure.subplots(1, 3)
    left.imshow(np.pad(picture, padding), cmap="gray_r")
    row, column = map(int, np.unravel_index(values.argmax(), values.shape))
    _box(left, row * stride, column * stride, 3)
    side = len(picture) + 2 * padding
    left.set_title(f"picture, {side} x {side}" + (" with padding" if padding else ""))
    _signed(middle, FILTERS[name])
    for place, value in np.ndenumerate(FILTERS[name]):
        middle.text(
            *place[::-1],
            f"{value:.2g}",
            ha="center",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    middle.set_title(f"filter: {name}")
    shown = _signed(right, values)
    _box(right, row, column, 1)
    right.set_title(f"response, {values.shape[0]} x {values.shape[1]}")
    figure.colorbar(shown, ax=right, shrink=0.8)
    for axes in (left, middle, right):
        axes.set(xticks=[], yticks=[])
    return figure


@styled
def tiles(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int = 8,
    signed: bool = False,
) -> Any:
    """Small images (H, W) in rows of ``columns``, each on its own scale.

    Ink is grey; with ``signed``, numbers below 0 are blue and those above 0 red. Raises ValueError
    if there is no image.
    """
    if len(pictures) == 0:
        raise ValueError("no picture to draw, expected one or more of (H, W)")
    rows = -(-len(pictures) // columns)
    figure = empty_figure(1.1 * columns, (1.3 if titles else 1.1) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for number, (axes, picture) in enumerate(zip(grid, pictures)):
        _signed(axes, picture) if signed else axes.imshow(picture, cmap="gray_r")
        if number < len(titles):
            axes.set_title(titles[number], fontsize=9)
    return figure


@styled
def field(gradients: Sequence[np.ndarray], titles: Sequence[str], seen: int) -> Any:
    """Which pixels change one place: |gradient| (H, W), the stronger the darker.

    The frame is ``seen`` pixels wide and begins where the first gradient does.
    """
    figure = empty_figure(2.9 * len(gradients), 3.2)
    panels = figure.subplots(1, len(gradients), squeeze=False)[0]
    for axes, gradient, title in zip(panels, gradients, titles):
        strength = np.log10(np.maximum(np.abs(gradient) / np.abs(gradient).max(), 1e-6))
        shown = axes.imshow(strength, cmap="Blues", vmin=-6, vmax=0)
        rows, columns = (np.flatnonzero(np.abs(gradients[0]).sum(axis=axis)) for axis in (1, 0))
        _box(axes, rows[0], columns[0], seen)
        axes.set(title=title, xlabel="pixel")
    figure.colorbar(shown, ax=figure.axes, label="log10 of the share\nof the strongest", shrink=0.8)
    return figure


@styled
def heat(pictures: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str]) -> Any:
    """Each image (H, W), and below it the same under its map (h, w) of heat.

    The map is stretched to the size of the image; bright is hot, and each scale begins at 0. Raises
    ValueError if there are not as many images as maps and titles.
    """
    if not len(pictures) == len(maps) == len(titles):
        raise ValueError(
            f"got {len(pictures)} pictures, {len(maps)} maps and {len(titles)} titles, expected "
            "as many of each"
        )
    figure = empty_figure(1.35 * len(pictures), 3.0)
    columns = figure.subplots(2, len(pictures), squeeze=False).T
    for column, picture, values, title in zip(columns, pictures, maps, titles):
        extent = (0, picture.shape[1], picture.shape[0], 0)
        for axes in column:
            axes.imshow(picture, cmap="gray_r", extent=extent)
            axes.axis("off")
        column[1].imshow(
            values, cmap="inferno", alpha=0.6, extent=extent, vmin=0, vmax=max(values.max(), 1e-9)
        )
        column[0].set_title(title, fontsize=9)
    return figure


def _signed(axes: Any, values: np.ndarray) -> Any:
    """Draw numbers from blue (negative) through white (0) to red (positive)."""
    top = max(np.abs(values).max(), 1e-9)
    return axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)


def _box(axes: Any, row: int, column: int, side: int) -> None:
    """A frame of ``side`` pixels; its first pixel is at (row, column)."""
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (column - 0.5, row - 0.5),
            side,
            side,
            fill=False,
            edgecolor=COLOURS["text"],
            linewidth=2.5,
        )
    )
