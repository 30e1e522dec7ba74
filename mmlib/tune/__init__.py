"""Which settings are best? A search by successive halving, which never reads the test rows.

``search(recipe, trials=20, out="runs/search")`` returns a ``Search``; its ``best`` is a recipe.
"""

from mmlib.tune.board import Search, Trial
from mmlib.tune.halving import search

__all__ = ["Search", "Trial", "search"]
