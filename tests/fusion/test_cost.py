"""The table of fusions says what counting by hand gives, and what can be proved of interaction."""

import pytest
import torch
from torch import nn

from mmlib import fusion
from mmlib.core import Features, from_pooled
from mmlib.fusion import cost as fusion_table
from mmlib.fusion.cost import (
    TOKENS,
    count_flops,
    count_kept,
    interaction,
    main_table,
    make_features,
    table,
    to_markdown,
)

B, D = 8, 16
ADDITIVE = {"SumFusion", "LateFusion"}


@pytest.fixture(scope="module")
def rows() -> dict[str, fusion_table.Row]:
    return {row.name: row for row in table(D, B, repeats=1)}


def test_every_fusion_has_a_row_in_the_order_of_the_module(rows):
    assert list(rows) == fusion.__all__


@pytest.mark.parametrize("name", fusion.__all__)
def test_parameters_and_tokens_are_those_of_the_module(rows, name):
    module = getattr(fusion, name)(D, TOKENS)
    assert rows[name].parameters == sum(p.numel() for p in module.parameters())
    assert rows[name].tokens == module(make_features(D, B)).tokens.shape[1]


def test_parameters_flops_and_tokens_are_what_counting_by_hand_gives(rows):
    assert rows["SumFusion"].parameters == 3 * (D * D + D)
    assert rows["LateFusion"].parameters == 2 * rows["SumFusion"].parameters
    assert rows["SumFusion"].flops == 2 * B * 3 * D * D
    assert rows["LateFusion"].flops == 2 * rows["SumFusion"].flops
    assert rows["TensorFusion"].flops == 2 * B * (3 * D * 8 + 9**3 * D)
    T = sum(TOKENS.values())
    maps = 2 * B * T * (4 + 8) * D * D  # four of the attention, and the MLP
    attention = 2 * 2 * B * T * T * D  # scores and sums
    assert rows["JoinFusion"].flops == maps + attention
    assert {name for name, row in rows.items() if row.tokens == T} == {
        "JoinFusion",
        "FiLMFusion",
        "CrossmodalFusion",
    }


def test_twice_the_batch_costs_twice_the_flops_and_memory_and_no_parameter(rows):
    for name in ("SumFusion", "BilinearFusion", "PerceiverFusion"):
        module, larger = getattr(fusion, name)(D, TOKENS), make_features(D, 2 * B)
        assert count_flops(module, larger) == 2 * rows[name].flops
        twice = pytest.approx(2 * rows[name].kept, rel=0.02)  # a few numbers do not grow
        assert count_kept(module, larger) == twice


@pytest.mark.parametrize("name", fusion.__all__)
def test_modalities_interact_in_all_but_sums_of_one_function_per_modality(rows, name):
    assert rows[name].interact == (name not in ADDITIVE)


def test_the_mixed_difference_of_a_sum_is_rounding_and_of_a_product_is_itself():
    class Product(nn.Module):
        def forward(self, features: dict[str, Features]) -> Features:
            a, b = features["audio"], features["text"]
            return a._replace(pooled=a.pooled * b.pooled)

    old, new = (make_features(D, B, seed, torch.float64) for seed in (0, 1))
    change = [new[name].pooled - old[name].pooled for name in ("audio", "text")]
    expected = (change[0] * change[1]).abs().max() / (
        old["audio"].pooled * old["text"].pooled
    ).abs().max()
    assert interaction(Product(), D, B) == pytest.approx(expected.item())
    assert interaction(fusion.SumFusion(D, TOKENS), D, B) < 1e-12


@pytest.mark.parametrize("name", ["SumFusion", "LateFusion", "BilinearFusion", "TensorFusion"])
def test_a_linear_head_sees_an_exclusive_or_just_where_modalities_interact(rows, name):
    """The exclusive-or of two modalities of plus or minus is in the span of the output, or not."""
    torch.manual_seed(0)
    sign = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    said = {
        key: sign[:, i, None] * torch.randn(D, dtype=torch.float64)
        for i, key in enumerate(["audio", "image"])
    }
    features = {
        key: from_pooled(pooled, torch.ones(4, dtype=torch.bool)) for key, pooled in said.items()
    }
    pooled = getattr(fusion, name)(D, features).double()(features).pooled
    inputs, target = torch.cat([pooled, torch.ones(4, 1)], dim=1), sign.prod(dim=1, keepdim=True)
    fitted = inputs @ torch.linalg.lstsq(inputs, target, driver="gelsd").solution
    torch.testing.assert_close(
        fitted, target if rows[name].interact else torch.zeros_like(target), rtol=0, atol=1e-6
    )


class Layer(nn.Module):
    """A stand-in for a fusion: one operation on the image's tokens."""

    def __init__(self, act):
        super().__init__()
        self.act, self.linear = act, nn.Linear(D, D)

    def forward(self, features: dict[str, Features]) -> Features:
        return features["image"]._replace(tokens=self.act(self, features["image"].tokens))


@pytest.mark.parametrize(
    "act, tensors",
    [
        (lambda module, x: x + 1, 0),
        (lambda module, x: x * x, 0),
        (lambda module, x: module.linear(x), 0),  # only input and parameters
        (lambda module, x: x.exp(), 1),
        (lambda module, x: x.exp().exp(), 2),
        (lambda module, x: x.exp().chunk(2)[0].square(), 1),
        (lambda module, x: module.linear(x.exp()), 1),
        (lambda module, x: x.exp() * x, 1),
    ],
    ids=[
        "sum",
        "square",
        "linear",
        "exp",
        "exp exp",
        "part of one that is kept whole",
        "linear of exp",
        "one that two need",
    ],
)
def test_what_is_kept_for_the_backward_pass_is_counted_once(act, tensors):
    assert count_kept(Layer(act), make_features(D, B)) == tensors * 4 * B * TOKENS["image"] * D


def test_the_input_is_ragged_and_every_modality_is_present():
    features = make_features(D, B)
    assert {name: part.mask.shape[1] for name, part in features.items()} == TOKENS
    assert all(part.present.all() for part in features.values()) and features["image"].mask.all()
    assert not features["text"].mask.all() and features["text"].mask[-1].all()


def test_threads_and_random_numbers_are_left_as_they_were():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    table(D, 2, repeats=1)
    assert torch.get_num_threads() == 2 and torch.equal(torch.random.get_rng_state(), state)
    torch.set_num_threads(threads)


def test_the_printed_table_says_what_the_rows_say(rows, monkeypatch):
    lines, first = to_markdown(list(rows.values())).splitlines(), next(iter(rows.values()))
    assert len({len(line) for line in lines}) == 1 and len(lines) == len(rows) + 2
    for line, row in zip(lines[2:], rows.values(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:4] == [
            row.name,
            str(row.tokens),
            "yes" if row.interact else "no",
            f"{row.parameters:,}",
        ]
        assert [float(cell.replace(",", "")) for cell in cells[4:]] == pytest.approx(
            [
                row.flops / 1e6,
                row.kept / 1e3,
                row.forward / first.forward,
                row.both / first.both,
            ],
            abs=0.5,
        )
        assert float(cells[4]) == round(row.flops / 1e6, 1)
    monkeypatch.setattr(fusion_table, "table", lambda: list(rows.values()))
    assert main_table().startswith(lines[0]) and "audio 25, image 16, text 12" in main_table()
