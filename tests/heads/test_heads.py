"""Each head against torch and scikit-learn; a weighted mean over any split of a batch is the
loss of the whole.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.heads.classify import ClassifyHead
from mmlib.heads.ctc import CTCHead
from mmlib.heads.language import LanguageHead
from mmlib.heads.regress import RegressHead

B, T, S, D, K, BOS, EOS = 6, 7, 5, 8, 6, 1, 2
LENGTHS = torch.tensor([7, 4, 1, 5, 0, 6])  # the fifth row has no modality


def make_features(holes: bool = False) -> Features:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(T) < LENGTHS[:, None]
    if holes:  # as after JoinFusion: two modalities, each padded
        mask = torch.cat([mask, mask.flip(0)], dim=1)
    return from_tokens(torch.randn(*mask.shape, D, generator=g), mask)


def sequences() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(S) < torch.tensor([5, 3, 2, 4, 3, 5])[:, None]
    target = torch.randint(3, K, (B, S), generator=g)
    target[:, 0] = BOS
    return {"target": target.masked_fill(~mask, 0), "target_mask": mask}


def lines() -> dict[str, Tensor]:
    """Targets for CTC: the third has one frame for two ids, which cannot be written."""
    target = torch.tensor([[3, 3, 4], [5, 0, 0], [4, 5, 0], [1, 2, 0], [2, 0, 0], [4, 5, 4]])
    return {
        "target": target,
        "target_mask": torch.arange(3) < torch.tensor([3, 1, 2, 2, 1, 3])[:, None],
    }


def make(head: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    classes = {"target": torch.tensor([0, 1, 2, 2, 1, 0])}
    prior = torch.tensor([5.0, 3.0, 2.0])
    return {
        "classify": lambda: (ClassifyHead(D, 3, prior), classes),
        "weighted": lambda: (
            ClassifyHead(D, 3, prior, weight=torch.tensor([0.2, 1.0, 4.0])),
            classes,
        ),
        "regress": lambda: (
            RegressHead(D, mean=10.0, std=4.0),
            {"target": torch.tensor([8.0, 13.0, 9.0, 20.0, 11.0, 2.0])},
        ),
        "prefix": lambda: (LanguageHead(D, K), sequences()),
        "cross": lambda: (LanguageHead(D, K, cross=True), sequences()),
        "ctc": lambda: (CTCHead(D, K), lines()),
    }[head]()


HEADS = ["classify", "weighted", "regress", "prefix", "cross", "ctc"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sizes", [[1, 5], [3, 3], [2, 1, 3], [1] * 6, [4, 2]], ids=str)
def test_the_weighted_mean_over_any_split_is_the_loss_of_the_whole(head, sizes):
    module, batch = make(head)
    features, whole = make_features(), module(make_features(), batch)
    assert (
        whole.count.shape == ()
        and whole.count.is_floating_point()
        and not whole.count.requires_grad
    )
    parts = [
        module(Features(*f), dict(zip(batch, b, strict=True)))
        for f, b in zip(
            zip(*(x.split(sizes) for x in features), strict=True),
            zip(*(x.split(sizes) for x in batch.values()), strict=False),
            strict=False,
        )
    ]
    total = sum(part.count for part in parts)
    mean = sum(part.loss * part.count for part in parts) / total
    torch.testing.assert_close(total, whole.count)
    torch.testing.assert_close(mean, whole.loss)
    got, expected = (
        torch.autograd.grad(loss, list(module.parameters())) for loss in (mean, whole.loss)
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_target_there_is_no_loss(head):
    module, batch = make(head)
    output = module(make_features(), {})
    assert output.loss is None and output.count is None
    if head in ("prefix", "cross"):
        assert output.logits.shape == (B, 0, K)
    else:
        torch.testing.assert_close(output.logits, module(make_features(), batch).logits)


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_absent_rows_only_stays_finite(head):
    module, batch = make(head)
    features = from_tokens(torch.zeros(B, T, D), torch.zeros(B, T, dtype=torch.bool))
    output = module(features, batch)
    output.loss.backward()
    assert output.loss.isfinite() and all(
        p.grad.isfinite().all() for p in module.parameters() if p.grad is not None
    )


@pytest.mark.parametrize("head", ["prefix", "cross", "ctc"])
def test_padding_the_target_further_changes_nothing(head):
    module, batch = make(head)
    longer = {key: F.pad(value, (0, 4)) for key, value in batch.items()}
    longer["target"] = longer["target"].masked_fill(~longer["target_mask"], -(10**9))
    a, b = module(make_features(), batch), module(make_features(), longer)
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(a.count, b.count)


# --- classes
# -------------------------------------------------------------------------------------------------------------


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


def one_in_ten(rows: int, told: float) -> tuple[Features, Tensor]:
    """One class of two in every ten rows, and features that tell by ``told`` deviations which."""
    target = (torch.arange(rows) % 10 == 0).long()
    x = torch.randn(rows, D, generator=torch.Generator().manual_seed(0))
    x[:, 0] += told * target
    return from_tokens(x[:, None], torch.ones(rows, 1, dtype=torch.bool)), target


def trained(
    told: float, weight: Tensor | None, prior: Tensor | None = torch.tensor([9.0, 1.0])
) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    head = ClassifyHead(D, 2, prior, weight)
    features, target = one_in_ten(2000, told)
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


def test_every_head_says_its_kind_and_how_many_classes_and_the_model_says_it_on():
    from mmlib.core import KINDS
    from mmlib.models import Model

    found = {head: (make(head)[0].kind, getattr(make(head)[0], "classes", None)) for head in HEADS}
    assert found == {
        "classify": ("classes", 3),
        "weighted": ("classes", 3),
        "regress": ("number", None),
        "prefix": ("sequence", K),
        "cross": ("sequence", K),
        "ctc": ("sequence", K),
    }
    assert all(kind in KINDS for kind, _ in found.values())
    for head, (kind, classes) in found.items():
        model = Model(nn.Identity(), make(head)[0])
        assert (model.kind, model.classes) == (kind, classes)
    assert Model(nn.Identity(), nn.Identity()).kind is None


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


def test_prior_weight_mean_and_std_are_saved():
    assert {"log_prior", "weight"} <= set(ClassifyHead(D, 3).state_dict())
    assert {"mean", "std"} <= set(RegressHead(D).state_dict())


# --- numbers
# -------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("head", ["classify", "regress"])
def test_a_target_of_the_wrong_shape_is_refused(head):
    module, batch = make(head)
    with pytest.raises(ValueError, match=r"batch\['target'\] is \(6, 1\), expected \(6,\)"):
        module(make_features(), {"target": batch["target"][:, None]})


# --- words
# ---------------------------------------------------------------------------------------------------------------


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


# --- lines
# ---------------------------------------------------------------------------------------------------------------


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
