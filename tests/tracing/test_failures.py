"""Where a stage fails: trace and fit name it and show the stages before it."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import TrainConfig, encoders, fit, fusion
from mmlib.core import Features, from_tokens
from mmlib.heads.classify import ClassifyHead
from mmlib.models import Backbone, Model
from mmlib.tracing.trace import trace
from tests.tracing.test_trace import D, K, build, make_batch, until


class Own(nn.Module):
    """A user's encoder that gives width ``dim``, and a mask of ``extra`` tokens too many."""

    def __init__(self, dim: int = D, extra: int = 0, plain: bool = False):
        super().__init__()
        self.linear, self.extra, self.plain = nn.Linear(48, dim), extra, plain

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        tokens = self.linear(x.flatten(1, 2).transpose(1, 2))  # (B, W, D)
        if self.plain:
            return tokens
        good = from_tokens(tokens, mask)
        return good._replace(mask=F.pad(mask, (0, self.extra), value=True))


class Small(nn.Module):
    """A fusion that gives another width."""

    def forward(self, features: dict[str, Features]) -> Features:
        made = next(iter(features.values()))
        return Features(*(part[..., :5] if part.is_floating_point() else part for part in made))


def broken(image: nn.Module, fusing: nn.Module, head: nn.Module | None = None) -> Model:
    return Model(
        Backbone({"image": image, "text": encoders.TransformerEncoder(D, K)}, fusing),
        head or ClassifyHead(D, 3),
    )


BROKEN = {
    "an encoder of another width": (
        lambda: broken(Own(5), fusion.ConcatFusion(D, ["image", "text"])),
        r"backbone.fusion \(ConcatFusion\)",
        r"image\s+Own .*\(\d, 16, 5\)",
    ),
    "a mask that does not match": (
        lambda: broken(Own(extra=2), fusion.JoinFusion(D, ["image", "text"])),
        r"backbone.fusion \(JoinFusion\)",
        r"tokens \(\d, 16, 8\), mask \(\d, 18\), pooled \(\d, 8\)",
    ),
    "an encoder that gives no Features": (
        lambda: broken(Own(plain=True), fusion.SumFusion(D, ["image", "text"])),
        r"backbone.fusion \(SumFusion\)",
        r"image\s+Own .*\(\d, 16, 8\)",
    ),
    "a fusion of another width": (
        lambda: broken(Own(), Small()),
        r"head \(ClassifyHead\), in its linear \(Linear\),",
        r"backbone.fusion\s+Small .*\(\d, 16, 5\)",
    ),
    "an encoder for other images": (
        lambda: broken(encoders.ConvEncoder(D, channels=1), fusion.SumFusion(D, ["image", "text"])),
        r"backbone.encoders.image \(ConvEncoder\), in its stack.convs.0 \(Conv2d\),",
        r"image\s+ConvEncoder\s+\(\d, 3, 16, 16\), \(\d, 16\)\s+failed here",
    ),
    "too small a vocabulary": (
        lambda: Model(
            Backbone({"text": encoders.TransformerEncoder(D, 3)}, fusion.SumFusion(D, ["text"])),
            ClassifyHead(D, 3),
        ),
        r"backbone.encoders.text \(TransformerEncoder\), in its embed \(Embedding\),",
        r"failed here",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_shape_names_the_stage_and_shows_those_before_it_in_trace_and_in_fit(name):
    make, where, line = BROKEN[name]
    batch = make_batch()
    for run in (
        lambda: trace(make(), batch),
        lambda: fit(make(), [batch], config=TrainConfig(epochs=1, progress=False, device="cpu")),
    ):
        with pytest.raises(ValueError, match=f"^{where}.* failed: ") as caught:
            run()
        message = str(caught.value)
        assert re.search(line, message), message
        assert message.count("failed here") == 1 and "whole" not in message
        original = caught.value.__cause__
        assert original is not None and str(original) in message


def test_an_error_between_the_stages_is_told_as_such():
    class Adder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 4)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.a(batch["x"]) + self.b(batch["x"])

    with pytest.raises(
        ValueError,
        match=r"^Adder itself, after the stages below, failed: .*\n.*\na +Linear +\(5, 3\) +\(5, "
        r"2\)",
    ):
        trace(Adder(), {"x": torch.zeros(5, 3)})


def test_what_trace_cannot_explain_stays_as_it_was():
    with pytest.raises(ValueError, match="^the batch lacks"):
        trace(build(), {"image": torch.zeros(1, 3, 16, 16), "image_mask": until(16)})

    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.linear(x)
            raise torch.OutOfMemoryError("no memory left")

    with pytest.raises(torch.OutOfMemoryError):
        trace(Full(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="depth is 0"):
        trace(build(), make_batch(), 0)
