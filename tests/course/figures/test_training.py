"""Figures of training show the numbers that they are given.

Rates of lr_at, the best epoch, every seed, the largest difference so far.
"""

import math

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from mmlib.course import widgets
from mmlib.course.figures import training as plots_training
from mmlib.plots.style import COLOURS
from mmlib.train.config import TrainConfig
from mmlib.train.optimizer import lr_at
from tests.figures import assert_whole, png

matplotlib.use("agg")
RNG = np.random.default_rng(0)


def run(steps=40, **settings):
    return TrainConfig(**settings), list(
        2.3 * np.exp(-np.arange(steps) / 20) + 0.1 * RNG.random(steps)
    )


RUNS = [run(lr=0.01), run(60, lr=0.1, warmup=0.0), run(lr=0.3, warmup=0.3), run(5), run(lr=1e-4)]
HISTORY = [
    {"epoch": epoch, "loss": 2 / epoch, "val_loss": 1 + (epoch - 6) ** 2 / 20}
    for epoch in range(1, 13)
]
RATES = np.geomspace(1e-5, 10, 60)
TEST = list(2 + RATES), {1e-3: [2.2, 2.3], 0.1: [0.9, 1.1], 1.0: [2.4, 2.4]}
SCORES = {"as it should be": [0.8, 0.9, 0.82], "600 rows,\nbest": [0.5], "not shuffled": [0.2, 0.1]}
DRIFTS = {"reversed": [0.0, 1e-7, -4e-7, 2e-7], "another seed": [0.1, 0.5, -1.0, 0.2]}
COSTS = {
    "convolution_backward": 24.23,
    "max_pool2d_with_indices": 11.7,
    "fill_": 0.058,
    "all": 1565,
}
FIGURES = {
    "one schedule": lambda: plots_training.schedule(RUNS[0]),
    "five schedules": lambda: plots_training.schedule(*RUNS),
    "one curve": lambda: plots_training.learning_curves({"width 3": HISTORY}),
    "three curves": lambda: plots_training.learning_curves(
        {f"width {width}": HISTORY for width in (3, 32, 512)}
    ),
    "range test": lambda: plots_training.range_test(RATES, *TEST),
    "spread": lambda: plots_training.spread(SCORES, "accuracy on test rows"),
    "spread of many": lambda: plots_training.spread(
        {f"{n} rows,\nlast": [0.1 * n] for n in range(7)}
    ),
    "drift": lambda: plots_training.drift(DRIFTS),
    "costs": lambda: plots_training.costs(COSTS, "ms in a step"),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.filterwarnings("error")
def test_nothing_is_cut_off_or_on_top_of_another_and_nothing_is_left_open(draw):
    assert_whole(draw)


@pytest.mark.parametrize("width", [1, 3, 7])
def test_smooth_is_the_mean_of_the_neighbours_and_value_i_is_that_around_i_plus_half_the_window(
    width,
):
    values = RNG.random(20)
    smoothed = plots_training.smooth(values, width)
    assert len(smoothed) == 20 - width + 1
    for place, value in enumerate(smoothed, width // 2):
        assert math.isclose(value, values[place - width // 2 : place + width // 2 + 1].mean())


@pytest.mark.parametrize("count, width", [(20, 4), (6, 7), (0, 1)])
def test_smooth_refuses_an_even_window_and_one_longer_than_the_values(count, width):
    with pytest.raises(
        ValueError, match=f"width is {width}, expected an odd number of at most {count}"
    ):
        plots_training.smooth([1.0] * count, width)


def test_the_description_of_a_run_has_the_steps_of_its_rise_its_rates_and_its_losses():
    config, losses = TrainConfig(lr=0.05, warmup=0.2), [3.0] + [2.0] * 29 + [1.0, 0.5] * 5
    text = plots_training.describe(config, losses)
    assert text == (
        f"40 steps: the rate rises for 8 to 0.05, then falls to {lr_at(39, 40, config):.1g}; "
        "loss 3.00 in the first step, 0.75 over the last 10."
    )


def test_each_run_has_the_rates_of_lr_at_and_its_losses_in_one_look_and_no_two_the_same():
    figure = plots_training.schedule(*RUNS)
    left, right = figure.axes
    looks = [(line.get_color(), line.get_linestyle()) for line in left.lines]
    assert looks == [(line.get_color(), line.get_linestyle()) for line in right.lines] and len(
        set(looks)
    ) == len(RUNS)
    for rates, shown, (config, losses) in zip(left.lines, right.lines, RUNS, strict=True):
        assert np.allclose(
            rates.get_ydata(), [lr_at(step, len(losses), config) for step in range(len(losses))]
        )
        assert np.allclose(shown.get_ydata(), losses)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[1:3] == ["warm-up 0%, highest 0.1", "warm-up 30%, highest 0.3"]
    assert (left.get_ylabel(), right.get_ylabel(), left.get_xlabel()) == (
        "learning rate",
        "loss",
        "step",
    )


def test_a_loss_that_explodes_leaves_the_others_readable():
    config, losses = run()
    axes = plots_training.schedule((config, losses), (config, [1e9] * 40)).axes[1]
    assert axes.get_ylim()[1] < 20 and np.allclose(axes.lines[0].get_ydata(), losses)


def test_curves_show_both_losses_on_one_scale_and_mark_the_lowest_validation_loss():
    other = [row | {"val_loss": 5.0 - row["epoch"] / 10} for row in HISTORY]
    figure = plots_training.learning_curves({"turns": HISTORY, "falls": other})
    for axes, (name, rows), best in zip(
        figure.axes, {"turns": HISTORY, "falls": other}.items(), (6, 12), strict=True
    ):
        training, validation, mark = axes.lines
        assert axes.get_title() == f"{name}, best epoch {best}" and list(
            training.get_xdata()
        ) == list(range(1, 13))
        assert list(training.get_ydata()) == [row["loss"] for row in rows]
        assert list(validation.get_ydata()) == [row["val_loss"] for row in rows]
        assert list(mark.get_xdata()) == [best, best]
        looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [
            "training",
            "validation",
            "best epoch",
        ]
        assert [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()] == looks
    assert (
        figure.axes[0].get_ylim() == figure.axes[1].get_ylim() and figure.axes[0].get_ylim()[0] == 0
    )


def test_the_range_test_has_the_loss_over_its_rate_and_each_whole_run_over_its_own():
    losses, runs = TEST
    left, right = plots_training.range_test(RATES, losses, runs).axes
    raw, smooth = left.lines
    assert np.allclose(raw.get_xdata(), RATES) and np.allclose(raw.get_ydata(), losses)
    assert np.allclose(smooth.get_xdata(), RATES[3:-3]) and np.allclose(
        smooth.get_ydata(), plots_training.smooth(losses)
    )
    *dots, mean = right.lines
    for line, (rate, values) in zip(dots, runs.items(), strict=True):
        assert list(line.get_xdata()) == [rate] * len(values) and list(line.get_ydata()) == values
    assert list(mean.get_xdata()) == list(runs) and np.allclose(
        mean.get_ydata(), [np.mean(values) for values in runs.values()]
    )
    assert left.get_xscale() == right.get_xscale() == "log" and left.get_xlim() == right.get_xlim()


def test_spread_shows_every_seed_and_the_mean_column_by_column():
    (axes,) = plots_training.spread(SCORES, "score").axes
    for place, (values, dots, bar) in enumerate(
        zip(SCORES.values(), axes.lines, axes.collections, strict=True)
    ):
        assert list(dots.get_ydata()) == values and np.abs(dots.get_xdata() - place).max() < 0.32
        assert (
            math.isclose(dots.get_xdata().mean(), place, abs_tol=1e-9)
            and dots.get_linestyle() == "None"
        )
        (left, low), (right, high) = bar.get_segments()[0]
        assert (
            low == high
            and math.isclose(low, np.mean(values))
            and math.isclose(left + right, 2 * place, abs_tol=1e-9)
        )
    assert [label.get_text() for label in axes.get_xticklabels()] == list(
        SCORES
    ) and axes.get_ylabel() == "score"
    assert [dots.get_label() for dots in axes.lines] == list(
        SCORES
    )  # what the alternative text says
    assert {to_hex(dots.get_color()) for dots in axes.lines} == {COLOURS["image"].lower()}


def test_seed_i_has_the_same_place_in_every_column():
    (axes,) = plots_training.spread({"a": [1, 2, 3], "b": [3, 1, 2]}).axes
    first, second = axes.lines
    assert (
        np.allclose(second.get_xdata() - first.get_xdata(), 1)
        and (np.diff(first.get_xdata()) > 0).all()
    )


def test_drift_shows_the_largest_difference_so_far_whatever_its_sign_in_powers_of_ten():
    (axes,) = plots_training.drift(DRIFTS).axes
    assert axes.get_yscale() == "log" and [line.get_label() for line in axes.lines] == list(DRIFTS)
    assert np.allclose(axes.lines[0].get_ydata(), [0, 1e-7, 4e-7, 4e-7], rtol=1e-9, atol=0)
    assert np.allclose(axes.lines[1].get_ydata(), [0.1, 0.5, 1.0, 1.0])


def test_costs_are_bars_from_zero_the_first_on_top_with_their_numbers():
    (axes,) = plots_training.costs(COSTS, "ms in a step").axes
    assert [bar.get_width() for bar in axes.patches] == list(COSTS.values()) and all(
        bar.get_x() == 0 for bar in axes.patches
    )
    heights = [bar.get_y() for bar in axes.patches]
    assert (
        heights == sorted(heights) and axes.yaxis_inverted() and axes.get_xlabel() == "ms in a step"
    )
    assert [text.get_text().strip() for text in axes.texts] == ["24", "12", "0.058", "1565"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(COSTS)


@pytest.mark.parametrize(
    "draw, shown",
    [
        (lambda: plots_training.schedule(), "no run to draw, expected one or more pairs"),
        (lambda: plots_training.learning_curves({}), "histories is empty"),
        (
            lambda: plots_training.range_test(RATES, [1.0, 2.0], {}),
            "60 rates and 2 losses, expected as many",
        ),
        (lambda: plots_training.spread({}), "scores is empty"),
        (lambda: plots_training.drift({}), "differences is empty"),
        (lambda: plots_training.costs({}, "ms"), "values is empty"),
    ],
    ids=["schedule", "learning_curves", "range_test", "spread", "drift", "costs"],
)
def test_what_is_not_there_cannot_be_drawn(draw, shown):
    with pytest.raises(ValueError, match=shown):
        draw()


def test_the_widget_trains_with_the_settings_of_its_sliders_and_shows_that_run():
    pytest.importorskip(
        "ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'"
    )
    asked = []

    def train(config):
        asked.append(config)
        return list(np.linspace(2.3, config.lr, 10 * config.epochs))

    warmup, rate, epochs, text, picture = widgets.schedule(train).children
    before = text.value, bytes(picture.value)
    warmup.value, rate.value, epochs.value = 0.3, 0.1, 5
    assert [(config.warmup, config.lr, config.epochs) for config in asked] == [
        (0.05, 0.01, 10),
        (0.3, 0.01, 10),
        (0.3, 0.1, 10),
        (0.3, 0.1, 5),
    ]
    losses = train(asked[-1])
    after = text.value, bytes(picture.value)
    assert after == (
        plots_training.describe(asked[-1], losses),
        png(plots_training.schedule((asked[-1], losses))),
    )
    assert after[0] != before[0] and after[1] != before[1]
