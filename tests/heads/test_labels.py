"""Labels: binary cross-entropy over what is known, the prior where nothing is there, float32."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmlib.core import from_pooled, from_tokens
from mmlib.heads.labels import LabelsHead
from tests.heads.test_heads import B, D, make, make_features

EVERYONE = torch.ones(B, dtype=torch.bool)


def test_the_loss_is_the_mean_over_known_labels_forward_and_gradient():
    module, batch = make("labels")
    features, known = make_features(), ~batch["target"].isnan()
    logits = module.linear(features.pooled)
    logits = torch.where(features.present[:, None], logits, torch.tensor([0.5, 0.9, 0.1]).logit())
    expected = F.binary_cross_entropy_with_logits(logits[known], batch["target"][known])
    output = module(features, batch)
    assert output.count == known.sum() == 13
    torch.testing.assert_close(output.loss, expected)
    parameters = list(module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, parameters), torch.autograd.grad(expected, parameters)
    )


def test_a_row_without_any_modality_gets_the_prior_and_training_starts_from_it():
    module = LabelsHead(D, 3, torch.tensor([0.5, 0.9, 0.1]))
    logits = module(make_features(), {}).logits
    torch.testing.assert_close(logits[4].sigmoid(), torch.tensor([0.5, 0.9, 0.1]))
    blank = module(from_pooled(torch.zeros(B, D), EVERYONE), {}).logits  # only the bias speaks
    torch.testing.assert_close(blank[0], torch.tensor([0.5, 0.9, 0.1]).logit(), atol=0.36, rtol=0)


def test_what_is_unknown_changes_nothing_and_gets_no_gradient():
    module, batch = make("labels")
    features = make_features()
    output = module(features, batch)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    nothing = module(features, {"target": torch.full((B, 3), math.nan)})
    assert nothing.loss == 0 and nothing.count == 0
    rest = [row for row in range(B) if row != 2]  # of that row no label is known
    fewer = module(type(features)(*(x[rest] for x in features)), {"target": batch["target"][rest]})
    torch.testing.assert_close(fewer.loss, output.loss)


def test_the_probability_of_a_rare_label_keeps_its_digits_under_bf16():
    torch.manual_seed(0)
    module, x = LabelsHead(1, 1, torch.tensor([0.001])), torch.linspace(-3, 3, 1000)[:, None, None]
    features = from_tokens(x, torch.ones(1000, 1, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        output = module(features, {"target": torch.zeros(1000, 1)})
    assert output.logits.dtype == output.loss.dtype == torch.float32
    assert torch.equal(output.logits, module(features, {}).logits)
    assert len(output.logits.unique()) == 1000


@pytest.mark.parametrize("prior", [[0.5], [0.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, math.nan, 0.5]])
def test_a_prior_that_is_no_share_of_each_label_is_refused(prior):
    with pytest.raises(ValueError, match="expected 3 shares between 0 and 1"):
        LabelsHead(D, 3, torch.tensor(prior))


@pytest.mark.parametrize("shape", [(B,), (B, 1), (B, 4)], ids=str)
def test_a_target_of_another_shape_is_refused(shape):
    module, _ = make("labels")
    with pytest.raises(ValueError, match=r"expected \(6, 3\): a number from 0 to 1 for each label"):
        module(make_features(), {"target": torch.zeros(shape)})
