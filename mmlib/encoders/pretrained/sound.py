"""Wav2Vec2 of torchaudio behind the contract: waveform -> Features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.optional import import_optional
from mmlib.encoders.pretrained.trunk import Projection, Trunk, warn_if_random
from mmlib.layers.convolution import MaskedGroupNorm


class Wav2Vec2Encoder(nn.Module):
    """wav2vec 2.0 (Baevski et al., 2020) of torchaudio on 16 kHz sound, a token per 20 ms; by
    default its base model.

    Its first layer takes mean and variance over time, in torchaudio over the padding too, so that a
    clip's features change with its neighbours in the batch. Here they are taken over the real
    frames: each clip gets what it would get alone. A frame is real when all the samples it looks at
    are; a clip shorter than one frame (25 ms) is filled with zeros and makes one.
    """

    def __init__(
        self,
        dim: int,
        net: nn.Module | None = None,
        weights: str | None = None,
        frozen: bool = True,
    ):
        super().__init__()
        if net is None:
            torchaudio = import_optional("torchaudio", "'mmlib[wav2vec2]'")
            warn_if_random("wav2vec2_base", weights, frozen)
            net = (
                torchaudio.models.wav2vec2_base()
                if weights is None
                else torchaudio.pipelines.WAV2VEC2_BASE.get_model()
            )
        for layer in net.feature_extractor.conv_layers:
            if isinstance(layer.layer_norm, nn.GroupNorm):
                layer.layer_norm = _masked(layer.layer_norm)
        self.trunk = Trunk(
            net,
            _read_wav2vec2,
            (torch.zeros(1, 16_000), torch.ones(1, 16_000, dtype=torch.bool)),
            frozen,
        )
        self.project = Projection(self.trunk.width, dim, device=self.trunk.device)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        grid, real = self.trunk(x.masked_fill(~mask, 0), mask)
        return from_tokens(self.project(grid), real)


def _masked(norm: nn.GroupNorm) -> MaskedGroupNorm:
    masked = MaskedGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    masked.weight, masked.bias = norm.weight, norm.bias
    return masked


def _read_wav2vec2(net: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    layers = net.feature_extractor.conv_layers
    field, step = 1, 1  # samples that a frame looks at, and from frame to frame
    for layer in layers:
        field, step = field + (layer.kernel_size - 1) * step, step * layer.stride
    length = mask.sum(dim=1)  # (B,)
    length = torch.where(length > 0, length.clamp(min=field), 0)
    x = F.pad(x, (0, max(0, field - x.shape[1])))[:, None]  # (B, 1, L)
    for layer in layers:
        x = layer.conv(x)  # (B, C, T)
        length = ((length - layer.kernel_size) // layer.stride + 1).clamp(min=0)
        real = torch.arange(x.shape[2], device=x.device) < length[:, None]  # (B, T)
        if isinstance(layer.layer_norm, MaskedGroupNorm):
            x = layer.layer_norm(x[:, :, None], real[:, None, None])[:, :, 0].to(x.dtype)
        elif layer.layer_norm is not None:
            x = layer.layer_norm(x)
        x = F.gelu(x)
    return net.encoder(x.transpose(1, 2), length), real  # (B, T, width), (B, T)
