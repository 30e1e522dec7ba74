"""Figures of attention: weights as a map, and over an image, word by word."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmlib.plots.style import GREY, INK, empty_figure, styled

VEIL, COLUMNS = "#9A9A9A", 6  # the grey over what a word does not attend to; panels in a row


@styled
def maps(weights: Mapping[str, Any], query: str = "query", key: str = "key") -> Any:
    """A map for each name: weights (Q, K), a row for each query and a column for each key.

    All have the same shades from 0 to 1. ``query`` and ``key`` are the labels of the axes. Raises
    ValueError if there is no map, or if one does not have two axes.
    """
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    wrong = {name: array.shape for name, array in arrays.items() if array.ndim != 2}
    if not arrays or wrong:
        raise ValueError(
            f"weights are {wrong or 'empty'}, expected a name and an array (queries, keys) for "
            "each map"
        )
    figure = empty_figure(1.2 + 2.7 * len(arrays), 3.1)
    row = figure.subplots(1, len(arrays), squeeze=False)[0]
    for axes, (name, array) in zip(row, arrays.items()):
        shades = axes.imshow(array, cmap="Blues", vmin=0, vmax=1)
        axes.set(
            title=name, xlabel=key, xticks=_places(array.shape[1]), yticks=_places(array.shape[0])
        )
        axes.title.set_fontsize(10)
    row[0].set_ylabel(query)
    figure.colorbar(shades, ax=row, label="weight", shrink=0.85)
    return figure


def _places(count: int) -> range:
    """Where an axis with ``count`` places has its ticks: at most ten of them."""
    return range(0, count, -(-count // 10))


@styled
def word_by_word(
    picture: Any, words: Sequence[str], weights: Any, right: Sequence[int] | None = None
) -> Any:
    """The image, and for each word the image again, grey where the word does not attend.

    ``picture`` (3, H, W) is the image, from 0 to 1; ``weights`` (T, rows, columns) are a grid for
    each of the T words. The cell with a word's largest weight is clear, one without weight is grey;
    the largest weight stands below. ``right`` (T,) names a cell that gets a frame, counted from 0
    in reading order; -1 is no frame. Raises ValueError for shapes that do not fit.
    """
    picture, weights = np.asarray(picture), np.asarray(weights)
    _check(picture, words, weights, right)
    count = len(words) + 1
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = empty_figure(1.65 * columns, 2.15 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[count:]:
        panel.axis("off")
    for panel in panels[:count]:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color=GREY, linewidth=0.6)
        panel.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
    panels[0].set_title("the picture", fontsize=10, style="italic")
    for number, (panel, word, grid) in enumerate(zip(panels[1:], words, weights)):
        panel.imshow(
            _veil(grid),
            extent=(-0.5, picture.shape[2] - 0.5, picture.shape[1] - 0.5, -0.5),
            interpolation="nearest",
        )
        panel.set_title(word, fontsize=10)
        panel.text(
            0.5,
            -0.04,
            f"largest {grid.max():.2f}",
            ha="center",
            va="top",
            fontsize=8.5,
            transform=panel.transAxes,
        )
        if right is not None and right[number] >= 0:
            _frame(panel, picture, grid, right[number])
    return figure


def _check(
    picture: np.ndarray, words: Sequence[str], weights: np.ndarray, right: Sequence[int] | None
) -> None:
    """Raise ValueError for arguments of ``word_by_word`` that do not fit together."""
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(f"picture has shape {picture.shape}, expected (3, H, W)")
    if weights.ndim != 3 or len(weights) != len(words) or not len(words):
        raise ValueError(
            f"weights have shape {weights.shape}, expected ({len(words)}, rows, columns): a grid "
            "for each word, one or more"
        )
    if right is not None and len(right) != len(words):
        raise ValueError(
            f"right has {len(right)} cells, expected {len(words)}: one for each word, -1 where "
            "there is none"
        )


def _veil(grid: np.ndarray) -> np.ndarray:
    """A grey veil (rows, columns, RGBA): clear at the largest weight, nearly opaque at 0."""
    from matplotlib.colors import to_rgb

    veil = np.empty((*grid.shape, 4))
    veil[..., :3], veil[..., 3] = to_rgb(VEIL), 0.92 * (1 - grid / max(grid.max(), 1e-9))
    return veil


def _frame(axes: Any, picture: np.ndarray, grid: np.ndarray, cell: int) -> None:
    """A frame around one cell of the grid that lies over the image."""
    from matplotlib.patches import Rectangle

    height, width = picture.shape[1] / grid.shape[0], picture.shape[2] / grid.shape[1]
    row, column = divmod(int(cell), grid.shape[1])
    axes.add_patch(
        Rectangle(
            (column * width - 0.5, row * height - 0.5),
            width,
            height,
            fill=False,
            edgecolor=INK,
            linewidth=1.8,
        )
    )


def describe(words: Sequence[str], weights: Any, word: int) -> str:
    """HTML for the reader: the sentence with one word in bold, and where its largest weight lies.

    ``weights`` (T, rows, columns) are as in ``word_by_word``. ``word`` counts from 0; rows and
    columns in the text count from 1.
    """
    grid = np.asarray(weights)[word]
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    safe = [html.escape(text) for text in words]
    sentence = " ".join([*safe[:word], f"<b>{safe[word]}</b>", *safe[word + 1 :]])
    if not grid.any():
        return f"{sentence}<br>has nothing to look at"
    return (
        f"{sentence}<br>{grid.max():.2f} of its weight lies on row {row + 1}, column {column + 1}"
    )
