"""The figure of notebook 00: the pipeline of the whole course."""

from typing import Any

from mmlib.plots.style import COLOURS, GREY, empty_figure, styled


@styled
def pipeline() -> Any:
    """The pipeline of the whole course: each modality through an encoder of its own, then one
    fusion, one head, one answer.

    B samples, S pixels a side, T words, L samples of sound, D numbers per vector, K classes.
    """
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    figure = empty_figure(10.5, 3.9)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set(xlim=(-0.5, 105.5), ylim=(0, 40))

    def box(x: float, y: float, text: str, shape: str, colour: str, height: float = 7.5) -> None:
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

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=13, color=GREY, linewidth=1.5
            )
        )

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
        box(0, y, data, shape, COLOURS[modality])
        box(22, y, encoder, "(B, D)", COLOURS[modality])
        arrow((17.4, y + 3.75), (21.6, y + 3.75))
        arrow((39.4, y + 3.75), (43.6, 18.5 + (y - 14.75) * 0.5))
    box(
        44,
        9,
        "one vector\nout of three:\na sum, a gate,\nattention, ...",
        "(B, D)",
        COLOURS["all"],
        19,
    )
    box(66, 11.5, "head: classify,\nwrite, rank, ...", "(B, K)", COLOURS["all"], 14)
    box(88, 14.75, "cat or dog?", "(B,)", COLOURS["all"])
    arrow((61.4, 18.5), (65.6, 18.5))
    arrow((83.4, 18.5), (87.6, 18.5))
    return figure
