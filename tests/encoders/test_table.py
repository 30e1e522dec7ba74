"""Laws of TableEncoder: missing cells, other samples, other columns; with every fusion."""

import itertools

import pytest
import torch
from torch import Tensor

from mmlib import fusion as fusions
from mmlib.core import check_batch, inputs_of, modalities
from mmlib.encoders.table import TableEncoder
from mmlib.encoders.text import RecurrentEncoder
from mmlib.heads.classify import ClassifyHead
from mmlib.models import Backbone, Model
from mmlib.tracing import trace

D, N, SIZES = 8, 3, [4, 2]
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()


def make() -> TableEncoder:
    torch.manual_seed(0)
    return TableEncoder(D, N, SIZES).eval()


def table(mask: Tensor = MASK) -> tuple[Tensor, Tensor, Tensor]:
    """Rows: full, two cells missing, one category only, absent."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4, N, generator=g).masked_fill(~mask[:, :N], 0)
    category = torch.stack([torch.randint(1, k + 1, (4,), generator=g) for k in SIZES], dim=1)
    return x, mask, category.masked_fill(~mask[:, N:], 0)


def batch() -> dict[str, Tensor]:
    x, mask, category = table()
    text = torch.tensor([[4, 5, 6], [4, 0, 0], [0, 0, 0], [0, 0, 0]])
    there = {"table": x, "table_mask": mask, "table_category": category}
    return there | {"text": text, "text_mask": text > 0, "target": torch.tensor([0, 1, 2, 1])}


def test_a_token_for_each_column_and_zero_where_a_cell_is_missing():
    features = make()(*table())
    assert features.tokens.shape == (4, N + len(SIZES), D)
    assert torch.equal(features.mask, MASK) and features.present.tolist() == [1, 1, 1, 0]
    assert not features.tokens[~MASK].any() and features.tokens[MASK].any(dim=-1).all()
    assert not features.pooled[3].any()


def test_nothing_depends_on_what_is_under_the_mask():
    encoder, (x, mask, category) = make(), table()
    clean = encoder(x, mask, category)
    x = torch.where(mask[:, :N], x, torch.nan)
    dirty = encoder(x, mask, torch.where(mask[:, N:], category, 10**6))
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)


def test_a_missing_cell_is_as_if_its_column_did_not_exist():
    """Judged by an encoder without that column, with the same weights."""
    encoder, (x, _, category) = make(), table()
    mask = torch.ones_like(MASK)
    mask[:, 1] = False
    kept = [0, 2, 3, 4]
    smaller = TableEncoder(D, N - 1, SIZES).eval()
    state = encoder.state_dict()
    smaller.load_state_dict(
        state | {"slope": state["slope"][[0, 2]], "column": state["column"][kept]}
    )
    category = category.clamp(min=1)
    found = encoder(x, mask, category)
    expected = smaller(x[:, [0, 2]], mask[:, kept], category)
    torch.testing.assert_close(found.tokens[:, kept], expected.tokens)
    torch.testing.assert_close(found.pooled, expected.pooled)


def test_a_row_does_not_depend_on_the_others():
    encoder, parts = make(), table()
    whole = encoder(*parts)
    for order in ([2, 0, 3, 1], [1], [3, 1]):
        found = encoder(*(part[order] for part in parts))
        for a, b in zip(found, whole, strict=True):
            torch.testing.assert_close(a, b[order])


def test_categories_of_two_columns_never_share_a_vector():
    encoder, x = make(), torch.zeros(4, N)
    for column, own in enumerate(([1, 2, 3, 4], [5, 6])):
        mask = torch.zeros_like(MASK)
        mask[:, N + column] = True
        ids = torch.arange(1, SIZES[column] + 1)[:, None].expand(-1, 2)
        encoder.zero_grad()
        encoder(x[: len(ids)], mask[: len(ids)], ids).tokens.square().sum().backward()
        assert encoder.embed.weight.grad.any(dim=1).nonzero()[:, 0].tolist() == own
    first = torch.zeros_like(x[:1]), torch.tensor([[0, 0, 0, 1, 1]]).bool()
    found = [
        encoder(*first, torch.tensor([pair])).pooled
        for pair in itertools.product(range(1, 5), range(1, 3))
    ]
    assert len(torch.cat(found).unique(dim=0)) == 8


def test_columns_interact_before_the_fusion():
    """The effect of a number depends on the category: no sum over columns could do that."""
    encoder, mask = make(), torch.ones(1, 5).bool()
    answer = lambda x, c: (
        encoder(torch.tensor([[x, 0.0, 0.0]]), mask, torch.tensor([[c, 1]])).pooled
    )
    mixed = answer(1.0, 1) - answer(-1.0, 1) - answer(1.0, 2) + answer(-1.0, 2)
    assert mixed.abs().max() > 1e-3


@pytest.mark.parametrize("numbers, sizes", [(2, []), (0, [3]), (0, [3, 3, 3]), (1, [1])])
def test_numbers_alone_and_categories_alone(numbers, sizes):
    encoder = TableEncoder(D, numbers, sizes)
    x, mask = torch.randn(2, numbers), torch.ones(2, numbers + len(sizes), dtype=torch.bool)
    features = encoder(x, mask, torch.ones(2, len(sizes), dtype=torch.int64))
    features.pooled.sum().backward()
    assert features.tokens.isfinite().all()
    assert all(p.grad is not None for p in encoder.parameters())


def test_what_does_not_fit_the_table_is_refused():
    encoder, (x, mask, category) = make(), table()
    with pytest.raises(ValueError, match="2 numbers, 2 categories and a mask of 5, expected 3, 2"):
        encoder(x[:, :2], mask, category)
    with pytest.raises(ValueError, match="at least one column"):
        TableEncoder(D, 0)


def test_the_contract_lets_a_table_have_holes_and_checks_its_shapes():
    found = batch()
    check_batch(found, modalities(found))
    assert sorted(modalities(found)) == ["table", "text"]
    assert len(inputs_of(found, "table")) == 3 and len(inputs_of(found, "text")) == 2
    with pytest.raises(ValueError, match=r"'table_mask'\] is .*, expected torch.bool \(4, 5\)"):
        check_batch(found | {"table_mask": MASK[:, :4]}, ["table"])
    with pytest.raises(ValueError, match=r"'table_category'\] is torch.float32"):
        check_batch(found | {"table_category": found["table_category"].float()}, ["table"])
    bad = found["table"].clone()
    bad[1, 1] = torch.nan  # missing there: under the mask
    check_batch(found | {"table": bad}, ["table"])
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"batch\['table'\], sample 1: NaN"):
        check_batch(found | {"table": bad}, ["table"])


def test_a_modality_of_that_name_beside_another_is_no_table():
    ids = torch.tensor([[4, 5]])
    found = {
        key: value
        for name in ("photo", "photo_category")
        for key, value in {name: ids, f"{name}_mask": ids > 0}.items()
    }
    assert len(inputs_of(found, "photo")) == 2
    check_batch(found, modalities(found))


@pytest.mark.parametrize("name", fusions.__all__)
def test_with_every_fusion_all_subsets_are_finite_and_masked_content_does_not_matter(name):
    torch.manual_seed(0)
    names = ["table", "text"]
    encoders = {"table": make(), "text": RecurrentEncoder(D, 9)}
    model = Model(Backbone(encoders, getattr(fusions, name)(D, names)), ClassifyHead(D, 3)).eval()
    for absent in ([], ["table"], ["text"], names):
        found = batch()
        for other in absent:
            found[f"{other}_mask"] = torch.zeros_like(found[f"{other}_mask"])
        output = model(found)
        gradients = torch.autograd.grad(
            output.loss, list(model.parameters()), materialize_grads=True
        )
        assert output.logits.isfinite().all() and all(g.isfinite().all() for g in gradients)
        there = found["table_mask"]
        found["table"] = torch.where(there[:, :N], found["table"], torch.nan)
        found["table_category"] = torch.where(there[:, N:], found["table_category"], 10**6)
        torch.testing.assert_close(model(found).logits, output.logits, rtol=1e-4, atol=2e-5)


def test_it_traces_exports_and_is_finite_under_bf16():
    model = Model(
        Backbone({"table": make()}, fusions.SumFusion(D, ["table"])), ClassifyHead(D, 3)
    ).eval()
    found = {key: value for key, value in batch().items() if "text" not in key}
    assert "TableEncoder" in str(trace(model, found))
    exported = torch.export.export(model, (found,)).module()
    torch.testing.assert_close(exported(found).logits, model(found).logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(found).loss.isfinite()
