"""Wav2Vec2 of torchaudio behind the contract: waveform -> Features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.optional import import_optional
from mmlib.encoders.pretrained.trunk import Net, Projection, Trunk, warn_if_random
from mmlib.layers.convolution import MaskedGroupNorm


class Wav2Vec2Encoder(nn.Module):
    """wav2vec 2.0 (Baevski et al., 2020) of torchaudio on 16 kHz audio; by default its base model.

    x (B, L), mask (B, L) -> Features (B, T, D), a token per 20 ms. The network's first layer takes
    mean and variance over time, in torchaudio over the padding too, so that the features of a clip
    change with its neighbours in the batch. Here they are taken over the real frames: each clip
    gets what it would get alone. A frame is real when all the samples that it reads are; a clip
    shorter than one frame (25 ms) is filled with zeros and makes one. Without ``net`` it needs
    torchaudio; ``weights="DEFAULT"`` downloads trained weights.

    >>> import mmlib, torch, torchaudio
    >>> net = torchaudio.models.wav2vec2_model(
    ...     "group_norm", [(8, 10, 5), (8, 3, 2)], False, 16, 0.1, 8, 2, 1, 2, 0.1, 32, 0.1, 0.1,
    ...     False, 0.1, None)  # a tiny one
    >>> encoder = mmlib.Wav2Vec2Encoder(64, net)
    >>> encoder(torch.randn(2, 1000), torch.ones(2, 1000, dtype=torch.bool)).tokens.shape
    torch.Size([2, 99, 64])
    """

    def __init__(
        self,
        dim: int,
        net: nn.Module | None = None,
        weights: str | None = None,
        frozen: bool = True,
    ):
        super().__init__()
        network: Net = net
        if net is None:
            torchaudio = import_optional("torchaudio", "'mmlib[wav2vec2]'")
            warn_if_random("wav2vec2_base", weights, frozen)
            if weights is None:
                network = torchaudio.models.wav2vec2_base()
            else:
                network = torchaudio.pipelines.WAV2VEC2_BASE.get_model()
        for layer in network.feature_extractor.conv_layers:
            if isinstance(layer.layer_norm, nn.GroupNorm):
                layer.layer_norm = _masked(layer.layer_norm)
        example = (torch.zeros(1, 16_000), torch.ones(1, 16_000, dtype=torch.bool))
        self.trunk = Trunk(network, _read_wav2vec2, example, frozen)
        self.project = Projection(self.trunk.width, dim, device=self.trunk.device)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        grid, real = self.trunk(x.masked_fill(~mask, 0), mask)
        return from_tokens(self.project(grid), real)


def _masked(norm: nn.GroupNorm) -> MaskedGroupNorm:
    masked = MaskedGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    masked.weight, masked.bias = norm.weight, norm.bias
    return masked


def _read_wav2vec2(net: Net, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    layers = net.feature_extractor.conv_layers
    field, step = 1, 1  # samples that a frame reads, and from one frame to the next
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
