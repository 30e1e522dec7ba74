"""The words that a screen reader gets are what was drawn."""

import re

import numpy as np
import pytest

from mmlib import plots
from mmlib.course.figures import fusion as plots_fusion
from mmlib.course.figures import loss as plots_loss
from mmlib.course.figures import pipeline
from mmlib.plots.alt_text import LONGEST, describe
from mmlib.train.history import History
from mmlib.worlds.pets.dials import Dials


def test_bars_are_said_with_their_names_and_values_whichever_way_they_lie():
    upright = describe(plots.bars({"image": 0.9, "text": 0.812}, chance=0.5))
    assert "image 0.9, text 0.812" in upright and "chance 0.5" in upright and "accuracy" in upright
    figure, axes = plots.panels(1, 1, 3, 2)
    axes.barh(["cat", "dog"], [3, 4])
    assert "cat 3, dog 4" in describe(figure)
    figure, axes = plots.panels(1, 1, 3, 2)
    axes.bar(range(30), range(30))
    assert "and 10 more" in describe(figure)


def test_a_named_line_is_said_with_its_ends_and_the_others_are_counted():
    figure, axes = plots.panels(1, 1, 3, 2)
    axes.plot([0, 1, 2, 3], [2.5, np.nan, 1.0, np.nan], label="train")
    axes.plot([0, 1], [0, 5])
    axes.plot([0, 1], [0, 6])
    axes.plot([], [], label="nothing")
    axes.set(title="the\nloss", xlabel="epoch", ylabel="nats")
    words = "the loss; lines: train from 2.5 to 1; 2 more lines; across: epoch; up: nats"
    assert describe(figure) == words


def test_images_are_one_list_and_equal_panels_are_said_once():
    figure, row = plots.panels(1, 4, 8, 2)
    for axes, name in zip(row[:2], ("a cat", "a dog")):
        axes.imshow(np.zeros((3, 3)))
        axes.set_title(name)
    for axes in row[2:]:
        axes.plot([0, 1], [1, 2])
    assert describe(figure) == "2 images: a cat, a dog | 2 times: 1 line"


def test_points_maps_and_diagrams_are_named():
    figure, (left, right) = plots.panels(1, 2, 6, 3)
    left.scatter([1, 2, 3], [1, 2, 3])
    right.pcolormesh(np.zeros((2, 2)))
    right.set(xlabel="seconds", ylabel="kHz")
    assert describe(figure) == "3 points | map; across: seconds; up: kHz"
    assert "cat or dog?" in describe(pipeline())


def test_colour_bars_and_empty_panels_say_nothing():
    matrix = plots.confusion(np.eye(2), ["cat", "dog"])
    assert describe(matrix) == "map; across: predicted; up: true"
    figure, _ = plots.panels(1, 2, 4, 2)
    assert describe(figure) == "an empty figure"


def test_a_long_description_ends():
    figure, row = plots.panels(1, 9, 9, 2)
    for number, axes in enumerate(row):
        axes.plot([0, 1], label=f"{number} " + "word " * 100)
    assert len(describe(figure)) == LONGEST and describe(figure).endswith("...")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.bars({"image": 0.9}),
        pipeline,
        lambda: plots.panels(1, 1, 2, 2)[0],
        lambda: plots_loss.landscape((0.1, 0)),
        lambda: plots_fusion.optimum(Dials(structure="unique")),
        lambda: History([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]).plot(),
    ],
)
def test_ipython_puts_the_words_beside_the_image(draw):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.pylabtools import select_figure_formats

    figure, shell = draw(), InteractiveShell.instance()
    select_figure_formats(shell, {"png"})
    data, metadata = shell.display_formatter.format(figure)
    assert data["image/png"] and metadata["image/png"] == {"alt": describe(figure)}
    # nbval compares this text: it holds no number that a machine's rounding can change
    assert re.match("<Figure size", data["text/plain"])
