"""Widgets without a browser: where a slider's value changes, the text and the picture change, and they are those of the function."""
import ast
import io
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from mmlib import plots_loss, widgets

ipywidgets = pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'")


def parts(column):
    """The sliders by their description, the text, the picture."""
    *sliders, text, picture = column.children
    return {slider.description: slider for slider in sliders}, text, picture


def seen(text, picture):
    return text.value, bytes(picture.value)


def png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def test_the_landscape_starts_with_text_and_picture():
    sliders, text, picture = parts(widgets.landscape())
    assert list(sliders) == ["learning rate", "momentum"]
    values = [slider.value for slider in sliders.values()]
    assert seen(text, picture) == (plots_loss.describe(*values), png(plots_loss.landscape(tuple(values))))
    assert bytes(picture.value).startswith(b"\x89PNG")


@pytest.mark.parametrize("name, value", [("learning rate", 0.1), ("learning rate", 0.15), ("momentum", 0.9)])
def test_a_slider_changes_the_text_and_the_picture(name, value):
    sliders, text, picture = parts(widgets.landscape())
    before = seen(text, picture)
    sliders[name].value = value
    values = [slider.value for slider in sliders.values()]
    after = seen(text, picture)
    assert after[0] != before[0] and after[1] != before[1]
    assert after == (plots_loss.describe(*values), png(plots_loss.landscape(tuple(values))))


def test_the_sliders_reach_all_four_words():
    sliders, text, _ = parts(widgets.landscape())
    words = set()
    for lr in (0.01, 0.1, 0.124, 0.2):
        sliders["learning rate"].value = lr
        words.add(text.value.split(":")[0])
    assert words == {"crawl", "converge", "oscillate", "diverge"}


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
    assert calls == [(1, 2), (1, 5)] and column.children[-2].value == "(1, 5)" and not (a.continuous_update or b.continuous_update)


def test_no_figure_is_left_open():
    plt.close("all")
    parts(widgets.landscape())[0]["momentum"].value = 0.5
    assert plt.get_fignums() == []


def test_ipywidgets_loads_when_the_first_widget_is_made():
    top = [node for node in ast.parse(Path(widgets.__file__).read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node for node in top if "ipywidgets" in ast.dump(node) or "matplotlib" in ast.dump(node)]
