"""The bowl: what its figures say beforehand is what a run does.

torch's optimizer walks the same path.
"""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from mmlib.course.figures import loss as plots_loss
from tests.figures import assert_whole

matplotlib.use("agg")
L = np.linalg.eigvalsh(plots_loss.HESSIAN)[-1]
MOMENTA = (0.0, 0.5, 0.9)
GRID = [
    (lr, momentum)
    for lr in (0.004, 0.03, 0.08, 0.119, 0.124, 0.15, 0.19, 0.24)
    for momentum in MOMENTA
]
FIGURES = {
    "one run": lambda: plots_loss.landscape((0.1, 0.0)),
    "diverging": lambda: plots_loss.landscape((0.2, 0.95)),
    "four runs": lambda: plots_loss.landscape((0.01, 0.05), (0.1, 0), (0.124, 0.95), (0.128, 0.85)),
    "losses": lambda: plots_loss.losses(
        {"by hand": [3, 2, 1], "theirs": [3, 1]}, x="epoch", floor=("best", 0.5)
    ),
}
every_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())


@pytest.mark.parametrize("lr, momentum", GRID[::3] + GRID[2::6])
def test_the_path_is_that_of_torchs_optimizer(lr, momentum):
    hessian = torch.tensor(plots_loss.HESSIAN, dtype=torch.double)
    x = torch.tensor(plots_loss.START, dtype=torch.double, requires_grad=True)
    optimizer, path = torch.optim.SGD([x], lr=lr, momentum=momentum), [x.detach().clone()]
    for _ in range(30):
        optimizer.zero_grad()
        (x @ hessian @ x / 2).backward()
        optimizer.step()
        path.append(x.detach().clone())
    torch.testing.assert_close(
        torch.from_numpy(plots_loss.descend(lr, momentum, steps=30)), torch.stack(path)
    )


@pytest.mark.parametrize("momentum", MOMENTA)
def test_just_below_the_bound_a_run_arrives_and_just_above_it_flies_away(momentum):
    bound = 2 * (1 + momentum) / L
    assert np.abs(plots_loss.descend(0.99 * bound, momentum, steps=1500)[-1]).max() < 1e-3
    assert np.abs(plots_loss.descend(1.01 * bound, momentum, steps=1500)[-1]).max() > 1e3
    assert (
        plots_loss.verdict(0.999 * bound, momentum)
        != "diverge"
        == plots_loss.verdict(1.001 * bound, momentum)
    )
    assert f"rates above {bound:.4g} diverge" in plots_loss.describe(0.01, momentum)


@pytest.mark.parametrize("lr, momentum", GRID)
def test_the_factor_is_what_the_distance_shrinks_by_in_the_long_run(lr, momentum):
    """Over many steps, or less where a number would leave what floats can hold."""
    path = np.linalg.norm(plots_loss.descend(lr, momentum, steps=300), axis=1)
    assert (path[300] / path[150]) ** (1 / 150) == pytest.approx(
        abs(plots_loss.slowest(lr, momentum)), rel=0.02
    )


@pytest.mark.parametrize(
    "lr, word",
    [
        (0.005, "crawl"),
        (0.05, "crawl"),
        (0.08, "converge"),
        (0.115, "converge"),
        (0.123, "oscillate"),
        (2 / 16, "oscillate"),
        (0.126, "diverge"),
        (0.5, "diverge"),
    ],
)
def test_without_momentum_the_verdict_is_that_of_the_two_factors(lr, word):
    assert plots_loss.verdict(lr) == word


@pytest.mark.parametrize("lr, momentum", GRID)
def test_the_verdict_is_what_the_run_does(lr, momentum):
    """Judged by the run alone.

    How far is it still, and how often has each direction that has not arrived changed sides?
    """
    word, vectors = plots_loss.verdict(lr, momentum), np.linalg.eigh(plots_loss.HESSIAN)[1]
    path = plots_loss.descend(lr, momentum) @ vectors  # (steps + 1, 2) along the eigenvectors
    late = np.abs(path[-10:]).max(axis=0)
    sides = (np.diff(np.sign(path), axis=0) != 0).sum(axis=0)
    if word == "diverge":
        assert np.abs(plots_loss.descend(lr, momentum, 400)[-1]).max() > 10 * np.linalg.norm(
            plots_loss.START
        )
    else:
        assert np.linalg.norm(plots_loss.descend(lr, momentum, 1500)[-1]) < 1e-2
    if word == "crawl":
        assert sides[late.argmax()] <= 1 and late.max() > 0.1
    if word == "oscillate":
        assert sides[late > 0.05].max() >= 2
    if word == "converge":
        assert np.linalg.norm(path[-1]) < 0.2 * np.linalg.norm(path[0])


def test_all_four_words_occur_on_the_grid():
    assert {plots_loss.verdict(*run) for run in GRID} == set(plots_loss.WORDS)


def test_the_bowl_is_that_of_its_hessian_with_its_minimum_at_zero():
    x = torch.tensor([0.3, -0.7], dtype=torch.double)
    hessian = torch.tensor(plots_loss.HESSIAN, dtype=torch.double)
    assert plots_loss.bowl(x.numpy()) == pytest.approx((x @ hessian @ x / 2).item())
    assert plots_loss.bowl(np.zeros((5, 2))).tolist() == [0] * 5 and plots_loss.bowl(
        np.ones((3, 4, 2))
    ).shape == (3, 4)


def test_the_description_says_the_verdict_and_both_losses():
    text, path = plots_loss.describe(0.05, 0.5), plots_loss.bowl(plots_loss.descend(0.05, 0.5))
    assert (
        text.startswith("converge: ")
        and f"loss {path[0]:.1f} at the start, {path[-1]:.2g} after 40 steps" in text
    )


@every_figure
@pytest.mark.filterwarnings("error")
def test_nothing_is_cut_off_or_on_top_of_another_and_nothing_is_left_open(draw):
    assert_whole(draw)


def test_each_run_has_its_path_its_word_its_colour_and_its_loss():
    runs = [(0.01, 0.0), (0.128, 0.0), (0.05, 0.5)]
    figure = plots_loss.landscape(*runs)
    tops, bottoms = figure.axes[:3], figure.axes[3:]
    for run, top, bottom in zip(runs, tops, bottoms):
        path, word = plots_loss.descend(*run), plots_loss.verdict(*run)
        assert np.allclose(top.lines[-1].get_xydata(), path) and top.get_title().startswith(word)
        assert (
            np.allclose(bottom.lines[0].get_ydata(), plots_loss.bowl(path))
            and bottom.get_yscale() == "log"
        )
        assert {to_hex(line.get_color()) for line in (top.lines[-1], bottom.lines[0])} == {
            to_hex(plots_loss.WORDS[word])
        }
        assert (top.get_xlabel(), bottom.get_xlabel()) == ("first weight", "step")
    assert tops[2].get_title() == "converge\nrate 0.05, momentum 0.5"
    assert (tops[0].get_ylabel(), bottoms[0].get_ylabel()) == ("second weight", "loss")


def test_one_run_stands_in_one_row():
    (top, bottom), width = plots_loss.landscape((0.1, 0.0)).axes, 0.1
    assert (
        abs(top.get_position().y0 - bottom.get_position().y0) < width
        and top.get_position().x1 < bottom.get_position().x0
    )
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("second weight", "loss")


def test_loss_curves_show_the_numbers_given_under_their_names():
    axes = plots_loss.losses(
        {"a": [3, 2, 1], "b": [2.5, 2]}, x="epoch", floor=("best", 0.5), log=True
    ).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [
        [3, 2, 1],
        [2.5, 2],
    ] and axes.lines[2].get_ydata()[0] == 0.5
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "best"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("epoch", "loss", "log")
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 3
    assert plots_loss.losses({"a": [1, 2]}).axes[0].get_yscale() == "linear"


def test_no_curve_is_refused():
    with pytest.raises(ValueError, match="curves is empty"):
        plots_loss.losses({})
    with pytest.raises(ValueError, match="no run"):
        plots_loss.landscape()
