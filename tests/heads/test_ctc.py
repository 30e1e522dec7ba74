"""CTC against torch and against the sum over all alignments by hand."""

import torch
import torch.nn.functional as F

from mmlib.core import Features, from_tokens
from tests.heads.test_heads import LENGTHS, B, D, make, make_features


def test_ctc_loss_is_torchs_mean_over_the_present_rows_forward_and_gradient():
    module, batch = make("ctc")
    features = make_features()
    here = features.present
    logp = module.linear(features.tokens)[here].log_softmax(-1).transpose(0, 1)
    lengths = batch["target_mask"][here].sum(1)
    expected = F.ctc_loss(
        logp, batch["target"][here], LENGTHS[here], lengths, reduction="mean", zero_infinity=True
    )
    output = module(features, batch)
    torch.testing.assert_close(output.loss, expected)
    assert output.count == 5 and output.loss > 0
    parameters = list(module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, parameters), torch.autograd.grad(expected, parameters)
    )


def test_ctc_loss_is_the_sum_over_all_alignments_by_hand():
    """Three frames, target [3, 4]: every path of three classes that collapses to it, its
    probabilities multiplied and added.
    """
    module, _ = make("ctc")
    features = from_tokens(
        torch.randn(1, 3, D, generator=torch.Generator().manual_seed(0)),
        torch.ones(1, 3, dtype=torch.bool),
    )
    p = module.linear(features.tokens)[0].softmax(-1)
    paths = [(3, 4, 0), (3, 0, 4), (0, 3, 4), (3, 3, 4), (3, 4, 4)]
    probability = sum(p[0, a] * p[1, b] * p[2, c] for a, b, c in paths)
    loss = module(
        features,
        {"target": torch.tensor([[3, 4]]), "target_mask": torch.ones(1, 2, dtype=torch.bool)},
    ).loss
    torch.testing.assert_close(loss, -probability.log() / 2)


def test_ctc_reads_the_real_tokens_in_order_holes_closed():
    module, batch = make("ctc")
    features = make_features(holes=True)
    length = features.mask.sum(1)
    closed = torch.zeros(B, int(length.max()), D)
    for i in range(B):
        closed[i, : length[i]] = features.tokens[i][features.mask[i]]
    together = module(from_tokens(closed, torch.arange(closed.shape[1]) < length[:, None]), batch)
    torch.testing.assert_close(module(features, batch).loss, together.loss)


def test_ctc_frames_under_the_mask_say_blank():
    module, batch = make("ctc")
    features = make_features()
    logits = module(features, {}).logits
    assert (
        not logits[~features.mask].argmax(-1).any()
        and (logits[~features.mask].softmax(-1)[:, 0] == 1).all()
    )


def test_a_ctc_target_with_too_few_frames_is_zero_and_has_no_gradient():
    module, batch = make("ctc")
    third = Features(*(x[2:3] for x in make_features()))
    output = module(third, {key: value[2:3] for key, value in batch.items()})
    output.loss.backward()
    assert output.loss == 0 and output.count == 1 and not module.linear.weight.grad.any()
