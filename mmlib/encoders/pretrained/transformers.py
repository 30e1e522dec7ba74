"""Networks of Hugging Face transformers behind the contract: ids or images -> Features."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.encoders.optional import import_optional
from mmlib.encoders.pretrained.trunk import (
    Statistics,
    Trunk,
    projections,
    renormalise,
    resize,
    see,
)


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
        name = net if isinstance(net, str) else type(net).__name__
        if isinstance(net, str):
            transformers = import_optional("transformers", "transformers")
            net = transformers.AutoModel.from_pretrained(name, local_files_only=weights is None)
            if expects is None and net.main_input_name == "pixel_values":
                expects = transformers_statistics(transformers, name, weights)
        self.text = net.main_input_name == "input_ids"
        if not self.text and net.main_input_name != "pixel_values":
            raise ValueError(
                f"{name} is not read by TransformersEncoder: it takes "
                f"{net.main_input_name!r}, expected 'input_ids' (text) or "
                f"'pixel_values' (images)"
            )
        if self.text and any(value is not None for value in (mean, std, expects)):
            raise ValueError(
                f"{name} reads text, but mean, std and expects are about images: leave them out"
            )
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


def _read_words(net: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    first = (
        torch.arange(x.shape[1], device=x.device) == 0
    )  # an absent row looks at its first pad: finite, zeroed later
    look = mask | (first & ~mask.any(dim=1, keepdim=True))
    return net(input_ids=x, attention_mask=look.long()).last_hidden_state, None


def _read_pixels(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
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
            f"{type(net).__name__} is not read by TransformersEncoder: {prefix} of "
            f"its tokens are not patches, expected at most {most} (class token, "
            f"distillation token, registers)"
        )
    return tokens[:, prefix:], tokens[:, 0] if summary is None and prefix else summary
