"""What the figures of fusion say is what the dials' formula says."""

import matplotlib
import numpy as np
import pytest

from mmlib.course import widgets
from mmlib.course.figures import fusion as plots_fusion
from mmlib.worlds.pets.dials import MODALITIES, STRUCTURES, Dials, best_accuracy
from tests.figures import assert_whole

matplotlib.use("agg")
UNIQUE = Dials(0.3, 0.5, 0.4)
MEASURED = {("image",): [0.84, 0.86], ("image", "audio"): [0.93], MODALITIES: [0.96, 0.97, 0.99]}
FIGURES = {
    "the optimum": lambda: plots_fusion.optimum(UNIQUE),
    "all there is to know": lambda: plots_fusion.optimum(Dials(0, 0, 0)),
    "with models": lambda: plots_fusion.optimum(UNIQUE, MEASURED),
    "one line": lambda: plots_fusion.seeds({"a": [0.5]}),
    "sixteen lines": lambda: plots_fusion.seeds(
        {f"ALongNameFusion{i}": [i / 16, 0.9] for i in range(16)}, {"ALongNameFusion3": 0.97}
    ),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_figures_are_whole_and_speak(draw):
    figure = assert_whole(draw)
    alternative = figure._repr_mimebundle_()[1]["image/png"]["alt"]
    assert "accuracy" in alternative


@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_bar_is_the_best_accuracy_of_its_modalities(structure):
    dials = plots_fusion.set_dials(structure, 0.2, 0.5, 0.4)
    bars = plots_fusion.optimum(dials).axes[0].patches
    assert [bar.get_height() for bar in bars] == [
        best_accuracy(dials, subset) for subset in plots_fusion.optima(dials)
    ] and len(bars) == 7


def test_the_words_say_when_joining_adds_and_when_not():
    assert (
        "0.850" in (text := plots_fusion.describe(Dials(0.3, 0.5, 0.4)))
        and "joining adds 0.120" in text
    )
    assert (
        "best alone is text, 0.850" in (text := plots_fusion.describe(Dials(0.5, 0.3, 0.4)))
        and "joining adds 0.120" in text
    )
    assert "adds nothing" in plots_fusion.describe(Dials(0.3, 0.3, 0.3, structure="redundant"))
    assert "each modality alone is chance" in plots_fusion.describe(
        Dials(0.1, 0.1, 1, structure="synergy")
    )


def test_every_measured_accuracy_is_a_dot_over_the_bar_of_its_modalities():
    axes = plots_fusion.optimum(UNIQUE, MEASURED).axes[0]
    bars, names = (
        axes.patches,
        [" ".join(label.get_text().split()) for label in axes.get_xticklabels()],
    )
    assert names[:4] == ["image", "text", "audio", "image + text"]
    for modalities, values in MEASURED.items():
        bar = bars[names.index(" + ".join(modalities))]
        dots = next(line for line in axes.lines if list(line.get_ydata()) == values)
        assert all(bar.get_x() <= x <= bar.get_x() + bar.get_width() for x in dots.get_xdata())
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(labels) == ["chance", "measured"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_sliders_set_the_dials_and_a_redundant_world_has_one_coin(structure):
    dials = plots_fusion.set_dials(structure, 0.2, 0.5, 0.4)
    assert dials.structure == structure and dials.image == 0.2
    assert (dials.text, dials.audio) == ((0.2, 0.2) if structure == "redundant" else (0.5, 0.4))


def test_every_seed_has_its_dot_the_bar_is_their_mean_and_the_words_say_it():
    figure = plots_fusion.seeds({"a": [0.5, 0.7], "b": [0.9]}, {"b": 1.0})
    axes = figure.axes[0]
    drawn = {tuple(line.get_xdata()): set(np.ravel(line.get_ydata())) for line in axes.lines}
    assert drawn == {(0.5, 0.7): {0}, (0.9,): {1}, (1.0,): {1}}, (
        "a name's dots and its diamond lie on its own line"
    )
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(0.6), 0.9]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "mean",
        "one seed",
        "best possible",
    ]
    assert "bars: a 0.6, b 0.9" in figure._repr_mimebundle_()[1]["image/png"]["alt"]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="measured has"):
        plots_fusion.optimum(Dials(), {("smell",): [0.5]})
    for scores, best in (({}, None), ({"a": []}, None), ({"a": [0.5]}, {"b": 1.0})):
        with pytest.raises(ValueError, match="expected"):
            plots_fusion.seeds(scores, best)


def test_the_widget_follows_its_sliders():
    pytest.importorskip(
        "ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'"
    )
    structure, *rates, text, picture = widgets.dials().children
    before = text.value, bytes(picture.value)
    structure.value = "redundant"
    dials = plots_fusion.set_dials("redundant", *[rate.value for rate in rates])
    assert (
        text.value == plots_fusion.describe(dials) != before[0]
        and bytes(picture.value) != before[1]
    )
