"""Every fusion of the package keeps the laws of the contract, forward and gradient.

For one to three modalities. tests/test_laws.py holds the same laws for whole models; here each
fusion stands alone and answers for its inputs' gradients too.
"""

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import fusion
from mmlib.core import Features, from_tokens

B, D = 6, 8


LENGTHS = {"audio": [4, 2, 4, 0, 0, 1], "image": [3, 3, 0, 0, 0, 3], "text": [5, 3, 4, 5, 0, 0]}


NAMES = ["audio", "image", "text"]  # full, ragged, no image, text only, empty, no text


KINDS = {name: getattr(fusion, name) for name in fusion.__all__}


every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


one_to_three = pytest.mark.parametrize(
    "names", [["text"], ["text", "image"], NAMES], ids=lambda names: str(len(names))
)


# what chooses among modalities; with one there is no choice
ALONE = {"GatedFusion": {"gate"}, "AttentionFusion": {"bilinear", "learned"}}


def make(kind: type[nn.Module], names: list[str] = NAMES, seed: int = 0, **options) -> nn.Module:
    """A fusion away from its start, where a bias of zero would hide mistakes."""
    torch.manual_seed(seed)
    module = kind(D, names, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def make_tokens(
    names: list[str] = NAMES, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tokens that take a gradient, zero under the mask, and masks."""
    g = torch.Generator().manual_seed(seed)
    masks = {
        name: torch.arange(max(LENGTHS[name])) < torch.tensor(LENGTHS[name])[:, None]
        for name in LENGTHS
    }
    tokens = {
        name: torch.randn(*mask.shape, D, generator=g).masked_fill(~mask[..., None], 0)
        for name, mask in masks.items()
    }
    return {name: tokens[name].requires_grad_() for name in names}, {
        name: masks[name] for name in names
    }


def live(tokens: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Features]:
    """Features of these tokens, junk included, so that gradients reach them.

    ``pooled`` is their masked mean.
    """
    return {
        name: from_tokens(tokens[name], masks[name])._replace(tokens=tokens[name])
        for name in tokens
    }


def make_features(names: list[str] = NAMES, seed: int = 0) -> dict[str, Features]:
    return live(*make_tokens(names, seed))


def project(out: Features) -> Tensor:
    """One number in which each coordinate of tokens and pooled has a weight of its own.

    It does not depend on where a token stands.
    """
    weight = torch.randn(2, D, generator=torch.Generator().manual_seed(9))
    return (out.tokens.sin() * weight[0])[out.mask].sum() + (out.pooled * weight[1]).sum()


def gradients(module: nn.Module, inputs: dict[str, Tensor], out: Features) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        project(out), [*module.parameters(), *inputs.values()], materialize_grads=True
    )


def same(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def real(out: Features) -> list[Tensor]:
    """What counts of a result: the real tokens of each row, and pooled."""
    return [row[mask] for row, mask in zip(out.tokens, out.mask, strict=True)] + [out.pooled]


PRESENT = torch.tensor([LENGTHS[name] for name in NAMES]).T > 0  # (B, M)


def same_with_gradients(module: nn.Module, features: dict[str, Features], by_hand) -> None:
    """Pooled output equals ``by_hand(features)``; so do the gradients of a random projection."""
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
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert any(gradient.any() for gradient in results[0][1:])


def by_rows(module: nn.Module, one) -> None:
    """The module equals ``one(tokens)`` row by row, forward and gradient.

    ``one`` is given only what is there, {modality: its real tokens (T, D)}, so it needs no mask; it
    returns tokens (T', D) and pooled (D).
    """
    tokens, masks = make_tokens()
    inputs, out = [*tokens.values(), *module.parameters()], module(live(tokens, masks))
    weight, totals = torch.randn(2, D, generator=torch.Generator().manual_seed(9)), [0, 0]
    for i in range(B):
        here = {name: tokens[name][i][masks[name][i]] for name in NAMES if masks[name][i].any()}
        if not here:
            assert not out.pooled[i].any() and not out.mask[i].any()
            continue
        pairs = (out.tokens[i][out.mask[i]], out.pooled[i]), one(here)
        same(*pairs)
        totals = [
            total + (line.sin() @ weight[0]).sum() + pooled @ weight[1]
            for total, (line, pooled) in zip(totals, pairs, strict=True)
        ]
    found, right = (
        torch.autograd.grad(total, inputs, materialize_grads=True, retain_graph=True)
        for total in totals
    )
    same(found, right)
    assert all(gradient.any() for gradient in right)


def mean(tokens: Tensor) -> Tensor:
    return sum(tokens) / len(tokens)


@every
def test_wrong_names_are_named(kind):
    module, features = make(kind), make_features()
    with pytest.raises(ValueError, match=r"missing \['text'\], unknown \['smell'\]"):
        module({"audio": features["audio"], "image": features["image"], "smell": features["text"]})
    for names in ([], ["image", "image"]):
        with pytest.raises(ValueError, match="at least one modality and each of them once"):
            kind(D, names)


@every
def test_features_keep_the_contract(kind):
    out = make(kind)(make_features())
    assert out.tokens.shape == (*out.mask.shape, D)
    assert out.pooled.shape == (B, D)
    assert out.mask.dtype == torch.bool
    assert torch.equal(out.present, PRESENT.any(1))
    assert not out.tokens[~out.mask].any()
    assert not out.pooled[4].any()
    assert (out.tokens.shape[1] == 1) == (kind.__module__ != "mmlib.fusion.tokens")


@every
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
    for got, expected in zip(module(dirty), module(clean), strict=True):
        torch.testing.assert_close(got, expected)


@every
@pytest.mark.parametrize("names", [["text"], ["text", "image"], ["d", "c", "b", "a"]])
def test_any_number_of_modalities(kind, names):
    features = dict(zip(names, itertools.cycle(make_features().values())))
    assert make(kind, names)(features).pooled.isfinite().all()


@every
def test_a_model_can_be_copied_after_a_forward_pass(kind):
    module = make(kind)
    module(make_features())
    torch.testing.assert_close(
        copy.deepcopy(module)(make_features()).pooled, module(make_features()).pooled
    )


@every
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e9])
def test_nothing_under_a_mask_counts_and_no_gradient_goes_there(kind, junk):
    module, (tokens, masks) = make(kind), make_tokens()
    dirty = {
        name: torch.where(masks[name][..., None], x.detach(), junk).requires_grad_()
        for name, x in tokens.items()
    }
    clean_out, dirty_out = module(live(tokens, masks)), module(live(dirty, masks))
    same(real(dirty_out), real(clean_out))
    clean_grad = gradients(module, tokens, clean_out)
    dirty_grad = gradients(module, dirty, dirty_out)
    same(dirty_grad, clean_grad)
    for gradient, mask in zip(dirty_grad[-len(masks) :], masks.values(), strict=True):
        assert not gradient[~mask].any()


@every
def test_padding_further_right_changes_nothing_forward_or_gradient(kind):
    module, (tokens, masks) = make(kind), make_tokens()
    longer = {name: F.pad(x, (0, 0, 0, more)) for more, (name, x) in enumerate(tokens.items(), 1)}
    long_masks = {
        name: F.pad(mask, (0, more)) for more, (name, mask) in enumerate(masks.items(), 1)
    }
    short, long = module(live(tokens, masks)), module(live(longer, long_masks))
    same(real(long), real(short))
    same(gradients(module, tokens, long), gradients(module, tokens, short))


@every
def test_the_order_of_names_and_of_the_dict_changes_nothing(kind):
    module, other, features = make(kind), make(kind, NAMES[::-1], seed=1), make_features()
    other.load_state_dict(module.state_dict())
    same(module(dict(reversed(features.items()))), module(features))
    same(other(features), module(features))
    assert module.names == other.names == NAMES


@every
def test_a_sample_alone_is_the_sample_in_its_batch_and_no_gradient_crosses_over(kind):
    module, (tokens, masks) = make(kind), make_tokens()
    together = module(live(tokens, masks))
    for row in range(B):
        alone = module(
            {
                name: Features(*(x[row : row + 1] for x in part))
                for name, part in live(tokens, masks).items()
            }
        )
        same(
            real(alone), [together.tokens[row][together.mask[row]], together.pooled[row : row + 1]]
        )
    for gradient in torch.autograd.grad(
        together.pooled[0].sin().sum() + together.tokens[0].sin().sum(), list(tokens.values())
    ):
        assert gradient[0].any() and not gradient[1:].any()


@every
@one_to_three
def test_every_subset_of_modalities_gives_finite_output_and_gradients_and_absent_ones_get_none(
    kind, names
):
    module, (tokens, masks) = make(kind, names), make_tokens(names)
    for size in range(len(names) + 1):
        for subset in itertools.combinations(names, size):
            there = {name: mask & (name in subset) for name, mask in masks.items()}
            out = module(live(tokens, there))
            present = torch.stack([mask.any(1) for mask in there.values()]).any(0)
            assert torch.equal(out.present, present)
            assert not out.pooled[~present].any()
            assert not out.tokens[~out.mask].any()
            found = gradients(module, tokens, out)
            assert all(x.isfinite().all() for x in (*out, *found)), subset
            for name, gradient in zip(names, found[-len(names) :], strict=True):
                reached = gradient.flatten(1).any(1)
                assert torch.equal(reached, there[name].any(1)), (
                    f"{subset}: gradient reaches {name} in rows {reached.tolist()}"
                )


@every
@one_to_three
def test_every_parameter_is_registered_saved_and_learns_where_all_modalities_are_present(
    kind, names
):
    module, features = make(kind, names), make_features(names)
    first = {name: Features(*(x[:1] for x in part)) for name, part in features.items()}  # has all
    project(module(first)).backward()
    dead = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    if len(names) == 1:
        dead = {name for name in dead if name.split(".")[0] not in ALONE.get(kind.__name__, ())}
    assert not dead, f"no gradient reaches {dead}"
    assert {name for name, _ in module.named_parameters()} == set(module.state_dict())


@every
def test_weights_that_can_be_looked_at_are_exactly_zero_where_a_modality_is_absent(kind):
    module, features = make(kind), make_features()
    module(features)
    if not hasattr(module, "weights"):
        assert kind.__name__ not in ("GatedFusion", "AttentionFusion", "ProductFusion")
        return
    present = torch.stack([features[name].present for name in NAMES], dim=1)
    assert module.weights.shape == present.shape and not module.weights.requires_grad
    assert (module.weights[~present] == 0).all()
    assert (module.weights[present] > 0).all()
    assert (module.weights.sum(1) <= 1.0001).all()


@every
def test_bf16_autocast_stays_finite_and_near(kind):
    module, (tokens, masks) = make(kind), make_tokens()
    exact = module(live(tokens, masks))
    with torch.autocast("cpu", torch.bfloat16):
        out = module(live(tokens, masks))
    assert all(x.isfinite().all() for x in (*out, *gradients(module, tokens, out)))
    torch.testing.assert_close(out.pooled.float(), exact.pooled, rtol=0.1, atol=0.1)


@every
def test_an_exported_program_gives_the_same_for_any_batch_size(kind):
    names = ["image", "text"]  # two suffice, and exporting is slow
    module, rows = make(kind, names).eval(), {0: torch.export.Dim("size", min=2, max=64)}
    features = {
        name: Features(*(x.detach() for x in part)) for name, part in make_features(names).items()
    }
    program = torch.export.export(
        module, (features,), dynamic_shapes=({name: Features(rows, rows, rows) for name in names},)
    ).module()
    for size in (B, 3):
        some = {name: Features(*(x[:size] for x in part)) for name, part in features.items()}
        same(program(some), module(some))


@every
def test_a_checkpoint_round_trip_gives_the_same_numbers(kind):
    module, other, file, features = make(kind), make(kind, seed=1), io.BytesIO(), make_features()
    torch.save(module.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(features).pooled, module(features).pooled)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(other(features), module(features), strict=True))
