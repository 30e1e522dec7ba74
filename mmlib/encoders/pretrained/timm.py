"""Networks of timm behind the contract: images -> Features."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.core import Features
from mmlib.encoders.optional import import_optional
from mmlib.encoders.pretrained.trunk import (
    Net,
    Statistics,
    Trunk,
    encode_images,
    projections,
    renormalise,
    resize,
    warn_if_random,
)


class TimmEncoder(nn.Module):
    """A network of timm, by name or ready-made.

    x (B, 3, H, W), mask (B, W) -> Features (B, T, D): a token per cell or patch, which is what
    ``forward_features`` gives, without class token and registers. ``pooled`` is what the network's
    own classifier sees, ``forward_head(x, pre_logits=True)``, in whatever way it pools; the mean of
    the tokens where it does not pool. It reads networks whose features are one map or one row of
    tokens: ViT (class token, registers, average or attention pooling), DeiT, BEiT, EVA, MLP-Mixer,
    Swin, ConvNeXt, ResNet, RegNet, EfficientNet, MobileNetV3, DenseNet, MaxViT and most others.
    Those with several rows (CrossViT) or with the class token alone (PiT) are refused. A network
    that takes only one size gets its images resized to it. A name needs ``pip install timm``. All
    other arguments are those of TorchvisionEncoder.

    Any module that keeps timm's promises will do:

    >>> import mmlib, torch
    >>> class Tiny(torch.nn.Module):
    ...     num_features, num_prefix_tokens = 8, 0
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = torch.nn.Conv2d(3, 8, 16, stride=16)
    ...     def forward_features(self, x):
    ...         return self.conv(x)
    ...     def forward_head(self, x, pre_logits):
    ...         return x.mean(dim=(2, 3))
    >>> statistics = {"mean": [0.5] * 3, "std": [0.25] * 3, "expects": ([0.4] * 3, [0.2] * 3)}
    >>> encoder = mmlib.TimmEncoder(64, Tiny(), **statistics)
    >>> encoder(torch.randn(2, 3, 32, 48), torch.ones(2, 48, dtype=torch.bool)).tokens.shape
    torch.Size([2, 6, 64])
    """

    def __init__(
        self,
        dim: int,
        net: str | nn.Module,
        weights: str | None = None,
        frozen: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        expects: Statistics | None = None,
    ):
        super().__init__()
        network: Net = net
        name, trained = type(net).__name__, True  # a ready network may well be trained
        if isinstance(net, str):
            name, trained = net, weights is not None
            timm = import_optional("timm", "timm")
            warn_if_random(name, weights, frozen)
            network = timm.create_model(name, pretrained=trained, num_classes=0)
        config = getattr(network, "pretrained_cfg", None) or {}
        if expects is None and "mean" in config and "std" in config:
            expects = config["mean"], config["std"]
        size = _timm_size(network, config)
        example = torch.zeros(1, 3, *(size or config.get("input_size", (3, 64, 64))[1:]))
        read = partial(_read_timm, size=size, prefix=_timm_prefix(network))
        self.trunk = Trunk(network, read, (example,), frozen)
        self.project, self.project_summary = projections(self.trunk, dim)
        self.renormalise = renormalise(name, mean, std, expects, trained, self.trunk.device)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return encode_images(self, x, mask)


def _timm_size(net: Net, config: dict[str, Any]) -> tuple[int, int] | None:
    """The one size (height, width) of images that the network takes; None where any will do."""
    entry = getattr(net, "patch_embed", getattr(net, "stem", None))
    size = getattr(entry, "img_size", None)
    if size is None and config.get("fixed_input_size"):
        size = config["input_size"][1:]
    return None if size is None else tuple(size)


def _timm_prefix(net: Net) -> int:
    """How many tokens stand before the patches: class token and registers."""
    prefix = getattr(net, "num_prefix_tokens", None)
    if prefix is None:  # CoaT and VOLO have one and do not say so
        prefix = int(any("cls_token" in name for name, _ in net.named_parameters()))
    return prefix


def _read_timm(
    net: Net, x: Tensor, size: tuple[int, int] | None, prefix: int
) -> tuple[Tensor, Tensor | None]:
    x = net.forward_features(resize(x, size))
    if not isinstance(x, Tensor) or x.ndim not in (3, 4) or (x.ndim == 3 and x.shape[1] <= prefix):
        found = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(
            f"{type(net).__name__} is not read by TimmEncoder: its forward_features gives {found}, "
            "expected one map (B, C, H, W) or (B, H, W, C), or tokens (B, T, C) with more than the "
            f"{prefix} that are not patches"
        )
    summary = net.forward_head(x, pre_logits=True)
    if summary.ndim != 2:  # a network that does not pool
        summary = None
    if x.ndim == 3:
        return x[:, prefix:], summary
    channels_last = x.shape[1] != net.num_features or getattr(net, "output_fmt", None) == "NHWC"
    return (x.flatten(1, 2) if channels_last else x.flatten(2).transpose(1, 2)), summary
