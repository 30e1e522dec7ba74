"""Scores against values worked out by hand, and against each other where they must agree."""

import math

import pytest
import torch
from sklearn.metrics import mean_absolute_error as their_error

from mmlib.metrics.calibration import calibration_error
from mmlib.metrics.scores import (
    accuracy,
    auroc,
    balanced_accuracy,
    confusion,
    log_loss,
    macro_f1,
    mean_absolute_error,
    r2,
)

LOGITS = torch.tensor(
    [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0], [5.0, 0.0, 1.0], [0.0, 1.0, 0.5]]
)  # guesses 0 1 2 0 1
TARGET = torch.tensor([0, 1, 2, 1, 1])


def test_by_hand():
    assert accuracy(LOGITS, TARGET) == 4 / 5
    assert macro_f1(LOGITS, TARGET) == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)
    assert confusion(LOGITS, TARGET).tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 1]]
    numbers, truth = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 2.0])
    assert mean_absolute_error(numbers, truth) == 1.0 == their_error(truth, numbers)
    assert r2(numbers, truth) == pytest.approx(1 - 5 / 2)


def test_confusion_has_a_row_for_every_class_and_its_diagonal_is_the_accuracy():
    draw = torch.Generator().manual_seed(0)
    logits, target = (
        torch.randn(50, 4, generator=draw),
        torch.randint(0, 3, (50,), generator=draw),
    )  # class 3 is never true
    table = confusion(logits, target)
    assert table.shape == (4, 4) and table.sum() == 50 and table[3].sum() == 0
    assert table.sum(1).tolist() == target.bincount(minlength=4).tolist()
    assert table.sum(0).tolist() == logits.argmax(1).bincount(minlength=4).tolist()
    assert float(table.diagonal().sum() / 50) == pytest.approx(accuracy(logits, target))


def test_a_rare_class_weighs_as_much_as_a_frequent_one_in_macro_f1():
    logits, target = torch.tensor([[1.0, 0.0]] * 10), torch.tensor([0] * 9 + [1])
    assert accuracy(logits, target) == 0.9 and macro_f1(logits, target) == pytest.approx(
        (18 / 19) / 2
    )


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    draw = torch.Generator().manual_seed(0)
    score, target = torch.randn(40, generator=draw), torch.randint(0, 2, (40,), generator=draw)
    logits = torch.stack([-score, score], dim=1)
    pairs = score[target == 1][:, None] > score[target == 0]
    assert auroc(logits, target) == pytest.approx(float(pairs.double().mean()))
    three = torch.cat(
        [logits, torch.full((40, 1), -30.0)], dim=1
    )  # a class that never comes: left out
    assert auroc(three, target) == pytest.approx(auroc(logits, target))
    assert auroc(
        torch.randn(4000, 3, generator=draw), torch.randint(0, 3, (4000,), generator=draw)
    ) == pytest.approx(0.5, abs=0.03)


def test_calibration_error_is_zero_where_confidence_is_accuracy_and_the_gap_elsewhere():
    chance = torch.tensor([[0.75, 0.25]] * 4)
    assert calibration_error(chance.log(), torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(chance.log(), torch.tensor([0, 0, 1, 1])) == pytest.approx(
        0.25, abs=1e-6
    )
    mixed = torch.cat([chance, torch.tensor([[0.05, 0.95]] * 4)])
    target = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1])
    assert calibration_error(mixed.log(), target) == pytest.approx(
        (0.25 * 4 + 0.05 * 4) / 8, abs=1e-6
    )
    edges = torch.tensor([[99.0, -99.0], [0.0, 0.0]])
    assert calibration_error(edges, torch.tensor([0, 0])) == pytest.approx(0.25)


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    """In one bin the two would cancel: half right and half sure against wrong and quite sure."""
    logits = torch.tensor(
        [[0.0, 0.0], [99.0, -99.0]]
    )  # confidence 1/2, the edge of two bins; and 1
    assert calibration_error(logits, torch.tensor([0, 1]), bins=2) == pytest.approx((0.5 + 1.0) / 2)


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_are_there():
    assert balanced_accuracy(LOGITS, TARGET) == pytest.approx((1 + 2 / 3 + 1) / 3)
    always = torch.tensor([[1.0, 0.0, -9.0]] * 10)
    assert balanced_accuracy(always, torch.tensor([0] * 9 + [1])) == 0.5  # class 2 is not there
    assert (
        balanced_accuracy(always, torch.tensor([1] * 9 + [2])) == 0.0
    )  # an answer that is never true


def test_no_warning_for_an_answer_that_is_never_true(recwarn):
    balanced_accuracy(LOGITS, torch.tensor([1, 1, 1, 1, 1]))
    assert not recwarn.list


def test_log_loss_is_scikit_learns_and_of_the_shares_their_entropy():
    from sklearn.metrics import log_loss as theirs

    assert log_loss(LOGITS, TARGET) == pytest.approx(
        theirs(TARGET, LOGITS.double().softmax(1).numpy(), labels=[0, 1, 2])
    )
    shares = torch.tensor([0.9, 0.1])
    assert log_loss(shares.log().expand(10, 2), torch.tensor([0] * 9 + [1])) == pytest.approx(
        float(-(shares * shares.log()).sum())
    )


@pytest.mark.parametrize(
    "metric", [accuracy, balanced_accuracy, log_loss, macro_f1, auroc, confusion, calibration_error]
)
def test_classes_of_the_wrong_shape_are_refused(metric):
    for logits, target in [
        (LOGITS[:, 0], TARGET),
        (LOGITS, TARGET[:, None]),
        (LOGITS, TARGET.float()),
        (LOGITS[:0], TARGET[:0]),
    ]:
        with pytest.raises(ValueError, match="expected logits|no samples"):
            metric(logits, target)


@pytest.mark.parametrize("metric", [mean_absolute_error, r2])
def test_numbers_of_the_wrong_shape_are_refused(metric):
    for logits, target in [
        (torch.ones(3, 1), torch.ones(3)),
        (torch.ones(3), torch.ones(3, 1)),
        (torch.ones(0), torch.ones(0)),
    ]:
        with pytest.raises(ValueError, match="one shape|no samples"):
            metric(logits, target)


@pytest.mark.filterwarnings("error")
def test_one_sample_has_no_r2_and_no_score_warns_of_it():
    """scikit-learn warned, on the screen and without the name of a file."""
    assert math.isnan(r2(torch.ones(1), torch.ones(1)))
    assert mean_absolute_error(torch.ones(1), torch.zeros(1)) == 1
    for metric in (accuracy, balanced_accuracy, macro_f1):
        assert metric(LOGITS[:1], TARGET[:1]) == 1
    assert confusion(LOGITS[:1], TARGET[:1]).sum() == 1


def test_one_class_has_no_auroc_and_the_error_says_so():
    with pytest.raises(ValueError, match="two classes.*all 2 targets are 1"):
        auroc(LOGITS[:2], torch.tensor([1, 1]))
