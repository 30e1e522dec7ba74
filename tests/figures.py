"""What every figure of the course must keep, whoever draws it; and the bytes by which two are
compared.
"""

import io
from collections.abc import Callable

from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def assert_whole(draw: Callable[[], Figure]) -> Figure:
    """The figure, once drawn: none left open (a notebook would show it twice), no text beyond
    its edge, no title or label over another.
    """
    pyplot.close("all")
    figure = draw()
    assert pyplot.get_fignums() == []
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    titles = []
    for axes in figure.axes:
        legend, labels = (
            axes.get_legend(),
            [text for text in (axes.title, axes.xaxis.label, axes.yaxis.label) if text.get_text()],
        )
        titles += [label.get_window_extent() for label in labels]
        for artist in (*labels, *axes.texts, *([legend] if legend else [])):
            box = artist.get_window_extent()
            outside = box.width and not (
                box.x0 >= -2 and box.y0 >= -2 and box.x1 <= width + 2 and box.y1 <= height + 2
            )
            assert not outside, f"{artist} leaves the figure"
    assert not any(
        one.overlaps(other) for number, one in enumerate(titles) for other in titles[:number]
    ), "titles over each other"
    return figure


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
