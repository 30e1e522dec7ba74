"""What the figures of fusion say is what the dials' formula says."""
import pytest

from mmlib import plots_fusion, widgets
from mmlib.worlds.dials import STRUCTURES, Dials, best_accuracy


@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_bar_is_the_best_accuracy_of_its_senses(structure):
    dials = plots_fusion.set_dials(structure, 0.2, 0.5, 0.4)
    bars = plots_fusion.optimum(dials).axes[0].patches
    assert [bar.get_height() for bar in bars] == [best_accuracy(dials, subset) for subset in plots_fusion.optima(dials)] and len(bars) == 7


def test_the_words_say_when_joining_adds_and_when_not():
    assert "0.850" in (text := plots_fusion.describe(Dials(0.3, 0.5, 0.4))) and "joining adds 0.120" in text
    assert "adds nothing" in plots_fusion.describe(Dials(0.3, 0.3, 0.3, structure="redundant"))
    assert "each sense alone is chance" in plots_fusion.describe(Dials(0.1, 0.1, 1, structure="synergy"))


def test_every_seed_has_its_dot_and_the_bar_stands_at_the_mean():
    lines = plots_fusion.seeds({"a": [0.5, 0.7], "b": [0.9]}, {"b": 1.0}).axes[0].lines
    drawn = [list(line.get_xdata()) for line in lines]
    assert [0.5, 0.7] in drawn and [0.9] in drawn and [1.0] in drawn and [pytest.approx(0.6)] in drawn


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="measured has"):
        plots_fusion.optimum(Dials(), {("smell",): [0.5]})
    for scores, best in (({}, None), ({"a": []}, None), ({"a": [0.5]}, {"b": 1.0})):
        with pytest.raises(ValueError, match="expected"):
            plots_fusion.seeds(scores, best)


def test_the_widget_follows_its_sliders():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'")
    structure, *rates, text, picture = widgets.dials().children
    before = text.value, bytes(picture.value)
    structure.value = "redundant"
    dials = plots_fusion.set_dials("redundant", *[rate.value for rate in rates])
    assert text.value == plots_fusion.describe(dials) != before[0] and bytes(picture.value) != before[1]
