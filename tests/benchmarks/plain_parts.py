"""Each encoder and fusion as one would write it with PyTorch's own layers and no masks: what
parts.py compares the package with.

Images (32, 3, 64, 64), ids (32, 24), sound (32, 16000); three modalities of 64 numbers. Same sizes,
same kinds of layers as the package's classes; the weights differ, and so does what happens to
padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tokens(nn.Module):
    """Layers, then the mean over all tokens."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(dim=1)  # (B, T, D) -> (B, D)


class Grid(nn.Module):
    """(B, C, H, W) -> (B, H * W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Columns(nn.Module):
    """(B, C, F, T) -> (B, T, C * F)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).transpose(1, 2)


class Packed(nn.Module):
    """torch's bidirectional LSTM over packed sequences, as its documentation treats padding. x
    (B, T, D).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class MelImage(nn.Module):
    """torchaudio's log-mel spectrogram, (B, L) -> (B, 1, F, T)."""

    def __init__(self):
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.mel = MelSpectrogram(16_000, 512, 400, 160, n_mels=64)

    def forward(self, x: Tensor) -> Tensor:
        return self.mel(x).clamp(min=1e-10).log()[:, None]


def stages(channels: int, width: int, count: int) -> list[nn.Module]:
    """Convolution, norm, ReLU, pool: the usual order."""
    sizes = [channels, *(width * 2**i for i in range(count))]
    return [
        layer
        for a, b in zip(sizes, sizes[1:])
        for layer in (
            nn.Conv2d(a, b, 3, padding=1, bias=False),
            nn.GroupNorm(8, b),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
    ]


def transformer(dim: int, depth: int, heads: int = 4) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)


def mlp(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))


def encoders(dim: int, vocab_size: int) -> dict[str, nn.Module]:
    """By the name of the package's class."""
    from torchvision.models import resnet18

    trunk = resnet18(norm_layer=lambda width: nn.GroupNorm(8, width))
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    layers = [stem, trunk.bn1, trunk.relu, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    return {
        "ConvEncoder": Tokens(*stages(3, 32, 3), Grid(), nn.Linear(128, dim), nn.LayerNorm(dim)),
        "ViTEncoder": Tokens(nn.Conv2d(3, dim, 8, stride=8), Grid(), transformer(dim, 3)),
        "ResNetEncoder": Tokens(*layers, Grid(), nn.Linear(512, dim), nn.LayerNorm(dim)),
        "RecurrentEncoder": Tokens(nn.Embedding(vocab_size, dim), Packed(dim), nn.LayerNorm(dim)),
        "TransformerEncoder": Tokens(nn.Embedding(vocab_size, dim), transformer(dim, 2)),
        "AudioConvEncoder": Tokens(
            MelImage(), *stages(1, 32, 3), Columns(), nn.Linear(128 * 8, dim), nn.LayerNorm(dim)
        ),
        "AudioRecurrentEncoder": Tokens(
            MelImage(),
            nn.Conv2d(1, dim, (64, 4), stride=4),
            Columns(),
            Packed(dim),
            nn.LayerNorm(dim),
        ),
    }


class Fuse(nn.Module):
    """A fusion of pooled vectors, by what it does to a list of M tensors (B, D)."""

    def __init__(self, function, **parts: nn.Module):
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, vectors: list[Tensor], tokens: list[Tensor]) -> Tensor:
        return self.function(self.parts, vectors, tokens)


def fusions(dim: int, modalities: int) -> dict[str, nn.Module]:
    """By the name of the package's class: M pooled vectors (B, D) and M lists of tokens (B, T,
    D) -> (B, D).
    """
    each = lambda make: nn.ModuleList([make() for _ in range(modalities)])
    linear, small = lambda: nn.Linear(dim, dim), lambda: nn.Linear(dim, 8)
    with_one = lambda p, v: [F.pad(layer(x), (0, 1), value=1.0) for layer, x in zip(p["each"], v)]

    def gated(p, v, t):
        weights = p["gate"](torch.cat(v, dim=1)).softmax(dim=1)
        return sum(
            weights[:, i, None] * layer(x).tanh() for i, (layer, x) in enumerate(zip(p["each"], v))
        )

    def attention(p, v, t):
        stacked = torch.stack(v, dim=1)
        return (p["score"](stacked).softmax(dim=1) * stacked).sum(dim=1)

    def tensor(p, v, t):
        a, b, c = with_one(p, v)
        return p["out"](torch.einsum("bi,bj,bk->bijk", a, b, c).flatten(1))

    def low_rank(p, v, t):
        parts = [factor(x).unflatten(1, (4, -1)) for factor, x in zip(p["factors"], with_one(p, v))]
        return (parts[0] * parts[1] * parts[2]).sum(dim=1)

    def cross(p, v, t):
        asked = p["learn"].weight.expand(len(v[0]), -1, -1)
        return p["decoder"](asked, torch.cat(t, dim=1)).mean(dim=1)

    layer = nn.TransformerDecoderLayer(
        dim, 4, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
    )
    decoder = nn.TransformerDecoder(layer, 1, nn.LayerNorm(dim))
    return {
        "ConcatFusion": Fuse(
            lambda p, v, t: p["mlp"](torch.cat(v, dim=1)), mlp=mlp(modalities * dim, dim)
        ),
        "SumFusion": Fuse(
            lambda p, v, t: sum(layer(x) for layer, x in zip(p["each"], v)), each=each(linear)
        ),
        "LateFusion": Fuse(
            lambda p, v, t: sum(layer(x) for layer, x in zip(p["each"], v)) / modalities,
            each=each(lambda: mlp(dim, dim)),
        ),
        "GatedFusion": Fuse(gated, each=each(linear), gate=nn.Linear(modalities * dim, modalities)),
        "AttentionFusion": Fuse(attention, score=nn.Linear(dim, 1)),
        "TensorFusion": Fuse(tensor, each=each(small), out=nn.Linear(9**modalities, dim)),
        "LowRankFusion": Fuse(
            low_rank, each=each(small), factors=each(lambda: nn.Linear(9, 4 * dim))
        ),
        "JoinFusion": Fuse(
            lambda p, v, t: p["read"](torch.cat(t, dim=1)).mean(dim=1), read=transformer(dim, 1)
        ),
        "CrossFusion": Fuse(cross, decoder=decoder, learn=nn.Embedding(4, dim)),
    }
