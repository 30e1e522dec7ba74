"""Exercises of the notebooks that check themselves, a file a notebook."""

from mmlib.course.exercises.exercise import Exercise

__all__ = ["Exercise"]
