"""Scores of labels against scikit-learn's, by hand where a label is not known."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from mmlib.metrics import labels_auroc, labels_macro_f1, subset_accuracy

draw = torch.Generator().manual_seed(0)
LOGITS = torch.randn(80, 5, generator=draw)
TARGET = (torch.rand(80, 5, generator=draw) < 0.4).float()
SCORES = (subset_accuracy, labels_macro_f1, labels_auroc)


def test_where_all_is_known_they_are_those_of_scikit_learn():
    given, target = (LOGITS >= 0).int().numpy(), TARGET.int().numpy()
    assert subset_accuracy(LOGITS, TARGET) == pytest.approx(accuracy_score(target, given))
    expected = f1_score(target, given, average="macro")
    assert labels_macro_f1(LOGITS, TARGET) == pytest.approx(expected)
    expected = roc_auc_score(target, LOGITS.numpy(), average="macro")
    assert labels_auroc(LOGITS, TARGET) == pytest.approx(expected)


def test_what_is_not_known_is_not_scored():
    logits = torch.tensor([[2.0, -1.0], [2.0, 1.0], [-2.0, 1.0], [9.0, 9.0]])
    nan = math.nan
    target = torch.tensor([[1.0, nan], [0.0, 1.0], [nan, 1.0], [nan, nan]])
    assert subset_accuracy(logits, target) == pytest.approx(2 / 3)  # the last row is left out
    assert labels_macro_f1(logits, target) == pytest.approx((2 / 3 + 1) / 2)
    assert labels_auroc(logits, target) == 0.5  # of the second label, all that is known is 1
    other = torch.where(target.isnan(), -logits, logits)  # what is given there does not matter
    assert [s(other, target) for s in SCORES] == [s(logits, target) for s in SCORES]


@pytest.mark.parametrize("score", SCORES)
def test_nothing_known_is_nan_and_no_samples_or_other_shapes_are_refused(score):
    assert math.isnan(score(LOGITS, torch.full_like(TARGET, math.nan)))
    with pytest.raises(ValueError, match="no samples"):
        score(LOGITS[:0], TARGET[:0])
    for logits, target in [(LOGITS, TARGET[:, 0]), (LOGITS, TARGET.long()), (LOGITS[0], TARGET[0])]:
        with pytest.raises(ValueError, match=r"one shape \(N, K\)"):
            score(logits, target)
