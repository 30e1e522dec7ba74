"""Figures show the numbers given, and nothing of them is cut off.

Neither the caller's style nor the screen matters.
"""

import ast
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from mmlib import plots
from mmlib.course.figures import pipeline
from mmlib.plots import style

matplotlib.use("agg")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
# 2 kHz, half a second
TONE = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(8000) / 16000).astype(np.float32)

FIGURES = {
    "confusion": lambda: plots.confusion([[90, 3], [5, 88]], ["cat", "dog"]),
    "many classes": lambda: plots.confusion(
        np.eye(50, dtype=int), [f"a class with a long name {i}" for i in range(50)]
    ),
    "bars": lambda: plots.bars(
        {"image": 0.8, "text": 0.7, "all modalities together": 0.9}, {"text": 0.75}, chance=0.5
    ),
    "samples": lambda: plots.samples(
        [IMAGE, None, IMAGE], ["It purrs. " * 30, "", "a"], [TONE, TONE[:99], None], list("abc")
    ),
    "one sample": lambda: plots.samples([IMAGE], ["a"], [np.zeros(3, np.float32)]),
    "pipeline": pipeline,
}
every_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())


def texts(figure, at=None):
    """The texts of a figure (or of one of its axes) that can be seen, without empty ones."""
    artists = (at or figure).findobj(matplotlib.text.Text)
    return [artist for artist in artists if artist.get_text() and artist.get_visible()]


@every_figure
@pytest.mark.filterwarnings("error")
def test_nothing_is_cut_off_and_nothing_is_warned_of(draw):
    figure = draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    ticks = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    }
    for text in texts(figure):
        if text in ticks:
            continue  # matplotlib makes more of them than it shows
        box = text.get_window_extent()
        assert box.x0 >= -2 and box.y0 >= -2 and box.x1 <= width + 2 and box.y1 <= height + 2, (
            f"{text.get_text()!r} leaves the figure"
        )


@pytest.mark.parametrize(
    "draw", [FIGURES[name] for name in ("confusion", "bars", "one sample", "pipeline")]
)
def test_the_ground_is_white_and_no_style_of_the_caller_matters(draw, tmp_path):
    plots.save(draw(), tmp_path / "plain.png")
    before = dict(matplotlib.rcParams)
    with matplotlib.style.context(["ggplot", "dark_background"]):
        figure = draw()
        plots.save(figure, tmp_path / "dark.png")
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "dark.png").read_bytes(), (
        "the same figure, the same bytes"
    )
    assert before == dict(matplotlib.rcParams)


@every_figure
def test_no_figure_is_left_open_to_be_shown_twice(draw):
    import matplotlib.pyplot as plt

    plt.close("all")
    draw()
    assert plt.get_fignums() == []


def test_a_confusion_matrix_shows_true_by_predicted():
    matrix = np.array([[9, 1], [20, 20]])
    axes = plots.confusion(matrix, ["cat", "dog"]).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert np.allclose(axes.images[0].get_array(), [[0.9, 0.1], [0.5, 0.5]]), (
        "shade = share of the true class"
    )
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "9", (1, 0): "1", (0, 1): "20", (1, 1): "20"}


def test_a_class_that_never_occurs_is_not_divided_by_zero():
    axes = plots.confusion([[0, 0], [1, 1]], ["a", "b"]).axes[0]
    assert np.allclose(axes.images[0].get_array(), [[0, 0], [0.5, 0.5]])


def test_names_must_fit_the_matrix():
    with pytest.raises(ValueError, match=r"\(2, 2\), expected \(3, 3\)"):
        plots.confusion([[1, 2], [3, 4]], ["a", "b", "c"])


def test_bars_stand_at_their_scores_and_the_best_at_its_own():
    best = {"image": 0.85, "text": 0.75}
    axes = plots.bars({"text": 0.7, "image": 0.8}, best, chance=0.5).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.7, 0.8]
    assert [text.get_text() for text in axes.texts] == ["0.70", "0.80"]
    best = {round(line[:, 0].mean()): line[0, 1] for line in axes.collections[0].get_segments()}
    assert best == {0: 0.75, 1: 0.85}, "whatever the order of the names"
    assert [float(line.get_ydata()[0]) for line in axes.lines] == [0.5]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["best possible", "chance"]


def test_bars_alone_need_no_legend():
    assert plots.bars({"text": 0.7}).axes[0].get_legend() is None


def test_the_best_of_an_unknown_bar_is_refused():
    with pytest.raises(ValueError, match=r"best has \['sound'\].*\['image'\]"):
        plots.bars({"image": 0.8}, {"sound": 0.9})


def test_an_image_may_have_its_channels_first_or_last():
    figure = plots.samples([IMAGE, IMAGE.transpose(2, 0, 1)], ["", ""], [None, None])
    last, first = (figure.axes[column].images[0].get_array() for column in (0, 1))
    assert np.array_equal(last, IMAGE) and np.array_equal(first, IMAGE)


def test_the_spectrogram_shows_pitch_and_time():
    sound = np.concatenate([np.zeros(8000, np.float32), TONE])
    spectrogram = plots.samples([IMAGE], ["a"], [sound]).axes[3].images[0]
    values = np.asarray(spectrogram.get_array())
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert spectrogram.get_extent() == [0, 1, 0, 8] and spectrogram.origin == "lower"
    assert abs((row + 0.5) / len(values) * 8 - 2) < 0.05, "kHz"
    assert (column + 0.5) / values.shape[1] > 0.5, "seconds: the tone comes after the silence"


def test_what_is_missing_is_said():
    shown = [text.get_text() for text in texts(plots.samples([None], [""], [None]))]
    assert {"(no image)", "(no words)", "(no sound)"} <= set(shown)


def test_samples_must_be_as_many_of_each():
    with pytest.raises(ValueError, match="1 images, 2 captions and 1 sounds"):
        plots.samples([IMAGE], ["a", "b"], [None])


def test_the_pipeline_names_every_stage_and_every_modality():
    shown = " ".join(text.get_text() for text in texts(pipeline()))
    stages = ("data", "feature extraction", "fusion", "task layer", "output")
    parts = (*stages, "picture", "words", "sound", "CNN", "RNN", "audio encoder")
    assert [word for word in parts if word not in shown] == []


def test_matplotlib_loads_when_the_first_figure_is_drawn():
    """The command line imports plots even when it draws nothing."""
    for file in Path(plots.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "matplotlib" not in ast.dump(node), file


@pytest.mark.parametrize(
    "names",
    [["$5_$10", "$10_$20"], [r"$\foo$", "$^$"], ["$", "a$b"], ["猫", "狗"], ["สุนัข", "\u202ea"]],
)
@pytest.mark.filterwarnings("error")
def test_any_class_name_is_drawn_as_it_is_written_and_without_a_word(names, tmp_path):
    figure = plots.confusion([[3, 1], [0, 4]], names)
    plots.save(figure, tmp_path / "a.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    assert all(not label.get_parse_math() for label in figure.axes[0].get_yticklabels())


def test_a_script_is_drawn_with_a_font_of_this_machine_that_has_it(monkeypatch):
    from matplotlib.font_manager import fontManager

    # One font that comes with matplotlib stands for one that this machine has.
    assert "STIXGeneral" in fontManager.get_font_names()
    monkeypatch.setattr(style, "CJK", ("Not a Font", "STIXGeneral"))
    style.families.cache_clear()
    assert style.families() == ["DejaVu Sans", "STIXGeneral"]
    labels = plots.confusion(np.eye(2), ["猫", "狗"]).axes[0].get_xticklabels()
    assert labels[0].get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]
    style.families.cache_clear()
