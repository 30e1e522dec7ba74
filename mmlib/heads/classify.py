"""Features and batch -> class logits and a cross-entropy loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output


class ClassifyHead(nn.Module):
    """Classification: logits (B, K) from ``pooled`` (B, D); cross-entropy with target (B,) int64.

    A target of -100 is left out. ``prior`` (K,) says how frequent each class is in training, in
    counts or shares, all above zero; None means that all are equally frequent. A row without any
    modality gets log(prior) as logits; it is in the loss, where it has no gradient. Training starts
    from the prior, too.

    ``weight`` (K,), above zero: the loss is the weighted mean, as F.cross_entropy(weight=...), and
    ``count`` is the sum of the weights of the targets. A model trained in this way answers as if
    class k came weight[k] times as often: its softmax is proportional to P(k | x) * weight[k]. The
    loss is computed on those scores; ``logits`` are the scores - log(weight), so that their softmax
    is P(k | x) of the data as they are (logit adjustment: Menon et al., 2021, arXiv:2007.07314).

    >>> import mmlib, torch
    >>> head = mmlib.ClassifyHead(dim=8, classes=2, prior=torch.tensor([9.0, 1.0]))
    >>> present = torch.tensor([True, True, False])
    >>> features = mmlib.from_pooled(torch.randn(3, 8), present)
    >>> output = head(features, {"target": torch.tensor([0, 1, 0])})
    >>> output.logits.shape, output.count
    (torch.Size([3, 2]), tensor(3.))
    >>> output.logits[2].softmax(dim=0)  # no modality is there: the prior is the answer
    tensor([0.9000, 0.1000], ...)
    """

    kind = "classes"
    log_prior: Tensor
    weight: Tensor

    def __init__(
        self, dim: int, classes: int, prior: Tensor | None = None, weight: Tensor | None = None
    ):
        super().__init__()
        shares, weight = _per_class("prior", prior, classes), _per_class("weight", weight, classes)
        self.classes, self.linear = classes, nn.Linear(dim, classes)
        self.register_buffer("log_prior", (shares / shares.sum()).log())
        self.register_buffer("weight", weight)
        if prior is not None:
            start = self.log_prior + weight.log()
            with torch.no_grad():
                self.linear.bias.add_(start - start.mean())

    def forward(self, features: Features, batch: Batch) -> Output:
        scores = self.linear(features.pooled) - self.weight.log()
        logits = torch.where(features.present[:, None], scores, self.log_prior)  # (B, K)
        if "target" not in batch:
            return Output(logits, None, None)
        target = one_per_sample(batch["target"], logits)
        count = self.weight[target.clamp(min=0)].masked_fill(target == -100, 0).sum()
        loss = F.cross_entropy(logits + self.weight.log(), target, self.weight, reduction="sum")
        return Output(logits, loss / count.clamp(min=torch.finfo(count.dtype).tiny), count)


def _per_class(name: str, value: Tensor | None, classes: int) -> Tensor:
    value = torch.ones(classes) if value is None else torch.as_tensor(value, dtype=torch.float32)
    if tuple(value.shape) != (classes,) or not bool((value > 0).all() & value.isfinite().all()):
        raise ValueError(
            f"{name} is {value.tolist()}, expected {classes} numbers above zero, one per class"
        )
    return value


def one_per_sample(target: Tensor, logits: Tensor) -> Tensor:
    """The target as it is, or ValueError if it is not one number per sample, (B,)."""
    # (B, 1) against (B,) would broadcast to (B, B) and train on nonsense
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f"batch['target'] is {tuple(target.shape)}, expected {(len(logits),)}: one per sample"
        )
    return target
