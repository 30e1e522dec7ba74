"""Laws of every head: the weighted mean over any split of a batch is the loss of the whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.heads.classify import ClassifyHead
from mmlib.heads.ctc import CTCHead
from mmlib.heads.labels import LabelsHead
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


def flags() -> dict[str, Tensor]:
    """Labels: one row has none that is known, others have one that is not."""
    target = torch.tensor(
        [[1, 0, 0], [0.3, 1, 9], [9, 9, 9], [1, 1, 1], [0, 9, 1], [0, 0, 0]], dtype=torch.float32
    )
    return {"target": target.masked_fill(target == 9, torch.nan)}


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
        "labels": lambda: (LabelsHead(D, 3, torch.tensor([0.5, 0.9, 0.1])), flags()),
        "prefix": lambda: (LanguageHead(D, K), sequences()),
        "cross": lambda: (LanguageHead(D, K, cross=True), sequences()),
        "ctc": lambda: (CTCHead(D, K), lines()),
    }[head]()


HEADS = ["classify", "weighted", "regress", "labels", "prefix", "cross", "ctc"]


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


def test_every_head_says_its_kind_and_how_many_classes_and_the_model_says_it_on():
    from mmlib.core import KINDS
    from mmlib.models import Model

    found = {head: (make(head)[0].kind, getattr(make(head)[0], "classes", None)) for head in HEADS}
    assert found == {
        "classify": ("classes", 3),
        "weighted": ("classes", 3),
        "regress": ("number", None),
        "labels": ("labels", 3),
        "prefix": ("sequence", K),
        "cross": ("sequence", K),
        "ctc": ("sequence", K),
    }
    assert all(kind in KINDS for kind, _ in found.values())
    for head, (kind, classes) in found.items():
        model = Model(nn.Identity(), make(head)[0])
        assert (model.kind, model.classes) == (kind, classes)
    assert Model(nn.Identity(), nn.Identity()).kind is None


def test_prior_weight_mean_and_std_are_saved():
    assert {"log_prior", "weight"} <= set(ClassifyHead(D, 3).state_dict())
    assert {"mean", "std"} <= set(RegressHead(D).state_dict())
    assert "log_odds" in LabelsHead(D, 3).state_dict()


@pytest.mark.parametrize("head", ["classify", "regress"])
def test_a_target_of_the_wrong_shape_is_refused(head):
    module, batch = make(head)
    with pytest.raises(ValueError, match=r"batch\['target'\] is \(6, 1\), expected \(6,\)"):
        module(make_features(), {"target": batch["target"][:, None]})
