"""Which settings are best? Successive halving, which never reads the test rows."""

from mmlib.tune.board import Search, Trial
from mmlib.tune.halving import search

__all__ = ["Search", "Trial", "search"]
