"""The figure of notebook 00: the pipeline of the whole course."""

from typing import Any

from mmlib.plots.style import COLOURS, GREY, empty_figure, styled


@styled
def pipeline() -> Any:
    """The pipeline of the whole course: an encoder for each modality, one fusion, one head.

    B samples, S pixels a side, T words, L samples of audio, D numbers per vector, K classes.
    """
    figure = empty_figure(10.5, 3.9)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set(xlim=(-0.5, 105.5), ylim=(0, 40))
    for x, title in zip(
        (0, 22, 44, 66, 88), ("data", "feature extraction", "fusion", "task layer", "output")
    ):
        axes.text(x + 8.5, 39.5, title, ha="center", va="top", fontsize=11, weight="bold")
    rows = (
        ("image", "picture", "(B, 3, S, S)", "CNN"),
        ("text", "words", "(B, T)", "RNN"),
        ("audio", "sound", "(B, L)", "audio encoder"),
    )
    for (modality, data, shape, encoder), y in zip(rows, (26, 14.75, 3.5)):
        _box(axes, 0, y, data, shape, COLOURS[modality])
        _box(axes, 22, y, encoder, "(B, D)", COLOURS[modality])
        _arrow(axes, (17.4, y + 3.75), (21.6, y + 3.75))
        _arrow(axes, (39.4, y + 3.75), (43.6, 18.5 + (y - 14.75) * 0.5))
    fusion = "one vector\nout of three:\na sum, a gate,\nattention, ..."
    _box(axes, 44, 9, fusion, "(B, D)", COLOURS["all"], 19)
    _box(axes, 66, 11.5, "head: classify,\nwrite, rank, ...", "(B, K)", COLOURS["all"], 14)
    _box(axes, 88, 14.75, "cat or dog?", "(B,)", COLOURS["all"])
    _arrow(axes, (61.4, 18.5), (65.6, 18.5))
    _arrow(axes, (83.4, 18.5), (87.6, 18.5))
    return figure


def _box(
    axes: Any, x: float, y: float, text: str, shape: str, colour: str, height: float = 7.5
) -> None:
    """A box with its lower left corner at (x, y), with a text and a shape in it."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            17,
            height,
            boxstyle="round,pad=0,rounding_size=1.2",
            facecolor=colour + "2E",
            edgecolor=colour,
            linewidth=1.8,
        )
    )
    axes.text(x + 8.5, y + height / 2 + 1, text, ha="center", va="center", fontsize=9.5)
    axes.text(
        x + 8.5,
        y + 1,
        shape,
        ha="center",
        va="bottom",
        fontsize=8,
        color="#555555",
        family="DejaVu Sans Mono",
    )


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=GREY, linewidth=1.5)
    )
