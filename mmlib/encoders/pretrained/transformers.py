"""Networks of Hugging Face transformers behind the contract: ids or images -> Features."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.optional import import_optional
from mmlib.encoders.pretrained.trunk import (
    Net,
    Statistics,
    Trunk,
    encode_images,
    projections,
    renormalise,
    resize,
)


class TransformersEncoder(nn.Module):
    """An ``AutoModel`` of transformers for text (ids) or images: a name, folder or ready network.

    ids (B, T) or images (B, 3, H, W), and their mask -> Features (B, T, D): a token per id, patch
    or cell, which is its ``last_hidden_state``, without class token and registers. ``pooled`` of a
    text is the mean of its tokens. ``pooled`` of an image is the network's ``pooler_output``,
    except where a dense layer made that (ViT, DeiT): most checkpoints lack that layer, and the
    class token takes its place, as in the network's own classifier. Without either it is the mean.

    A name needs ``pip install transformers`` and is looked for on this disk only, unless
    ``weights="DEFAULT"``. Ids must come from the network's own tokenizer. All other arguments are
    those of TorchvisionEncoder; ``mean``, ``std`` and ``expects`` are for images only.

    Any module that keeps an AutoModel's promises will do:

    >>> import mmlib, torch
    >>> from types import SimpleNamespace
    >>> class Tiny(torch.nn.Module):
    ...     main_input_name = "input_ids"
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed = torch.nn.Embedding(10, 8)
    ...     def forward(self, input_ids, attention_mask):
    ...         return SimpleNamespace(last_hidden_state=self.embed(input_ids))
    >>> ids = torch.tensor([[4, 9, 2], [7, 3, 0]])
    >>> mmlib.TransformersEncoder(64, Tiny())(ids, ids > 0).tokens.shape
    torch.Size([2, 3, 64])
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
        name = net if isinstance(net, str) else type(net).__name__
        if isinstance(net, str):
            transformers = import_optional("transformers", "transformers")
            network = transformers.AutoModel.from_pretrained(net, local_files_only=weights is None)
            if expects is None and network.main_input_name == "pixel_values":
                expects = transformers_statistics(transformers, net, weights)
        self.text = _reads_text(network, name)
        if self.text:
            if any(value is not None for value in (mean, std, expects)):
                raise ValueError(
                    f"{name} reads text, but mean, std and expects are about images: leave them out"
                )
            ids = torch.zeros(1, 2, dtype=torch.int64)
            self.trunk = Trunk(network, _read_words, (ids, ids == 0), frozen)
        else:
            self.trunk = Trunk(network, _read_pixels, (torch.zeros(1, 3, 64, 64),), frozen)
            self.renormalise = renormalise(name, mean, std, expects, True, self.trunk.device)
        self.project, self.project_summary = projections(self.trunk, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        if not self.text:
            return encode_images(self, x, mask)
        grid, _ = self.trunk(x.masked_fill(~mask, 0), mask)
        return from_tokens(self.project(grid), mask)


def _reads_text(net: Net, name: str) -> bool:
    if net.main_input_name not in ("input_ids", "pixel_values"):
        raise ValueError(
            f"{name} is not read by TransformersEncoder: it takes {net.main_input_name!r}, "
            "expected 'input_ids' (text) or 'pixel_values' (images)"
        )
    return net.main_input_name == "input_ids"


def transformers_statistics(
    transformers: ModuleType, name: str, weights: str | None
) -> Statistics | None:
    """Mean and std of the image processor saved with the network; None where there is none."""
    load = transformers.AutoImageProcessor.from_pretrained
    try:
        processor = load(name, local_files_only=weights is None)
    except (OSError, ValueError):  # no such file; a file of another kind
        return None
    if not processor.do_normalize:
        return [0.0] * 3, [1.0] * 3
    return processor.image_mean, processor.image_std


def _read_words(net: Net, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    # an absent row attends to its first padding: finite, and zeroed later
    first = torch.arange(x.shape[1], device=x.device) == 0
    visible = mask | (first & ~mask.any(dim=1, keepdim=True))
    return net(input_ids=x, attention_mask=visible.long()).last_hidden_state, None


def _read_pixels(net: Net, x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = resize(x, getattr(net.config, "image_size", None))
    output = net(pixel_values=x)
    tokens, summary = output.last_hidden_state, getattr(output, "pooler_output", None)
    if summary is not None:  # a dense layer: see the class
        dense = hasattr(getattr(net, "pooler", None), "dense")
        summary = None if dense else summary.flatten(1)  # (B, width); ResNet's is (B, width, 1, 1)
    if tokens.ndim == 4:
        return tokens.flatten(2).transpose(1, 2), summary  # (B, H' * W', width)
    patch = getattr(net.config, "patch_size", None)
    patches = (x.shape[2] // patch) * (x.shape[3] // patch) if patch else tokens.shape[1]
    prefix = max(0, tokens.shape[1] - patches)  # 0 where stages join patches, as in Swin
    most = 2 + (getattr(net.config, "num_register_tokens", None) or 0)
    if prefix > most:
        raise ValueError(
            f"{type(net).__name__} is not read by TransformersEncoder: {prefix} of its tokens are "
            f"not patches, expected at most {most} (class token, distillation token, registers)"
        )
    return tokens[:, prefix:], tokens[:, 0] if summary is None and prefix else summary
