"""Each fusion against its formula written out: explicit loops, outer products, full tensors;
forward and gradient.
"""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from mmlib import fusion
from mmlib.core import Features, from_tokens
from mmlib.fusion.products import BilinearFusion, LowRankFusion, ProductFusion, TensorFusion
from mmlib.fusion.tokens import BottleneckFusion, CrossFusion, JoinFusion
from mmlib.fusion.vectors import (
    AttentionFusion,
    ConcatFusion,
    DeepSetFusion,
    GatedFusion,
    LateFusion,
    SumFusion,
)
from mmlib.heads.classify import ClassifyHead
from mmlib.layers.attention import recording

B, D, NAMES = 5, 8, ["audio", "image", "text"]
LENGTHS = {
    "audio": [4, 2, 4, 0, 0],
    "image": [3, 3, 0, 0, 0],
    "text": [5, 3, 4, 5, 0],
}  # full, ragged, no image, text only, empty
PRESENT = torch.tensor([LENGTHS[name] for name in NAMES]).T > 0  # (B, M)
FUSIONS = [getattr(fusion, name) for name in fusion.__all__]
ONE_TOKEN = [
    ConcatFusion,
    SumFusion,
    LateFusion,
    GatedFusion,
    AttentionFusion,
    LowRankFusion,
    TensorFusion,
    DeepSetFusion,
    BilinearFusion,
    ProductFusion,
]


def make_features(seed: int = 0, names: list[str] = NAMES) -> dict[str, Features]:
    g = torch.Generator().manual_seed(seed)
    masks = {
        name: torch.arange(max(LENGTHS[name])) < torch.tensor(LENGTHS[name])[:, None]
        for name in names
    }
    return {
        name: from_tokens(torch.randn(*mask.shape, D, generator=g), mask)
        for name, mask in masks.items()
    }


def make(kind: type[nn.Module], *arguments, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return kind(D, *arguments or [NAMES], **options)


def same_with_gradients(module: nn.Module, features: dict[str, Features], by_hand) -> None:
    """The module's pooled output equals ``by_hand(features)``, and so do the gradients of a
    random projection of both.
    """
    weight = torch.randn(B, D, generator=torch.Generator().manual_seed(9))
    results, inputs = [], [part.tokens for part in features.values()] + list(module.parameters())
    for pooled in (module(features).pooled, by_hand(features)):
        results.append(
            [
                pooled,
                *torch.autograd.grad(
                    (pooled * weight).sum(), inputs, materialize_grads=True, retain_graph=True
                ),
            ]
        )
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert any(gradient.any() for gradient in results[0][1:])


def live_features() -> dict[str, Features]:
    """Features whose pooled vectors hang on token leaves, so that gradients reach them."""
    made = {}
    for name, part in make_features().items():
        tokens = part.tokens.clone().requires_grad_()
        made[name] = from_tokens(tokens, part.mask)._replace(tokens=tokens)
    return made


@pytest.mark.parametrize("kind", FUSIONS)
def test_wrong_names_are_named(kind):
    module, features = make(kind), make_features()
    with pytest.raises(ValueError, match=r"missing \['text'\], unknown \['smell'\]"):
        module({"audio": features["audio"], "image": features["image"], "smell": features["text"]})
    for names in ([], ["image", "image"]):
        with pytest.raises(ValueError, match="at least one modality and each of them once"):
            kind(D, names)


@pytest.mark.parametrize("kind", [AttentionFusion, CrossFusion])
def test_an_unknown_query_is_named(kind):
    with pytest.raises(ValueError, match="query is 'smell', expected one of .*audio"):
        kind(D, NAMES, query="smell")


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="nobody to ask"):
        CrossFusion(D, ["text"], query="text")
    with pytest.raises(ValueError, match="depth is 1, expected 2 or more"):
        BottleneckFusion(D, NAMES, depth=1)


@pytest.mark.parametrize("kind", FUSIONS)
def test_features_keep_the_contract(kind):
    out = make(kind)(make_features())
    assert (
        out.tokens.shape == (*out.mask.shape, D)
        and out.pooled.shape == (B, D)
        and out.mask.dtype == torch.bool
    )
    assert (
        torch.equal(out.present, PRESENT.any(1))
        and not out.tokens[~out.mask].any()
        and not out.pooled[4].any()
    )
    assert (out.tokens.shape[1] == 1) == (kind in ONE_TOKEN)


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("junk", [float("nan"), 1e9])
def test_junk_under_the_mask_of_features_changes_nothing(kind, junk):
    module, clean = make(kind), make_features()
    dirty = {
        name: Features(
            torch.where(part.mask[..., None], part.tokens, junk),
            part.mask,
            torch.where(part.present[:, None], part.pooled, junk),
        )
        for name, part in clean.items()
    }
    for got, expected in zip(module(dirty), module(clean)):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("names", [["text"], ["text", "image"], ["d", "c", "b", "a"]])
def test_any_number_of_modalities(kind, names):
    features = dict(zip(names, itertools.cycle(make_features().values())))
    assert make(kind, names)(features).pooled.isfinite().all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_model_can_be_copied_after_a_forward_pass(kind):
    module = make(kind)
    module(make_features())
    torch.testing.assert_close(
        copy.deepcopy(module)(make_features()).pooled, module(make_features()).pooled
    )


def test_concat_tells_an_absent_modality_from_a_zero_one():
    module, features = make(ConcatFusion), make_features()
    zero = features["image"]._replace(pooled=torch.zeros(B, D))
    absent = zero._replace(mask=torch.zeros_like(zero.mask))
    one, other = (
        module(features | {"image": zero}).pooled,
        module(features | {"image": absent}).pooled,
    )
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

    same_with_gradients(module, live_features(), by_hand)


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

    same_with_gradients(module, live_features(), by_hand)
    assert (module.weights[~PRESENT] == 0).all() and (
        module.weights[3] == torch.tensor([0.0, 0, 1])
    ).all()


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
                sum((score.exp() / total * h_m for score, h_m in zip(scores, h)), torch.zeros(D))
            )
        return torch.stack(rows)

    same_with_gradients(module, live_features(), by_hand)
    assert module.weights.shape == (B, 3) and (module.weights[~PRESENT] == 0).all()


def test_attention_weights_do_not_depend_on_the_other_samples():
    """The softmax runs over the modalities of one sample; over the batch (the wrong axis) this
    fails.
    """
    module, features = make(AttentionFusion), make_features()
    module(features)
    together = module.weights
    module({name: Features(*(x[:1] for x in part)) for name, part in features.items()})
    torch.testing.assert_close(module.weights, together[:1])
    torch.testing.assert_close(together[:4].sum(1), torch.ones(4))


def extended(module: nn.Module, features: dict[str, Features], i: int) -> list[Tensor]:
    """[z_m, 1] of each modality of row i, by hand; [0, .., 0, 1] where it is absent."""
    z = [
        module.project[n](features[n].pooled[i]) * bool(PRESENT[i, m]) for m, n in enumerate(NAMES)
    ]
    return [torch.cat([part, torch.ones(1)]) for part in z]


def test_tensor_fusion_equals_the_outer_product_by_hand():
    module = make(TensorFusion, width=2)

    def by_hand(features: dict[str, Features]) -> Tensor:
        rows = []
        for i in range(B):
            a, b, c = extended(module, features, i)
            outer = torch.stack([x * y * z for x in a for y in b for z in c])  # ((width + 1) ** 3,)
            rows.append(module.out(outer) * bool(PRESENT[i].any()))
        return torch.stack(rows)

    same_with_gradients(module, live_features(), by_hand)


def test_low_rank_equals_its_full_tensor():
    """Tensor W[a, b, c, d] = sum over r of the product of the factors; the output is the outer
    product contracted with it.
    """
    module = make(LowRankFusion, width=2, rank=3)
    nn.init.normal_(module.bias)

    def by_hand(features: dict[str, Features]) -> Tensor:
        W = sum(
            torch.einsum("ad,bd,cd->abcd", *(module.factors[name][r] for name in NAMES))
            for r in range(3)
        )
        rows = [
            torch.einsum("abcd,a,b,c->d", W, *extended(module, features, i)) + module.bias
            for i in range(B)
        ]
        return torch.stack(rows) * PRESENT.any(1, keepdim=True)

    same_with_gradients(module, live_features(), by_hand)
    assert {name for name, _ in module.named_parameters()} >= {f"factors.{name}" for name in NAMES}


def test_low_rank_starts_near_unit_variance_whatever_the_rank():
    """Rank, width and number of modalities must not decide how large the output is before
    training.
    """
    pooled = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    unit = Features(pooled[:, None], torch.ones(200, 1, dtype=torch.bool), pooled)
    for rank, names in itertools.product([1, 16], ["ab", "abcd"]):
        torch.manual_seed(0)
        spread = LowRankFusion(64, names, rank=rank)({name: unit for name in names}).pooled.std()
        assert 0.5 < spread < 3, (rank, names, spread)


def test_line_up_only_tags_and_joins():
    module, features = make(JoinFusion, depth=0), make_features()
    out, start = module(features), 0
    for name in NAMES:
        part = features[name]
        there = slice(start, start := start + part.mask.shape[1])
        assert torch.equal(out.mask[:, there], part.mask)
        torch.testing.assert_close(
            out.tokens[:, there][part.mask], part.tokens[part.mask] + module.tags.tag[name]
        )
    assert start == out.mask.shape[1]
    torch.testing.assert_close(out.pooled[1], out.tokens[1][out.mask[1]].mean(0))


def test_joined_tokens_see_the_other_modalities_and_no_hole():
    module, features = make(JoinFusion), make_features()
    with recording(module):
        module(features)
    weights = module.transformer.blocks[0].attention.weights  # (B, H, T, T)
    mask = torch.cat([features[name].mask for name in NAMES], dim=1)
    assert (
        not weights.masked_select(~mask[:, None, None]).any()
        and (weights[0][..., mask[0]] > 0).all()
    )


def test_cross_fusion_asks_with_the_named_modality_and_falls_back_where_it_is_absent():
    module, features = make(CrossFusion, query="image"), make_features()
    before = module(features).pooled
    with recording(module):
        out = module(features)
    expected = features["image"].mask.clone()
    expected[2:4, 0] = True  # the learned vector, in the first slot
    assert torch.equal(out.mask, expected)
    weights = module.transformer.blocks[0].cross.weights
    memory = torch.cat(
        [features["audio"].mask, features["text"].mask], dim=1
    )  # the others answer, never itself
    assert (
        weights.shape[-1] == memory.shape[1]
        and not weights.masked_select(~memory[:, None, None]).any()
    )
    nn.init.normal_(module.learned)
    changed = (module(features).pooled != before).any(dim=1)
    assert changed.tolist() == [False, False, True, True, False]


def test_cross_fusion_with_learned_queries_lets_every_modality_answer():
    out = make(CrossFusion, queries=3)(make_features())
    assert out.mask.tolist() == [[True] * 3] * 4 + [[False] * 3]


def test_bottleneck_is_the_mean_over_present_modalities_of_what_each_made_of_it():
    """One row at a time, with only the modalities that are there and only their real tokens: no
    mask at all.
    """
    module, features = make(BottleneckFusion), make_features()
    out = module(features)
    for i in range(4):
        here = [name for m, name in enumerate(NAMES) if PRESENT[i, m]]
        tokens = {name: features[name].tokens[i][features[name].mask[i]][None] for name in here}
        shared = module.bottleneck[None]
        for layer in range(2):
            both = {
                name: module.blocks[name][layer](torch.cat([tokens[name], shared], dim=1), None)
                for name in here
            }
            tokens = {name: x[:, :-4] for name, x in both.items()}
            shared = torch.stack([x[:, -4:] for x in both.values()]).mean(0)
        torch.testing.assert_close(out.tokens[i, -4:], module.norm(shared)[0])
        torch.testing.assert_close(
            out.pooled[i], torch.stack([module.norm(x).mean(1) for x in tokens.values()]).mean(0)[0]
        )


def test_modalities_exchange_only_through_the_bottleneck():
    """What the image says reaches the words' tokens in layer two, by way of the bottleneck; cut
    it and nothing arrives.
    """
    module, features = make(BottleneckFusion), make_features()
    other = features | {"image": make_features(seed=1)["image"]}
    words = slice(-4 - features["text"].mask.shape[1], -4)
    assert not torch.allclose(module(features).tokens[0, words], module(other).tokens[0, words])
    with torch.no_grad():
        for block in module.blocks["image"]:
            for layer in (block.attention.out, block.mlp[2]):  # the image no longer writes anything
                layer.weight.zero_(), layer.bias.zero_()
    torch.testing.assert_close(module(features).tokens[0, words], module(other).tokens[0, words])
