"""Models of every encoder set x fusion x head, and the batch that they are judged on.

Most combinations use three tiny encoders (a linear map per column, word or stretch of audio); the
package's own encoders stand in a few. The batch holds a full sample, a ragged one, one without
image, one with text only, and an empty one.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import encoders as real
from mmlib import fusion as fusions
from mmlib.core import Features, from_tokens
from mmlib.heads.classify import ClassifyHead
from mmlib.heads.ctc import CTCHead
from mmlib.heads.labels import LabelsHead
from mmlib.heads.language import LanguageHead
from mmlib.heads.regress import RegressHead
from mmlib.layers.transformer import sine_positions
from mmlib.models import Backbone, Model

D, K, BOS, EOS = 8, 7, 1, 2


NAMES = ["audio", "image", "text"]


SUBSETS = [set(names) for size in (1, 2, 3) for names in itertools.combinations(NAMES, size)]


class Linear(nn.Module):
    """A linear map of each step of ``width`` numbers along the last axis: (B, ..., L) -> tokens
    (B, L / stride, D).
    """

    def __init__(self, width: int, stride: int = 1):
        super().__init__()
        self.stride, self.linear = stride, nn.Linear(width, D)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = x.flatten(1, -2) if x.ndim > 2 else x[:, None]  # (B, C, L)
        x, mask = x.masked_fill(~mask[:, None], 0), F.pad(mask, (0, -mask.shape[1] % self.stride))
        x = (
            F.pad(x, (0, mask.shape[1] - x.shape[2]))
            .unflatten(2, (-1, self.stride))
            .transpose(1, 2)
            .flatten(2)
        )
        tokens = self.linear(x)  # (B, T, D)
        return from_tokens(
            tokens + sine_positions(tokens.shape[1], D),
            mask.unflatten(1, (-1, self.stride)).any(dim=2),
        )


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(K, D)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return from_tokens(
            self.embed(x.masked_fill(~mask, 0)) + sine_positions(x.shape[1], D), mask
        )


ENCODERS = {
    "tiny": lambda: {"audio": Linear(5, stride=5), "image": Linear(12), "text": Words()},
    "conv": lambda: {
        "audio": real.AudioConvEncoder(D, mels=16, width=8),
        "image": real.ConvEncoder(D, width=8),
        "text": real.RecurrentEncoder(D, K),
    },
    "transformer": lambda: {
        "audio": real.AudioRecurrentEncoder(D, mels=16),
        "image": real.ViTEncoder(D, patch=4, depth=1),
        "text": real.TransformerEncoder(D, K, depth=1),
    },
    "resnet": lambda: {
        "audio": Linear(5, stride=5),
        "image": real.ResNetEncoder(D),
        "text": Words(),
    },
}


FUSIONS = {
    "concat": fusions.ConcatFusion,
    "sum": fusions.SumFusion,
    "late": fusions.LateFusion,
    "gated": fusions.GatedFusion,
    "attention": fusions.AttentionFusion,
    "attention-image": lambda dim, names: fusions.AttentionFusion(dim, names, query="image"),
    "low-rank": lambda dim, names: fusions.LowRankFusion(dim, names, width=3),
    "tensor": lambda dim, names: fusions.TensorFusion(dim, names, width=3),
    "cross": fusions.CrossFusion,
    "cross-image": lambda dim, names: fusions.CrossFusion(dim, names, query="image"),
    "join": fusions.JoinFusion,
    "join-only": lambda dim, names: fusions.JoinFusion(dim, names, depth=0),
    "bottleneck": fusions.BottleneckFusion,
    "deep-set": fusions.DeepSetFusion,
    "bilinear": fusions.BilinearFusion,
    "product": fusions.ProductFusion,
    "film": fusions.FiLMFusion,
    "perceiver": fusions.PerceiverFusion,
    "crossmodal": fusions.CrossmodalFusion,
}


HEADS = {
    "classify": lambda: ClassifyHead(D, 3),
    "regress": lambda: RegressHead(D, mean=5.0, std=2.0),
    "labels": lambda: LabelsHead(D, 3),
    "ctc": lambda: CTCHead(D, K),
    "prefix": lambda: LanguageHead(D, K, depth=1),
    "cross": lambda: LanguageHead(D, K, depth=1, cross=True),
}


EVERY = list(itertools.product(ENCODERS, FUSIONS, HEADS))


# with the package's own encoders
FEW = [("gated", "classify"), ("join", "prefix"), ("bottleneck", "regress"), ("join-only", "ctc")]
# each fusion, each head
COVER = FEW + [("join", head) for head in HEADS] + [(fusion, "classify") for fusion in FUSIONS]


def over(chosen: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Every encoder set x fusion x head; in the short run only the chosen ones with tiny
    encoders, and FEW with real ones.
    """
    long = lambda e, f, h: e == "resnet" or (f, h) not in (chosen if e == "tiny" else FEW)
    return pytest.mark.parametrize(
        "encoders,fusion,head",
        [
            pytest.param(*combo, id="-".join(combo), marks=[pytest.mark.long] * long(*combo))
            for combo in EVERY
            if combo[0] != "resnet" or combo[1:] in FEW
        ],
    )


every_combination, a_cover = over(list(itertools.product(FUSIONS, HEADS))), over(COVER)


def build(encoders: str, fusion: str, head: str, order: int = 1, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    made = ENCODERS[encoders]()
    return Model(
        Backbone({name: made[name] for name in NAMES[::order]}, FUSIONS[fusion](D, NAMES[::order])),
        HEADS[head](),
    ).eval()


def until(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def make_batch(encoders: str, head: str) -> dict[str, Tensor]:
    """Rows: full, ragged, no image, text only, empty.

    Only the tiny encoder reads images that end inside (lines of text).
    """
    g = torch.Generator().manual_seed(3)
    side, sound = (4, 40) if encoders == "tiny" else (16, 1600)
    batch = {
        "image": torch.randn(5, 3, side, side, generator=g),
        "image_mask": until(side, side - (encoders == "tiny"), 0, 0, 0),
        "audio": 0.3 * torch.randn(5, sound, generator=g),
        "audio_mask": until(sound, sound // 2 - 3, sound, 0, 0),
        "text": torch.randint(3, K, (5, 6), generator=g),
        "text_mask": until(6, 3, 4, 5, 0),
    }
    for name in NAMES:
        mask = batch[f"{name}_mask"]
        batch[name] = batch[name].masked_fill(~mask.view(5, *[1] * (batch[name].ndim - 2), -1), 0)
    if head == "classify":
        return batch | {"target": torch.tensor([0, 1, 2, 1, 0])}
    if head == "regress":
        return batch | {"target": torch.tensor([3.0, 7.0, 5.0, 6.0, 4.0])}
    if head == "labels":
        target = torch.tensor([[1, 0, 1], [0, 0, 1], [9, 0, 0], [1, 1, 1], [0, 1, 9]]).float()
        return batch | {"target": target.masked_fill(target == 9, torch.nan)}
    if head == "ctc":
        return batch | {
            "target": torch.tensor([[3, 4], [5, 0], [4, 0], [6, 0], [3, 0]]),
            "target_mask": until(2, 1, 1, 1, 1),
        }
    target = torch.tensor(
        [
            [BOS, 3, 4, 5, EOS],
            [BOS, 4, EOS, 0, 0],
            [BOS, 5, 5, EOS, 0],
            [BOS, 6, 3, EOS, 0],
            [BOS, 3, EOS, 0, 0],
        ]
    )
    return batch | {"target": target, "target_mask": until(5, 3, 4, 4, 3)}
