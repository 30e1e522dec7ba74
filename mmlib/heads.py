"""Features and batch -> Output(logits, loss, count). Only heads read the target, so the answer cannot leak into the question.

The loss is a mean and ``count`` says over how much, so that for any split of a batch into parts
sum(loss_i * count_i) / sum(count_i) is the loss of the whole. Without "target" in the batch, loss
and count are None. ``kind`` says which targets a head takes, and ``classes`` how many it tells
apart: see ``mmlib.core``.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output
from mmlib.layers import Transformer, sine_positions


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

    def __init__(self, dim: int, classes: int, prior: Tensor | None = None, weight: Tensor | None = None):
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
        target = _one_per_sample(batch["target"], logits)
        count = self.weight[target.clamp(min=0)].masked_fill(target == -100, 0).sum()
        loss = F.cross_entropy(logits + self.weight.log(), target, self.weight, reduction="sum")
        return Output(logits, loss / count.clamp(min=torch.finfo(count.dtype).tiny), count)


def _per_class(name: str, value: Tensor | None, classes: int) -> Tensor:
    value = torch.ones(classes) if value is None else torch.as_tensor(value, dtype=torch.float32)
    if tuple(value.shape) != (classes,) or not bool((value > 0).all() & value.isfinite().all()):
        raise ValueError(f"{name} is {value.tolist()}, expected {classes} numbers above zero, one per class")
    return value


def _one_per_sample(target: Tensor, logits: Tensor) -> Tensor:
    if target.shape != logits.shape[:1]:   # (B, 1) against (B,) would broadcast to (B, B) and train on nonsense
        raise ValueError(f"batch['target'] is {tuple(target.shape)}, expected {(len(logits),)}: one per sample")
    return target


class RegressHead(nn.Module):
    """A number per sample, logits (B,) in the units of the target (B,); the loss is the squared error in units of ``std``.

    ``mean`` and ``std`` are those of the training targets. A row with no sense gets ``mean``. The
    last product runs in float32, also under autocast. A target that is not finite makes the loss
    so: correct such a row, or leave it out.
    """

    kind = "number"

    def __init__(self, dim: int, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        if not std > 0:
            raise ValueError(f"std is {std}, expected a number above zero; when all targets are equal there is nothing to learn")
        self.linear = nn.Linear(dim, 1)
        self.register_buffer("mean", torch.tensor([float(mean)]))
        self.register_buffer("std", torch.tensor([float(std)]))

    def forward(self, features: Features, batch: Batch) -> Output:
        # bf16 has 128 numbers from 1 to 2: too few for an answer
        with torch.autocast(features.pooled.device.type, enabled=False):
            scaled = (
                self.linear(features.pooled.float()).squeeze(-1).masked_fill(~features.present, 0)
            )  # (B,)
        logits = self.mean + self.std * scaled
        if "target" not in batch:
            return Output(logits, None, None)
        target = _one_per_sample(batch["target"], logits)
        loss = F.mse_loss(scaled, (target - self.mean) / self.std)
        return Output(logits, loss, self.mean.new_tensor(len(target)))


class LanguageHead(nn.Module):
    """Writes ``batch["target"]`` (B, S), ids that start with BOS, one after the other, having seen the features' tokens.

    The tokens stand before the words as a prefix, or with ``cross`` the words look at them by cross-attention. Logits
    (B, S - 1, K): position s has read words 0..s and predicts word s + 1. The loss is the mean over the real words after
    BOS (``target_mask`` (B, S)), ``count`` their number. Words are counted from 0 whatever the prefix; its tokens carry the
    positions that their encoders gave them, and may have holes. A row with no sense reads its words alone, and is in the loss.
    Without a target there is nothing to read: logits (B, 0, K); see ``generate``.
    """

    kind = "sequence"

    def __init__(self, dim: int, vocab_size: int, depth: int = 2, heads: int = 4, cross: bool = False, dropout: float = 0.0):
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim is {dim}, expected an even number: positions are pairs of sine and cosine")
        self.classes = vocab_size
        self.cross, self.embed = cross, nn.Embedding(vocab_size, dim)
        self.transformer = Transformer(dim, depth, heads, cross, dropout)
        self.linear = nn.Linear(dim, vocab_size)

    def forward(self, features: Features, batch: Batch) -> Output:
        if "target" not in batch:
            return Output(features.tokens.new_zeros(len(features.tokens), 0, self.linear.out_features), None, None)
        mask = batch["target_mask"]                                                       # (B, S)
        ids = batch["target"].masked_fill(~mask, 0)
        logits = self.logits(features, ids[:, :-1], mask[:, :-1])                         # (B, S - 1, K)
        target = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
        count = mask[:, 1:].sum().float()
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum") / count.clamp(min=1)
        return Output(logits, loss, count)

    def logits(self, features: Features, ids: Tensor, mask: Tensor) -> Tensor:
        """Next-word logits (B, S, K) for the words so far, ids (B, S), mask (B, S)."""
        length, prefix = ids.shape[1], features.tokens.shape[1]
        words = self.embed(ids) + sine_positions(length, self.embed.embedding_dim, ids.device)          # (B, S, D)
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()   # (S, S)
        if self.cross:
            look = causal & mask[:, None, None]                                           # (B, 1, S, S)
            return self.linear(self.transformer(words, look, features.tokens, features.mask[:, None, None]))
        before = torch.ones(prefix + length, prefix, dtype=torch.bool, device=ids.device) # everyone sees the prefix,
        after = F.pad(causal, (0, 0, prefix, 0))                                          # the prefix never sees the words
        keys = torch.cat([features.mask, mask], dim=1)[:, None, None]                     # (B, 1, 1, P + S)
        line = torch.cat([features.tokens, words], dim=1)                                 # (B, P + S, D)
        return self.linear(self.transformer(line, torch.cat([before, after], dim=1) & keys)[:, prefix:])

    @torch.no_grad()
    def generate(self, features: Features, bos: int, eos: int, steps: int) -> Tensor:
        """The likeliest next word, again and again: ids (B, 1 + at most ``steps``), from ``bos`` to ``eos``, then 0.

        Call it in eval mode when the head has dropout.
        """
        ids = torch.full((len(features.mask), 1), bos, device=features.mask.device)       # (B, 1)
        done = torch.zeros_like(ids, dtype=torch.bool)                                    # (B, 1)
        for _ in range(steps):
            logits = self.logits(features, ids, torch.ones_like(ids, dtype=torch.bool))
            word = logits[:, -1:].argmax(dim=-1).masked_fill(done, 0)                     # (B, 1)
            ids, done = torch.cat([ids, word], dim=1), done | (word == eos)
            if done.all():
                break
        return ids


class CTCHead(nn.Module):
    """Reads a line: logits (B, T, K) per token, class 0 = the blank; target (B, S) ids without blanks, ``target_mask`` (B, S).

    Connectionist temporal classification (Graves et al., 2006). The loss of a sample is divided by its target length and the
    mean is over samples, as F.ctc_loss does by default; ``count`` is the number of samples. A row with no sense is left out.
    Only real tokens count, in their order, holes closed. Frames under the mask say "blank", so that decoding needs no mask.
    A target that needs more frames than there are (one per id, and one more between two equal ids) cannot be written: its
    loss is 0, without gradient; make the encoder's frames finer.
    """

    kind = "sequence"

    def __init__(self, dim: int, vocab_size: int):
        super().__init__()
        self.classes = vocab_size
        self.linear = nn.Linear(dim, vocab_size)
        self.register_buffer("blank", F.one_hot(torch.tensor(0), vocab_size) * 1e4, persistent=False)   # (K,) certain, yet finite

    def forward(self, features: Features, batch: Batch) -> Output:
        mask, present = features.mask, features.present
        logits = torch.where(mask[..., None], self.linear(features.tokens), self.blank)   # (B, T, K)
        if "target" not in batch:
            return Output(logits, None, None)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)                       # (B, T) real frames first
        line = logits.gather(1, order[..., None].expand_as(logits)).log_softmax(dim=-1)
        lengths = batch["target_mask"].sum(dim=1)                                         # (B,)
        target = batch["target"].masked_fill(~batch["target_mask"], 1)                    # any id but the blank; it is not read
        losses = F.ctc_loss(line.transpose(0, 1), target, mask.sum(dim=1).clamp(min=1), lengths, reduction="none", zero_infinity=True)
        count = present.sum().float()
        return Output(logits, (losses / lengths.clamp(min=1)).masked_fill(~present, 0).sum() / count.clamp(min=1), count)
