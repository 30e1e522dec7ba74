"""Is the answer in the question? Ways to know the target without having learned anything."""

from mmlib.leaks.find import Finding, find

__all__ = ["Finding", "find"]
