"""The laws of the house for whole models, over encoders x fusion x head.

Masks, padding, order, other samples, absence, gradients, export.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.fusion.tokens import (
    JoinFusion,
)
from mmlib.fusion.vectors import (
    SumFusion,
)
from mmlib.heads.ctc import CTCHead
from mmlib.models import Backbone, Model, TwoTower
from tests.combinations import (
    BOS,
    EOS,
    FUSIONS,
    NAMES,
    SUBSETS,
    D,
    K,
    Linear,
    Words,
    a_cover,
    build,
    every_combination,
    make_batch,
    until,
)


def observe(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """What a user can see: for each row the logits that mean something, then the loss and the
    count.
    """
    output = model(batch)
    if isinstance(model.head, CTCHead):
        rows = [
            row[row[:, 0] < 1e3] for row in output.logits
        ]  # frames under the mask say "blank" for certain
    elif "target_mask" in batch:
        rows = [
            row[real] for row, real in zip(output.logits, batch["target_mask"][:, 1:], strict=True)
        ]
    else:
        rows = list(output.logits)
    return rows + [output.loss, output.count]


def same(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=2e-5)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


@every_combination
def test_nothing_depends_on_what_is_under_a_mask(encoders, fusion, head):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    junk = torch.tensor([1e9, float("nan"), 1e9, float("nan"), -1e9])
    other = dict(batch)
    for name in NAMES + ["target"] * ("target_mask" in batch):
        mask = batch[f"{name}_mask"].view(5, *[1] * (batch[name].ndim - 2), -1)
        fill = (
            junk.view(5, *[1] * (batch[name].ndim - 1))
            if batch[name].is_floating_point()
            else 10**9
        )
        other[name] = torch.where(mask, batch[name], fill)
    clean, dirty = observe(model, batch), observe(model, other)
    same(clean, dirty)
    same(gradients(model, clean[-2]), gradients(model, dirty[-2]))


@every_combination
def test_padding_further_right_changes_nothing(encoders, fusion, head):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    longer = dict(batch)
    for name, more in {
        "text": 3,
        "audio": 7 if encoders == "tiny" else 700,
        "image": 2 * (encoders == "tiny"),
        "target": 2,
    }.items():
        if f"{name}_mask" in batch:
            longer[name], longer[f"{name}_mask"] = (
                F.pad(batch[name], (0, more)),
                F.pad(batch[f"{name}_mask"], (0, more)),
            )
    same(observe(model, batch), observe(model, longer))


@a_cover
def test_the_order_of_names_and_keys_changes_nothing(encoders, fusion, head):
    model, batch, other = (
        build(encoders, fusion, head),
        make_batch(encoders, head),
        build(encoders, fusion, head, order=-1, seed=1),
    )
    other.load_state_dict(model.state_dict())
    same(observe(model, batch), observe(other, dict(reversed(batch.items()))))


@every_combination
def test_a_row_alone_is_the_row_in_its_batch(encoders, fusion, head):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    alone = [
        observe(model, {key: value[i : i + 1] for key, value in batch.items()})[0] for i in range(5)
    ]
    same(observe(model, batch)[:5], alone)


@a_cover
def test_an_absent_modality_is_the_same_whatever_it_held(encoders, fusion, head):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    whole = observe(model, batch)[0]
    for name in NAMES:
        gone = batch | {f"{name}_mask": torch.zeros_like(batch[f"{name}_mask"])}
        seen = observe(model, gone)
        same(seen, observe(model, gone | {name: torch.zeros_like(batch[name])}))
        without = seen[0]
        assert without.shape != whole.shape or not torch.allclose(without, whole), (
            f"nobody listens to {name}"
        )


@a_cover
def test_every_subset_of_modalities_gives_finite_output_and_gradients(encoders, fusion, head):
    model, full = build(encoders, fusion, head), make_batch(encoders, head)
    for subset in [*SUBSETS, set()]:
        batch = full | {f"{name}_mask": full[f"{name}_mask"] & (name in subset) for name in NAMES}
        output = model(batch)
        assert (
            output.logits.isfinite().all() and output.loss.isfinite() and output.count.isfinite()
        ), subset
        wrong = [
            n
            for (n, _), g in zip(
                model.named_parameters(), gradients(model, output.loss), strict=True
            )
            if not g.isfinite().all()
        ]
        assert not wrong, (subset, wrong)


def loose_tensors(module: nn.Module) -> list[str]:
    """Trainable tensors and modules that hang on a module without being registered: in a plain
    list, a tuple or a dict.
    """
    found, registered = [], {id(p) for p in module.parameters()}  # nn.LSTM lists its own once more
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            items = (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, (list, tuple, set))
                else [value]
            )
            found += [
                f"{path}.{key}"
                for item in items
                if isinstance(item, nn.Module)
                or torch.is_tensor(item)
                and item.requires_grad
                and id(item) not in registered
            ]
    return found


@every_combination
def test_every_parameter_is_registered_learns_and_is_saved(encoders, fusion, head):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    model(batch).loss.backward()
    assert not loose_tensors(model)
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    if (
        head == "cross" and model.backbone(batch).tokens.shape[1] == 1
    ):  # one token to look at: nothing to choose
        dead = [name for name in dead if ".norm_cross." not in name and ".cross.q." not in name]
    assert not dead, f"no gradient reaches {dead}"
    assert {name for name, _ in model.named_parameters()} <= set(model.state_dict())


def test_a_parameter_in_a_plain_list_is_found():
    module = nn.Module()
    module.factors = [nn.Parameter(torch.ones(2))]
    assert loose_tensors(module) == [".factors"]


@a_cover
def test_state_dict_round_trip_and_same_seed_give_the_same_output(encoders, fusion, head):
    model, batch, other = (
        build(encoders, fusion, head),
        make_batch(encoders, head),
        build(encoders, fusion, head, seed=1),
    )
    expected = model(batch)
    assert not torch.equal(other(batch).loss, expected.loss)
    other.load_state_dict(model.state_dict())
    for output in (other(batch), build(encoders, fusion, head)(batch)):
        assert torch.equal(output.logits, expected.logits) and torch.equal(
            output.loss, expected.loss
        )


@a_cover
def test_bf16_autocast_stays_finite(encoders, fusion, head):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    output.loss.backward()
    assert output.logits.isfinite().all() and output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, model(batch).loss, rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("fusion", ["gated", "attention", "attention-image"])
def test_an_absent_modality_gets_weight_exactly_zero(fusion):
    model, batch = build("tiny", fusion, "classify"), make_batch("tiny", "classify")
    model(batch)
    present = torch.stack([batch[f"{name}_mask"].any(1) for name in NAMES], dim=1)
    weights = model.backbone.fusion.weights
    assert (
        (weights[~present] == 0).all()
        and (weights[present] > 0).all()
        and not weights.requires_grad
    )
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1, 1, 1, 0]))


@pytest.mark.parametrize("head", ["prefix", "cross"])
def test_a_decoder_is_causal(head):
    """Changing word s moves no logit before s, and does move the one at s."""
    model, batch = build("tiny", "join", head), make_batch("tiny", head)
    before = model(batch).logits
    for s in range(1, 4):
        changed = batch["target"].clone()
        changed[0, s] = 6
        after = model(batch | {"target": changed}).logits
        torch.testing.assert_close(after[0, :s], before[0, :s])
        assert not torch.allclose(after[0, s], before[0, s])
        assert torch.equal(after[1:], before[1:])


def overfit(model: nn.Module, batch: dict[str, Tensor], steps: int) -> float:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
    model.eval()
    return loss.item()


@pytest.mark.parametrize("fusion,head", [("join", "prefix"), ("gated", "cross")])
def test_a_decoder_overfits_one_batch_and_writes_it_back(fusion, head):
    model, batch = build("tiny", fusion, head), make_batch("tiny", head)
    assert overfit(model, batch, 100) < 0.1
    written = model.head.generate(model.backbone(batch), BOS, EOS, steps=8)
    assert torch.equal(written, batch["target"])  # each stops at its own EOS, then 0


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_overfits_one_batch(fusion):
    model, batch = build("tiny", fusion, "classify"), make_batch("tiny", "classify")
    batch = {key: value[:4] for key, value in batch.items()}  # the empty row cannot be learned
    assert overfit(model, batch, 50) < 0.2
    assert torch.equal(model(batch).logits.argmax(1), batch["target"])


def test_ctc_overfits_a_line_and_reads_it_back_from_the_logits_alone():
    torch.manual_seed(0)
    model = Model(Backbone({"image": Linear(12)}, JoinFusion(D, ["image"], depth=1)), CTCHead(D, K))
    batch = {
        "image": torch.randn(3, 3, 4, 8),
        "image_mask": until(8, 5, 6),
        "target": torch.tensor([[3, 4, 4], [5, 6, 0], [4, 3, 0]]),
        "target_mask": until(3, 2, 2),
    }
    assert overfit(model, batch, 100) < 0.1
    for row, target in zip(
        model(batch).logits.argmax(-1).tolist(), [[3, 4, 4], [5, 6], [4, 3]], strict=True
    ):
        assert [k for k, _ in itertools.groupby(row) if k] == target


def export_runs_the_same(module: nn.Module, batch: dict[str, Tensor]) -> None:
    if isinstance(getattr(module, "head", None), CTCHead):  # torch cannot export its own ctc_loss
        batch = {key: value for key, value in batch.items() if not key.startswith("target")}
    exported = torch.export.export(module, (batch,)).module()
    for got, expected in zip(exported(batch), module(batch), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "fusion,head", [("gated", "classify"), ("cross-image", "ctc"), ("bottleneck", "prefix")]
)
def test_a_model_passes_export(fusion, head):
    export_runs_the_same(build("tiny", fusion, head), make_batch("tiny", head))


@pytest.mark.long
@a_cover
def test_every_model_passes_export(encoders, fusion, head):
    export_runs_the_same(build(encoders, fusion, head), make_batch(encoders, head))


def test_two_towers_pass_export():
    torch.manual_seed(0)
    towers = TwoTower(
        Backbone({"image": Linear(12)}, SumFusion(D, ["image"])),
        Backbone({"text": Words()}, SumFusion(D, ["text"])),
    )
    export_runs_the_same(towers, make_batch("tiny", "classify"))
