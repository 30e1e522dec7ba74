"""Figure -> words: what a screen reader says instead of the image, made from what is drawn, so
that it is never out of date.
"""

import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

LONGEST = 1000


def speaking(figure: Any) -> Any:
    """The same figure; where a notebook shows it, its image carries ``describe(figure)`` as ``alt``
    in the output's metadata.

    That is where Jupyter enhancement proposal 120 puts it. Pages in nbconvert's classic form show
    it; JupyterLab (4.6) keeps it in the file and does not show it yet.
    """
    figure._repr_mimebundle_ = partial(_bundle, figure)  # IPython asks for it by this name
    return figure


def _bundle(
    figure: Any, include: Any = None, exclude: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {"image/png": {"alt": describe(figure)}}


def describe(figure: Any) -> str:
    """Panel by panel: its title, what is drawn (bars and named lines with their values), and the
    names of its axes.
    """
    panels = [
        words
        for axes in figure.axes
        if axes.get_visible() and axes.get_label() != "<colorbar>" and (words := _panel(axes))
    ]
    pictures = [panel for panel in panels if panel.startswith("image")]
    if len(pictures) > 1:  # one list instead of a sentence each
        named = [panel.removeprefix("image").strip() for panel in pictures]
        panels = [panel for panel in panels if panel not in pictures]
        panels.insert(
            0,
            f"{len(pictures)} images"
            + (": " + ", ".join(filter(None, named)) if any(named) else ""),
        )
    counts = Counter(panels)
    words = (
        " | ".join(
            panel if counts[panel] == 1 else f"{counts[panel]} times: {panel}" for panel in counts
        )
        or "an empty figure"
    )
    return words if len(words) <= LONGEST else words[: LONGEST - 3] + "..."


def _panel(axes: Any) -> str:
    """What a panel shows; nothing for an empty one."""
    title = " ".join(axes.get_title().split())
    across, up = (" ".join(label.split()) for label in (axes.get_xlabel(), axes.get_ylabel()))
    drawn = _bars(axes) + _lines(axes) + _points(axes)
    if (
        axes.images or [each for each in axes.collections if _name(each) == "QuadMesh"]
    ) and not drawn:
        drawn = [f"image {title}".strip() if not up and not across else "map"]
        title = title if up or across else ""
    if not drawn:
        drawn = [f"text: {_texts(axes)}"] if _texts(axes) else []
    if not drawn:
        return ""
    scale = [f"{name}: {label}" for name, label in (("across", across), ("up", up)) if label]
    return "; ".join(([title] if title else []) + drawn + scale)


def _bars(axes: Any) -> list[str]:
    found = []
    for bars in axes.containers:
        if _name(bars) != "BarContainer" or not len(bars):
            continue
        upright = bars.orientation != "horizontal"
        ticks = _ticks(axes.xaxis if upright else axes.yaxis)
        for bar in bars:
            (left, bottom), width, height = bar.get_xy(), bar.get_width(), bar.get_height()
            place, value = (left + width / 2, height) if upright else (bottom + height / 2, width)
            near = min(ticks, key=lambda tick: abs(tick - place), default=math.inf)
            found.append(
                f"{ticks[near] if abs(near - place) < 0.5 else f'{place:.3g}'} {value:.3g}"
            )
    return (
        [
            "bars: "
            + ", ".join(found[:20])
            + (f" and {len(found) - 20} more" if len(found) > 20 else "")
        ]
        if found
        else []
    )


def _ticks(axis: Any) -> dict[float, str]:
    words = [" ".join(label.get_text().split()) for label in axis.get_ticklabels()]
    return {place: word for place, word in zip(axis.get_ticklocs(), words) if word}


def _lines(axes: Any) -> list[str]:
    """Named lines with their first and last height; the others are counted."""
    named, others = [], 0
    for line in axes.lines:
        label, y = str(line.get_label()), np.asarray(line.get_ydata(), dtype=float)
        y = y[np.isfinite(y)]
        if not y.size:
            continue
        if label.startswith("_"):
            others += 1
        else:
            named.append(
                f"{' '.join(label.split())} "
                + (f"{y[0]:.3g}" if y.min() == y.max() else f"from {y[0]:.3g} to {y[-1]:.3g}")
            )
    words = ["lines: " + ", ".join(named)] if named else []
    return words + (
        [f"{others} {'more ' if named else ''}{'line' if others == 1 else 'lines'}"]
        if others
        else []
    )


def _points(axes: Any) -> list[str]:
    clouds = [each for each in axes.collections if _name(each) == "PathCollection"]
    return [f"{sum(len(cloud.get_offsets()) for cloud in clouds)} points"] if clouds else []


def _texts(axes: Any) -> str:
    found = [" ".join(text.get_text().split()) for text in axes.texts]
    return ", ".join(dict.fromkeys(filter(None, found)))[: LONGEST // 2]


def _name(artist: Any) -> str:
    return type(artist).__name__
