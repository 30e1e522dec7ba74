"""Features and batch -> next-token logits: a decoder that reads its source as a prefix or by
cross-attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output
from mmlib.layers.transformer import Transformer, sine_positions


class LanguageHead(nn.Module):
    """Writes ``batch["target"]`` (B, S), ids that start with BOS, one after the other, having seen
    the features' tokens.

    The tokens stand before the words as a prefix, or with ``cross`` the words look at them by
    cross-attention. Logits (B, S - 1, K): position s has read words 0..s and predicts word s + 1.
    The loss is the mean over the real words after BOS (``target_mask`` (B, S)), ``count`` their
    number. Words are counted from 0 whatever the prefix; its tokens carry the positions that their
    encoders gave them, and may have holes. A row with no modality reads its words alone, and is in
    the loss. Without a target there is nothing to read: logits (B, 0, K); see ``generate``.
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
            return Output(
                features.tokens.new_zeros(len(features.tokens), 0, self.linear.out_features),
                None,
                None,
            )
        mask = batch["target_mask"]  # (B, S)
        ids = batch["target"].masked_fill(~mask, 0)
        logits = self.logits(features, ids[:, :-1], mask[:, :-1])  # (B, S - 1, K)
        target = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
        count = mask[:, 1:].sum().float()
        loss = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum"
        ) / count.clamp(min=1)
        return Output(logits, loss, count)

    def logits(self, features: Features, ids: Tensor, mask: Tensor) -> Tensor:
        """Next-word logits (B, S, K) for the words so far, ids (B, S), mask (B, S)."""
        length, prefix = ids.shape[1], features.tokens.shape[1]
        words = self.embed(ids) + sine_positions(
            length, self.embed.embedding_dim, ids.device
        )  # (B, S, D)
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()  # (S, S)
        if self.cross:
            look = causal & mask[:, None, None]  # (B, 1, S, S)
            return self.linear(
                self.transformer(words, look, features.tokens, features.mask[:, None, None])
            )
        before = torch.ones(
            prefix + length, prefix, dtype=torch.bool, device=ids.device
        )  # everyone sees the prefix,
        after = F.pad(causal, (0, 0, prefix, 0))  # the prefix never sees the words
        keys = torch.cat([features.mask, mask], dim=1)[:, None, None]  # (B, 1, 1, P + S)
        line = torch.cat([features.tokens, words], dim=1)  # (B, P + S, D)
        return self.linear(
            self.transformer(line, torch.cat([before, after], dim=1) & keys)[:, prefix:]
        )

    @torch.no_grad()
    def generate(self, features: Features, bos: int, eos: int, steps: int) -> Tensor:
        """The likeliest next word, again and again: ids (B, 1 + at most ``steps``), from ``bos`` to
        ``eos``, then 0.

        Call it in eval mode when the head has dropout.
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
