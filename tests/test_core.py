"""The contract: masked means, Features, and the errors of a batch that breaks it."""

import re

import pytest
import torch
import torch.nn.functional as F

from mmlib.core import (
    check_batch,
    from_pooled,
    from_tokens,
    masked_mean,
    masked_softmax,
    modalities,
)

# a full sample, a ragged one, one with a single token, one with none
MASK = torch.arange(5) < torch.tensor([5, 3, 1, 0])[:, None]  # (4, 5)


def test_masked_mean_is_the_mean_of_the_real_tokens_and_zero_without_any():
    tokens = torch.randn(4, 5, 3)
    mean = masked_mean(tokens, MASK)
    for row, length in enumerate([5, 3, 1]):
        torch.testing.assert_close(mean[row], tokens[row, :length].mean(dim=0))
    assert not mean[3].any()


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e9])
def test_what_lies_under_a_mask_reaches_neither_numbers_nor_gradients(rubbish):
    clean = torch.randn(4, 5, 3).masked_fill(~MASK[..., None], 0).requires_grad_()
    dirty = clean.detach().masked_fill(~MASK[..., None], rubbish).requires_grad_()
    for x in (clean, dirty):
        features = from_tokens(x, MASK)
        (features.tokens.square().sum() + features.pooled.cos().sum()).backward()
    torch.testing.assert_close(from_tokens(dirty, MASK), from_tokens(clean, MASK))
    torch.testing.assert_close(dirty.grad, clean.grad)
    assert not dirty.grad[~MASK].any()


def test_from_tokens_zeroes_what_is_not_real_and_says_who_is_present():
    features = from_tokens(torch.randn(4, 5, 3), MASK)
    assert torch.equal(features.tokens.any(dim=2), MASK) and torch.equal(
        features.present, MASK.any(dim=1)
    )
    torch.testing.assert_close(features.pooled, masked_mean(features.tokens, MASK))


def test_from_pooled_gives_one_token_a_sample_and_zero_where_it_is_absent():
    pooled, present = torch.randn(3, 2), torch.tensor([True, False, True])
    pooled[1] = float("nan")
    features = from_pooled(pooled, present)
    assert features.tokens.shape == (3, 1, 2) and torch.equal(features.mask, present[:, None])
    assert torch.equal(features.pooled, features.tokens[:, 0]) and torch.equal(
        features.pooled[present], pooled[present]
    )
    assert not features.pooled[1].any()


def good() -> dict[str, torch.Tensor]:
    full, none = [True] * 4, [False] * 4
    return {
        "image": torch.randn(4, 3, 2, 4),
        "image_mask": torch.tensor([full, full, none, none]),
        "text": torch.ones(4, 5, dtype=torch.int64),
        "text_mask": MASK,
        "audio": torch.randn(4, 5),
        "audio_mask": MASK.flip(0),
        "target": torch.zeros(4),
    }


def test_a_good_batch_passes_also_with_rubbish_under_its_masks():
    batch = good()
    batch["image"][2:] = float("nan")
    batch["audio"][~batch["audio_mask"]] = float("inf")
    check_batch(batch, ["image", "text", "audio"])
    check_batch(batch, iter(["text"]))  # any iterable of names will do


def spoil(key: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    batch = good() | {key: value}
    return {k: v for k, v in batch.items() if v is not None}


def with_value(key: str, place: tuple[int, ...], value: float) -> torch.Tensor:
    x = good()[key].clone()
    x[place] = value
    return x


HOLES = torch.tensor(
    [[True] * 5, [True] * 5, [True, False, True, False, False], [False, True, True, True, True]]
)


@pytest.mark.parametrize(
    "batch,message",
    [
        (
            spoil("audio", None),
            "the batch has no key 'audio'; the model needs ['image', 'text', 'audio'] with their "
            "masks, the batch has [",
        ),
        (spoil("text_mask", None), "the batch has no key 'text_mask'"),
        (
            spoil("text", torch.ones(3, 5, dtype=torch.int64)),
            "batch['text'] has 3 samples, expected 4 as in batch['image']",
        ),
        (
            spoil("target", torch.zeros(5)),
            "batch['target'] has 5 samples, expected 4 as in batch['image']",
        ),
        (
            spoil("audio", torch.zeros(4, 5).double()),
            "batch['audio'] is torch.float64, expected float32 (images, audio) or int64 (ids)",
        ),
        (
            spoil("text", torch.ones(4, 5, dtype=torch.int32)),
            "batch['text'] is torch.int32, expected float32",
        ),
        (
            spoil("text_mask", MASK.long()),
            "batch['text_mask'] is torch.int64 (4, 5), expected torch.bool (4, 5)",
        ),
        (
            spoil("image_mask", MASK),
            "batch['image_mask'] is torch.bool (4, 5), expected torch.bool (4, 4)",
        ),
        (
            spoil("text_mask", HOLES),
            "batch['text_mask'], sample 2: True after False; padding must be on the right",
        ),
        (
            spoil("image", with_value("image", (1, 2, 0, 3), float("nan"))),
            "batch['image'], sample 1: NaN or infinity where the mask is True",
        ),
        (
            spoil("audio", with_value("audio", (3, 4), float("inf"))),
            "batch['audio'], sample 3: NaN or infinity where the mask is True",
        ),
    ],
)
def test_a_batch_that_breaks_the_contract_is_named_with_key_and_sample(batch, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_batch(batch, ["image", "text", "audio"])


@pytest.mark.parametrize(
    "key, value, message",
    [
        (
            "ids",
            ["a", "b", "c", "d"],
            "batch['ids'] is a list, expected a tensor whose first axis is the batch",
        ),
        ("scale", torch.tensor(2.0), "batch['scale'] is a tensor without axes"),
        ("note", None, "batch['note'] is a NoneType"),
        ("target", torch.zeros(3), "batch['target'] has 3 samples, expected 4"),
    ],
)
@pytest.mark.parametrize("names", [[], ["text"]])
def test_what_is_no_tensor_of_the_batch_is_named_by_its_key_also_without_any_modality(
    names, key, value, message
):
    check_batch(good(), names)
    check_batch({}, [])
    with pytest.raises(ValueError, match=re.escape(message)):
        check_batch(good() | {key: value}, names)


def test_the_modalities_of_a_batch_are_its_keys_with_a_mask_apart_from_the_target():
    assert modalities(good() | {"target_mask": MASK, "row": torch.arange(4)}) == [
        "image",
        "text",
        "audio",
    ]


def test_pooled_has_the_gradient_of_a_plain_mean_over_each_row():
    x = torch.randn(4, 5, 3, requires_grad=True)
    weights = torch.randn(4, 3)
    (gradient,) = torch.autograd.grad((from_tokens(x, MASK).pooled * weights).sum(), x)
    length = MASK.sum(dim=1).clamp(min=1)[:, None, None]
    torch.testing.assert_close(
        gradient, (weights[:, None] / length).expand(-1, 5, -1) * F.one_hot(MASK.long(), 2)[..., 1:]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_softmax_is_the_softmax_of_what_is_real_and_exactly_zero_elsewhere(dtype):
    scores = (30 * torch.randn(4, 5)).to(dtype).requires_grad_()
    scores.data[1] -= 1e4  # however low the real ones are
    weights = masked_softmax(scores, MASK)
    for row, length in enumerate([5, 3, 1, 0]):
        assert torch.equal(weights[row, :length], scores[row, :length].softmax(dim=0))
    assert not weights[~MASK].any()
    weights.square().sum().backward()
    assert scores.grad.isfinite().all() and not scores.grad[~MASK].any()
