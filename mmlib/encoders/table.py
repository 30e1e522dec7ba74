"""Columns of a table -> Features: numbers (B, N), categories (B, C) -> one token per column."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.layers.transformer import Transformer


class TableEncoder(nn.Module):
    """A transformer over the columns (FT-Transformer: Gorishniy et al., 2021, arXiv:2106.11959).

    x (B, N) float32, mask (B, N + C), category (B, C) int64 -> Features (B, N + C, D): a token for
    each column, numbers first. A number is a vector times its value, plus a vector of its column; a
    category is a vector of its own. ``categories`` has the number of categories of each column; ids
    go from 1 to that number, and 0 is missing. A missing cell is masked: no other token sees it.
    Raises ValueError where there is no column, and for other shapes.

    >>> import mmlib, torch
    >>> encoder = mmlib.TableEncoder(dim=16, numbers=2, categories=[3])
    >>> age_and_weight, colour = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[3], [0]])
    >>> mask = torch.tensor([[True, True, True], [True, False, False]])
    >>> features = encoder(age_and_weight, mask, colour)
    >>> features.tokens.shape, features.tokens[1, 1:].any()  # what is missing gives zeros
    (torch.Size([2, 3, 16]), tensor(False))
    """

    first: Tensor

    def __init__(
        self,
        dim: int,
        numbers: int,
        categories: Sequence[int] = (),
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if numbers + len(categories) < 1:
            raise ValueError("a table needs at least one column: numbers is 0, categories is empty")
        self.shapes = numbers, len(categories)
        self.slope = nn.Parameter(torch.randn(numbers, dim) / dim**0.5)
        self.column = nn.Parameter(torch.randn(numbers + len(categories), dim) / dim**0.5)
        self.embed = nn.Embedding(sum(categories) + 1, dim) if categories else None
        starts = torch.tensor([0, *categories[:-1]][: len(categories)], dtype=torch.int64).cumsum(0)
        self.register_buffer("first", starts, persistent=False)  # (C,) the id before each column's
        self.transformer = Transformer(dim, depth, heads, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor, category: Tensor) -> Features:
        numbers, categories = self.shapes
        if (x.shape[1], category.shape[1]) != self.shapes or mask.shape[1] != sum(self.shapes):
            raise ValueError(
                f"the table has {x.shape[1]} numbers, {category.shape[1]} categories and a mask of "
                f"{mask.shape[1]}, expected {numbers}, {categories} and {sum(self.shapes)}"
            )
        x = x.masked_fill(~mask[:, :numbers], 0)
        tokens = x[..., None] * self.slope  # (B, N, D)
        if self.embed is not None:
            ids = (category + self.first).masked_fill(~mask[:, numbers:], 0)
            tokens = torch.cat([tokens, self.embed(ids)], dim=1)  # (B, N + C, D)
        tokens = self.transformer(tokens + self.column, mask[:, None, None])
        return from_tokens(tokens, mask)
