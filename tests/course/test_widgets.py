"""Widgets without a browser: a slider's value changes the text and the image.

Both are those of the function.
"""

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mmlib.course import widgets
from mmlib.course.figures import loss as plots_loss
from tests.figures import png

ipywidgets = pytest.importorskip(
    "ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'"
)


def parts(column):
    """The sliders by their description, the text, the image."""
    *sliders, text, picture = column.children
    return {slider.description: slider for slider in sliders}, text, picture


def seen(text, picture):
    return text.value, bytes(picture.value)


@pytest.mark.parametrize("name, value", [("learning rate", 0.1), ("momentum", 0.9)])
def test_where_a_slider_changes_the_text_and_the_picture_change_and_nothing_is_left_open(
    name, value
):
    plt.close("all")
    sliders, text, picture = parts(widgets.landscape())
    assert list(sliders) == ["learning rate", "momentum"]
    before = seen(text, picture)
    assert before[0] == plots_loss.describe(
        *[slider.value for slider in sliders.values()]
    ) and before[1].startswith(b"\x89PNG")
    sliders[name].value = value
    values = [slider.value for slider in sliders.values()]
    after = seen(text, picture)
    assert after[0] != before[0] and after[1] != before[1]
    assert after == (plots_loss.describe(*values), png(plots_loss.landscape(tuple(values))))
    assert plt.get_fignums() == []


def test_the_sliders_reach_all_four_words():
    rate, momentum = parts(widgets.landscape())[0].values()
    reached = {
        plots_loss.verdict(lr, beta)
        for lr in np.arange(rate.min, rate.max, rate.step)
        for beta in (momentum.min, momentum.max)
    }
    assert reached == set(plots_loss.WORDS)


def test_two_widgets_do_not_share_anything():
    (sliders, *_), (_, text, _) = parts(widgets.landscape()), parts(widgets.landscape())
    before = text.value
    sliders["learning rate"].value = 0.1
    assert text.value == before


def test_a_panel_passes_the_values_in_order_and_draws_anew_for_each_change():
    calls = []

    def show(*values):
        calls.append(values)
        return str(values), plots_loss.losses({"a": [1.0, 2.0]})

    a, b = ipywidgets.IntSlider(1), ipywidgets.IntSlider(2)
    column = widgets.panel(show, a, b)
    b.value = 5
    assert (
        calls == [(1, 2), (1, 5)]
        and column.children[-2].value == "(1, 5)"
        and not (a.continuous_update or b.continuous_update)
    )


WIDGETS = {
    "landscape": widgets.landscape,
    "memory": widgets.memory,
    "aliasing": widgets.aliasing,
    "dials": widgets.dials,
    "convolution": lambda: widgets.convolution(np.random.default_rng(0).random((16, 16))),
    "attention": lambda: widgets.attention(
        np.ones((2, 3, 8, 8)), [["a"], ["b", "c"]], np.random.default_rng(0).random((2, 2, 2, 2))
    ),
    "schedule": lambda: widgets.schedule(
        lambda config: list(np.linspace(1 + config.lr, config.warmup, config.epochs))
    ),
}


@pytest.mark.parametrize("name", widgets.__all__)
def test_both_ends_of_every_slider_of_every_widget_show_something_of_their_own(name):
    sliders, text, picture = parts(WIDGETS[name]())
    for label, slider in sliders.items():
        ends = []
        for value in (
            (slider.options[0], slider.options[-1])
            if hasattr(slider, "options")
            else (slider.min, slider.max)
        ):
            if hasattr(slider, "base"):
                value = slider.base**value
            slider.value = value
            ends.append(seen(text, picture))
        assert ends[0][0] != ends[1][0] and ends[0][1] != ends[1][1], label
        assert all(words and image.startswith(b"\x89PNG") for words, image in ends)
    assert plt.get_fignums() == []


def test_ipywidgets_loads_when_the_first_widget_is_made():
    top = [
        node
        for node in ast.parse(Path(widgets.__file__).read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not [
        node for node in top if "ipywidgets" in ast.dump(node) or "matplotlib" in ast.dump(node)
    ]
