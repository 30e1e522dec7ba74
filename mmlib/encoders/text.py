"""Words or items -> Features: ids (B, T) int64, mask (B, T) -> one token per word.

These encoders also read item histories.
"""

from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.layers.recurrent import Recurrent
from mmlib.layers.transformer import Transformer, sine_positions


class RecurrentEncoder(nn.Module):
    """A bidirectional recurrent network: each token has read the words before it and after it.

    ids (B, T), mask (B, T) -> Features (B, T, D). Ids are below ``vocab_size``; 0 is padding.
    ``cell`` is "rnn", "gru" or "lstm"; ``dim`` is even. ``dropout`` is variational: one mask for
    all words of a sample, drawn for the input of each layer.

    >>> import mmlib, torch
    >>> ids = torch.tensor([[4, 9, 2], [7, 3, 0]])
    >>> mmlib.RecurrentEncoder(dim=16, vocab_size=10)(ids, ids > 0).tokens.shape
    torch.Size([2, 3, 16])
    """

    def __init__(
        self, dim: int, vocab_size: int, cell: str = "lstm", depth: int = 1, dropout: float = 0.0
    ):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.recurrent = Recurrent(dim, cell, depth, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = self.embed(x.masked_fill(~mask, 0))  # (B, T, D)
        return from_tokens(self.norm(self.recurrent(x, mask)), mask)


class TransformerEncoder(nn.Module):
    """A transformer over ids with sine positions, so a text may be of any length.

    ids (B, T), mask (B, T) -> Features (B, T, D). Ids are below ``vocab_size``; 0 is padding.

    >>> import mmlib, torch
    >>> ids = torch.tensor([[4, 9, 2], [7, 3, 0]])
    >>> features = mmlib.TransformerEncoder(dim=16, vocab_size=10)(ids, ids > 0)
    >>> features.tokens.shape, features.tokens[1, 2].any()  # padding gives zeros
    (torch.Size([2, 3, 16]), tensor(False))
    """

    def __init__(
        self, dim: int, vocab_size: int, depth: int = 2, heads: int = 4, dropout: float = 0.0
    ):
        super().__init__()
        self.embed, self.dropout = nn.Embedding(vocab_size, dim), nn.Dropout(dropout)
        self.transformer = Transformer(dim, depth, heads, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = self.embed(x.masked_fill(~mask, 0))  # (B, T, D)
        x = self.dropout(x + sine_positions(x.shape[1], x.shape[2], x.device))
        return from_tokens(self.transformer(x, mask[:, None, None]), mask)
