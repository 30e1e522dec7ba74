"""Shapes, parameters and FLOPs of each stage, judged by the modules, by torch and by hand."""

import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mmlib
from mmlib import encoders, fusion
from mmlib.core import Features, from_pooled
from mmlib.heads.classify import ClassifyHead
from mmlib.layers.attention import attend, recording
from mmlib.models import Backbone, Model, TwoTower
from mmlib.plots.alt_text import describe
from mmlib.tracing.trace import Trace, trace
from tests.combinations import HEADS, D, K

MODALITIES = {
    "conv": lambda: {
        "audio": encoders.AudioConvEncoder(D, mels=16, width=8),
        "image": encoders.ConvEncoder(D, width=8),
        "text": encoders.RecurrentEncoder(D, K),
    },
    "transformer": lambda: {
        "audio": encoders.AudioRecurrentEncoder(D, mels=16, cell="gru"),
        "image": encoders.ViTEncoder(D, patch=4, depth=1),
        "text": encoders.TransformerEncoder(D, K, depth=1),
    },
}


def until(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def make_batch(head: str = "classify") -> dict[str, Tensor]:
    """Four rows: full, ragged, no image, empty."""
    g = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(4, 3, 16, 16, generator=g),
        "image_mask": until(16, 16, 0, 0),
        "audio": torch.randn(4, 1600, generator=g),
        "audio_mask": until(1600, 700, 900, 0),
        "text": torch.randint(3, K, (4, 6), generator=g),
        "text_mask": until(6, 3, 4, 0),
        "row": torch.arange(4),
    }
    if head in ("classify", "regress", "labels"):
        targets = {
            "classify": torch.tensor([0, 1, 2, 1]),
            "regress": torch.tensor([3.0, 7.0, 5.0, 6.0]),
            "labels": torch.eye(4, 3),
        }
        return batch | {"target": targets[head]}
    target = {"ctc": torch.tensor([[3], [5], [4], [6]])}.get(
        head, torch.tensor([[1, 3, 4, 2], [1, 4, 2, 0], [1, 5, 2, 0], [1, 2, 0, 0]])
    )
    return batch | {"target": target, "target_mask": target > 0}


def build(modalities: str = "conv", fusing: str = "SumFusion", head: str = "classify") -> Model:
    torch.manual_seed(0)
    made = MODALITIES[modalities]()
    return Model(Backbone(made, getattr(fusion, fusing)(D, list(made))), HEADS[head]())


def counted(model: nn.Module, batch: object) -> int:
    """What torch counts, with attention written out, since on a CPU it misses the fused one.

    It misses LSTMs too.
    """
    with recording(model), FlopCounterMode(display=False) as counter:
        model.eval()(batch)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "name, head",
    [(name, "classify") for name in fusion.__all__] + [("JoinFusion", head) for head in HEADS],
)
def test_stages_add_up_to_what_torch_counts_for_the_whole(name, head):
    model, batch = build("transformer", name, head), make_batch(head)
    for depth in (1, 3):
        result = trace(model, batch, depth)
        assert result.flops == counted(model, batch) > 0
        assert result.parameters == sum(p.numel() for p in model.parameters())


def test_the_rows_of_a_model_are_its_encoders_its_fusion_and_its_head_with_shapes_and_tokens():
    model, batch = build(), make_batch()
    rows = trace(model, batch).rows
    assert [row.name for row in rows] == [
        "backbone.encoders.audio",
        "backbone.encoders.image",
        "backbone.encoders.text",
        "backbone.fusion",
        "head",
    ]
    for row in rows:
        part = model.get_submodule(row.name)
        assert row.kind == type(part).__name__ and row.parameters == sum(
            p.numel() for p in part.parameters()
        )
    features = {
        name: encoder(batch[name], batch[f"{name}_mask"])
        for name, encoder in model.backbone.encoders.items()
    }
    for row, (name, made) in zip(rows[:3], features.items(), strict=True):
        assert (
            row.input == f"{tuple(batch[name].shape)}, {tuple(batch[f'{name}_mask'].shape)}"
            and row.output == str(tuple(made.tokens.shape))
        )
        assert (row.tokens, row.real) == (made.mask.numel(), int(made.mask.sum()))
    assert rows[3].input == ", ".join(
        f"{name} {tuple(made.tokens.shape)}" for name, made in features.items()
    )
    assert rows[4].output == "(4, 3)" and rows[4].tokens is None
    assert [row.reads for row in rows] == [
        ["audio (4, 1600)"],
        ["image (4, 3, 16, 16)"],
        ["text (4, 6)"],
        [0, 1, 2],
        [3],
    ]


def test_a_backbone_a_matcher_and_a_plain_module_are_traced_too():
    backbone, batch = build().backbone, make_batch()
    assert [row.name for row in trace(backbone, batch).rows] == [
        "encoders.audio",
        "encoders.image",
        "encoders.text",
        "fusion",
    ]
    towers = TwoTower(
        Backbone({"image": encoders.ConvEncoder(D, width=8)}, fusion.SumFusion(D, ["image"])),
        Backbone({"text": encoders.TransformerEncoder(D, K)}, fusion.SumFusion(D, ["text"])),
    )
    result = trace(towers, batch, depth=2)
    stages = [row for row in result.rows if row.level == 0]
    assert [row.name for row in stages] == [
        "query.encoders.image",
        "query.fusion",
        "key.encoders.text",
        "key.fusion",
        "(itself)",
    ]
    assert [row.reads for row in stages][1:] == [[0], ["text (4, 6)"], [2], [1, 3]]
    assert (stages[-1].output, stages[-1].parameters, stages[-1].flops) == (
        "(4, 4)",
        1,
        2 * 4 * 4 * D,
    )  # the scale; queries times keys
    assert result.flops == counted(towers, batch)
    plain = nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    rows = trace(plain, torch.zeros(2, 5), depth=2).rows
    assert [(row.name, row.level, row.output) for row in rows] == [
        ("0", 0, "(2, 4)"),
        ("1", 0, "(2, 3)"),
        ("1.0", 1, "(2, 3)"),
        ("1.1", 1, "(2, 3)"),
    ]
    assert [row.name for row in trace(nn.Linear(5, 4), torch.zeros(2, 5)).rows] == ["(itself)"]


@pytest.mark.parametrize(
    "layer, x, by_hand",
    [
        (nn.Linear(5, 3), torch.zeros(4, 7, 5), 2 * 4 * 7 * 5 * 3),
        (
            nn.Conv2d(3, 6, 3, padding=1, stride=2, groups=3),
            torch.zeros(2, 3, 8, 8),
            2 * 2 * 6 * 4 * 4 * 1 * 9,
        ),
        (nn.Conv1d(2, 4, 5), torch.zeros(3, 2, 9), 2 * 3 * 4 * 5 * 2 * 5),
        (
            nn.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True),
            torch.zeros(3, 5, 6),
            2 * 3 * 5 * 2 * (16 * (6 + 4) + 16 * (8 + 4)),
        ),
        (nn.GRU(6, 4, batch_first=True), torch.zeros(3, 5, 6), 2 * 3 * 5 * 12 * (6 + 4)),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            torch.zeros(3, 5, 8),
            2 * 3 * 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 3 * 5 * 5 * 8,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_cost_what_counting_by_hand_gives(layer, x, by_hand):
    assert trace(layer, x).flops == by_hand


def test_an_lstm_costs_what_torch_counts_for_the_cell_step_by_step():
    cell, x = nn.LSTMCell(6, 4), torch.randn(3, 5, 6)
    with FlopCounterMode(display=False) as counter:
        state = None
        for step in x.unbind(dim=1):
            state = cell(step, state)
    assert trace(nn.LSTM(6, 4, batch_first=True), x).flops == counter.get_total_flops() > 0


def test_fused_attention_costs_what_torch_counts_written_out():
    class Fused(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return F.scaled_dot_product_attention(batch["q"], batch["k"], batch["v"])

    g = torch.Generator().manual_seed(0)
    batch = {
        "q": torch.randn(2, 3, 5, 4, generator=g),
        "k": torch.randn(2, 3, 7, 4, generator=g),
        "v": torch.randn(2, 3, 7, 4, generator=g),
    }
    with FlopCounterMode(display=False) as counter:
        attend(batch["q"], batch["k"], batch["v"])
    assert trace(Fused(), batch).flops == counter.get_total_flops() > 0


def test_a_shared_encoder_has_a_row_per_modality_and_its_parameters_count_once():
    shared = encoders.TransformerEncoder(D, K)
    model = Backbone(
        {"question": shared, "text": shared}, fusion.SumFusion(D, ["question", "text"])
    )
    batch = make_batch()
    rows = trace(
        model, batch | {"question": batch["text"], "question_mask": batch["text_mask"]}
    ).rows
    assert [row.name for row in rows] == ["encoders.question", "encoders.text", "fusion"]
    assert rows[0].parameters > 0 and rows[1].parameters == 0 and rows[0].flops == rows[1].flops > 0
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())


class Restless(nn.Module):
    """Draws numbers and counts its calls, also in evaluation mode; fails when asked to."""

    def __init__(self, fails: bool):
        super().__init__()
        self.fails, self.linear, self.norm = fails, nn.Linear(16, D), nn.BatchNorm1d(D)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        assert not torch.is_grad_enabled()
        self.calls += 1
        pooled = self.norm(self.linear(x.mean(dim=(1, 2)) + torch.randn(16)))
        return from_pooled(pooled[:, :3] if self.fails else pooled, mask.any(dim=1))


def state_of(model: nn.Module) -> list:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    learning, gradients = (
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
    )
    values = [value.tolist() for value in model.state_dict().values()]
    return [
        [m.training for m in model.modules()],
        hooks,
        learning,
        gradients,
        values,
        torch.random.get_rng_state().tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    ]


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_the_model_and_the_random_numbers_are_as_before_also_after_an_error(fails):
    model = Model(
        Backbone({"image": Restless(fails)}, fusion.SumFusion(D, ["image"])), ClassifyHead(D, 3)
    ).train()
    model.backbone.fusion.eval()  # modes may differ within a model
    model.head.linear.bias.requires_grad_(False)
    model.head.register_forward_hook(lambda *_: None)
    batch = make_batch()
    before, kept = state_of(model), {key: value.clone() for key, value in batch.items()}
    if fails:
        with pytest.raises(ValueError, match="backbone.fusion"):
            trace(model, batch)
    else:
        trace(model, batch)
    assert state_of(model) == before
    assert all(torch.equal(batch[key], kept[key]) for key in kept)


def test_the_table_is_aligned_and_complete():
    result = trace(build(), make_batch(), depth=2)
    lines = str(result).splitlines()
    assert len(lines) == len(result.rows) + 2 and repr(result) == str(result)
    assert lines[-1].split() == ["whole", f"{result.parameters:,}", f"{result.flops:,}"]
    ends = {len(line) for line in lines}
    assert len(ends) == 1  # the last column stands flush right
    starts = [
        line.index(row.kind, line.index(row.name.split(".")[-1]) + len(row.name.split(".")[-1]))
        for line, row in zip(lines[1:-1], result.rows, strict=True)
    ]
    assert set(starts) == {lines[0].index("class")}
    inner = [line for line, row in zip(lines[1:-1], result.rows, strict=True) if row.level == 1]
    assert inner and all(re.match(r"  \w", line) for line in inner)


def test_the_notebook_table_holds_every_cell_and_escapes_names():
    result = trace(build(), make_batch())
    result.rows[0].kind = "<b>"
    page = result._repr_html_()
    assert page.count("<tr>") == len(result.rows) + 2 and "&lt;b&gt;" in page and "<b>" not in page
    assert all(
        row.name in page and row.output in page and f"{row.flops:,}" in page for row in result.rows
    )


def test_the_figure_has_a_box_per_stage_left_to_right_and_an_arrow_per_reading():
    result = trace(build("transformer", "JoinFusion"), make_batch(), depth=2)
    stages = [row for row in result.rows if row.level == 0]
    figure = result.plot()
    assert describe(figure).startswith("text: ") and figure._repr_mimebundle_()[1]
    axes = figure.axes[0]
    said = [text.get_text() for text in axes.texts]
    assert all(row.kind in said for row in stages) and "(4, 3, 16, 16)" in said
    assert len(axes.patches) == len(stages) + 3  # and one per modality's data
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == sum(len(row.reads) for row in stages)
    assert all(arrow.xyann[0] < arrow.xy[0] for arrow in arrows)
    boxes = [box.get_bbox() for box in axes.patches]
    middles = {round((box.y0 + box.y1) / 2, 6) for box in boxes}
    assert {round(y, 6) for arrow in arrows for _, y in (arrow.xyann, arrow.xy)} <= middles
    for text in axes.texts:
        x, y = text.get_position()
        within = [b.x0 < x < b.x1 and b.y0 < y < b.y1 for b in boxes]
        assert sum(within) == 1 or text in arrows, text.get_text()
    heights = [text.get_position()[1] for text in axes.texts if text not in arrows][-4:]
    np.testing.assert_allclose(np.diff(heights, 2), 0, atol=1e-9)  # a box: lines evenly apart
    assert heights == sorted(heights)
    bold = [text.get_text() for text in axes.texts if text.get_weight() == "bold"]
    assert set(bold) == {row.name.split(".")[-1] for row in stages} | {"image", "text", "audio"}


def test_the_package_gives_the_function_and_the_module_its_class():
    from mmlib.tracing.trace import Trace as again

    assert callable(mmlib.trace) and again is Trace
