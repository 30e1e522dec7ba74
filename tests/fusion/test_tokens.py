"""Fusions of all tokens against loops over one sample, one head and one query at a time."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mmlib.fusion.tokens import (
    BottleneckFusion,
    CrossAttention,
    CrossFusion,
    CrossmodalFusion,
    FiLMFusion,
    JoinFusion,
    PerceiverFusion,
)
from mmlib.fusion.vectors import AttentionFusion
from mmlib.layers.attention import recording
from tests.fusion.test_conformance import (
    NAMES,
    PRESENT,
    D,
    by_rows,
    live,
    make,
    make_features,
    make_tokens,
    mean,
    same,
)


@pytest.mark.parametrize("kind", [AttentionFusion, CrossFusion])
def test_an_unknown_query_is_named(kind):
    with pytest.raises(ValueError, match="query is 'smell', expected one of .*audio"):
        kind(D, NAMES, query="smell")


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="nothing to read"):
        CrossFusion(D, ["text"], query="text")
    with pytest.raises(ValueError, match="depth is 1, expected 2 or more"):
        BottleneckFusion(D, NAMES, depth=1)


def test_without_layers_join_fusion_only_tags_and_joins():
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
    assert not weights.masked_select(~mask[:, None, None]).any()
    assert (weights[0][..., mask[0]] > 0).all()


def test_cross_fusion_asks_with_the_named_modality_and_falls_back_where_it_is_absent():
    module, features = make(CrossFusion, query="image"), make_features()
    before = module(features).pooled
    with recording(module):
        out = module(features)
    expected = features["image"].mask.clone()
    expected[2:4, 0] = True  # the learned vector, in the first slot
    assert torch.equal(out.mask, expected)
    weights = module.transformer.blocks[0].cross.weights
    # the others answer, never itself
    memory = torch.cat([features["audio"].mask, features["text"].mask], dim=1)
    assert weights.shape[-1] == memory.shape[1]
    assert not weights.masked_select(~memory[:, None, None]).any()
    nn.init.normal_(module.learned)
    changed = (module(features).pooled != before).any(dim=1)
    assert changed.tolist() == [False, False, True, True, False, False]


def test_cross_fusion_with_learned_queries_lets_every_modality_answer():
    out = make(CrossFusion, queries=3)(make_features())
    assert out.mask.tolist() == [[True] * 3] * 4 + [[False] * 3] + [[True] * 3]


def test_bottleneck_is_the_mean_over_present_modalities_of_what_each_made_of_it():
    """By hand one row at a time, its present modalities and real tokens only, without any mask."""
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
    """In layer two the image reaches the tokens of the text through the bottleneck, and only so."""
    module, features = make(BottleneckFusion), make_features()
    other = features | {"image": make_features(seed=1)["image"]}
    words = slice(-4 - features["text"].mask.shape[1], -4)
    assert not torch.allclose(module(features).tokens[0, words], module(other).tokens[0, words])
    with torch.no_grad():
        for block in module.blocks["image"]:
            for layer in (block.attention.out, block.mlp[2]):  # the image no longer writes anything
                layer.weight.zero_(), layer.bias.zero_()
    torch.testing.assert_close(module(features).tokens[0, words], module(other).tokens[0, words])


def test_film_equals_scale_and_shift_by_the_others():
    module = make(FiLMFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        line, means = [], []
        for name, tokens in here.items():
            others = torch.cat(
                [
                    mean(here[other]) if other in here else torch.zeros(D)
                    for other in NAMES
                    if other != name
                ]
            )
            scale, shift = (
                module.condition[name].weight @ others + module.condition[name].bias
            ).split(D)
            line += [torch.stack([x + scale * x + shift for x in tokens])]
            means += [mean(line[-1])]
        return torch.cat(line), mean(means)

    by_rows(module, one)


def test_film_of_one_modality_hands_it_through_and_has_nothing_to_learn():
    module, features = make(FiLMFusion, ["text"]), make_features(["text"])
    assert not list(module.parameters())
    same(module(features), features["text"])


def test_film_never_conditions_a_modality_on_itself():
    """The map from a modality's own tokens is affine: but for the shift, twice in is twice out."""
    module, (tokens, masks) = make(FiLMFusion), make_tokens()
    zero, one, two = (
        module(live(tokens | {"audio": factor * tokens["audio"]}, masks)).tokens[0, :4]
        for factor in (0, 1, 2)
    )
    same(two - one, one - zero)


def attend_by_loops(attention: nn.Module, x: Tensor, memory: Tensor) -> Tensor:
    """Multi-head attention, one asker and one head at a time."""
    W, b, d = attention.kv.weight, attention.kv.bias, D // attention.heads
    q = x @ attention.q.weight.T + attention.q.bias
    k = memory @ W[:D].T + b[:D]
    v = memory @ W[D:].T + b[D:]
    rows = []
    for asker in q:
        parts = []
        for h in range(attention.heads):
            cut = slice(h * d, (h + 1) * d)
            scores = torch.stack([asker[cut] @ key[cut] for key in k]) / d**0.5
            share = scores.exp() / scores.exp().sum()
            parts.append(sum(s * value[cut] for s, value in zip(share, v, strict=True)))
        rows.append(attention.out(torch.cat(parts)))
    return torch.stack(rows)


def cross_by_loops(layer: nn.Module, x: Tensor, memory: Tensor) -> Tensor:
    x = x + attend_by_loops(layer.attention, layer.norm(x), layer.norm_memory(memory))
    return x + layer.mlp(layer.norm_mlp(x))


def read_by_loops(transformer: nn.Module, x: Tensor) -> Tensor:
    for block in transformer.blocks:
        x = x + attend_by_loops(block.attention, block.norm1(x), block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return transformer.norm(x)


def test_perceiver_equals_latents_that_ask_everything_once_then_each_other():
    module = make(PerceiverFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        memory = torch.cat([tokens + module.tags.tag[name] for name, tokens in here.items()])
        out = read_by_loops(module.transformer, cross_by_loops(module.ask, module.latents, memory))
        return out, mean(out)

    by_rows(module, one)


def test_perceiver_gives_as_many_tokens_as_latents_however_many_come_in():
    features = make_features()
    assert PerceiverFusion(D, NAMES, latents=3)(features).mask.tolist() == [[True] * 3] * 4 + [
        [False] * 3
    ] + [[True] * 3]


def test_crossmodal_equals_every_modality_asking_every_other_that_is_there():
    module = make(CrossmodalFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        line = []
        for name, own in here.items():
            heard = [
                cross_by_loops(module.ask[name][other], own, here[other])
                for other in here
                if other != name
            ] or [own]
            line.append(read_by_loops(module.transformers[name], mean(heard)))
        return torch.cat(line), mean([mean(part) for part in line])

    by_rows(module, one)


def test_crossmodal_never_looks_at_a_token_that_is_not_there():
    module, features = make(CrossmodalFusion), make_features()
    with recording(module):
        module(features)
    for asker, others in module.ask.items():
        for answerer, ask in others.items():
            mask = features[answerer].mask[:, None, None]  # (B, 1, 1, K)
            weights = ask.attention.weights  # (B, H, T, K)
            assert weights.shape[2:] == (features[asker].mask.shape[1], mask.shape[-1])
            assert not weights.masked_select(~mask).any()


def test_what_a_token_learns_keeps_its_digits_beside_a_large_token():
    """Cross-attention gives the change alone: (x + change) - x loses digits where x is large."""
    torch.manual_seed(0)
    layer, x, memory = CrossAttention(D, 2), 1e5 * torch.randn(2, 3, D), torch.randn(2, 4, D)
    mask = torch.ones(2, 4, dtype=torch.bool)
    exact = copy.deepcopy(layer).double()(x.double(), memory.double(), mask)
    torch.testing.assert_close(layer(x, memory, mask).double(), exact, rtol=1e-4, atol=1e-5)
