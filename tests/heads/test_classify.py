"""Classification: cross-entropy, the prior, class weights and what is left out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.heads.classify import ClassifyHead
from tests.heads.test_heads import (
    B,
    D,
    make,
    make_features,
)


@pytest.mark.parametrize("head", ["classify", "weighted"])
def test_classify_loss_is_cross_entropy_forward_and_gradient_and_log_loss(head):
    from sklearn.metrics import log_loss

    module, batch = make(head)
    features, target = make_features(), batch["target"]
    weight = torch.tensor([0.2, 1.0, 4.0]) if head == "weighted" else torch.ones(3)
    scores = module.linear(features.pooled)  # of the weighted classes
    scores = torch.where(
        features.present[:, None], scores, (torch.tensor([0.5, 0.3, 0.2]) * weight).log()
    )
    expected = F.cross_entropy(scores, target, weight)
    output = module(features, batch)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.count, weight[target].sum())
    parameters = list(module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, parameters), torch.autograd.grad(expected, parameters)
    )
    probabilities = (output.logits.detach().double() + weight.log()).softmax(1).numpy()
    judge = log_loss(target, probabilities, sample_weight=weight[target].numpy(), labels=[0, 1, 2])
    assert math.isclose(output.loss.item(), judge, rel_tol=1e-5)


def test_a_row_with_no_modality_gets_the_prior():
    counts = torch.tensor([30, 50, 20])
    probability = ClassifyHead(D, 3, prior=counts)(make_features(), {}).logits.softmax(1)
    torch.testing.assert_close(probability[4], counts / 100)
    torch.testing.assert_close(
        ClassifyHead(D, 3)(make_features(), {}).logits[4].softmax(0), torch.full((3,), 1 / 3)
    )
    assert not torch.allclose(probability[0], probability[4])


PRIOR = torch.tensor([9.0, 1.0])


def one_in_ten(rows: int, shift: float) -> tuple[Features, Tensor]:
    """One class of two in every ten rows, and features that show by ``shift`` deviations which."""
    target = (torch.arange(rows) % 10 == 0).long()
    x = torch.randn(rows, D, generator=torch.Generator().manual_seed(0))
    x[:, 0] += shift * target
    return from_tokens(x[:, None], torch.ones(rows, 1, dtype=torch.bool)), target


def trained(
    shift: float, weight: Tensor | None, prior: Tensor | None = PRIOR
) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    head = ClassifyHead(D, 2, prior, weight)
    features, target = one_in_ten(2000, shift)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = head(features, {"target": target}).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    return head, head(features, {}).logits.detach(), target


WEIGHTS = {
    "no weights": None,
    "balanced": torch.tensor([1 / 1.8, 5.0]),
    "too much": torch.tensor([1.0, 50.0]),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_probabilities_are_those_of_the_data_whatever_the_weights(weight):
    """Features that tell nothing: the shares of the classes. Others: as sure as right."""
    from mmlib.metrics.calibration import calibration_error

    head, logits, target = trained(0.0, weight)
    assert logits.softmax(1).mean(0).tolist() == pytest.approx([0.9, 0.1], abs=0.01)
    assert logits.softmax(1)[:, 1].std() < 0.03
    nothing = from_tokens(torch.zeros(1, 1, D), torch.zeros(1, 1, dtype=torch.bool))
    assert head(nothing, {}).logits.softmax(1)[0].tolist() == pytest.approx([0.9, 0.1])
    _, logits, target = trained(2.0, weight)
    assert logits.softmax(1).mean(0).tolist() == pytest.approx([0.9, 0.1], abs=0.02)
    assert calibration_error(logits, target) < 0.03 if weight is not WEIGHTS["too much"] else True


def test_weights_hardly_change_the_order():
    from mmlib.metrics.scores import auroc

    plain, weighted = (
        auroc(*trained(2.0, WEIGHTS[name])[1:]) for name in ("no weights", "balanced")
    )
    assert weighted == pytest.approx(plain, abs=0.01)


def test_training_starts_from_the_prior_and_equal_classes_change_nothing():
    features = from_tokens(torch.zeros(1, 1, D), torch.ones(1, 1, dtype=torch.bool))

    def start(*options) -> Tensor:
        torch.manual_seed(0)
        return ClassifyHead(D, 3, *options)(features, {}).logits[0].detach()

    prior = torch.tensor([70.0, 20.0, 10.0])
    plain = start()
    for weight in (None, 1 / prior, torch.tensor([1.0, 2.0, 30.0])):
        torch.testing.assert_close((start(prior, weight) - plain).softmax(0), prior / 100)
    assert torch.equal(start(torch.tensor([7.0, 7.0, 7.0])), plain)


def test_a_head_saved_before_the_prior_was_put_back_answers_in_the_users_world():
    """It held the scores of the weighted classes, and its weights are in its buffers."""
    head, logits, _ = trained(0.0, WEIGHTS["balanced"])
    fresh = ClassifyHead(D, 2)
    fresh.load_state_dict(head.state_dict())
    assert torch.equal(fresh(one_in_ten(2000, 0.0)[0], {}).logits, logits)


@pytest.mark.parametrize("head", ["classify", "weighted"])
def test_a_target_of_minus_100_is_left_out_of_loss_count_and_gradient(head):
    module, batch = make(head)
    features = make_features()
    out = torch.tensor([False, True, False, False, True, True])
    kept = module(Features(*(x[~out] for x in features)), {"target": batch["target"][~out]})
    output = module(features, {"target": batch["target"].masked_fill(out, -100)})
    torch.testing.assert_close(output.loss, kept.loss)
    torch.testing.assert_close(output.count, kept.count)
    got, expected = (
        torch.autograd.grad(loss, list(module.parameters())) for loss in (output.loss, kept.loss)
    )
    torch.testing.assert_close(got, expected)
    none = module(features, {"target": torch.full((B,), -100)})
    gradients = torch.autograd.grad(none.loss, list(module.parameters()))
    assert none.loss == 0 and none.count == 0 and not any(g.any() for g in gradients)
    assert torch.equal(none.logits, output.logits)


@pytest.mark.parametrize(
    "options",
    [
        {"prior": torch.tensor([1.0, 0.0, 2.0])},
        {"weight": torch.tensor([1.0, 2.0])},
        {"weight": torch.tensor([1.0, math.nan, 1.0])},
    ],
)
def test_a_wrong_prior_or_weight_is_named(options):
    with pytest.raises(
        ValueError, match=f"{next(iter(options))} is .* expected 3 numbers above zero"
    ):
        ClassifyHead(D, 3, **options)
