"""The figure of a Trace: a box for each stage, and an arrow to it from what it reads."""

from typing import Any

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled
from mmlib.tracing.record import Stage

OTHERS = ("#56B4E9", "#D55E00", "#F0E442")  # for modalities that have no colour in COLOURS
WIDTH, HEIGHT, GAP = 2.6, 0.95, 0.45  # of a box, in inches


@styled
def draw(rows: list[Stage]) -> Any:
    """A matplotlib Figure of stages of level 0, which run from left to right.

    ``rows`` stand in the order of their numbers, which ``reads`` names.
    """
    places, colours = _places(rows), _colours(rows)
    across, down = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    wide, high = across * (WIDTH + GAP), down * (HEIGHT + GAP)
    figure = empty_figure(wide + GAP, high + GAP)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set(xlim=(-GAP, wide), ylim=(high, -GAP))
    for node, place in places.items():
        lines = node.split(" ", 1) if isinstance(node, str) else _lines(rows[node])
        _box(axes, *_corner(place), lines, colours[node])
        for source in rows[node].reads if isinstance(node, int) else []:
            _arrow(axes, places[source], place)
    return figure


def _corner(place: tuple[int, float]) -> tuple[float, float]:
    """Column and line -> the upper left corner of the box, in inches."""
    return place[0] * (WIDTH + GAP), place[1] * (HEIGHT + GAP)


def _arrow(axes: Any, source: tuple[int, float], target: tuple[int, float]) -> None:
    """An arrow from the right side of one box to the left side of another."""
    start, end = _corner(source), _corner(target)
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.5, "shrinkA": 2, "shrinkB": 2}
    left, right = (end[0], end[1] + HEIGHT / 2), (start[0] + WIDTH, start[1] + HEIGHT / 2)
    axes.annotate("", left, right, arrowprops=style)


def _places(rows: list[Stage]) -> dict[int | str, tuple[int, float]]:
    """Column and line of each key of the batch and of each stage.

    A stage stands to the right of all that it reads, at their mean height.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.reads if isinstance(key, str)))
    places: dict[int | str, tuple[int, float]] = {
        key: (0, float(line)) for line, key in enumerate(keys)
    }
    below: dict[int, float] = {}  # the first free line of each column
    for number, row in enumerate(rows):
        sources = [places[source] for source in row.reads]
        column = 1 + max((place[0] for place in sources), default=-1)
        line = max(
            below.get(column, 0.0), sum(place[1] for place in sources) / max(1, len(sources))
        )
        places[number], below[column] = (column, line), line + 1
    return places


def _colours(rows: list[Stage]) -> dict[int | str, str]:
    """A colour for each key of the batch, which goes on to each stage that reads nothing else."""
    keys = dict.fromkeys(key for row in rows for key in row.reads if isinstance(key, str))
    colours: dict[int | str, str] = {
        key: COLOURS.get(key.split(" ")[0], OTHERS[i % len(OTHERS)]) for i, key in enumerate(keys)
    }
    for number, row in enumerate(rows):
        colours[number] = colours[row.reads[0]] if len(row.reads) == 1 else COLOURS["all"]
    return colours


def _lines(row: Stage) -> list[str]:
    """The text in the box of a stage."""
    return [
        row.name.split(".")[-1],
        row.kind,
        row.output,
        f"{row.parameters:,} parameters, {row.flops:,} FLOPs",
    ]


def _box(axes: Any, x: float, y: float, lines: list[str], colour: str) -> None:
    """A box with its upper left corner at (x, y); the first line in it is bold."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=f"{colour}2E",
            edgecolor=colour,
            linewidth=1.8,
        )
    )
    for i, line in enumerate(lines):
        numbers = i > 0 and (line.startswith("(") or line.endswith("FLOPs"))
        axes.text(
            x + WIDTH / 2,
            y + HEIGHT * (i + 0.7) / (len(lines) + 0.4),
            line,
            ha="center",
            va="center",
            color=INK,
            fontsize=7.5 if numbers else 9.5,
            weight="bold" if i == 0 else "normal",
        )
