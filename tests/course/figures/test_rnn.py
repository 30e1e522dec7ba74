"""Recurrence: states and gradients of the figures are those of torch.

The gain predicts what a gradient does, and the figures show all of it.
"""

import math

import matplotlib
import numpy as np
import pytest
import torch

from mmlib.course import widgets
from mmlib.course.exercises import rnn
from mmlib.course.figures import rnn as plots_rnn
from tests.figures import assert_whole

matplotlib.use("agg")
GAINS = (0.5, 0.9, 1.0, 1.1, 1.5, 2.0)
WORDS = ["pad", "cat", "dog", "hen", "cow", "and"]
IDS, MASK = (
    torch.tensor([[1, 2, 5, 4], [3, 4, 5, 0]]),
    torch.tensor([[True] * 4, [True] * 3 + [False]]),
)
SCORES = {"RNN": {5: [1.0, 0.9], 40: [0.3, 0.2]}, "LSTM": {5: [1.0, 1.0], 40: [1.0, 0.8]}}
FIGURES = {
    "one gain": lambda: plots_rnn.memory(1.0),
    "the largest gain": lambda: plots_rnn.memory(2.0),
    "four gains": lambda: plots_rnn.memory(0.9, 1.0, 1.1, 1.5),
    "sentences": lambda: plots_rnn.sentences(IDS, MASK, WORDS),
    "scores": lambda: plots_rnn.scores_by_length(SCORES, {"bag of words": 0.5, "chance": 0.25}),
}
every_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())


def torch_run(gain, activation, steps, constant):
    """The states and the derivative by autograd, from the same weight and inputs."""
    weight, make = torch.tensor(plots_rnn.recurrent_weight(gain)), np.random.default_rng(1)
    x = torch.tensor(
        plots_rnn.INPUT * make.standard_normal((1 if constant else steps, plots_rnn.WIDTH))
    ).expand(steps, -1)
    squash = {"none": lambda a: a, "tanh": torch.tanh, "relu": torch.relu}[activation]

    def states(h):
        found = [h]
        for row in x:
            found.append(squash(weight @ found[-1] + row))
        return torch.stack(found)

    start = torch.zeros(plots_rnn.WIDTH, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(states, start)  # (steps + 1, WIDTH, WIDTH)
    return states(start), torch.linalg.matrix_norm(jacobian, 2)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("activation", plots_rnn.ACTIVATIONS)
@pytest.mark.parametrize("gain", [0.8, 1.5])
def test_states_and_gradients_are_those_of_autograd(gain, activation, constant):
    ours, theirs = (
        plots_rnn.run(gain, activation, 12, constant),
        torch_run(gain, activation, 12, constant),
    )
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(torch.from_numpy(mine), other)


def test_the_tanh_network_is_torchs_rnn_without_bias():
    layer = torch.nn.RNN(plots_rnn.WIDTH, plots_rnn.WIDTH, bias=False, dtype=torch.double)
    layer.weight_ih_l0.data, layer.weight_hh_l0.data = (
        torch.eye(plots_rnn.WIDTH).double(),
        torch.tensor(plots_rnn.recurrent_weight(1.2)),
    )
    x = torch.tensor(
        plots_rnn.INPUT * np.random.default_rng(1).standard_normal((30, plots_rnn.WIDTH))
    )
    torch.testing.assert_close(
        torch.from_numpy(plots_rnn.run(1.2, "tanh", 30, constant=False)[0][1:]),
        layer(x)[0].detach(),
    )


@pytest.mark.parametrize("gain", GAINS)
def test_the_recurrent_weight_stretches_every_vector_by_the_gain(gain):
    assert np.linalg.svd(plots_rnn.recurrent_weight(gain))[1] == pytest.approx(
        np.full(plots_rnn.WIDTH, gain)
    )


@pytest.mark.parametrize("gain", GAINS)
def test_without_squashing_the_gradient_is_the_gain_to_the_power_of_the_steps(gain):
    norms = plots_rnn.run(gain, "none")[1]
    assert norms == pytest.approx(gain ** np.arange(plots_rnn.STEPS + 1), rel=1e-8)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("gain", GAINS)
def test_tanh_keeps_the_state_below_one_and_the_gradient_below_that_of_no_squashing(gain, constant):
    (states, norms), free = (
        plots_rnn.run(gain, "tanh", constant=constant),
        plots_rnn.run(gain, "none", constant=constant)[1],
    )
    assert np.abs(states).max() < 1 and (norms <= free * (1 + 1e-9)).all() and norms[-1] < free[-1]


def test_relu_explodes_where_the_gain_is_large_and_not_where_it_is_small():
    assert (
        np.abs(plots_rnn.run(2.0, "relu")[0]).max() > 1e6
        and np.abs(plots_rnn.run(0.9, "relu")[0]).max() < 1
    )


def test_a_constant_input_is_the_same_in_each_step_and_a_random_one_is_not():
    """Seen in the first two states of a network without memory."""
    for constant in (True, False):
        first, second = plots_rnn.run(0.0, "none", 2, constant)[0][1:]
        assert np.array_equal(first, second) == constant


@pytest.mark.parametrize(
    "norm, word",
    [
        (1e-3, "vanishes"),
        (0.009, "vanishes"),
        (0.011, "lasts"),
        (1, "lasts"),
        (99, "lasts"),
        (101, "explodes"),
        (math.inf, "explodes"),
    ],
)
def test_the_verdict_is_about_a_hundred_times_more_or_less(norm, word):
    assert plots_rnn.verdict(norm) == word


def test_all_three_words_occur_on_the_slider_and_the_sentence_says_what_the_run_does():
    assert {plots_rnn.verdict(plots_rnn.run(gain)[1][-1]) for gain in GAINS} == {
        "vanishes",
        "lasts",
        "explodes",
    }
    for gain in GAINS:
        text, (states, norms) = plots_rnn.describe(gain), plots_rnn.run(gain)
        assert (
            f"tanh: the gradient {plots_rnn.verdict(norms[-1])} ({norms[-1]:.2g}), largest state "
            f"{np.abs(states[-1]).max():.2g};" in text
        )
        assert f"gain {gain:.2f}: without squashing, {gain**plots_rnn.STEPS:.2g} of" in text


@every_figure
@pytest.mark.filterwarnings("error")
def test_nothing_is_cut_off_or_on_top_of_another_and_nothing_is_left_open(draw):
    assert_whole(draw)


def test_the_figure_shows_the_runs():
    figure = plots_rnn.memory(0.9, 1.5)
    for gain, top, bottom in zip((0.9, 1.5), figure.axes[:2], figure.axes[2:]):
        shown = {name: plots_rnn.run(gain, name) for name in ("none", "tanh", "relu")}
        assert [line.get_ydata() for line in top.lines] == [
            pytest.approx(norms) for _, norms in shown.values()
        ]
        largest = [np.abs(shown[name][0][1:]).max(axis=1) for name in ("tanh", "relu")]
        assert [line.get_ydata() for line in bottom.lines] == [
            pytest.approx(values) for values in largest
        ]
        assert bottom.lines[0].get_xdata()[0] == 1 and top.get_title() == f"gain {gain}"
        assert top.get_yscale() == bottom.get_yscale() == "log" and (
            top.get_xlabel(),
            bottom.get_xlabel(),
        ) == ("steps back", "step")
        assert len({(line.get_color(), line.get_linestyle()) for line in top.lines}) == 3
        assert [line.get_color() for line in top.lines[1:]] == [
            line.get_color() for line in bottom.lines
        ]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "no squashing",
        "tanh",
        "relu",
    ]


def test_each_word_stands_at_its_place_and_padding_is_white():
    axes = plots_rnn.sentences(IDS, MASK, WORDS).axes[0]
    found = {text.get_position(): text for text in axes.texts}
    for (row, column), number in np.ndenumerate(IDS.numpy()):
        text, real = found[column, row], bool(MASK[row, column])
        assert text.get_text() == (WORDS[number] if real else "pad")
        assert (text.get_bbox_patch().get_facecolor()[:3] == (1, 1, 1)) == (not real)
    places = {1: (0, 0), 2: (1, 0), 3: (0, 1), 4: (1, 1), 5: (2, 0)}
    faces = {
        WORDS[number]: found[place].get_bbox_patch().get_facecolor()
        for number, place in places.items()
    }
    assert (
        len(set(faces.values())) == 5
        and found[3, 0].get_bbox_patch().get_facecolor() == faces["cow"]
    )


def test_scores_are_a_point_per_seed_and_a_line_through_the_means():
    axes = plots_rnn.scores_by_length(SCORES, {"bag of words": 0.5, "chance": 0.25}).axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_ydata().tolist() for line in lines] == [
        pytest.approx([0.95, 0.25]),
        pytest.approx([1.0, 0.9]),
    ]
    points = sorted(
        y for line in axes.lines if line.get_linestyle() == "None" for y in line.get_ydata()
    )
    assert points == sorted(
        score for by_length in SCORES.values() for values in by_length.values() for score in values
    )
    places = [
        tuple(xy)
        for line in axes.lines
        if line.get_linestyle() == "None"
        for xy in {tuple(row) for row in line.get_xydata()}
    ]
    assert len(set(places)) == len(places), "points of two networks on top of each other"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "RNN",
        "LSTM",
        "bag of words",
        "chance",
    ]
    assert {line.get_ydata()[0] for line in axes.lines if line.get_linestyle() in ("--", ":")} == {
        0.5,
        0.25,
    }
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "40"]


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="'sigmoid', expected one of"):
        plots_rnn.run(1.0, "sigmoid")
    with pytest.raises(ValueError, match="no gain"):
        plots_rnn.memory()
    with pytest.raises(ValueError, match=r"ids \(2, 4\) and mask \(2, 3\)"):
        plots_rnn.sentences(IDS, MASK[:, :3], WORDS)
    with pytest.raises(ValueError, match="scores is empty"):
        plots_rnn.scores_by_length({})


def test_the_slider_moves_text_and_picture_of_the_widget():
    pytest.importorskip(
        "ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'"
    )
    slider, text, picture = widgets.memory().children
    before, drawn = text.value, bytes(picture.value)
    assert before == plots_rnn.describe(1.0) and drawn.startswith(b"\x89PNG")
    slider.value = 1.5
    assert (
        text.value == plots_rnn.describe(1.5)
        and bytes(picture.value) != drawn
        and slider.description == "recurrent gain"
    )


def test_half_of_the_cell_is_left_after_100_steps_with_the_bias_of_exercise_1():
    assert torch.sigmoid(
        torch.tensor(rnn.forget_bias.reference, dtype=torch.double)
    ).item() ** 100 == pytest.approx(0.5)


def test_the_last_state_of_exercise_2_is_that_of_torchs_packed_rnn():
    layer, mask = (
        torch.nn.RNN(3, 3, batch_first=True),
        torch.arange(6) < torch.tensor([6, 4, 1])[:, None],
    )
    x = torch.randn(3, 6, 3)
    last = layer(torch.nn.utils.rnn.pack_padded_sequence(x, mask.sum(dim=1), batch_first=True))[1][
        0
    ]
    torch.testing.assert_close(rnn.last_state.reference(layer(x)[0], mask), last)


def test_the_gradient_of_exercise_3_is_that_of_autograd():
    states, weight, sent = rnn.recurrent_gradient.inputs(torch.Generator().manual_seed(7))
    inputs = states[1:].atanh() - states[:-1] @ weight.T  # what the words brought
    leaf, h, total = weight.clone().requires_grad_(), states[0], 0.0
    for x, gradient in zip(inputs, sent):
        h = (leaf @ h + x).tanh()
        total = total + (h * gradient).sum()
    (expected,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(
        rnn.recurrent_gradient.reference(states, weight, sent), expected, rtol=1e-3, atol=1e-4
    )
