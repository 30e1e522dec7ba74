"""Fusions of one vector per modality against their formulas, written out, forward and gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.core import Features
from mmlib.fusion.vectors import (
    AttentionFusion,
    ConcatFusion,
    DeepSetFusion,
    GatedFusion,
    LateFusion,
    SumFusion,
)
from mmlib.heads.classify import ClassifyHead
from tests.fusion.test_conformance import (
    NAMES,
    PRESENT,
    B,
    D,
    by_rows,
    make,
    make_features,
    mean,
    same,
    same_with_gradients,
)


def test_concat_tells_an_absent_modality_from_a_zero_one():
    module, features = make(ConcatFusion), make_features()
    zero = features["image"]._replace(pooled=torch.zeros(B, D))
    absent = zero._replace(mask=torch.zeros_like(zero.mask))
    one = module(features | {"image": zero}).pooled
    other = module(features | {"image": absent}).pooled
    assert not torch.allclose(one[0], other[0])
    torch.testing.assert_close(one[2], other[2])  # it was absent there already


def test_sum_is_the_sum_over_present_modalities():
    module = make(SumFusion)

    def by_hand(features: dict[str, Features]) -> Tensor:
        return torch.stack(
            [
                sum(
                    (
                        module.project[n](features[n].pooled[i])
                        for m, n in enumerate(NAMES)
                        if PRESENT[i, m]
                    ),
                    torch.zeros(D),
                )
                for i in range(B)
            ]
        )

    same_with_gradients(module, make_features(), by_hand)


def test_late_fusion_under_a_linear_head_averages_the_logits_of_the_present_modalities():
    module, head, features = make(LateFusion), ClassifyHead(D, 3), make_features()
    logits = head(module(features), {}).logits
    for i in range(4):
        votes = [
            head.linear(module.mlp[name](features[name].pooled[i]))
            for m, name in enumerate(NAMES)
            if PRESENT[i, m]
        ]
        torch.testing.assert_close(logits[i], torch.stack(votes).mean(0))


def test_gated_equals_the_formula_by_loops():
    module = make(GatedFusion)

    def by_hand(features: dict[str, Features]) -> Tensor:
        rows = []
        for i in range(B):
            here = [m for m in range(3) if PRESENT[i, m]]
            gates = module.gate(torch.cat([features[name].pooled[i] for name in NAMES]))
            total = sum(gates[m].exp() for m in here)
            parts = {m: module.project[NAMES[m]](features[NAMES[m]].pooled[i]).tanh() for m in here}
            rows.append(sum((gates[m].exp() / total * parts[m] for m in here), torch.zeros(D)))
        return torch.stack(rows)

    same_with_gradients(module, make_features(), by_hand)
    assert (module.weights[~PRESENT] == 0).all()
    assert (module.weights[3] == torch.tensor([0.0, 0, 1])).all()


@pytest.mark.parametrize("query", [None, "image"])
def test_attention_equals_the_formula_by_loops(query):
    module = make(AttentionFusion, query=query)
    W = module.bilinear.weight

    def by_hand(features: dict[str, Features]) -> Tensor:
        rows = []
        for i in range(B):
            h = [features[name].pooled[i] for m, name in enumerate(NAMES) if PRESENT[i, m]]
            q = features["image"].pooled[i] if query and PRESENT[i, 1] else module.learned
            scores = [
                sum(h_m[a] * W[a, b] * q[b] for a in range(D) for b in range(D)) / D**0.5
                for h_m in h
            ]
            total = sum(score.exp() for score in scores)
            rows.append(
                sum(
                    (score.exp() / total * h_m for score, h_m in zip(scores, h, strict=True)),
                    torch.zeros(D),
                )
            )
        return torch.stack(rows)

    same_with_gradients(module, make_features(), by_hand)
    assert module.weights.shape == (B, 3) and (module.weights[~PRESENT] == 0).all()


def test_attention_weights_do_not_depend_on_the_other_samples():
    """The softmax runs over modalities; one over the batch (the wrong axis) would fail here."""
    module, features = make(AttentionFusion), make_features()
    module(features)
    together = module.weights
    module({name: Features(*(x[:1] for x in part)) for name, part in features.items()})
    torch.testing.assert_close(module.weights, together[:1])
    torch.testing.assert_close(together[:4].sum(1), torch.ones(4))


def test_deep_set_equals_rho_of_the_sum_of_phi():
    module = make(DeepSetFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        total = torch.zeros(D)
        for name, tokens in here.items():
            hidden = F.gelu(
                module.phi[0].weight @ (mean(tokens) + module.tag[name]) + module.phi[0].bias
            )
            total = total + module.phi[2].weight @ hidden + module.phi[2].bias
        out = (
            module.rho[2].weight @ F.gelu(module.rho[0].weight @ total + module.rho[0].bias)
            + module.rho[2].bias
        )
        return out[None], out

    by_rows(module, one)


def test_deep_set_is_blind_to_order_if_the_tags_move_along_and_without_tags():
    module, features = make(DeepSetFusion), make_features()
    before, around = module(features).pooled, dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
    moved = {name: features[other] for name, other in around.items()}
    assert not torch.allclose(module(moved).pooled, before)
    tags = {name: p.detach().clone() for name, p in module.tag.items()}
    for name, other in around.items():
        module.tag[name].data = tags[other]
    same(module(moved).pooled, before)
    for p in module.tag.values():
        p.data.zero_()
    for order in itertools.permutations(NAMES):
        same(
            module(dict(zip(NAMES, (features[name] for name in order), strict=True))).pooled,
            module(features).pooled,
        )
