"""Figures of convolution: a filter over a digit, filters and feature maps as tiles, what a place
sees, and heat over a picture.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, empty_figure, styled

FILTERS = {  # (3, 3) each; ink is large, paper is 0
    "left edge": np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]]) / 3,
    "upper edge": np.array([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]]) / 3,
    "falling line": np.array([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2]]) / 3,
    "spot": np.array([[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 8,
    "blur": np.ones((3, 3)) / 9,
}


def size_after(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """How many places a filter of ``kernel`` pixels finds along ``size`` pixels.

    ValueError where it finds none.
    """
    if size + 2 * padding < kernel:
        raise ValueError(
            f"a filter of {kernel} pixels does not fit into {size} pixels with {padding} of "
            "padding on either side"
        )
    return (size + 2 * padding - kernel) // stride + 1


def slide(picture: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """The response (H', W') of one filter (h, w) at every place of one picture (H, W):
    cross-correlation, no flip.
    """
    padded = np.pad(picture, padding)
    rows, columns = (
        size_after(size, k, stride, padding) for size, k in zip(picture.shape, kernel.shape)
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)[::stride, ::stride]
    return (windows[:rows, :columns] * kernel).sum(axis=(2, 3))  # (H', W')


def receptive(layers: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Pixels that one place sees, and pixels between neighbours, after ``layers`` of (kernel,
    stride), first layer first.
    """
    seen, step = 1, 1
    for kernel, stride in layers:
        seen, step = seen + (kernel - 1) * step, step * stride
    return seen, step


def describe(picture: np.ndarray, name: str, stride: int = 1, padding: int = 0) -> str:
    """One sentence: the sizes, with the division that gives them, and where the response is
    largest.
    """
    response = slide(picture, FILTERS[name], stride, padding)
    row, column = map(int, np.unravel_index(response.argmax(), response.shape))
    size = len(picture)
    return (
        f"{name}: {size} pixels, padding {padding}, stride {stride}: ({size} + 2 x {padding} - 3) "
        f"// {stride} + 1 = {len(response)} "
        f"places a side. The largest response, {response.max():.2f}, is at row {row}, column "
        f"{column}."
    )


@styled
def response(picture: np.ndarray, name: str, stride: int = 1, padding: int = 0) -> Any:
    """The padded picture (H, W) with the window of the largest response, the filter ``name`` and
    the response to it.
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
    """Small pictures (H, W) in rows of ``columns``: ink in grey, or, ``signed``, blue below 0
    and red above, each on its own scale.
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
    """Which pixels change one place: |gradient| (H, W) of each, dark = strong, and a frame of
    ``seen`` pixels around its middle.
    """
    figure = empty_figure(2.9 * len(gradients), 3.2)
    for axes, gradient, title in zip(
        figure.subplots(1, len(gradients), squeeze=False)[0], gradients, titles
    ):
        strength = np.log10(np.maximum(np.abs(gradient) / np.abs(gradient).max(), 1e-6))
        shown = axes.imshow(strength, cmap="Blues", vmin=-6, vmax=0)
        rows, columns = (np.flatnonzero(np.abs(gradients[0]).sum(axis=axis)) for axis in (1, 0))
        _box(axes, rows[0], columns[0], seen)
        axes.set(title=title, xlabel="pixel")
    figure.colorbar(shown, ax=figure.axes, label="log10 of the share\nof the strongest", shrink=0.8)
    return figure


@styled
def heat(pictures: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str]) -> Any:
    """Each picture (H, W), and below it the same under its map (h, w) of heat, stretched to its
    size: bright = hot, each from 0.
    """
    if not len(pictures) == len(maps) == len(titles):
        raise ValueError(
            f"got {len(pictures)} pictures, {len(maps)} maps and {len(titles)} titles, expected "
            "as many of each"
        )
    figure = empty_figure(1.35 * len(pictures), 3.0)
    for column, picture, values, title in zip(
        figure.subplots(2, len(pictures), squeeze=False).T, pictures, maps, titles
    ):
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
    top = max(np.abs(values).max(), 1e-9)
    return axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)


def _box(axes: Any, row: int, column: int, side: int) -> None:
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
