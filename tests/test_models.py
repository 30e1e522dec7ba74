"""Backbone, Model and TwoTower: clear errors; the contrastive losses against CLIP, by pairs."""

import math
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_pooled
from mmlib.fusion.vectors import GatedFusion, SumFusion
from mmlib.heads.classify import ClassifyHead
from mmlib.metrics.scores import accuracy
from mmlib.models import Backbone, Model, TwoTower
from mmlib.train.config import TrainConfig
from mmlib.train.evaluate import collect, evaluate
from mmlib.train.loop import fit

CONFIG = TrainConfig(epochs=2, device="cpu", progress=False)
B, D = 6, 8


class Pooled(nn.Module):
    """An encoder of (B, L) numbers that is a linear map, so that the towers' vectors are known."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, D)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return from_pooled(self.linear(x.masked_fill(~mask, 0)), mask.any(dim=1))


class First(nn.Module):
    """A fusion of one modality: nothing to fuse."""

    def forward(self, features: dict[str, Features]) -> Features:
        return next(iter(features.values()))


def make_batch(absent_image: list[int] = (), absent_text: list[int] = ()) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(B, 4, generator=g),
        "image_mask": torch.ones(B, 4, dtype=torch.bool),
        "text": torch.randn(B, 4, generator=g),
        "text_mask": torch.ones(B, 4, dtype=torch.bool),
        "target": torch.arange(B) % 2,
    }
    batch["image_mask"][list(absent_image)] = False
    batch["text_mask"][list(absent_text)] = False
    return batch


def cut(batch: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    return [
        dict(zip(batch, parts, strict=True))
        for parts in zip(*(value.split(size) for value in batch.values()), strict=False)
    ]


def towers(loss: str = "softmax") -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(
        Backbone({"image": Pooled()}, First()), Backbone({"text": Pooled()}, First()), loss
    )


def by_pairs(model: TwoTower, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
    """The loss by explicit loops: each row picks its partner among those of ``rows`` that are
    not the same item.
    """
    q, k = model.query(batch).pooled, model.key(batch).pooled
    item = batch.get("item_id", torch.arange(B))
    score = lambda i, j: model.log_scale.exp() * F.cosine_similarity(q[i], k[j], dim=0)
    losses = []
    for i in rows:
        rivals = [j for j in rows if j == i or item[j] != item[i]]
        losses.append(torch.stack([score(i, j) for j in rivals]).logsumexp(0) - score(i, i))
        losses.append(torch.stack([score(j, i) for j in rivals]).logsumexp(0) - score(i, i))
    return torch.stack(losses).mean()


def by_yes_and_no(model: TwoTower, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
    """The loss of SigLIP by explicit loops: -log sigmoid(z) for a pair, -log sigmoid(-z) for
    others."""
    q, k = model.query(batch).pooled, model.key(batch).pooled
    item, total = batch.get("item_id", torch.arange(B)), torch.zeros(())
    for i in rows:
        for j in rows:
            if i == j or item[i] != item[j]:
                z = model.log_scale.exp() * F.cosine_similarity(q[i], k[j], dim=0) + model.bias
                total = total - F.logsigmoid(z if i == j else -z)
    return total / len(rows)


def same_with_gradients(model: nn.Module, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected)
    a, b = (torch.autograd.grad(loss, list(model.parameters())) for loss in (got, expected))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_missing_keys_are_named_with_what_is_there():
    model, batch = (
        Backbone({"image": Pooled(), "text": Pooled()}, GatedFusion(D, ["image", "text"])),
        make_batch(),
    )
    del batch["text"], batch["image_mask"]
    expected = (
        r"lacks \['image_mask', 'text'\]; the model reads \['image', 'text'\].*'image', "
        r"'target', 'text_mask'"
    )
    with pytest.raises(ValueError, match=expected):
        model(batch)


def test_a_fusion_of_other_names_is_named():
    with pytest.raises(ValueError, match=r"built for \['image', 'text'\]: missing \['text'\]"):
        Backbone({"image": Pooled()}, GatedFusion(D, ["image", "text"]))(make_batch())


def test_a_model_is_its_parts_in_a_row():
    torch.manual_seed(0)
    backbone, head = (
        Backbone({"image": Pooled(), "text": Pooled()}, SumFusion(D, ["text", "image"])),
        ClassifyHead(D, 2),
    )
    batch = make_batch([1], [2])
    output = Model(backbone, head)(batch)
    features = {
        name: backbone.encoders[name](batch[name], batch[f"{name}_mask"])
        for name in ("image", "text")
    }
    expected = head(backbone.fusion(features), batch)
    assert (
        torch.equal(output.logits, expected.logits)
        and torch.equal(output.loss, expected.loss)
        and output.count == B
    )


def test_two_towers_equal_clip_with_all_pairs():
    model, batch = towers(), make_batch()
    q, k = (
        F.normalize(model.query(batch).pooled, dim=1),
        F.normalize(model.key(batch).pooled, dim=1),
    )
    logits, labels = model.log_scale.exp() * q @ k.T, torch.arange(B)  # figure 3 of the paper
    output = model(batch)
    torch.testing.assert_close(output.logits, logits)
    same_with_gradients(
        model,
        output.loss,
        (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2,
    )
    assert output.count == B


@pytest.mark.parametrize(
    "image,text,items",
    [
        ([], [], None),
        ([1], [3, 4], None),
        ([], [], [7, 8, 7, 9, 7, 5]),
        ([0], [5], [7, 8, 7, 9, 7, 5]),
        ([], [0, 1, 2, 3, 4], None),
    ],
)
def test_two_towers_equal_the_loops_with_absent_rows_and_equal_items(image, text, items):
    model, batch = towers(), make_batch(image, text)
    if items:
        batch["item_id"] = torch.tensor(items)
    rows = [i for i in range(B) if i not in image and i not in text]
    output = model(batch)
    same_with_gradients(model, output.loss, by_pairs(model, batch, rows))
    assert output.count == len(rows) and output.logits.isfinite().all()
    model = towers("sigmoid")
    output = model(batch)
    same_with_gradients(model, output.loss, by_yes_and_no(model, batch, rows))
    assert output.count == len(rows)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_towers_with_no_pair_left_stay_finite(loss):
    model = towers(loss)
    output = model(make_batch(range(B)))
    output.loss.backward()
    assert (
        output.loss == 0
        and output.count == 0
        and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    )


def test_the_temperature_starts_as_in_clip_and_is_clamped():
    model, batch = towers(), make_batch()
    assert math.isclose(model.log_scale.exp().item(), 1 / 0.07, rel_tol=1e-5)
    with torch.no_grad():
        model.log_scale.fill_(20.0)
    assert model(batch).logits.abs().max() <= 100.001 and model(batch).loss.isfinite()


def test_two_towers_learn_to_match():
    model, batch = towers(), make_batch()
    batch["text"] = batch["image"] @ torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()
    assert torch.equal(model(batch).logits.argmax(1), torch.arange(B))


def test_the_sigmoid_loss_is_a_sum_over_any_blocks_of_pairs_and_the_softmax_loss_is_not():
    """Parts of a batch by themselves are only the blocks on the diagonal of the matrix of pairs."""
    model, batch = towers("sigmoid"), make_batch()
    query, key, _, _ = model.embed(batch)
    z = model.log_scale.exp() * query @ key.T + model.bias
    terms = F.softplus(torch.where(torch.eye(B, dtype=torch.bool), -z, z))
    blocks = sum(
        terms[rows][:, columns].sum()
        for rows in torch.arange(B).split(4)
        for columns in torch.arange(B).split(2)
    )
    torch.testing.assert_close(blocks / B, model(batch).loss)
    halves = [
        {key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, 6))
    ]
    for one in (model, towers()):
        parts = torch.stack([one(half).loss for half in halves]).mean()
        assert parts < one(batch).loss  # the pairs across the parts are gone


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("items", [None, [7, 8, 7, 9, 7, 5]])
def test_rows_compared_with_all_add_up_to_the_loss_of_the_whole(loss, items):
    model, batch = towers(loss), make_batch([1], [3])
    if items:
        batch["item_id"] = torch.tensor(items)
    pairs, whole = model.embed(batch), model(batch)
    parts = [model.compare(pairs, slice(start, start + 4)) for start in (0, 4)]
    same_with_gradients(
        model,
        sum(part.loss * part.count for part in parts) / sum(part.count for part in parts),
        whole.loss,
    )
    assert torch.equal(torch.cat([part.logits for part in parts]), whole.logits)


def test_under_bf16_the_comparison_runs_in_float32():
    model, batch = towers(), make_batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.log_scale.fill_(math.log(100))
        output, pairs = model(batch), model.embed(batch)
    torch.testing.assert_close(
        output.logits,
        100 * pairs.query.double() @ pairs.key.double().T,
        rtol=1e-5,
        atol=1e-3,
        check_dtype=False,
    )
    assert output.logits.dtype == output.loss.dtype == torch.float32


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_parts_of_a_step_do_not_see_each_other_so_fit_refuses_them_with_the_reason(loss):
    batches = cut(make_batch(), 3)
    with pytest.raises(
        ValueError, match="accumulate is 2.*compares samples.*larger batches, or more processes"
    ):
        fit(towers(loss), batches, config=replace(CONFIG, accumulate=2))
    assert math.isfinite(fit(towers(loss), batches, config=CONFIG)[-1]["loss"])


@pytest.mark.parametrize("chunk", [4, 2048])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_set_is_compared_as_a_whole_however_it_is_cut(monkeypatch, loss, chunk):
    """A short last batch, absent rows and equal items included."""
    module = sys.modules["mmlib.train.evaluate"]  # the package shows the function of that name
    monkeypatch.setattr(module, "CHUNK", chunk)
    model, batch = (
        towers(loss),
        make_batch([1], [5]) | {"item_id": torch.tensor([7, 8, 7, 9, 7, 5])},
    )
    whole = model(batch)
    for size in (6, 4, 1):
        scores = evaluate(
            model,
            cut(batch, size),
            {"recall": accuracy, "rows": lambda logits, target: len(target)},
        )
        assert scores["loss"] == pytest.approx(whole.loss.item(), rel=1e-5) and scores["rows"] == 4
        logits, target, rows = collect(model, cut(batch, size))
        torch.testing.assert_close(logits, whole.logits.detach())
        assert target.tolist() == [0, -100, 2, 3, 4, -100] and rows is None
        kept = target >= 0
        assert scores["recall"] == pytest.approx(accuracy(logits[kept], target[kept]))
        assert evaluate(model, cut(batch, size))["loss"] == pytest.approx(
            whole.loss.item(), rel=1e-5
        )
        assert (logits[0, [1, 2, 4, 5]] == torch.finfo(torch.float32).min).all() and logits[
            0, [0, 3]
        ].abs().max() < 100
    with pytest.raises(ValueError, match="no row has both"):
        evaluate(model, [make_batch(range(B))])


def test_the_windows_of_a_row_are_one_row_of_the_set():
    model, batch = towers(), make_batch()
    row = torch.tensor([9, 2, 2, 4, 9, 2])
    logits, target, rows = collect(model, cut(batch | {"row": row}, 4))
    query, key, _, _ = model.embed(batch)
    query, key = (
        torch.stack([F.normalize(x[row == i].mean(0), dim=0) for i in (2, 4, 9)])
        for x in (query, key)
    )
    torch.testing.assert_close(logits, (model.log_scale.exp() * query @ key.T).detach())
    assert target.tolist() == [0, 1, 2] and rows.tolist() == [2, 4, 9]


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="loss is 'triplet', expected 'softmax' or 'sigmoid'"):
        towers("triplet")


def test_towers_of_several_modalities_share_one_contract():
    tower = lambda: Backbone(
        {"image": Pooled(), "text": Pooled()}, GatedFusion(D, ["image", "text"])
    )
    assert TwoTower(tower(), tower())(make_batch([0, 1], [0, 2])).count == 5


def test_the_vector_of_a_row_is_the_mean_of_its_windows_brought_to_length_1():
    batch = make_batch() | {"row": torch.tensor([0, 0, 1, 2, 2, 2])}
    model = towers().eval()
    logits, _, rows = collect(model, [batch], "cpu")
    query, key = (F.normalize(tower(batch).pooled, dim=1) for tower in (model.query, model.key))
    places = ([0, 1], [2], [3, 4, 5])
    query, key = (
        torch.stack([F.normalize(x[place].mean(dim=0), dim=0) for place in places])
        for x in (query, key)
    )
    assert rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(logits, model.log_scale.exp() * query @ key.T, rtol=1e-4, atol=1e-4)
