"""The error and the baseline beside a score."""

import math

import numpy as np
import pytest
import torch

from mmlib.recipes.baseline import error_and_baseline


def test_the_error_of_an_accuracy_is_its_spread_over_samples_of_rows():
    random = np.random.default_rng(0)
    right = random.random((4000, 60)) < 0.8  # 4,000 test sets of 60 rows
    errors = []
    for rows in right:
        logits = torch.nn.functional.one_hot(torch.from_numpy(rows.astype(np.int64)), 2).float()
        found = error_and_baseline(logits, torch.ones(60, dtype=torch.int64), 0)
        errors.append(found["accuracy_error"])
    assert np.mean(errors) == pytest.approx(right.mean(axis=1).std(), rel=0.05)


def test_all_right_is_not_certain():
    logits = torch.eye(2)[[0, 1, 0, 1, 0, 1]]
    assert error_and_baseline(logits, torch.tensor([0, 1] * 3), 0)["accuracy_error"] == 0.25
    one = error_and_baseline(torch.eye(2)[:1], torch.tensor([0]), 0)
    assert one["accuracy_error"] == 0.5  # no share has a larger deviation


def test_the_baseline_is_the_training_rows_answer_on_these_rows():
    target = torch.tensor([0, 1, 1, 1])
    assert error_and_baseline(torch.eye(2)[target], target, 0)["accuracy_baseline"] == 0.25
    numbers = torch.tensor([1.0, 3.0])
    assert error_and_baseline(numbers, numbers, 1.0)["mean_absolute_error_baseline"] == 1.0


def test_one_row_has_no_error_of_a_distance():
    found = error_and_baseline(torch.tensor([1.0]), torch.tensor([2.0]), 0.0)
    assert math.isnan(found["mean_absolute_error_error"])
    two = error_and_baseline(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), 0.0)
    assert two["mean_absolute_error_error"] == pytest.approx(1.0)  # deviation / square root of 2
