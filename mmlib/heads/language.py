"""Features and batch -> next-token logits.

The decoder reads its source, the features' tokens, as a prefix or by cross-attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output
from mmlib.layers.transformer import Transformer, sine_positions


class LanguageHead(nn.Module):
    """Writes ``batch["target"]`` (B, S) word by word, after reading the features' tokens (B, T, D).

    The ids of a target begin with BOS. The tokens stand before the words as a prefix, or with
    ``cross`` the words attend to them by cross-attention. Logits (B, S - 1, K): position s has read
    words 0..s and predicts word s + 1. The loss is the mean over the real words after BOS
    (``target_mask`` (B, S)), and ``count`` is their number. The positions of words count from 0,
    whatever the prefix; the prefix's tokens carry the positions that their encoders gave them, and
    masked tokens may lie between real ones. A row with no modality reads its words alone, and is in
    the loss. Without a target there is nothing to read: logits (B, 0, K); see ``generate``.

    >>> import mmlib, torch
    >>> head = mmlib.LanguageHead(dim=8, vocab_size=50)
    >>> features = mmlib.from_tokens(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    >>> target = torch.tensor([[1, 7, 9, 2], [1, 4, 2, 0]])  # BOS = 1, EOS = 2, padding = 0
    >>> output = head(features, {"target": target, "target_mask": target > 0})
    >>> output.logits.shape, output.count
    (torch.Size([2, 3, 50]), tensor(5.))
    """

    kind = "sequence"

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        depth: int = 2,
        heads: int = 4,
        cross: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dim % 2:
            raise ValueError(
                f"dim is {dim}, expected an even number: positions are pairs of sine and cosine"
            )
        self.classes = vocab_size
        self.cross, self.embed = cross, nn.Embedding(vocab_size, dim)
        self.transformer = Transformer(dim, depth, heads, cross, dropout)
        self.linear = nn.Linear(dim, vocab_size)

    def forward(self, features: Features, batch: Batch) -> Output:
        if "target" not in batch:
            rows = len(features.tokens)
            return Output(features.tokens.new_zeros(rows, 0, self.classes), None, None)
        mask = batch["target_mask"]  # (B, S)
        ids = batch["target"].masked_fill(~mask, 0)
        logits = self.logits(features, ids[:, :-1], mask[:, :-1])  # (B, S - 1, K)
        target = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
        total = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum"
        )
        count = mask[:, 1:].sum().float()
        return Output(logits, total / count.clamp(min=1), count)

    def logits(self, features: Features, ids: Tensor, mask: Tensor) -> Tensor:
        """Next-word logits (B, S, K) for the words so far: ids (B, S), mask (B, S)."""
        length, prefix = ids.shape[1], features.tokens.shape[1]
        words = self.embed(ids)  # (B, S, D)
        words = words + sine_positions(length, words.shape[2], ids.device)
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()  # (S, S)
        if self.cross:
            visible = causal & mask[:, None, None]  # (B, 1, S, S)
            source_mask = features.mask[:, None, None]  # (B, 1, 1, T)
            return self.linear(self.transformer(words, visible, features.tokens, source_mask))
        # all see the prefix; the prefix never sees the words
        before = torch.ones(prefix + length, prefix, dtype=torch.bool, device=ids.device)
        after = F.pad(causal, (0, 0, prefix, 0))  # (P + S, S)
        real = torch.cat([features.mask, mask], dim=1)[:, None, None]  # (B, 1, 1, P + S)
        visible = torch.cat([before, after], dim=1) & real  # (B, 1, P + S, P + S)
        line = torch.cat([features.tokens, words], dim=1)  # (B, P + S, D)
        return self.linear(self.transformer(line, visible)[:, prefix:])

    @torch.no_grad()
    def generate(self, features: Features, bos: int, eos: int, steps: int) -> Tensor:
        """Append the likeliest next word again and again: ids (B, 1 + at most ``steps``).

        A row begins with ``bos`` and ends with ``eos``; after that it is 0. Call it in evaluation
        mode when the head has dropout.
        """
        ids = torch.full((len(features.mask), 1), bos, device=features.mask.device)  # (B, 1)
        done = torch.zeros_like(ids, dtype=torch.bool)  # (B, 1)
        for _ in range(steps):
            logits = self.logits(features, ids, torch.ones_like(ids, dtype=torch.bool))
            word = logits[:, -1:].argmax(dim=-1).masked_fill(done, 0)  # (B, 1)
            ids, done = torch.cat([ids, word], dim=1), done | (word == eos)
            if done.all():
                break
        return ids
