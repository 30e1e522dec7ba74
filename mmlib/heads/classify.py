"""Features and batch -> class logits and a cross-entropy loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output


class ClassifyHead(nn.Module):
    """Class logits (B, K) from ``pooled``; target (B,) int64, -100 = left out; cross-entropy.

    ``prior`` (K,): how frequent each class is in training (counts or shares, all above zero;
    uniform when None). A row without any modality gets log(prior) as logits; it is in the loss,
    where it has no gradient. Training starts from the prior, too.

    ``weight`` (K,), above zero: the loss is the weighted mean, as F.cross_entropy(weight=...), and
    ``count`` the sum of the weights of the targets. A model so trained answers as if class k came
    weight[k] times as often: its softmax is proportional to P(k | x) * weight[k]. The loss is
    computed on those scores; ``logits`` are the scores - log(weight), so that their softmax is
    P(k | x) of the data as they are (logit adjustment: Menon et al., 2021, arXiv:2007.07314).
    """

    kind = "classes"

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
                self.linear.bias += start - start.mean()

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
    if (
        target.shape != logits.shape[:1]
    ):  # (B, 1) against (B,) would broadcast to (B, B) and train on nonsense
        raise ValueError(
            f"batch['target'] is {tuple(target.shape)}, expected {(len(logits),)}: one per sample"
        )
    return target
