"""The curves of a training do not exaggerate, and mark the epoch whose weights are kept."""

import pytest

from mmlib import plots
from mmlib.plots.curves import curves
from mmlib.train.history import History


def rows(**scores):
    lengths = {len(values) for values in scores.values()}
    return History(
        {"epoch": i + 1, **{name: values[i] for name, values in scores.items()}}
        for i in range(lengths.pop())
    )


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title() == title)


def test_losses_begin_at_zero_and_shares_end_at_one():
    figure = curves(rows(loss=[0.9, 0.8], val_loss=[0.95, 0.85], val_macro_f1=[0.82, 0.84]))
    assert panel(figure, "loss").get_ylim()[0] == 0
    low, high = panel(figure, "macro F1").get_ylim()
    assert low == 0 and 1 < high < 1.05


@pytest.mark.parametrize("scores, floor", [([0.82, 0.84], 0.5), ([0.3, 0.6], 0.3)])
def test_an_accuracy_begins_at_the_most_frequent_class_or_where_the_model_is_worse(scores, floor):
    axes = panel(curves(rows(val_accuracy=scores, loss=[1, 1]), majority=0.5), "accuracy")
    low, high = axes.get_ylim()
    assert low == pytest.approx(floor - 0.02) and high == pytest.approx(1.02)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines["most frequent class"].get_ydata()) == {0.5}


def test_a_negative_loss_is_shown_whole():
    low, _ = panel(curves(rows(loss=[0.2, -0.6])), "loss").get_ylim()
    assert low < -0.6


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40])
def test_ticks_are_whole_epochs(epochs):
    figure = curves(rows(loss=[1.0] * epochs, val_accuracy=[0.5] * epochs))
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)


def test_the_best_epoch_is_marked_in_every_panel_and_named_in_the_title():
    figure = rows(loss=[1, 1, 1], val_loss=[0.5, 0.4, 0.45], val_accuracy=[0.7, 0.8, 0.9]).plot()
    assert figure.get_suptitle() == "3 epochs, the best is epoch 2"
    for title, height in (("loss", 0.4), ("accuracy", 0.8)):
        rings = [line for line in panel(figure, title).get_lines() if line.get_marker() == "o"]
        places = [(list(ring.get_xdata()), list(ring.get_ydata())) for ring in rings]
        assert places == [([2], [height])]


def test_training_and_validation_are_named_and_a_ring_at_an_edge_is_whole():
    figure = rows(loss=[1, 0.5], val_loss=[0.4, 0.0], val_accuracy=[0.9, 1.0]).plot()
    named = panel(figure, "loss").get_legend().get_texts()
    assert [text.get_text() for text in named] == ["training", "validation"]
    rings = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(rings) == 2 and not any(ring.get_clip_on() for ring in rings)
    low, high = panel(figure, "loss").get_ylim()
    assert low == 0 and high > 1.05  # room above the highest loss


def test_without_validation_nothing_is_marked():
    figure = rows(loss=[1, 0.5]).plot()
    assert figure.get_suptitle() == "2 epochs" and len(figure.axes) == 1
    assert [line.get_marker() for line in figure.axes[0].get_lines()] == ["."]


def test_a_score_that_is_missing_in_some_epochs_is_drawn_where_it_is():
    history = rows(loss=[1, 1, 1], val_accuracy=[0.7, None, 0.9])
    (line,) = panel(history.plot(), "accuracy").get_lines()
    assert list(line.get_xdata()) == [1, 3]


def test_only_panels_with_a_score_are_there():
    scores = {f"val_{name}": [0.5, 0.6] for name in ("accuracy", "macro_f1", "log_loss")}
    figure = curves(rows(loss=[1, 1], val_loss=[1, 1], **scores))
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == ["loss", "accuracy", "macro F1", "log loss"]


def test_the_confusion_matrix_has_a_title_of_the_same_kind():
    figure = plots.confusion([[3, 1], [0, 4]], ["cat", "dog"], "test: 7 of 8 rows right")
    assert figure.get_suptitle() == "test: 7 of 8 rows right"
    assert plots.confusion([[3, 1], [0, 4]], ["cat", "dog"]).get_suptitle() == ""
