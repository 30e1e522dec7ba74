"""Networks made and trained elsewhere, behind the same Features: torchvision, torchaudio's wav2vec 2.0, timm, transformers.

Each takes a name, or a ready module, which it keeps as it is (its classifier is left unused). Nothing is downloaded unless
``weights="DEFAULT"`` says so. ``frozen`` networks take no gradient; only the linear projection to ``dim`` learns.
These networks were trained on pictures with ImageNet's mean and deviation; batches of this package have those of their own
training set, which is near enough for most pictures.
"""
import importlib
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.image import MaskedGroupNorm


class Trunk(nn.Module):
    """A ready network and how it is read: ``read(net, *inputs)`` -> grid (B, T, width), summary (B, width) or None.

    Frozen, it stays in evaluation mode and learns nothing. Otherwise its parameters learn, apart from those that ``read`` does not reach
    (a classifier nobody asks). BatchNorm stays in evaluation mode either way: its statistics would mix the samples of a batch.
    """

    def __init__(self, net: nn.Module, read: Callable[..., tuple[Tensor, Tensor | None]], example: tuple[Tensor, ...], frozen: bool):
        super().__init__()
        self.net, self.read, self.frozen = net.eval(), read, frozen
        net.requires_grad_(not frozen)
        with torch.set_grad_enabled(not frozen):
            grid, summary = read(net, *example)
        self.width = grid.shape[-1]
        if not frozen:
            total = grid.sum() if summary is None else grid.sum() + summary.sum()
            parameters = list(net.parameters())
            for p, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True)):
                p.requires_grad_(gradient is not None)

    def train(self, mode: bool = True) -> "Trunk":
        super().train(mode and not self.frozen)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.read(self.net, *inputs)


def _see(trunk: Trunk, project: nn.Linear, x: Tensor, mask: Tensor) -> Features:
    """Pictures -> Features. Tokens are the grid; pooled is the network's class token where it has one, else the mean of the grid."""
    present = mask.any(dim=1)                                                 # photos: a row of the mask is full or empty
    grid, summary = trunk(x.masked_fill(~mask[:, None, None], 0))             # (B, T, width), (B, width)
    features = from_tokens(project(grid), present[:, None].expand(-1, grid.shape[1]))
    return features if summary is None else features._replace(pooled=project(summary).masked_fill(~present[:, None], 0))


def _resize(x: Tensor, size: int | tuple[int, int] | None) -> Tensor:
    """Pictures brought to the one size that a network with learned positions takes; ``None`` = any size will do."""
    size = (size, size) if isinstance(size, int) else size
    if size is None or tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _warn_if_random(name: str, weights: str | None, frozen: bool) -> None:
    if weights is None and frozen:
        warnings.warn(f"{name} is frozen with random numbers and can learn nothing: pass weights='DEFAULT' (a download) or frozen=False")


class TorchvisionEncoder(nn.Module):
    """A convolutional network or vision transformer of torchvision, by name ("resnet18", "vit_b_16") or ready-made.

    A token per cell of the last feature map, or per patch; pictures for a vision transformer are resized to the size it was made for.
    A mask row that is partly real counts as a picture with black columns.
    """

    def __init__(self, dim: int, net: str | nn.Module = "resnet18", weights: str | None = None, frozen: bool = True):
        super().__init__()
        from torchvision import models                                        # 2 s to import

        if isinstance(net, str):
            _warn_if_random(net, weights, frozen)
            net = models.get_model(net, weights=weights)
        if isinstance(net, models.VisionTransformer):
            read = _read_vision_transformer
        elif isinstance(net, (models.ResNet, models.RegNet)):
            read = _read_residual
        elif hasattr(net, "features") and not isinstance(net, models.SwinTransformer):
            read = _read_features
        else:
            raise ValueError(f"{type(net).__name__} is not read by TorchvisionEncoder, expected a VisionTransformer, a ResNet, a RegNet or "
                             f"a network with .features (ConvNeXt, EfficientNet, MobileNet, DenseNet, VGG); TimmEncoder reads many others")
        self.trunk = Trunk(net, read, (torch.zeros(1, 3, 64, 64),), frozen)
        self.project = nn.Linear(self.trunk.width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return _see(self.trunk, self.project, x, mask)


def _read_residual(net: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    for part in list(net.children())[:-2]:                                    # all but the average and the classifier
        x = part(x)
    return x.flatten(2).transpose(1, 2), None                                 # (B, H' * W', width)


def _read_features(net: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    return net.features(x).flatten(2).transpose(1, 2), None                   # (B, H' * W', width)


def _read_vision_transformer(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = net.conv_proj(_resize(x, net.image_size)).flatten(2).transpose(1, 2)  # (B, T, width)
    x = net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), x], dim=1))
    return x[:, 1:], x[:, 0]


class Wav2Vec2Encoder(nn.Module):
    """wav2vec 2.0 (Baevski et al., 2020) of torchaudio on 16 kHz sound, a token per 20 ms; by default its base model.

    Its first layer takes mean and variance over time, in torchaudio over the padding too, so that a clip's features change with
    its neighbours in the batch. Here they are taken over the real frames: each clip gets what it would get alone.
    A frame is real when all the samples it looks at are; a clip shorter than one frame (25 ms) is filled with zeros and makes one.
    """

    def __init__(self, dim: int, net: nn.Module | None = None, weights: str | None = None, frozen: bool = True):
        super().__init__()
        if net is None:
            import torchaudio                                                 # only those who use it wait for it

            _warn_if_random("wav2vec2_base", weights, frozen)
            net = torchaudio.models.wav2vec2_base() if weights is None else torchaudio.pipelines.WAV2VEC2_BASE.get_model()
        for layer in net.feature_extractor.conv_layers:
            if isinstance(layer.layer_norm, nn.GroupNorm):
                layer.layer_norm = _masked(layer.layer_norm)
        self.trunk = Trunk(net, _read_wav2vec2, (torch.zeros(1, 16_000), torch.ones(1, 16_000, dtype=torch.bool)), frozen)
        self.project = nn.Linear(self.trunk.width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        grid, real = self.trunk(x.masked_fill(~mask, 0), mask)
        return from_tokens(self.project(grid), real)


def _masked(norm: nn.GroupNorm) -> MaskedGroupNorm:
    masked = MaskedGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    masked.weight, masked.bias = norm.weight, norm.bias
    return masked


def _read_wav2vec2(net: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    layers = net.feature_extractor.conv_layers
    field, step = 1, 1                                                        # samples that a frame looks at, and from frame to frame
    for layer in layers:
        field, step = field + (layer.kernel_size - 1) * step, step * layer.stride
    length = mask.sum(dim=1)                                                  # (B,)
    length = torch.where(length > 0, length.clamp(min=field), 0)
    x = F.pad(x, (0, max(0, field - x.shape[1])))[:, None]                    # (B, 1, L)
    for layer in layers:
        x = layer.conv(x)                                                     # (B, C, T)
        length = ((length - layer.kernel_size) // layer.stride + 1).clamp(min=0)
        real = torch.arange(x.shape[2], device=x.device) < length[:, None]    # (B, T)
        if isinstance(layer.layer_norm, MaskedGroupNorm):
            x = layer.layer_norm(x[:, :, None], real[:, None, None])[:, :, 0]
        elif layer.layer_norm is not None:
            x = layer.layer_norm(x)
        x = F.gelu(x)
    return net.encoder(x.transpose(1, 2), length), real                       # (B, T, width), (B, T)


class TimmEncoder(nn.Module):
    """Any network of timm that has ``forward_features``, by name or ready-made. Needs ``pip install timm`` for a name.

    A token per cell or patch. A network with learned positions gets its pictures resized to the size it was made for.
    """

    def __init__(self, dim: int, net: str | nn.Module, weights: str | None = None, frozen: bool = True):
        super().__init__()
        if isinstance(net, str):
            timm = _installed("timm")
            _warn_if_random(net, weights, frozen)
            net = timm.create_model(net, pretrained=weights is not None, num_classes=0)
        self.trunk = Trunk(net, _read_timm, (torch.zeros(1, 3, 64, 64),), frozen)
        self.project = nn.Linear(self.trunk.width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return _see(self.trunk, self.project, x, mask)


def _read_timm(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    entry = getattr(net, "patch_embed", getattr(net, "stem", None))
    x = net.forward_features(_resize(x, getattr(entry, "img_size", None)))
    if x.ndim == 4:                                                           # a map: (B, C, H, W), or (B, H, W, C) as of Swin
        return (x.flatten(2).transpose(1, 2) if x.shape[1] == net.num_features else x.flatten(1, 2)), None
    prefix = getattr(net, "num_prefix_tokens", 0)                             # class token and registers stand before the patches
    return x[:, prefix:], x[:, 0] if prefix else None


class TransformersEncoder(nn.Module):
    """Any ``AutoModel`` of transformers: text (ids) or pictures, by name, folder or ready-made. Names need ``pip install transformers``.

    A name is looked for on this disk only, unless ``weights="DEFAULT"``. Ids must come from the network's own tokenizer.
    Text: a token per id, pooled is their mean. Pictures: a token per patch or cell, pooled is the class token where there is one.
    """

    def __init__(self, dim: int, net: str | nn.Module, weights: str | None = None, frozen: bool = True):
        super().__init__()
        if isinstance(net, str):
            net = _installed("transformers").AutoModel.from_pretrained(net, local_files_only=weights is None)
        self.text = net.main_input_name == "input_ids"
        if self.text:
            self.trunk = Trunk(net, _read_words, (torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)), frozen)
        else:
            self.trunk = Trunk(net, _read_pixels, (torch.zeros(1, 3, 64, 64),), frozen)
        self.project = nn.Linear(self.trunk.width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        if not self.text:
            return _see(self.trunk, self.project, x, mask)
        grid, _ = self.trunk(x.masked_fill(~mask, 0), mask)
        return from_tokens(self.project(grid), mask)


def _read_words(net: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    first = torch.arange(x.shape[1], device=x.device) == 0                    # an absent row looks at its first pad: finite, zeroed later
    look = mask | (first & ~mask.any(dim=1, keepdim=True))
    return net(input_ids=x, attention_mask=look.long()).last_hidden_state, None


def _read_pixels(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = _resize(x, getattr(net.config, "image_size", None))
    y = net(pixel_values=x).last_hidden_state
    if y.ndim == 4:
        return y.flatten(2).transpose(1, 2), None                             # (B, H' * W', width)
    patch = getattr(net.config, "patch_size", None)
    prefix = max(0, y.shape[1] - (x.shape[2] // patch) * (x.shape[3] // patch)) if patch else 0
    return y[:, prefix:], y[:, 0] if prefix else None


def _installed(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"this encoder needs the package {package}, which is not installed: pip install {package}") from error
