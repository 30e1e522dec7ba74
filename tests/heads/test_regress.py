"""Regression: squared error in units of the deviation, precise under bf16."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmlib.core import from_tokens
from mmlib.heads.regress import RegressHead
from tests.heads.test_heads import (
    B,
    D,
    make,
    make_features,
)


def test_regress_loss_is_mse_in_units_of_std_forward_and_gradient():
    module, batch = make("regress")
    features = make_features()
    expected = F.mse_loss(
        (10 + 4 * module.linear(features.pooled).squeeze(1) * features.present) / 4,
        batch["target"] / 4,
    )
    output = module(features, batch)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits, batch["target"]) / 16)
    assert output.logits[4] == 10 and output.count == B
    parameters = list(module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, parameters), torch.autograd.grad(expected, parameters)
    )


def test_regress_keeps_its_precision_under_bf16_when_the_mean_is_large():
    torch.manual_seed(0)
    module, features = RegressHead(D, mean=10_000.0, std=2.0), make_features()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(features, {"target": torch.full((B,), 10_001.0)})
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, module(features, {}).logits, rtol=0, atol=0.05)


def test_different_inputs_get_different_numbers_under_bf16():
    """bf16 itself has at most 256 numbers from one power of two to the next."""
    torch.manual_seed(0)
    module, x = RegressHead(1), torch.linspace(-3, 3, 1000)[:, None, None]
    features = from_tokens(x, torch.ones(1000, 1, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(features, {}).logits
    assert torch.equal(logits, module(features, {}).logits) and len(logits.unique()) == 1000


def test_a_target_that_is_not_a_number_is_never_left_out_in_silence():
    module, batch = make("regress")
    assert module(
        make_features(), {"target": batch["target"].index_fill(0, torch.tensor([2]), math.nan)}
    ).loss.isnan()


def test_a_std_of_zero_is_refused():
    with pytest.raises(ValueError, match="std is 0.0, expected a number above zero"):
        RegressHead(D, std=0.0)
