"""Every fusion of the package keeps the laws of the contract, forward and gradient, for one to
three modalities; and the six that came
last equal their formulas, written out one sample at a time.

tests/test_laws.py holds the same laws for whole models; here each fusion stands alone and answers
for its inputs' gradients too.
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
from mmlib.fusion.products import BilinearFusion, ProductFusion, signed_sqrt
from mmlib.fusion.tokens import Ask, CrossmodalFusion, FiLMFusion, PerceiverFusion
from mmlib.fusion.vectors import DeepSetFusion
from mmlib.layers.attention import recording

B, D = 6, 8
LENGTHS = {"audio": [4, 2, 4, 0, 0, 1], "image": [3, 3, 0, 0, 0, 3], "text": [5, 3, 4, 5, 0, 0]}
NAMES = ["audio", "image", "text"]  # full, ragged, no image, text only, empty, no text
KINDS = {name: getattr(fusion, name) for name in fusion.__all__}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
one_to_three = pytest.mark.parametrize(
    "names", [["text"], ["text", "image"], NAMES], ids=lambda names: str(len(names))
)
ALONE = {
    "GatedFusion": {"gate"},
    "AttentionFusion": {"bilinear", "learned"},
}  # what chooses among modalities; with one there is no choice


def make(kind: type[nn.Module], names: list[str] = NAMES, seed: int = 0) -> nn.Module:
    """A fusion away from its start, where a bias of zero would hide mistakes."""
    torch.manual_seed(seed)
    module = kind(D, names)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def make_tokens(names: list[str] = NAMES) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tokens that take a gradient, zero under the mask, and masks."""
    g = torch.Generator().manual_seed(0)
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
    """Features that hold these very tokens, junk and all, so that gradients reach them; pooled
    is their masked mean.
    """
    return {
        name: from_tokens(tokens[name], masks[name])._replace(tokens=tokens[name])
        for name in tokens
    }


def make_features(names: list[str] = NAMES) -> dict[str, Features]:
    return live(*make_tokens(names))


def project(out: Features) -> Tensor:
    """One number in which every token and every pooled vector counts, each coordinate
    differently; blind to where a token stands.
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
    return [row[mask] for row, mask in zip(out.tokens, out.mask)] + [out.pooled]


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
    clean_grad, dirty_grad = (
        gradients(module, tokens, clean_out),
        gradients(module, dirty, dirty_out),
    )
    same(dirty_grad, clean_grad)
    for gradient, mask in zip(dirty_grad[-len(masks) :], masks.values()):
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
            assert (
                torch.equal(out.present, present)
                and not out.pooled[~present].any()
                and not out.tokens[~out.mask].any()
            )
            found = gradients(module, tokens, out)
            assert all(x.isfinite().all() for x in (*out, *found)), subset
            for name, gradient in zip(names, found[-len(names) :]):
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
    project(
        module({name: Features(*(x[:1] for x in part)) for name, part in features.items()})
    ).backward()  # row 0 has all
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
    assert (
        (module.weights[~present] == 0).all()
        and (module.weights[present] > 0).all()
        and (module.weights.sum(1) <= 1.0001).all()
    )


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
    assert all(torch.equal(a, b) for a, b in zip(other(features), module(features)))


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
            for total, (line, pooled) in zip(totals, pairs)
        ]
    found, right = (
        torch.autograd.grad(total, inputs, materialize_grads=True, retain_graph=True)
        for total in totals
    )
    same(found, right)
    assert all(gradient.any() for gradient in right)


def mean(tokens: Tensor) -> Tensor:
    return sum(tokens) / len(tokens)


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


def test_deep_set_is_blind_to_order_when_each_modality_takes_its_tag_along_and_without_tags_altogether():
    module, features = make(DeepSetFusion), make_features()
    before, around = module(features).pooled, dict(zip(NAMES, NAMES[1:] + NAMES[:1]))
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
            module(dict(zip(NAMES, (features[name] for name in order)))).pooled,
            module(features).pooled,
        )


def test_bilinear_equals_sums_of_products_then_root_and_length_one():
    module = make(BilinearFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        z = []
        for d in range(D):
            terms = []
            for k in range(5):
                term = torch.ones(())
                for name, tokens in here.items():
                    term = term * (
                        module.project[name].weight[5 * d + k] @ mean(tokens)
                        + module.project[name].bias[5 * d + k]
                    )
                terms.append(term)
            z.append(sum(terms))
        root = torch.stack([x / (x.abs() + 1e-4).sqrt() for x in z])
        out = root / sum(x**2 for x in root).sqrt()
        return out[None], out

    by_rows(module, one)
    out = module(make_features()).pooled
    torch.testing.assert_close(out.norm(dim=1), torch.tensor([1.0, 1, 1, 1, 0, 1]))


def test_bilinear_of_two_modalities_is_one_bilinear_form_of_that_rank_per_output():
    """Without the biases: z_d = x' W_d y, with W_d = sum over k of u_dk v_dk', of rank
    ``factors``.
    """
    module, features = make(BilinearFusion, ["image", "text"]), make_features(["image", "text"])
    module.factors = 2
    module.project = nn.ModuleDict(
        {name: nn.Linear(D, 2 * D, bias=False) for name in ("image", "text")}
    )
    u, v = (module.project[name].weight.view(D, 2, D) for name in ("image", "text"))
    W = torch.einsum("dka,dkb->dab", u, v)
    assert (torch.linalg.matrix_rank(W) == 2).all()
    z = torch.einsum("dab,ra,rb->rd", W, features["image"].pooled[:2], features["text"].pooled[:2])
    same(module(features).pooled[:2], F.normalize(signed_sqrt(z), dim=-1))


def test_the_signed_root_is_the_root_away_from_zero_and_finite_at_zero():
    x = torch.tensor([-4.0, 0.0, 0.25, 9.0], requires_grad=True)
    y = signed_sqrt(x)
    torch.testing.assert_close(y, torch.tensor([-2.0, 0.0, 0.5, 3.0]), rtol=1e-3, atol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([0.25, 100.0, 1.0, 1 / 6]), rtol=1e-3, atol=0)


def test_product_of_experts_equals_the_precision_weighted_mean():
    module = make(ProductFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        top, bottom = torch.zeros(D), torch.ones(D)  # the prior: mean 0, precision 1
        for name, tokens in here.items():
            mu, log_precision = module.expert[name](mean(tokens)).split(D)
            top, bottom = top + log_precision.exp() * mu, bottom + log_precision.exp()
        return (top / bottom)[None], top / bottom

    by_rows(module, one)


def test_product_of_experts_is_the_peak_of_the_product_of_densities():
    """On a fine grid: multiply the prior's and the modalities' densities, number by number, and
    look for the largest.
    """
    module, features = make(ProductFusion), make_features()
    out, grid = module(features).pooled[0], torch.linspace(-4, 4, 80_001)
    density = torch.distributions.Normal(0, 1).log_prob(grid).repeat(D, 1)
    for name in NAMES:
        mu, log_precision = module.expert[name](features[name].pooled[0]).chunk(2)
        density = density + torch.distributions.Normal(
            mu[:, None], (-log_precision[:, None] / 2).exp()
        ).log_prob(grid)
    torch.testing.assert_close(out, grid[density.argmax(dim=1)], rtol=0, atol=1e-2)


def test_one_expert_and_the_prior_have_a_closed_form_and_no_precision_is_too_large():
    module, features = make(ProductFusion, ["text"]), make_features(["text"])
    with torch.no_grad():
        mu, log_precision = module.expert["text"](features["text"].pooled).chunk(2, dim=-1)
    same(module(features).pooled[:4], (mu * log_precision.exp() / (1 + log_precision.exp()))[:4])
    same(module.weights[:4], log_precision.sigmoid().mean(dim=-1, keepdim=True)[:4])
    for size, expected in ((1e4, mu), (-1e4, 0 * mu)):  # certain: its mean; no idea: the prior's
        nn.init.constant_(module.expert["text"].bias[D:], size)
        same(module(features).pooled[:4], expected[:4])


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
    """Doubling a modality doubles its own tokens but for the shift: the map from its own tokens
    is affine.
    """
    module, (tokens, masks) = make(FiLMFusion), make_tokens()
    zero, one, two = (
        module(live(tokens | {"audio": factor * tokens["audio"]}, masks)).tokens[0, :4]
        for factor in (0, 1, 2)
    )
    same(two - one, one - zero)


def attend_by_loops(attention: nn.Module, x: Tensor, memory: Tensor) -> Tensor:
    """Multi-head attention, one asker and one head at a time."""
    W, b, d = attention.kv.weight, attention.kv.bias, D // attention.heads
    q, k, v = (
        x @ attention.q.weight.T + attention.q.bias,
        memory @ W[:D].T + b[:D],
        memory @ W[D:].T + b[D:],
    )
    rows = []
    for asker in q:
        parts = []
        for h in range(attention.heads):
            cut = slice(h * d, (h + 1) * d)
            scores = torch.stack([asker[cut] @ key[cut] for key in k]) / d**0.5
            share = scores.exp() / scores.exp().sum()
            parts.append(sum(s * value[cut] for s, value in zip(share, v)))
        rows.append(attention.out(torch.cat(parts)))
    return torch.stack(rows)


def ask_by_loops(ask: nn.Module, x: Tensor, memory: Tensor) -> Tensor:
    x = x + attend_by_loops(ask.attention, ask.norm(x), ask.norm_memory(memory))
    return x + ask.mlp(ask.norm_mlp(x))


def read_by_loops(transformer: nn.Module, x: Tensor) -> Tensor:
    for block in transformer.blocks:
        x = x + attend_by_loops(block.attention, block.norm1(x), block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return transformer.norm(x)


def test_perceiver_equals_latents_that_ask_everything_once_then_each_other():
    module = make(PerceiverFusion)

    def one(here: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        memory = torch.cat([tokens + module.tags.tag[name] for name, tokens in here.items()])
        out = read_by_loops(module.transformer, ask_by_loops(module.ask, module.latents, memory))
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
                ask_by_loops(module.ask[name][other], own, here[other])
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
            assert (
                weights.shape[2:] == (features[asker].mask.shape[1], mask.shape[-1])
                and not weights.masked_select(~mask).any()
            )


def test_what_a_token_learns_keeps_its_digits_beside_a_large_token():
    """``Ask.update`` is the change alone: (x + change) - x would lose digits where x is large."""
    torch.manual_seed(0)
    ask, x, memory = Ask(D, 2), 1e5 * torch.randn(2, 3, D), torch.randn(2, 4, D)
    mask = torch.ones(2, 4, dtype=torch.bool)
    change = ask.update(x, memory, mask)
    torch.testing.assert_close(ask(x, memory, mask), x + change, rtol=0, atol=0)
    exact = copy.deepcopy(ask).double().update(x.double(), memory.double(), mask)
    torch.testing.assert_close(change.double(), exact, rtol=1e-4, atol=1e-5)
