"""Networks of torchvision behind the contract: images -> Features."""

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features
from mmlib.encoders.optional import import_optional
from mmlib.encoders.pretrained.trunk import (
    Net,
    Reader,
    Statistics,
    Trunk,
    encode_images,
    projections,
    renormalise,
    resize,
    warn_if_random,
)


class TorchvisionEncoder(nn.Module):
    """A classifier of torchvision, by name ("resnet18", "vit_b_16") or ready-made.

    x (B, 3, H, W), mask (B, W) -> Features (B, T, D): a token per cell of the last feature map, or
    per patch. It reads ResNet, RegNet, DenseNet, EfficientNet, MobileNet, ConvNeXt, VGG, AlexNet,
    SqueezeNet, Swin and VisionTransformer. ``pooled`` is what the network's own classifier sees:
    the class token of a vision transformer, else the mean of the cells (in ConvNeXt normalised).
    VGG and AlexNet classify a small grid and SqueezeNet each cell; there ``pooled`` is the mean of
    the cells, too. Images for a vision transformer are resized to the size that it was made for. A
    mask row that is partly real counts as an image with columns of the mean colour.

    ``mean`` and ``std`` are those of the batches (as in ``Preprocessing``), ``expects`` = (mean,
    std) those of the network's training, known for every name of torchvision. ``weights="DEFAULT"``
    downloads trained weights; without it a network made by name is random. ``frozen``: the network
    learns nothing, only the projection of its tokens does. Needs torchvision.

    >>> import mmlib, torch
    >>> statistics = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}  # of the batches
    >>> encoder = mmlib.TorchvisionEncoder(64, "resnet18", frozen=False, **statistics)
    >>> features = encoder(torch.randn(2, 3, 64, 96), torch.ones(2, 96, dtype=torch.bool))
    >>> features.tokens.shape  # 2 x 3 cells of 32 pixels
    torch.Size([2, 6, 64])
    """

    def __init__(
        self,
        dim: int,
        net: str | nn.Module = "resnet18",
        weights: str | None = None,
        frozen: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        expects: Statistics | None = None,
    ):
        super().__init__()
        models = import_optional("torchvision", "'mmlib[torchvision]'").models  # 2 s to import
        network: Net = net
        name, trained = type(net).__name__, True  # a ready network may well be trained
        if isinstance(net, str):
            name, trained = net, weights is not None
            warn_if_random(name, weights, frozen)
            network = models.get_model(name, weights=weights)
            if expects is None:
                expects = torchvision_statistics(models, name, weights)
        example = torch.zeros(1, 3, 64, 64)
        self.trunk = Trunk(network, _torchvision_reader(models, network), (example,), frozen)
        self.project, self.project_summary = projections(self.trunk, dim)
        self.renormalise = renormalise(name, mean, std, expects, trained, self.trunk.device)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        return encode_images(self, x, mask)


def torchvision_statistics(models: ModuleType, name: str, weights: str | None) -> Statistics:
    """Mean and std that these weights were trained with; None means the default weights."""
    preset = models.get_model_weights(name).verify(weights or "DEFAULT").transforms()
    return preset.mean, preset.std


def _torchvision_reader(models: ModuleType, net: Net) -> Reader:
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
    raise ValueError(
        f"{type(net).__name__} is not read by TorchvisionEncoder, expected a VisionTransformer, a "
        "SwinTransformer, a ResNet, a RegNet or a network with .features (ConvNeXt, EfficientNet, "
        "MobileNet, DenseNet, VGG); TimmEncoder reads many others"
    )


def _read_residual(net: Net, x: Tensor) -> tuple[Tensor, None]:
    for part in list(net.children())[:-2]:  # all but the average and the classifier
        x = part(x)
    return x.flatten(2).transpose(1, 2), None  # (B, H' * W', width)


def _read_features(net: Net, x: Tensor) -> tuple[Tensor, None]:
    return net.features(x).flatten(2).transpose(1, 2), None  # (B, H' * W', width)


def _read_densenet(net: Net, x: Tensor) -> tuple[Tensor, None]:
    x = F.relu(net.features(x))  # this ReLU is in forward, not in features
    return x.flatten(2).transpose(1, 2), None


def _read_swin(net: Net, x: Tensor) -> tuple[Tensor, None]:
    return net.norm(net.features(x)).flatten(1, 2), None  # (B, H', W', width) before flatten


def _read_convnext(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    x = net.features(x)  # (B, width, H', W')
    summary = net.classifier[0](net.avgpool(x)).flatten(1)  # the first layer is the last norm
    return x.flatten(2).transpose(1, 2), summary


def _read_vision_transformer(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    x = net.conv_proj(resize(x, net.image_size)).flatten(2).transpose(1, 2)  # (B, T, width)
    x = net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), x], dim=1))
    return x[:, 1:], x[:, 0]
