"""A figure -> words, which a screen reader says instead of the image.

They are made from what is drawn, so they are never out of date.
"""

import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

LONGEST = 1000  # characters of a description
MOST = 20  # bars of a panel that are named


def with_alt_text(figure: Any) -> Any:
    """The same figure, which a notebook shows with ``describe(figure)`` as alternative text.

    The text stands as ``alt`` in the metadata of the output, where Jupyter enhancement proposal 120
    puts it. Pages in nbconvert's classic form show it; JupyterLab (4.6) keeps it in the file and
    does not show it yet. For this the figure gets a method that IPython calls.

    >>> from matplotlib.figure import Figure
    >>> with_alt_text(Figure())._repr_mimebundle_()
    ({}, {'image/png': {'alt': 'an empty figure'}})
    """
    figure._repr_mimebundle_ = partial(_mimebundle, figure)  # IPython asks for it by this name
    return figure


def _mimebundle(
    figure: Any, include: Any = None, exclude: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """No data of its own, and the alternative text as metadata of the PNG image."""
    return {}, {"image/png": {"alt": describe(figure)}}


def describe(figure: Any) -> str:
    """A figure in words, panel by panel, at most LONGEST characters.

    Of each panel: its title, what is drawn (bars and named lines with their values), and the names
    of its axes. Equal panels are described once.

    >>> from mmlib.plots import panels
    >>> figure, axes = panels(1, 1, 3, 2)
    >>> _ = axes.plot([1, 2, 3], [0.9, 0.5, 0.4], label="train")
    >>> _ = axes.set(title="loss", xlabel="epoch")
    >>> describe(figure)
    'loss; lines: train from 0.9 to 0.4; across: epoch'
    """
    shown = [axes for axes in figure.axes if axes.get_visible()]
    panels = [_panel(axes) for axes in shown if axes.get_label() != "<colorbar>"]
    panels = _join_images([panel for panel in panels if panel])
    counts = Counter(panels)
    words = " | ".join(
        panel if count == 1 else f"{count} times: {panel}" for panel, count in counts.items()
    )
    words = words or "an empty figure"
    return words if len(words) <= LONGEST else words[: LONGEST - 3] + "..."


def _join_images(panels: list[str]) -> list[str]:
    """The descriptions of the panels, where those of several images become one list of titles."""
    images = [panel for panel in panels if panel.startswith("image")]
    if len(images) < 2:
        return panels
    titles = [panel.removeprefix("image").strip() for panel in images]
    named = ": " + ", ".join(filter(None, titles)) if any(titles) else ""
    return [f"{len(images)} images{named}", *(panel for panel in panels if panel not in images)]


def _panel(axes: Any) -> str:
    """A panel in words; "" for an empty one."""
    title = _one_line(axes.get_title())
    across, up = _one_line(axes.get_xlabel()), _one_line(axes.get_ylabel())
    drawn = _bars(axes) + _lines(axes) + _points(axes)
    grids = [artist for artist in axes.collections if _type(artist) == "QuadMesh"]
    if not drawn and (axes.images or grids):
        if across or up:
            drawn = ["map"]
        else:
            drawn, title = [f"image {title}".strip()], ""
    if not drawn:
        texts = _texts(axes)
        drawn = [f"text: {texts}"] if texts else []
    if not drawn:
        return ""
    scale = [f"{name}: {label}" for name, label in (("across", across), ("up", up)) if label]
    return "; ".join(([title] if title else []) + drawn + scale)


def _bars(axes: Any) -> list[str]:
    """The bars with their names and values; a bar without a name has its place."""
    found = []
    for bars in axes.containers:
        if _type(bars) != "BarContainer" or not len(bars):
            continue
        upright = bars.orientation != "horizontal"
        names = _tick_names(axes.xaxis if upright else axes.yaxis)
        for bar in bars:
            (left, bottom), width, height = bar.get_xy(), bar.get_width(), bar.get_height()
            place, value = (left + width / 2, height) if upright else (bottom + height / 2, width)
            near = min(names, key=lambda tick: abs(tick - place), default=math.inf)
            name = names[near] if abs(near - place) < 0.5 else f"{place:.3g}"
            found.append(f"{name} {value:.3g}")
    if not found:
        return []
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return ["bars: " + ", ".join(found[:MOST]) + more]


def _tick_names(axis: Any) -> dict[float, str]:
    """Place -> name of the ticks that have one."""
    names = [_one_line(label.get_text()) for label in axis.get_ticklabels()]
    return {place: name for place, name in zip(axis.get_ticklocs(), names) if name}


def _lines(axes: Any) -> list[str]:
    """The named lines with their first and last height; the others are counted."""
    named, others = [], 0
    for line in axes.lines:
        label, y = str(line.get_label()), np.asarray(line.get_ydata(), dtype=float)
        y = y[np.isfinite(y)]
        if not y.size:
            continue
        if label.startswith("_"):  # matplotlib's own, of a line without a name
            others += 1
            continue
        heights = f"{y[0]:.3g}" if y.min() == y.max() else f"from {y[0]:.3g} to {y[-1]:.3g}"
        named.append(f"{_one_line(label)} {heights}")
    words = ["lines: " + ", ".join(named)] if named else []
    if others:
        words.append(f"{others} {'more ' if named else ''}{'line' if others == 1 else 'lines'}")
    return words


def _points(axes: Any) -> list[str]:
    """The number of points of all scatter plots."""
    clouds = [artist for artist in axes.collections if _type(artist) == "PathCollection"]
    return [f"{sum(len(cloud.get_offsets()) for cloud in clouds)} points"] if clouds else []


def _texts(axes: Any) -> str:
    """The different texts in a panel, cut off after half of LONGEST."""
    found = [_one_line(text.get_text()) for text in axes.texts]
    return ", ".join(dict.fromkeys(filter(None, found)))[: LONGEST // 2]


def _one_line(text: str) -> str:
    """The text without line breaks and repeated blanks."""
    return " ".join(text.split())


def _type(artist: Any) -> str:
    """The name of an artist's class: matplotlib need not be imported to compare it."""
    return type(artist).__name__
