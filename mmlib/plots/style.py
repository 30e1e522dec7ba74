"""One style for all figures, with colours that colour-blind people can distinguish.

The same figure is saved as the same bytes.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmlib.plots.alt_text import with_alt_text

# Of Okabe and Ito (2008, "Color Universal Design").
COLOURS = {"image": "#0072B2", "text": "#E69F00", "audio": "#009E73", "all": "#CC79A7"}
# Usual fonts of Chinese, Japanese and Korean, on Linux, macOS and Windows.
CJK = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Noto Sans CJK JP",
    "Malgun Gothic",
    "Arial Unicode MS",
)
GREY, INK, DPI = "#8A8A8A", "#222222", 100
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def save(figure: Any, path: str | Path) -> None:
    """Write the figure to a file, whose ending says the format.

    The same figure gives the same bytes.

    >>> import tempfile
    >>> figure, axes = panels(1, 1, 3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(figure, Path(folder) / "figure.png")
    ...     print(*(path.name for path in Path(folder).iterdir()))
    figure.png
    """
    with _ignore_missing_glyphs():
        figure.savefig(
            path,
            dpi=DPI,
            bbox_inches="tight",
            metadata={"Software": None} if str(path).endswith(".png") else None,
        )


@contextmanager
def _ignore_missing_glyphs() -> Iterator[None]:
    """Suppress a warning for each character that no font has; it is drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


@lru_cache(maxsize=1)
def families() -> list[str]:
    """The usual font, then those that this machine has for Chinese, Japanese and Korean."""
    from matplotlib.font_manager import fontManager

    there = set(fontManager.get_font_names())
    return [STYLE["font.family"], *(name for name in CJK if name in there)]


def empty_figure(width: float, height: float) -> Any:
    """An empty figure, ``width`` and ``height`` in inches.

    pyplot forgets it at once, or a notebook would show it twice.
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), dpi=DPI, layout="constrained")
    plt.close(figure)
    return with_alt_text(figure)


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """An empty figure, ``width`` and ``height`` in inches, and its axes.

    The axes are those of ``Figure.subplots`` with ``options``. It is meant for what a notebook
    draws itself: unlike pyplot's, the figure is shown where a cell ends with it, and has a
    description in words, see ``with_alt_text``.

    >>> figure, (left, right) = panels(1, 2, 6, 3, sharey=True)
    >>> left.set_title("before").get_text()
    'before'
    """
    figure = empty_figure(width, height)
    return figure, figure.subplots(rows, columns, **options)


def styled(draw: Any) -> Any:
    """Decorate a drawing function: it draws in the style above, whatever the caller's settings."""
    from functools import wraps

    @wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Any:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # its stub lists every key
            figure = draw(*arguments, **options)
            with _ignore_missing_glyphs():
                # Ticks are made when they are first drawn, in the style of that moment.
                figure.draw_without_rendering()
            return figure

    return drawn
