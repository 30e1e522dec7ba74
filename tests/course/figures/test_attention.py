"""Maps of attention show the weights that they are given.

The veil is clear where a word attends, and the frame stands where it should.
"""

import re

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from mmlib.course import widgets
from mmlib.course.figures import attention as plots_attention
from tests.figures import assert_whole, png

matplotlib.use("agg")
RNG = np.random.default_rng(0)
WORDS = "the red one and the blue one and the black one".split()
PICTURE = RNG.random((3, 24, 32))
WEIGHTS = RNG.random((11, 3, 4)) ** 4
WEIGHTS /= WEIGHTS.sum(axis=(1, 2), keepdims=True)
RIGHT = [-1, 5, -1, -1, -1, 11, -1, -1, -1, 0, -1]
FIGURES = {
    "one map": lambda: plots_attention.maps(
        {"learned": np.eye(8)}, "place written", "place looked at"
    ),
    "three maps": lambda: plots_attention.maps(
        {"no mask": np.eye(3, 40), "zeros after": np.eye(3, 40), "ours": np.eye(3, 40)}
    ),
    "one word": lambda: plots_attention.word_by_word(PICTURE, WORDS[:1], WEIGHTS[:1]),
    "a sentence": lambda: plots_attention.word_by_word(PICTURE, WORDS, WEIGHTS, RIGHT),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.filterwarnings("error")
def test_nothing_is_cut_off_or_on_top_of_another_and_nothing_is_left_open(draw):
    assert_whole(draw)


def test_maps_show_the_weights_in_the_same_shades_a_row_per_query():
    weights = {"right": torch.eye(3, 5), "learned": np.full((4, 12), 0.25)}
    figure = plots_attention.maps(weights, "word", "place")
    for axes, (name, value) in zip(figure.axes, weights.items()):
        (image,) = axes.images
        assert np.array_equal(image.get_array(), value) and image.get_clim() == (0, 1)
        assert axes.get_title() == name and axes.get_xlabel() == "place"
        assert axes.get_xlim() == (-0.5, value.shape[1] - 0.5) and axes.get_ylim() == (
            value.shape[0] - 0.5,
            -0.5,
        )
        assert len(axes.get_xticks()) <= 10 and {0, 1} <= set(axes.get_yticks())
    assert figure.axes[0].get_ylabel() == "word" and figure.axes[-1].get_ylabel() == "weight"


@pytest.mark.parametrize(
    "weights, shown",
    [({}, "empty"), ({"a": np.zeros((2, 3, 4))}, r"'a': \(2, 3, 4\)"), ({"b": np.ones(3)}, "'b'")],
)
def test_maps_that_are_none_are_refused(weights, shown):
    with pytest.raises(ValueError, match=f"weights are .*{shown}.*expected a name and an array"):
        plots_attention.maps(weights)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_each_word_has_the_picture_its_name_and_its_largest_weight():
    first, *words = panels(
        plots_attention.word_by_word(torch.from_numpy(PICTURE), WORDS, torch.from_numpy(WEIGHTS))
    )
    assert first.get_title() == "the picture" and [axes.get_title() for axes in words] == WORDS
    assert [axes.texts[0].get_text() for axes in words] == [
        f"largest {grid.max():.2f}" for grid in WEIGHTS
    ]
    for axes in (first, *words):
        assert np.allclose(axes.images[0].get_array(), PICTURE.transpose(1, 2, 0))
    assert len(first.images) == 1 and all(len(axes.images) == 2 for axes in words)


def test_the_veil_is_clear_at_the_largest_weight_and_thicker_where_there_is_less():
    axes = panels(plots_attention.word_by_word(PICTURE, WORDS[:1], WEIGHTS[:1]))[1]
    picture, veil = axes.images
    assert veil.get_extent() == picture.get_extent() == [-0.5, 31.5, 23.5, -0.5]
    alpha, weight = veil.get_array()[..., 3].ravel(), WEIGHTS[0].ravel()
    assert alpha[weight.argmax()] == 0 and 0 < alpha.max() < 1
    assert (np.diff(alpha[weight.argsort()]) < 0).all()


def test_who_looks_everywhere_sees_all_and_who_looks_nowhere_sees_nothing():
    grids = np.stack([np.full((3, 4), 1 / 12), np.zeros((3, 4))])
    everywhere, nowhere = panels(plots_attention.word_by_word(PICTURE, ["a", "b"], grids))[1:]
    assert (everywhere.images[1].get_array()[..., 3] == 0).all()
    assert (nowhere.images[1].get_array()[..., 3] > 0.9).all()


def test_a_frame_stands_around_the_right_cell_in_reading_order_and_only_there():
    words = panels(plots_attention.word_by_word(PICTURE, WORDS, WEIGHTS, RIGHT))[1:]
    for axes, cell in zip(words, RIGHT):
        frames = [patch.get_bbox().bounds for patch in axes.patches if isinstance(patch, Rectangle)]
        row, column = divmod(cell, 4)
        assert frames == ([] if cell < 0 else [(8 * column - 0.5, 8 * row - 0.5, 8, 8)])


@pytest.mark.parametrize(
    "picture, words, weights, right, shown",
    [
        (PICTURE[0], WORDS, WEIGHTS, None, r"picture has shape \(24, 32\), expected \(3, H, W\)"),
        (PICTURE.transpose(1, 2, 0), WORDS, WEIGHTS, None, r"picture has shape \(24, 32, 3\)"),
        (
            PICTURE,
            WORDS[:3],
            WEIGHTS,
            None,
            r"weights have shape \(11, 3, 4\), expected \(3, rows, columns\)",
        ),
        (PICTURE, WORDS, WEIGHTS.reshape(11, 12), None, r"\(11, 12\), expected \(11, rows"),
        (PICTURE, [], WEIGHTS[:0], None, "one or more"),
        (PICTURE, WORDS, WEIGHTS, [1, 2], "right has 2 cells, expected 11"),
    ],
)
def test_what_does_not_fit_together_is_refused(picture, words, weights, right, shown):
    with pytest.raises(ValueError, match=shown):
        plots_attention.word_by_word(picture, words, weights, right)


def test_the_description_says_which_word_and_where_it_looks_counted_from_one():
    grids = np.zeros((3, 2, 4))
    grids[1, 1, 2], grids[1, 0, 0], grids[2] = 0.75, 0.25, 1 / 8
    text = plots_attention.describe(["a", "red", "<b>"], grids, 1)
    assert text == "a <b>red</b> &lt;b&gt;<br>0.75 of its weight lies on row 2, column 3"
    assert "nothing to look at" in plots_attention.describe(["a", "red", "one"], grids, 0)
    assert plots_attention.describe(["the", "the", "the"], grids, 2).startswith(
        "the the <b>the</b><br>"
    )


def test_the_widget_shows_the_sample_and_the_word_that_its_sliders_say():
    pytest.importorskip(
        "ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'"
    )
    pictures, sentences = RNG.random((2, 3, 24, 32)), [WORDS, WORDS[:3]]
    weights = np.stack([WEIGHTS, WEIGHTS[::-1]])
    sample, word, text, picture = widgets.attention(pictures, sentences, weights).children
    assert (sample.min, sample.max, word.min, word.max) == (1, 2, 1, 11)

    def expected(number, place):
        words, grids = sentences[number], weights[number]
        figure = plots_attention.word_by_word(
            pictures[number], words[place : place + 1], grids[place : place + 1]
        )
        return plots_attention.describe(words, grids, place), png(figure)

    assert (text.value, bytes(picture.value)) == expected(0, 0)
    word.value = 6
    assert (text.value, bytes(picture.value)) == expected(0, 5) and re.search(
        "<b>blue</b>", text.value
    )
    sample.value = 2  # three words only: it stays at the last
    assert (text.value, bytes(picture.value)) == expected(1, 2)
