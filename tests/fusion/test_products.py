"""Fusions that multiply, against outer products, full tensors and densities written out."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features
from mmlib.fusion.products import (
    BilinearFusion,
    LowRankFusion,
    ProductFusion,
    TensorFusion,
    signed_sqrt,
)
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

    same_with_gradients(module, make_features(), by_hand)


def test_a_tensor_that_no_laptop_holds_is_refused_before_it_takes_memory():
    """The last that is allowed, and larger ones: on the device "meta" nothing is stored."""
    with torch.device("meta"):
        assert TensorFusion(64, "abcdef").out.weight.numel() == 64 * 9**6
        for names, dim, width in (("abcdefg", 64, 8), ("abc", 64, 116), ("abcdef", 189, 8)):
            with pytest.raises(ValueError) as caught:
                TensorFusion(dim, names, width)
            said = str(caught.value)
            assert f"{dim * (width + 1) ** len(names):,} parameters" in said
            assert "100,000,000: use LowRankFusion" in said
    with pytest.raises(ValueError, match="9 \\*\\* 8 = 43,046,721 products.*2,754,990,144 param"):
        TensorFusion(64, "abcdefgh")
    LowRankFusion(64, "abcdefgh")


def test_low_rank_equals_its_full_tensor():
    """The output is the outer product contracted with a full tensor W.

    W[a, b, c, d] is the sum over r of the product of the factors.
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

    same_with_gradients(module, make_features(), by_hand)
    assert {name for name, _ in module.named_parameters()} >= {f"factors.{name}" for name in NAMES}


def test_low_rank_starts_near_unit_variance_whatever_the_rank():
    """Before training, rank, width and number of modalities do not decide the output's size."""
    pooled = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    unit = Features(pooled[:, None], torch.ones(200, 1, dtype=torch.bool), pooled)
    for rank, names in itertools.product([1, 16], ["ab", "abcd"]):
        torch.manual_seed(0)
        spread = LowRankFusion(64, names, rank=rank)({name: unit for name in names}).pooled.std()
        assert 0.5 < spread < 3, (rank, names, spread)


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
    """Without biases z_d = x' W_d y, where W_d = sum over k of u_dk v_dk' has rank ``factors``."""
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
    """On a fine grid, the densities of prior and modalities are multiplied; the largest wins."""
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
