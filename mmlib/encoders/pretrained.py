"""Networks made and trained elsewhere, behind the same Features: torchvision, torchaudio's wav2vec 2.0, timm, transformers.

Each takes a name, or a ready module, which it keeps as it is (its classifier is left unused). Nothing is downloaded unless
``weights="DEFAULT"`` says so. ``frozen`` networks take no gradient; only the linear projection to ``dim`` learns.

A network for images was trained with one mean and std per channel; batches are normalised with
those of their own training set. Tell the encoder what the batches have,
``mean=fitted.mean["image"], std=fitted.std["image"]`` of a ``Preprocessing``, and the network sees
exactly what its own preprocessing would give it. What the network expects is known for names and
for networks of timm; for other ready networks say it: ``expects=(mean, std)``. Where either is
unknown, images stay as they are and a warning says so.
"""
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.image import MaskedGroupNorm, import_optional
from mmlib.encoders.trunk import (Projection, Statistics, Trunk, projections, renormalise, resize,
                                  see, warn_if_random)


Reader = Callable[..., tuple[Tensor, Tensor | None]]  # (net, x) -> grid, summary


class TorchvisionEncoder(nn.Module):
    """A classifier of torchvision, by name ("resnet18", "vit_b_16") or ready-made.

    ResNet, RegNet, DenseNet, EfficientNet, MobileNet, ConvNeXt, VGG, AlexNet, SqueezeNet, Swin and
    VisionTransformer. A token per cell of the last feature map, or per patch. ``pooled`` is what
    the network's own classifier sees: the class token of a vision transformer, else the mean of the
    cells (in ConvNeXt normalised). VGG and AlexNet classify a small grid and SqueezeNet each cell;
    there ``pooled`` is the mean of the cells, too. Images for a vision transformer are resized to
    the size that it was made for. A mask row that is partly real counts as an image with columns of
    the mean colour. ``mean`` and ``std`` are those of the batches, ``expects`` those of the
    network's training.
    """

    def __init__(self, dim: int, net: str | nn.Module = "resnet18", weights: str | None = None,
                 frozen: bool = True, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, expects: Statistics | None = None):
        super().__init__()
        models = import_optional("torchvision", "'mmlib[torchvision]'").models  # 2 s to import
        name, trained = type(net).__name__, True               # a ready network may well be trained
        if isinstance(net, str):
            name, trained = net, weights is not None
            warn_if_random(name, weights, frozen)
            net = models.get_model(name, weights=weights)
            if expects is None:
                expects = torchvision_statistics(models, name, weights)
        example = torch.zeros(1, 3, 64, 64)
        self.trunk = Trunk(net, _torchvision_reader(models, net), (example,), frozen)
        self.project, self.project_summary = projections(self.trunk, dim)
        self.renormalise = renormalise(name, mean, std, expects, trained, self.trunk.device)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return see(self, x, mask)


def torchvision_statistics(models: ModuleType, name: str, weights: str | None) -> Statistics:
    """Mean and std that these weights were trained with; None means the default weights."""
    preset = models.get_model_weights(name).verify(weights or "DEFAULT").transforms()
    return preset.mean, preset.std


def _torchvision_reader(models: ModuleType, net: nn.Module) -> Reader:
    if isinstance(net, models.VisionTransformer):
        return _read_vision_transformer
    if isinstance(net, (models.ResNet, models.RegNet)):
        return _read_residual
    if isinstance(net, models.DenseNet):
        return _read_densenet
    if isinstance(net, models.SwinTransformer):
        return _read_swin
    if isinstance(net, models.ConvNeXt) and isinstance(net.classifier, nn.Sequential):
        return _read_convnext
    if hasattr(net, "features"):
        return _read_features
    raise ValueError(f"{type(net).__name__} is not read by TorchvisionEncoder, expected a "
                     f"VisionTransformer, a SwinTransformer, a ResNet, a RegNet or a network with "
                     f".features (ConvNeXt, EfficientNet, MobileNet, DenseNet, VGG); TimmEncoder "
                     f"reads many others")


def _read_residual(net: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    for part in list(net.children())[:-2]:                                    # all but the average and the classifier
        x = part(x)
    return x.flatten(2).transpose(1, 2), None                                 # (B, H' * W', width)


def _read_features(net: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    return net.features(x).flatten(2).transpose(1, 2), None                   # (B, H' * W', width)


def _read_densenet(net: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    x = F.relu(net.features(x))                           # this ReLU is in forward, not in features
    return x.flatten(2).transpose(1, 2), None


def _read_swin(net: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    return net.norm(net.features(x)).flatten(1, 2), None  # (B, H', W', width) before flatten


def _read_convnext(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = net.features(x)                                                       # (B, width, H', W')
    summary = net.classifier[0](net.avgpool(x)).flatten(1)  # the first layer is the last norm
    return x.flatten(2).transpose(1, 2), summary


def _read_vision_transformer(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = net.conv_proj(resize(x, net.image_size)).flatten(2).transpose(1, 2)  # (B, T, width)
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
            torchaudio = import_optional("torchaudio", "'mmlib[wav2vec2]'")
            warn_if_random("wav2vec2_base", weights, frozen)
            net = torchaudio.models.wav2vec2_base() if weights is None else torchaudio.pipelines.WAV2VEC2_BASE.get_model()
        for layer in net.feature_extractor.conv_layers:
            if isinstance(layer.layer_norm, nn.GroupNorm):
                layer.layer_norm = _masked(layer.layer_norm)
        self.trunk = Trunk(net, _read_wav2vec2, (torch.zeros(1, 16_000), torch.ones(1, 16_000, dtype=torch.bool)), frozen)
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
            x = layer.layer_norm(x[:, :, None], real[:, None, None])[:, :, 0].to(x.dtype)
        elif layer.layer_norm is not None:
            x = layer.layer_norm(x)
        x = F.gelu(x)
    return net.encoder(x.transpose(1, 2), length), real                       # (B, T, width), (B, T)


class TimmEncoder(nn.Module):
    """A network of timm, by name or ready-made. Needs ``pip install timm`` for a name.

    A token per cell or patch: what ``forward_features`` gives, without class token and registers.
    ``pooled`` is what the network's own classifier sees, ``forward_head(x, pre_logits=True)``, in
    whatever way it pools; the mean of the tokens where it does not pool. Read are networks whose
    features are one map or one row of tokens: ViT (class token, registers, average or attention
    pooling), DeiT, BEiT, EVA, MLP-Mixer, Swin, ConvNeXt, ResNet, RegNet, EfficientNet, MobileNetV3,
    DenseNet, MaxViT and most others. Those with several rows (CrossViT) or with the class
    token alone (PiT) are refused. A network that takes only one size gets its images resized to it.
    ``mean``, ``std`` and ``expects`` are those of TorchvisionEncoder.
    """

    def __init__(self, dim: int, net: str | nn.Module, weights: str | None = None,
                 frozen: bool = True, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, expects: Statistics | None = None):
        super().__init__()
        name, trained = type(net).__name__, True               # a ready network may well be trained
        if isinstance(net, str):
            name, trained = net, weights is not None
            timm = import_optional("timm", "timm")
            warn_if_random(name, weights, frozen)
            net = timm.create_model(name, pretrained=trained, num_classes=0)
        config = getattr(net, "pretrained_cfg", None) or {}
        if expects is None and "mean" in config and "std" in config:
            expects = config["mean"], config["std"]
        size = _timm_size(net, config)
        example = torch.zeros(1, 3, *(size or config.get("input_size", (3, 64, 64))[1:]))
        read = partial(_read_timm, size=size, prefix=_timm_prefix(net))
        self.trunk = Trunk(net, read, (example,), frozen)
        self.project, self.project_summary = projections(self.trunk, dim)
        self.renormalise = renormalise(name, mean, std, expects, trained, self.trunk.device)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return see(self, x, mask)


def _timm_size(net: nn.Module, config: dict[str, Any]) -> tuple[int, int] | None:
    """The one size (height, width) of images that the network takes; None where any will do."""
    entry = getattr(net, "patch_embed", getattr(net, "stem", None))
    size = getattr(entry, "img_size", None)
    if size is None and config.get("fixed_input_size"):
        size = config["input_size"][1:]
    return None if size is None else tuple(size)


def _timm_prefix(net: nn.Module) -> int:
    """How many tokens stand before the patches: class token and registers."""
    prefix = getattr(net, "num_prefix_tokens", None)
    if prefix is None:                                    # CoaT and VOLO have one and do not say so
        prefix = int(any("cls_token" in name for name, _ in net.named_parameters()))
    return prefix


def _read_timm(net: nn.Module, x: Tensor, size: tuple[int, int] | None,
               prefix: int) -> tuple[Tensor, Tensor | None]:
    x = net.forward_features(resize(x, size))
    if not isinstance(x, Tensor) or x.ndim not in (3, 4) or (x.ndim == 3 and x.shape[1] <= prefix):
        found = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"{type(net).__name__} is not read by TimmEncoder: its forward_features "
                         f"gives {found}, expected one map (B, C, H, W) or (B, H, W, C), or tokens "
                         f"(B, T, C) with more than the {prefix} that are not patches")
    summary = net.forward_head(x, pre_logits=True)
    if summary.ndim != 2:                                         # a network that does not pool
        summary = None
    if x.ndim == 3:
        return x[:, prefix:], summary
    channels_last = x.shape[1] != net.num_features or getattr(net, "output_fmt", None) == "NHWC"
    return (x.flatten(1, 2) if channels_last else x.flatten(2).transpose(1, 2)), summary


class TransformersEncoder(nn.Module):
    """An ``AutoModel`` of transformers for text (ids) or images: a name, folder or ready network.

    Names need ``pip install transformers`` and are looked for on this disk only, unless
    ``weights="DEFAULT"``. Ids must come from the network's own tokenizer. A token per id, patch or
    cell: its ``last_hidden_state``, without class token and registers. ``pooled`` of a text is
    their mean. Of an image it is the network's ``pooler_output``, except where a dense layer made
    that (ViT, DeiT): most checkpoints lack that layer, and the class token takes its place, as in
    the network's own classifier. Without either it is the mean. ``mean``, ``std`` and ``expects``
    are those of TorchvisionEncoder.
    """

    def __init__(self, dim: int, net: str | nn.Module, weights: str | None = None,
                 frozen: bool = True, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, expects: Statistics | None = None):
        super().__init__()
        name = net if isinstance(net, str) else type(net).__name__
        if isinstance(net, str):
            transformers = import_optional("transformers", "transformers")
            net = transformers.AutoModel.from_pretrained(name, local_files_only=weights is None)
            if expects is None and net.main_input_name == "pixel_values":
                expects = transformers_statistics(transformers, name, weights)
        self.text = net.main_input_name == "input_ids"
        if not self.text and net.main_input_name != "pixel_values":
            raise ValueError(f"{name} is not read by TransformersEncoder: it takes "
                             f"{net.main_input_name!r}, expected 'input_ids' (text) or "
                             f"'pixel_values' (images)")
        if self.text and any(value is not None for value in (mean, std, expects)):
            raise ValueError(f"{name} reads text, but mean, std and expects are about images: "
                             f"leave them out")
        if self.text:
            ids = torch.zeros(1, 2, dtype=torch.int64)
            self.trunk = Trunk(net, _read_words, (ids, ids == 0), frozen)
        else:
            self.trunk = Trunk(net, _read_pixels, (torch.zeros(1, 3, 64, 64),), frozen)
            self.renormalise = renormalise(name, mean, std, expects, True, self.trunk.device)
        self.project, self.project_summary = projections(self.trunk, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        if not self.text:
            return see(self, x, mask)
        grid, _ = self.trunk(x.masked_fill(~mask, 0), mask)
        return from_tokens(self.project(grid), mask)


def transformers_statistics(transformers: ModuleType, name: str,
                             weights: str | None) -> Statistics | None:
    """Mean and std of the image processor saved with the network; None where there is none."""
    load = transformers.AutoImageProcessor.from_pretrained
    try:
        processor = load(name, local_files_only=weights is None)
    except (OSError, ValueError):                             # no such file; a file of another kind
        return None
    if not processor.do_normalize:
        return [0.0] * 3, [1.0] * 3
    return processor.image_mean, processor.image_std


def _read_words(net: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    first = torch.arange(x.shape[1], device=x.device) == 0                    # an absent row looks at its first pad: finite, zeroed later
    look = mask | (first & ~mask.any(dim=1, keepdim=True))
    return net(input_ids=x, attention_mask=look.long()).last_hidden_state, None


def _read_pixels(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = resize(x, getattr(net.config, "image_size", None))
    output = net(pixel_values=x)
    tokens, summary = output.last_hidden_state, getattr(output, "pooler_output", None)
    if summary is not None:                                       # a dense layer: see the class
        dense = hasattr(getattr(net, "pooler", None), "dense")
        summary = None if dense else summary.flatten(1)   # (B, width); ResNet's is (B, width, 1, 1)
    if tokens.ndim == 4:
        return tokens.flatten(2).transpose(1, 2), summary         # (B, H' * W', width)
    patch = getattr(net.config, "patch_size", None)
    patches = (x.shape[2] // patch) * (x.shape[3] // patch) if patch else tokens.shape[1]
    prefix = max(0, tokens.shape[1] - patches)             # 0 where stages join patches, as in Swin
    most = 2 + (getattr(net.config, "num_register_tokens", None) or 0)
    if prefix > most:
        raise ValueError(f"{type(net).__name__} is not read by TransformersEncoder: {prefix} of "
                         f"its tokens are not patches, expected at most {most} (class token, "
                         f"distillation token, registers)")
    return tokens[:, prefix:], tokens[:, 0] if summary is None and prefix else summary
