"""Backbone, Model and TwoTower: clear errors, and the contrastive loss against CLIP's, pair by pair."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_pooled
from mmlib.fusion import GatedFusion, SumFusion
from mmlib.heads import ClassifyHead
from mmlib.models import Backbone, Model, TwoTower

B, D = 6, 8


class Pooled(nn.Module):
    """An encoder of (B, L) numbers that is a linear map, so that the towers' vectors are known."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, D)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return from_pooled(self.linear(x.masked_fill(~mask, 0)), mask.any(dim=1))


class First(nn.Module):
    """A fusion of one sense: nothing to fuse."""

    def forward(self, features: dict[str, Features]) -> Features:
        return next(iter(features.values()))


def make_batch(absent_image: list[int] = (), absent_text: list[int] = ()) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    batch = {"image": torch.randn(B, 4, generator=g), "image_mask": torch.ones(B, 4, dtype=torch.bool),
             "text": torch.randn(B, 4, generator=g), "text_mask": torch.ones(B, 4, dtype=torch.bool), "target": torch.arange(B) % 2}
    batch["image_mask"][list(absent_image)] = False
    batch["text_mask"][list(absent_text)] = False
    return batch


def towers() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(Backbone({"image": Pooled()}, First()), Backbone({"text": Pooled()}, First()))


def by_pairs(model: TwoTower, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
    """The loss by explicit loops: each row picks its partner among those of ``rows`` that are not the same item."""
    q, k = model.query(batch).pooled, model.key(batch).pooled
    item = batch.get("item_id", torch.arange(B))
    score = lambda i, j: model.log_scale.exp() * F.cosine_similarity(q[i], k[j], dim=0)
    losses = []
    for i in rows:
        rivals = [j for j in rows if j == i or item[j] != item[i]]
        losses.append(torch.stack([score(i, j) for j in rivals]).logsumexp(0) - score(i, i))
        losses.append(torch.stack([score(j, i) for j in rivals]).logsumexp(0) - score(i, i))
    return torch.stack(losses).mean()


def same_with_gradients(model: nn.Module, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected)
    a, b = (torch.autograd.grad(loss, list(model.parameters())) for loss in (got, expected))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_missing_keys_are_named_with_what_is_there():
    model, batch = Backbone({"image": Pooled(), "text": Pooled()}, GatedFusion(D, ["image", "text"])), make_batch()
    del batch["text"], batch["image_mask"]
    expected = r"lacks \['image_mask', 'text'\]; the model reads \['image', 'text'\].*'image', 'target', 'text_mask'"
    with pytest.raises(ValueError, match=expected):
        model(batch)


def test_a_fusion_of_other_names_is_named():
    with pytest.raises(ValueError, match=r"built for \['image', 'text'\]: missing \['text'\]"):
        Backbone({"image": Pooled()}, GatedFusion(D, ["image", "text"]))(make_batch())


def test_a_model_is_its_parts_in_a_row():
    torch.manual_seed(0)
    backbone, head = Backbone({"image": Pooled(), "text": Pooled()}, SumFusion(D, ["text", "image"])), ClassifyHead(D, 2)
    batch = make_batch([1], [2])
    output = Model(backbone, head)(batch)
    features = {name: backbone.encoders[name](batch[name], batch[f"{name}_mask"]) for name in ("image", "text")}
    expected = head(backbone.fusion(features), batch)
    assert torch.equal(output.logits, expected.logits) and torch.equal(output.loss, expected.loss) and output.count == B


def test_two_towers_equal_clip_with_all_pairs():
    model, batch = towers(), make_batch()
    q, k = F.normalize(model.query(batch).pooled, dim=1), F.normalize(model.key(batch).pooled, dim=1)
    logits, labels = model.log_scale.exp() * q @ k.T, torch.arange(B)                     # figure 3 of the paper
    output = model(batch)
    torch.testing.assert_close(output.logits, logits)
    same_with_gradients(model, output.loss, (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2)
    assert output.count == B


@pytest.mark.parametrize("image,text,items", [([], [], None), ([1], [3, 4], None), ([], [], [7, 8, 7, 9, 7, 5]),
                                              ([0], [5], [7, 8, 7, 9, 7, 5]), ([], [0, 1, 2, 3, 4], None)])
def test_two_towers_equal_the_loops_with_absent_rows_and_equal_items(image, text, items):
    model, batch = towers(), make_batch(image, text)
    if items:
        batch["item_id"] = torch.tensor(items)
    rows = [i for i in range(B) if i not in image and i not in text]
    output = model(batch)
    same_with_gradients(model, output.loss, by_pairs(model, batch, rows))
    assert output.count == len(rows) and output.logits.isfinite().all()


def test_two_towers_with_no_pair_left_stay_finite():
    model = towers()
    output = model(make_batch(range(B)))
    output.loss.backward()
    assert output.loss == 0 and output.count == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


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


def test_towers_of_several_senses_share_one_contract():
    tower = lambda: Backbone({"image": Pooled(), "text": Pooled()}, GatedFusion(D, ["image", "text"]))
    assert TwoTower(tower(), tower())(make_batch([0, 1], [0, 2])).count == 5
