"""The decoder: its loss, what it reads, and what it writes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.core import Features, from_tokens
from mmlib.heads.language import LanguageHead
from tests.heads.test_heads import (
    BOS,
    EOS,
    B,
    K,
    make,
    make_features,
)


@pytest.mark.parametrize("head", ["prefix", "cross"])
def test_language_loss_is_flat_cross_entropy_over_the_real_words(head):
    module, batch = make(head)
    output = module(make_features(), batch)
    real = batch["target_mask"][:, 1:]
    torch.testing.assert_close(
        output.loss, F.cross_entropy(output.logits[real], batch["target"][:, 1:][real])
    )
    assert output.count == real.sum() == 16


@pytest.mark.parametrize("head", ["prefix", "cross"])
def test_each_row_reads_its_own_real_prefix_only(head):
    """One row at a time, holes cut out, no mask: the same logits as in the batch with padding
    and holes.
    """
    module, batch = make(head)
    features = make_features(holes=True)
    together = module(features, batch).logits
    for i in range(B):
        kept, words = features.tokens[i][features.mask[i]][None], batch["target_mask"][i]
        alone = module(
            from_tokens(kept, torch.ones(kept.shape[:2], dtype=torch.bool)),
            {"target": batch["target"][i][words][None], "target_mask": words[words][None]},
        ).logits[0]
        torch.testing.assert_close(alone, together[i, : len(alone)])
    assert not torch.allclose(together[0, 0], together[1, 0])  # same BOS, other prefix


@pytest.mark.parametrize("head", ["prefix", "cross"])
def test_words_know_their_order_and_the_prefix_never_sees_them(head):
    module, batch = make(head)
    ids, mask = torch.tensor([[BOS, 3, 4, 5]] * B), torch.ones(B, 4, dtype=torch.bool)
    swapped = module.logits(make_features(), torch.tensor([[BOS, 4, 3, 5]] * B), mask)
    assert not torch.allclose(module.logits(make_features(), ids, mask)[:, 3], swapped[:, 3])
    short = module.logits(make_features(), ids[:, :2], mask[:, :2])
    torch.testing.assert_close(module.logits(make_features(), ids, mask)[:, :2], short)


@pytest.mark.parametrize("head", ["prefix", "cross"])
def test_generate_takes_the_likeliest_word_until_eos(head):
    module, _ = make(head)
    with torch.no_grad():
        module.linear.weight.mul_(4)
    features = make_features()
    written = module.generate(features, BOS, EOS, steps=12)
    assert written[:, 0].eq(BOS).all() and written.shape[1] <= 13 and written.dtype == torch.int64
    for i in range(B):
        ids = [BOS]
        while ids[-1] != EOS and len(ids) < 13:  # by hand, one row, one word at a time
            row = Features(*(x[i : i + 1] for x in features))
            ids.append(
                int(
                    module.logits(
                        row, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)
                    )[0, -1].argmax()
                )
            )
        assert written[i].tolist() == (ids + [0] * 13)[: written.shape[1]]


def test_generate_stops_each_row_at_its_own_eos_and_the_batch_when_all_are_done():
    module, _ = make("prefix")
    script, asked = (
        torch.tensor([[3, EOS, 5, 5, 5, 5], [EOS, 4, 4, 4, 4, 4], [3, 4, EOS, 3, 3, 3]]),
        [],
    )

    def scripted(features: Features, ids: Tensor, mask: Tensor) -> Tensor:
        asked.append(ids.shape[1])
        return F.one_hot(script[:, : ids.shape[1]], K).float()

    module.logits = scripted
    features = Features(*(x[:3] for x in make_features()))
    assert module.generate(features, BOS, EOS, steps=6).tolist() == [
        [BOS, 3, EOS, 0],
        [BOS, EOS, 0, 0],
        [BOS, 3, 4, EOS],
    ]
    assert asked == [1, 2, 3]
    assert module.generate(features, BOS, EOS, steps=2).tolist() == [
        [BOS, 3, EOS],
        [BOS, EOS, 0],
        [BOS, 3, 4],
    ]


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="dim is 9, expected an even number"):
        LanguageHead(9, K, heads=3)
